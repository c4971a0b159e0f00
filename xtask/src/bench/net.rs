//! Streams through the network engine, in namespaces of the bench's own.

use super::{Bench, Row, median, run_quietly};
use crate::programs::program;
use crate::tree::{Failure, root};

/// At most so many rounds of events; the large bodies go once.
const ROUNDS: usize = 9;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let rounds = bench.rounds.min(ROUNDS).to_string();
    let root = root()?;
    let build = ["build", "--release", "--examples", "-p", "sbx-net"];
    run_quietly(program("cargo", &root).args(build))?;
    let run = ["bench", "-p", "sbx-net", "--bench", "streams", "--"];
    let mut streams = program("cargo", &root);
    let lines = run_quietly(streams.args(run).args(["--rounds", &rounds]))?;
    let of = |what: &str, way: &str| median(figures(&lines, what, way));
    let row = |words: &str, what: &str, unit| Row {
        what: words.to_owned(),
        floor: Some(("TLS untouched".to_owned(), of(what, "spliced"))),
        figure: of(what, "inspected"),
        unit,
    };
    Ok(vec![
        row(
            "an event of a stream, from its server's write to its client's read",
            "events",
            "µs",
        ),
        row("2 GB downloaded, requests judged", "download", "MB/s"),
        row("2 GB uploaded, requests judged", "upload", "MB/s"),
        Row {
            what: "most memory of an endpoint that carried all of these".to_owned(),
            floor: None,
            figure: of("memory-after-upload", "inspected"),
            unit: "MB",
        },
    ])
}

fn figures(lines: &str, what: &str, way: &str) -> Vec<f64> {
    let wanted = format!("{what} {way} ");
    lines
        .lines()
        .filter_map(|line| line.strip_prefix(&wanted)?.trim().parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_told_apart_by_what_and_way() {
        let lines = "events spliced 0.5\nevents inspected 0.75\nup\n";
        assert_eq!(figures(lines, "events", "spliced"), [0.5]);
        assert_eq!(figures(lines, "events", "inspected"), [0.75]);
    }
}
