//! Every guard of the network stands in ATTACKS.md with an attack and what is allowed beside it, and
//! nothing that is shipped can be built without one.

use std::collections::BTreeSet;

use toml::{Table, Value};

use super::Finding;
use super::documents::{quoted, rows as table_rows};
use crate::rust::words;
use crate::tree::Tree;

const TABLE: &str = "ATTACKS.md";
const GUARDS: &str = "crates/sbx-spec/src/guard.rs";
const FEATURE: &str = "unguarded";

/// Who has the feature, and what it may switch on.
const HAVE_FEATURE: &[(&str, &[&str])] = &[
    ("crates/sbx-spec/Cargo.toml", &[]),
    ("crates/sbx-net/Cargo.toml", &["sbx-spec/unguarded"]),
];

/// A row of the table.
pub(crate) struct Row<'a> {
    line: usize,
    pub(crate) guard: &'a str,
    pub(crate) twin: &'a str,
    pub(crate) attack: &'a str,
}

impl Row<'_> {
    fn guards(&self) -> impl Iterator<Item = &str> {
        self.guard.split(" + ")
    }
}

/// The rows of the one table with four columns.
pub(crate) fn rows(text: &str) -> Vec<Row<'_>> {
    table_rows(text)
        .filter_map(|(line, cells)| match *cells.as_slice() {
            [_, guard, twin, attack] => Some(Row {
                line,
                guard,
                twin: quoted(twin).next().unwrap_or_default(),
                attack: quoted(attack).next().unwrap_or_default(),
            }),
            _ => None,
        })
        .collect()
}

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let tests: BTreeSet<&str> = tree
        .rust()
        .flat_map(|(_, source)| &source.tests)
        .map(|(_, name)| name.as_str())
        .collect();
    let rows = rows(tree.text(TABLE).unwrap_or_default());
    let code = |path: &str| tree.rust().find(|(file, _)| file.path == path);
    let guards = code(GUARDS).map(|(_, source)| declared(&source.code));
    let guards = guards.unwrap_or_default();
    let product = tree
        .rust()
        .filter(|(file, _)| !file.is_test() && file.path.starts_with("crates/"));
    let used: BTreeSet<&str> = product
        .filter(|(file, _)| file.path != GUARDS)
        .flat_map(|(_, source)| words(&source.without_tests))
        .map(|(_, word)| word)
        .collect();
    let mut findings = listed(&rows, &guards, &tests);
    let idle = guards.iter().filter(|guard| !used.contains(*guard));
    findings.extend(idle.map(|guard| Finding::new(GUARDS, format!("`{guard}` guards nothing"))));
    for file in tree.files.iter().filter(|f| f.path.ends_with("Cargo.toml")) {
        let text = file.text.as_deref().unwrap_or_default();
        let table = text.parse().unwrap_or_default();
        findings.extend(feature(&file.path, &table));
    }
    findings
}

/// The guards that are declared.
fn declared(code: &str) -> BTreeSet<&str> {
    let list = code.split_once("\nguards! {").map(|(_, rest)| rest);
    let list = list.and_then(|rest| rest.split('}').next());
    let names = list.unwrap_or_default().split(',').map(str::trim);
    names.filter(|name| !name.is_empty()).collect()
}

/// Each guard has a row, each row a guard, and a test that passes beside the one that fails.
fn listed(rows: &[Row<'_>], guards: &BTreeSet<&str>, tests: &BTreeSet<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for row in rows {
        let at = |what| Finding::at(TABLE, row.line, what);
        for guard in row.guards().filter(|guard| !guards.contains(guard)) {
            findings.push(at(format!("there is no guard `{guard}`")));
        }
        if !tests.contains(row.twin) {
            findings.push(at(format!("there is no test `{}`", row.twin)));
        }
    }
    let without = guards
        .iter()
        .filter(|guard| !rows.iter().any(|row| row.guards().eq([**guard])));
    findings.extend(without.map(|guard| Finding::new(TABLE, format!("`{guard}` has no row"))));
    findings
}

/// No manifest switches the feature on, but for the one room that has it from the other.
fn feature(path: &str, table: &Table) -> Vec<Finding> {
    let found = |what: &str| Finding::new(path, format!("{what} `{FEATURE}`"));
    let mut findings = Vec::new();
    let features = table.get("features").and_then(Value::as_table);
    for (name, switched) in features.into_iter().flatten() {
        let switched: Vec<&str> = switched
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let may = HAVE_FEATURE.iter().find(|(home, _)| *home == path);
        let own = name == FEATURE && may.is_some_and(|(_, may)| **may == *switched);
        if !own && (name == FEATURE || switched.iter().any(|one| one.contains(FEATURE))) {
            findings.push(found("has or switches on"));
        }
    }
    let depends = table.iter().any(|(name, value)| {
        let lists = ["dependencies", "target", "workspace"];
        lists.iter().any(|list| name.ends_with(list)) && mentions(value)
    });
    if depends {
        findings.push(found("depends on something with"));
    }
    findings
}

/// Whether the feature stands anywhere in a value.
fn mentions(value: &Value) -> bool {
    match value {
        Value::String(text) => text.rsplit('/').next() == Some(FEATURE),
        Value::Array(list) => list.iter().any(mentions),
        Value::Table(table) => table.values().any(mentions),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::whats;
    use super::*;

    #[test]
    fn a_guard_has_a_row_and_a_row_a_guard() {
        let code = "macro_rules! guards { () => {} }\nguards! {\n    A,\n    B,\n}\n";
        let guards = declared(code);
        assert_eq!(guards, BTreeSet::from(["A", "B"]));
        let text = "| x | guard | y | test |\n|---|---|---|---|\n| x | A | `b_c_d` | `e_f_g` |\n\
                    | x | C | `none` | `e_f_g` |\n\n| a | b | test |\n|---|---|---|\n| a | b | c |\n";
        let findings = listed(&rows(text), &guards, &BTreeSet::from(["b_c_d", "e_f_g"]));
        assert_eq!(
            whats(&findings),
            [
                "there is no guard `C`",
                "there is no test `none`",
                "`B` has no row"
            ]
        );
    }

    #[test]
    fn nothing_that_is_shipped_is_built_without_guards() {
        let findings = |path: &str, text: &str| feature(path, &text.parse().unwrap()).len();
        let net = "crates/sbx-net/Cargo.toml";
        let own = "[features]\nunguarded = [\"sbx-spec/unguarded\"]\n";
        assert_eq!(findings(net, own), 0);
        for (path, text) in [
            ("crates/sbx/Cargo.toml", own),
            (net, "[features]\ndefault = [\"unguarded\"]\n"),
            (
                net,
                "[dependencies]\nsbx-spec = { path = \"x\", features = [\"unguarded\"] }\n",
            ),
            (
                "Cargo.toml",
                "[workspace.dependencies]\na = { features = [\"unguarded\"] }\n",
            ),
        ] {
            assert_eq!(findings(path, text), 1, "{path} {text}");
        }
    }
}
