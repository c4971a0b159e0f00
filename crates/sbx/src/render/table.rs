//! Columns of text.

use sbx_engine::command::Status;

/// Rows of cells under headings, as wide as they need to be, two spaces
/// apart, without trailing spaces. Cells are taken as they are: escape them
/// first; width is counted in characters.
pub(crate) fn columns(heads: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows
            .iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count());
        cells
            .chain(heads.get(column).map(|head| head.len()))
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = line(&widths, heads.iter().copied());
    for row in rows {
        text += &line(&widths, row.iter().map(String::as_str));
    }
    text
}

fn line<'a>(widths: &[usize], cells: impl Iterator<Item = &'a str>) -> String {
    let padded: Vec<String> = widths
        .iter()
        .zip(cells)
        .map(|(width, cell)| format!("{cell:<width$}"))
        .collect();
    padded.join("  ").trim_end().to_owned() + "\n"
}

/// Pairs of a key and a value; keys are padded, empty values left out.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let shown = pairs.iter().filter(|(_, value)| !value.is_empty());
    shown
        .map(|(key, value)| format!("{key:<width$}  {value}\n"))
        .collect()
}

/// The word for a status.
pub(crate) fn status(status: Status) -> &'static str {
    match status {
        Status::Creating => "creating",
        Status::Stopped => "stopped",
        Status::Starting => "starting",
        Status::Running => "running",
        Status::Stopping => "stopping",
        Status::Broken => "broken",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["é".to_owned(), "1".to_owned()],
            vec!["abcd".to_owned(), String::new()],
        ];
        assert_eq!(columns(&["A", "NO"], &rows), "A     NO\né     1\nabcd\n");
    }

    #[test]
    fn pairs_without_a_value_are_left_out() {
        assert_eq!(
            pairs(&[("a", "1".into()), ("bcd", String::new())]),
            "a    1\n"
        );
    }
}
