//! What a crate may depend on, and what each manifest states.

use std::collections::{BTreeSet, HashSet};

use toml::{Table, Value};

use super::Finding;
use crate::rust::words;
use crate::tree::Tree;

/// Which crates of ours a crate may use. A crate that is not here is a new level of trust, and
/// belongs into ARCHITECTURE.md first.
const MAY_USE: &[(&str, &[&str])] = &[
    ("sbx-spec", &[]),
    ("sbx-sys", &[]),
    ("sbx-proto", &["sbx-spec"]),
    // The rooms: never each other.
    ("sbx-net", &["sbx-spec", "sbx-sys"]),
    ("sbx-share", &["sbx-spec", "sbx-sys"]),
    ("sbx-images", &["sbx-spec", "sbx-sys"]),
    ("sbx-secrets", &["sbx-spec", "sbx-sys"]),
    ("sbx-vmm", &["sbx-proto", "sbx-sys"]),
    ("sbx-guest", &["sbx-proto", "sbx-sys"]),
    (
        "sbx-engine",
        // Of sbx-vmm only its library: the shape of what the program is told.
        &[
            "sbx-spec",
            "sbx-proto",
            "sbx-sys",
            "sbx-net",
            "sbx-share",
            "sbx-images",
            "sbx-secrets",
            "sbx-vmm",
        ],
    ),
    ("sbx", &["sbx-engine", "sbx-spec"]),
    ("xtask", &["sbx-spec"]),
];

/// Beside the product: may use all of it.
const FREE: &[&str] = &["e2e", "sbx-fuzz"];

const TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

const REGISTER: &str = "docs/dependencies.md";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut foreign = BTreeSet::new();
    let manifests = tree
        .files
        .iter()
        .filter(|f| f.path.ends_with("/Cargo.toml") && !f.path.starts_with("target/"));
    for file in manifests {
        let table = match file.text.as_deref().unwrap_or_default().parse::<Table>() {
            Ok(table) => table,
            Err(error) => {
                findings.push(Finding::new(&file.path, error.to_string()));
                continue;
            }
        };
        findings.extend(manifest(&file.path, &table));
        let directory = file.path.trim_end_matches("Cargo.toml");
        let code = tree.rust().filter(|(f, _)| f.path.starts_with(directory));
        let named: HashSet<&str> = code
            .flat_map(|(_, source)| words(&source.code))
            .map(|(_, word)| word)
            .collect();
        findings.extend(unused(&file.path, &table, &named));
        foreign.extend(dependencies(&table).into_iter().filter(|n| !is_ours(n)));
    }
    findings.extend(register(tree.text(REGISTER).unwrap_or_default(), &foreign));
    findings
}

fn manifest(path: &str, table: &Table) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = lookup(table, &["package", "name"])
        .and_then(Value::as_str)
        .unwrap_or_default();
    // A workspace of its own has none of ours to inherit.
    let apart = table.contains_key("workspace");
    if !apart && lookup(table, &["lints", "workspace"]).and_then(Value::as_bool) != Some(true) {
        findings.push(Finding::new(
            path,
            "the lints of the workspace are not inherited",
        ));
    }
    let allowed = MAY_USE
        .iter()
        .find(|(n, _)| *n == name)
        .map(|(_, may)| *may);
    if allowed.is_none() && !FREE.contains(&name) {
        let what = format!("`{name}` has no line in the table of what may use what");
        findings.push(Finding::new(path, what));
        return findings;
    }
    for used in dependencies(table).into_iter().filter(|n| is_ours(n)) {
        if allowed.is_some_and(|may| !may.contains(&used.as_str())) {
            findings.push(Finding::new(path, format!("`{name}` may not use `{used}`")));
        }
    }
    findings
}

/// Every dependency is named somewhere in the code of its crate.
fn unused(path: &str, table: &Table, named: &HashSet<&str>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for kind in TABLES {
        let Some(listed) = table.get(kind).and_then(Value::as_table) else {
            continue;
        };
        for name in listed.keys() {
            if !named.contains(name.replace('-', "_").as_str()) {
                findings.push(Finding::new(path, format!("`{name}` is not used")));
            }
        }
    }
    findings
}

