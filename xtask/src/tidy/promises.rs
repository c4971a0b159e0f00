//! The tables of promises in THREATS.md and README.md are the one in the code.

use sbx_spec::{Isolation, Promise, WorkspaceGuard};

use super::Finding;
use crate::tree::Tree;

const BEGIN: &str = "<!-- written by `cargo xtask promises` -->\n";
const END: &str = "<!-- the end of it -->\n";

/// A column: its title, and what it is about.
type Column = (String, Isolation, WorkspaceGuard);

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut found = Vec::new();
    for (path, columns) in documents() {
        let text = tree.text(path).unwrap_or_default();
        let wrong = match written(text, &table(&columns)) {
            Some(written) if written == text => continue,
            Some(_) => {
                "its table of promises is not the one of the code: run `cargo xtask promises`"
            }
            None => "has no place for the table of promises",
        };
        found.push(Finding::new(path, wrong));
    }
    found
}

/// `text` with `table` where its place is.
fn written(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

/// The documents that have a table, each as it should be, or the first that
/// has no place for it.
pub(crate) fn all_written(tree: &Tree) -> Result<Vec<(&'static str, String)>, &'static str> {
    let documents = documents().into_iter().map(|(path, columns)| {
        let text = tree.text(path).unwrap_or_default();
        let written = written(text, &table(&columns)).ok_or(path)?;
        Ok((path, written))
    });
    documents.collect()
}

/// Whoever decides at all reads of each isolation as it is by default, whoever
/// wants to know all of it reads everything.
fn documents() -> [(&'static str, Vec<Column>); 2] {
    let all = columns();
    let mut defaults = all.clone();
    defaults.dedup_by_key(|(_, isolation, _)| *isolation);
    [("THREATS.md", all), ("README.md", defaults)]
}

/// Each isolation as it is where nothing else is asked for, and what else may
/// be asked of it.
fn columns() -> Vec<Column> {
    let mut all = Vec::new();
    for isolation in Isolation::ALL {
        let guard = match isolation {
            Isolation::Docker => WorkspaceGuard::Existing,
            _ => WorkspaceGuard::Full,
        };
        all.push((format!("`{isolation}`"), *isolation, guard));
        if *isolation == Isolation::Container {
            let title = format!("`{isolation}` with `--workspace-guard existing`");
            all.push((title, *isolation, WorkspaceGuard::Existing));
        }
    }
    all
}

/// What each isolation keeps.
fn table(columns: &[Column]) -> String {
    let mut text = String::from("| | promise |");
    let mut rule = String::from("|---|---|");
    for (title, ..) in columns {
        text += &format!(" {title} |");
        rule += "---|";
    }
    text += &format!("\n{rule}\n");
    for promise in Promise::ALL {
        text += &format!("| {} | {} |", promise.name(), promise.says());
        for kept in (columns.iter()).map(|(_, isolation, guard)| promise.kept(*isolation, *guard)) {
            text += &match kept.caveat() {
                None => format!(" {} |", kept.word()),
                Some(words) => format!(" **{}:** {words} |", kept.word()),
            };
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_not_the_codes_is_found_and_written_anew() {
        let table = table(&columns());
        let old = format!("# T\n\n{BEGIN}\n| old |\n\n{END}\nrest\n");
        let new = written(&old, &table).unwrap();
        assert!(new != old && new.starts_with("# T\n") && new.ends_with("rest\n"));
        assert_eq!(written(&new, &table).unwrap(), new);
        assert_eq!(written("# T\n", &table), None);
    }

    #[test]
    fn each_table_has_a_row_for_each_promise_and_a_column_for_each_isolation() {
        for (path, columns) in documents() {
            let table = table(&columns);
            assert_eq!(table.lines().count(), Promise::ALL.len() + 2, "{path}");
            for row in table.lines() {
                assert_eq!(row.matches('|').count(), columns.len() + 3, "{row}");
            }
            let named = |isolation: &&Isolation| table.contains(&format!("| `{isolation}` |"));
            assert_eq!(Isolation::ALL.iter().filter(named).count(), 3, "{path}");
        }
    }
}
