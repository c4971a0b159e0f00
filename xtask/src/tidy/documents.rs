//! Documents name what is there: tests, constants, files.

use std::collections::BTreeSet;

use super::{Finding, bounds};
use crate::rust::words;
use crate::tree::Tree;

/// Every row of their tables ends with the tests that hold it.
const TESTED: [&str; 2] = ["ATTACKS.md", "docs/workspace.md"];
const LIMITS: &str = "LIMITS.md";
const ARCHITECTURE: &str = "ARCHITECTURE.md";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    let tests: BTreeSet<&str> = tree
        .rust()
        .flat_map(|(_, s)| &s.tests)
        .map(|(_, name)| name.as_str())
        .collect();
    for path in TESTED {
        findings.extend(tested(path, tree.text(path), &tests));
    }
    findings.extend(limits(tree.text(LIMITS), |owner| owned(tree, owner)));
    findings.extend(invariants(tree.text(ARCHITECTURE), &tests));
    for file in tree.files.iter().filter(|f| f.path.ends_with(".md")) {
        let directory = file
            .path
            .rsplit_once('/')
            .map_or("", |(directory, _)| directory);
        for (line, target) in links(file.text.as_deref().unwrap_or_default()) {
            let path = joined(directory, target);
            if !tree.has(&path) {
                findings.push(Finding::at(
                    &file.path,
                    line,
                    format!("links to `{target}`, which is not there"),
                ));
            }
        }
    }
    findings
}

/// Rows of the tables of a document: line, from 1, and cells. Heads and rules are left out.
pub(super) fn rows(text: &str) -> impl Iterator<Item = (usize, Vec<&str>)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let is_rule = |line: Option<&&str>| line.is_some_and(|l| l.starts_with("|-"));
    let body = |at: &usize| {
        let line = lines.get(*at);
        line.is_some_and(|l| l.starts_with('|')) && !is_rule(line) && !is_rule(lines.get(at + 1))
    };
    let chosen: Vec<usize> = (0..lines.len()).filter(body).collect();
    chosen.into_iter().filter_map(move |at| {
        let line = lines.get(at)?.trim_matches('|');
        Some((at + 1, line.split(" | ").map(str::trim).collect()))
    })
}

/// What stands between backticks.
pub(super) fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The last cell of every row names at least one test, and each that it names is there.
fn tested(path: &str, text: Option<&str>, tests: &BTreeSet<&str>) -> Vec<Finding> {
    let Some(text) = text else {
        return vec![Finding::new(path, "is missing")];
    };
    let mut findings = Vec::new();
    for (line, cells) in rows(text) {
        let last = cells.last().copied().unwrap_or_default();
        if quoted(last).next().is_none() {
            findings.push(Finding::at(path, line, "names no test"));
        }
        for name in quoted(last).filter(|name| !tests.contains(name)) {
            findings.push(Finding::at(
                path,
                line,
                format!("there is no test `{name}`"),
            ));
        }
    }
    findings
}

/// The last cell of every row names its owner: a file, or a file and a name in it, `file::NAME`;
/// the second cell says how much. `owned` finds the text of an owner.
fn limits<'a>(text: Option<&str>, owned: impl Fn(&str) -> Option<&'a str>) -> Vec<Finding> {
    let Some(text) = text else {
        return vec![Finding::new(LIMITS, "is missing")];
    };
    let mut findings = Vec::new();
    for (line, cells) in rows(text) {
        let last = cells.last().copied().unwrap_or_default();
        let bound = cells.get(1).copied().unwrap_or_default();
        if quoted(last).next().is_none() {
            findings.push(Finding::at(LIMITS, line, "names no owner"));
        }
        for owner in quoted(last) {
            let name = owner.split_once("::").map(|(_, name)| name);
            let wrong = match owned(owner) {
                None => Some(format!("there is no `{owner}`")),
                Some(code) => name.and_then(|name| bounds::differ(bound, code, name)),
            };
            findings.extend(wrong.map(|what| Finding::at(LIMITS, line, what)));
        }
    }
    findings
}

/// The code of an owner, if it is there. Paths without a leading directory of the repository are
/// below `crates/`.
fn owned<'a>(tree: &'a Tree, owner: &str) -> Option<&'a str> {
    let (path, name) = match owner.split_once("::") {
        Some((path, name)) => (path, Some(name)),
        None => (owner, None),
    };
    let within = format!("crates/{path}");
    let file = tree
        .files
        .iter()
        .find(|f| f.path == path || f.path == within)?;
    let code = file
        .rust
        .as_ref()
        .map(|s| s.code.as_str())
        .or(file.text.as_deref())?;
    name.is_none_or(|name| words(code).any(|(_, word)| word == name))
        .then_some(code)
}