/// Names under which crates are published, of all tables, those of targets included.
fn dependencies(table: &Table) -> BTreeSet<String> {
    let targets = table.get("target").and_then(Value::as_table);
    let targets = targets
        .into_iter()
        .flat_map(|t| t.values().filter_map(Value::as_table));
    let mut names = BTreeSet::new();
    for holder in std::iter::once(table).chain(targets) {
        for kind in TABLES {
            let Some(listed) = holder.get(kind).and_then(Value::as_table) else {
                continue;
            };
            names.extend(listed.iter().map(|(name, value)| {
                let renamed = value
                    .as_table()
                    .and_then(|t| t.get("package"))
                    .and_then(Value::as_str);
                renamed.unwrap_or(name).to_owned()
            }));
        }
    }
    names
}

fn is_ours(name: &str) -> bool {
    MAY_USE.iter().any(|(n, _)| *n == name) || FREE.contains(&name)
}

fn lookup<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (last, way) = path.split_last()?;
    way.iter()
        .try_fold(table, |t, key| t.get(*key)?.as_table())?
        .get(*last)
}

/// Every direct dependency has one row in the register, and every row is a dependency.
fn register(text: &str, used: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut listed = BTreeSet::new();
    for (number, line) in text.lines().enumerate() {
        let Some(name) = line.strip_prefix("| `").and_then(|l| l.split('`').next()) else {
            continue;
        };
        if !used.contains(name) {
            findings.push(Finding::at(
                REGISTER,
                number + 1,
                format!("nothing depends on `{name}`"),
            ));
        }
        if !listed.insert(name.to_owned()) {
            findings.push(Finding::at(
                REGISTER,
                number + 1,
                format!("`{name}` is listed twice"),
            ));
        }
    }
    let missing = used.difference(&listed);
    findings.extend(missing.map(|n| Finding::new(REGISTER, format!("`{n}` has no row"))));
    findings
}

#[cfg(test)]
mod tests {
    use super::super::whats;
    use super::*;

    fn table(text: &str) -> Table {
        text.parse().unwrap()
    }

    const LINTS: &str = "[lints]\nworkspace = true\n";

    #[test]
    fn a_room_may_use_the_values_and_no_other_room() {
        let text = |used: &str| {
            format!(
                "[package]\nname = \"sbx-net\"\n{LINTS}[dependencies]\n{used}.workspace = true\n"
            )
        };
        assert_eq!(manifest("m", &table(&text("sbx-spec"))), []);
        let findings = manifest("m", &table(&text("sbx-share")));
        assert_eq!(whats(&findings), ["`sbx-net` may not use `sbx-share`"]);
    }

    #[test]
    fn the_program_reaches_a_room_through_the_engine_only() {
        let text = |used: &str| {
            format!(
                "[package]\nname = \"sbx\"\n{LINTS}[dev-dependencies]\n{used}.workspace = true\n"
            )
        };
        assert_eq!(manifest("m", &table(&text("sbx-engine"))), []);
        assert_eq!(manifest("m", &table(&text("sbx-net"))).len(), 1);
    }

    #[test]
    fn a_crate_without_a_place_is_found() {
        let findings = manifest(
            "m",
            &table(&format!("[package]\nname = \"sbx-util\"\n{LINTS}")),
        );
        assert!(whats(&findings)[0].starts_with("`sbx-util` has no line"));
    }

    #[test]
    fn lints_must_be_inherited() {
        let findings = manifest("m", &table("[package]\nname = \"sbx-sys\"\n"));
        assert_eq!(
            whats(&findings),
            ["the lints of the workspace are not inherited"]
        );
    }

    #[test]
    fn a_renamed_dependency_counts_under_its_own_name() {
        let text = "[target.'cfg(unix)'.dependencies]\na = { package = \"b\", version = \"1\" }\n[dependencies]\nc = \"1\"\n";
        assert_eq!(
            dependencies(&table(text)),
            BTreeSet::from(["b".to_owned(), "c".to_owned()])
        );
    }

    #[test]
    fn a_dependency_that_no_code_names_is_found() {
        let table = table("[dependencies]\na-b = \"1\"\nc = \"1\"\n");
        let found = |named: &[&str]| unused("m", &table, &named.iter().copied().collect());
        assert_eq!(found(&["a_b", "c"]), []);
        assert_eq!(whats(&found(&["a_b"])), ["`c` is not used"]);
    }

    #[test]
    fn the_register_has_a_row_for_each_and_none_too_many() {
        let used = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
        assert_eq!(register("| `a` | x |\n| `b` | y |\n", &used), []);
        let findings = register("| `a` | x |\n| `c` | y |\n", &used);
        assert_eq!(
            whats(&findings),
            ["nothing depends on `c`", "`b` has no row"]
        );
    }
}
