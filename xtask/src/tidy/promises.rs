//! The table of promises in THREATS.md is the one in the code.

use sbx_spec::{Isolation, Promise, WorkspaceGuard};

use super::Finding;
use crate::tree::Tree;

const THREATS: &str = "THREATS.md";
const BEGIN: &str = "<!-- written by `cargo xtask promises` -->\n";
const END: &str = "<!-- the end of it -->\n";

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let text = tree.text(THREATS).unwrap_or_default();
    match written(text, &table()) {
        Some(written) if written == text => Vec::new(),
        Some(_) => vec![Finding::new(
            THREATS,
            "its table of promises is not the one of the code: run `cargo xtask promises`",
        )],
        None => vec![Finding::new(
            THREATS,
            "has no place for the table of promises",
        )],
    }
}

/// `text` with `table` where its place is.
fn written(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

/// THREATS.md as it should be.
pub(crate) fn threats(tree: &Tree) -> Option<(&'static str, String)> {
    Some((THREATS, written(tree.text(THREATS)?, &table())?))
}

/// Each isolation as it is where nothing else is asked for, and what else may
/// be asked of it.
fn columns() -> Vec<(String, Isolation, WorkspaceGuard)> {
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
fn table() -> String {
    let mut text = String::from("| | promise |");
    let mut rule = String::from("|---|---|");
    let columns = columns();
    for (title, ..) in &columns {
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
        let old = format!("# T\n\n{BEGIN}\n| old |\n\n{END}\nrest\n");
        let new = written(&old, &table()).unwrap();
        assert!(new != old && new.starts_with("# T\n") && new.ends_with("rest\n"));
        assert_eq!(written(&new, &table()).unwrap(), new);
        assert_eq!(written("# T\n", &table()), None);
    }

    #[test]
    fn the_table_has_a_row_for_each_promise_and_a_column_for_each_isolation() {
        let rows: Vec<_> = table().lines().map(str::to_owned).collect();
        assert_eq!(rows.len(), Promise::ALL.len() + 2);
        for row in rows {
            assert_eq!(row.matches('|').count(), columns().len() + 3, "{row}");
        }
    }
}