/// Every invariant says what holds it, and the tests it names are there.
fn invariants(text: Option<&str>, tests: &BTreeSet<&str>) -> Vec<Finding> {
    const MARK: &str = "**Invariant:**";
    let Some(text) = text else {
        return vec![Finding::new(ARCHITECTURE, "is missing")];
    };
    let mut findings = Vec::new();
    let mut line = 1;
    for paragraph in text.split("\n\n") {
        if paragraph.trim_start().starts_with(MARK) {
            match paragraph.rsplit_once('[') {
                None => findings.push(Finding::at(ARCHITECTURE, line, "says not what holds it")),
                Some((_, holds)) => {
                    let named = quoted(holds).filter(|name| name.matches('_').count() >= 2);
                    findings.extend(named.filter(|name| !tests.contains(name)).map(|name| {
                        Finding::at(ARCHITECTURE, line, format!("there is no test `{name}`"))
                    }));
                }
            }
        }
        line += paragraph.lines().count() + 1;
    }
    findings
}

/// Targets of links to files of this repository, with their lines.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let targets = line
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next());
        let local = targets
            .filter(|t| !t.contains("://") && !t.starts_with('#'))
            .map(|t| t.split('#').next().unwrap_or(t));
        found.extend(local.map(|t| (at + 1, t)));
    }
    found
}

fn joined(directory: &str, target: &str) -> String {
    let mut parts: Vec<&str> = directory.split('/').filter(|p| !p.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::super::whats;
    use super::*;
    use crate::tree::File;

    const TABLE: &str = "text\n\n| a | test |\n|---|---|\n| x | `one_two_three` |\n";

    #[test]
    fn a_row_of_a_table_names_a_test_that_is_there() {
        assert_eq!(
            tested("p", Some(TABLE), &BTreeSet::from(["one_two_three"])),
            []
        );
        assert_eq!(
            whats(&tested("p", Some(TABLE), &BTreeSet::new())),
            ["there is no test `one_two_three`"]
        );
        let none = TABLE.replace('`', "");
        assert_eq!(
            whats(&tested("p", Some(&none), &BTreeSet::new())),
            ["names no test"]
        );
        assert_eq!(whats(&tested("p", None, &BTreeSet::new())), ["is missing"]);
    }

    #[test]
    fn a_limit_names_a_constant_or_a_file_that_is_there() {
        let tree = Tree::new(vec![File::new(
            "crates/a/src/b.rs",
            b"// GONE\nconst MAX: u8 = 1;\n".to_vec(),
        )]);
        let there = |owner: &str| owned(&tree, owner);
        assert!(there("a/src/b.rs::MAX").is_some());
        assert!(there("crates/a/src/b.rs").is_some());
        assert!(there("a/src/b.rs::GONE").is_none());
        assert!(there("a/src/c.rs").is_none());
        let text = "| what | bound | owner |\n|---|---|---|\n| x | 1 | `a/src/b.rs::MAX` |\n\
                    | y | 2 | `a/src/b.rs::MAX` |\n| z | 3 | nobody |\n";
        assert_eq!(
            whats(&limits(Some(text), there)),
            ["says `2`, but `MAX` is 1", "names no owner"]
        );
    }

    #[test]
    fn an_invariant_names_a_test_that_is_there() {
        let text = "# A\n\n**Invariant:** x\ny. [`one_two_three`,\n`lint`]\n\nrest\n";
        assert_eq!(
            invariants(Some(text), &BTreeSet::from(["one_two_three"])),
            []
        );
        let findings = invariants(Some(text), &BTreeSet::new());
        assert_eq!(whats(&findings), ["there is no test `one_two_three`"]);
        assert_eq!(
            whats(&invariants(Some("**Invariant:** x.\n"), &BTreeSet::new())),
            ["says not what holds it"]
        );
    }

    #[test]
    fn links_lead_to_files_of_the_repository() {
        let found = links("[a](../x.md#y) [b](https://example.com/) [c](#d)\n[e](f)\n");
        assert_eq!(found, [(1, "../x.md"), (2, "f")]);
        assert_eq!(joined("docs/decisions", "../x.md"), "docs/x.md");
        assert_eq!(joined("", "docs/"), "docs");
    }
}
