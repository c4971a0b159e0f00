//! The workspace against the guest's own disk, timed inside.

use super::{Bench, Row, median, run_quietly};
use crate::tree::Failure;

/// Prints `WHAT WHERE MILLISECONDS` lines; `WHERE` is `share` or `disk`.
const SCRIPT: &str = include_str!("share.sh");

/// At most so many rounds: each takes half a minute where the machine is emulated.
const ROUNDS: usize = 7;

/// What the script measures, by its word, in words.
const WHATS: [(&str, &str); 5] = [
    ("write", "writing 64 MB, synced"),
    ("read", "reading them, caches dropped"),
    ("make", "making 1,000 small files and committing them"),
    ("cold", "`git status` of them, caches dropped"),
    ("warm", "`git status` again"),
];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let mut lines = String::new();
    for round in 0..bench.rounds.min(ROUNDS) {
        let round = round.to_string();
        let script = ["exec", &bench.name, "bash", "-c", SCRIPT, "round", &round];
        lines += &run_quietly(&mut bench.sbx(&script))?;
    }
    let of = |what: &str, place: &str| median(times(&lines, what, place));
    let rows = WHATS.iter().map(|(what, words)| Row {
        what: format!("{words}, in a share"),
        floor: Some(("own disk".to_owned(), of(what, "disk"))),
        figure: of(what, "share"),
        unit: "ms",
    });
    Ok(rows.collect())
}

fn times(lines: &str, what: &str, place: &str) -> Vec<f64> {
    let wanted = format!("{what} {place} ");
    lines
        .lines()
        .filter_map(|line| line.strip_prefix(&wanted)?.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_apart_by_what_and_where() {
        let lines = "read disk 1.5\nread share 3\nwrite disk 9\n";
        assert_eq!(times(lines, "read", "disk"), [1.5]);
        assert_eq!(times(lines, "read", "share"), [3.0]);
    }

    #[test]
    fn everything_that_is_shown_is_measured() {
        for (what, _) in WHATS {
            assert!(SCRIPT.contains(&format!("timed {what} ")), "{what}");
        }
    }
}
