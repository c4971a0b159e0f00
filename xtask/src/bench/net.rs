//! Streams through the network engine, in namespaces of the bench's own.

use std::path::Path;

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
    let mut rows = peers(&root, &rounds)?;
    rows.extend(floods(&root, &rounds)?);
    let row = |words: &str, what: &str, unit| Row {
        what: words.to_owned(),
        floor: Some(("TLS untouched".to_owned(), of(what, "spliced"))),
        figure: of(what, "inspected"),
        unit,
    };
    rows.extend([
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
    ]);
    Ok(rows)
}

/// The same beside others of the trade, as far as they are installed.
fn peers(root: &Path, rounds: &str) -> Result<Vec<Row>, Failure> {
    let run = ["bench", "-p", "sbx-net", "--bench", "peers", "--"];
    let mut bench = program("cargo", root);
    let lines = run_quietly(bench.args(run).args(["--rounds", rounds]))?;
    let of = |what: &str, way: &str| {
        let figures = figures(&lines, what, way);
        (!figures.is_empty()).then(|| median(figures))
    };
    let plain = ["loopback", "passt", "slirp4netns"];
    let judging = ["direct", "mitmproxy"];
    let mut rows = Vec::new();
    for (words, what, unit, others) in [
        ("one stream", "stream-1", "MB/s", &plain[..]),
        ("16 streams together", "stream-16", "MB/s", &plain),
        (
            "connections, one after the other in 8 threads",
            "connect",
            "a second",
            &plain,
        ),
        ("a request of 1 KB and its answer", "request", "µs", &plain),
        (
            "100 streams together, beside 4,900 connections that say nothing",
            "busy",
            "MB/s",
            &["alone"],
        ),
        (
            "TLS connections with one judged request each",
            "each",
            "a second",
            &judging,
        ),
        (
            "judged requests on 8 connections",
            "kept",
            "a second",
            &judging,
        ),
    ] {
        for other in others {
            if let (Some(floor), Some(figure)) = (of(what, other), of(what, "sbx")) {
                rows.push(Row {
                    what: words.to_owned(),
                    floor: Some(((*other).to_owned(), floor)),
                    figure,
                    unit,
                });
            }
        }
    }
    Ok(rows)
}

/// What one endpoint notices of floods through another.
fn floods(root: &Path, rounds: &str) -> Result<Vec<Row>, Failure> {
    let run = ["bench", "-p", "sbx-net", "--bench", "floods", "--"];
    let mut bench = program("cargo", root);
    let lines = run_quietly(bench.args(run).args(["--rounds", rounds]))?;
    let of = |what: &str, way: &str| median(figures(&lines, what, way));
    let mut rows = Vec::new();
    for (what, words) in [
        ("names", "questions for ever new names"),
        ("half", "half-open connections"),
        ("denied", "denied attempts"),
        (
            "attempts",
            "20,000 attempts at an allowed port, again and again",
        ),
        ("slow", "5,000 readers of single bytes"),
    ] {
        for (kind, part) in [("median", "in the median"), ("99", "99 of 100 within")] {
            let what = format!("{what}-{kind}");
            for (floor, way) in [("calm", "calm"), ("the same program at a mirror", "mirror")] {
                rows.push(Row {
                    what: format!("a request of 1 KB beside a flood of {words}, {part}"),
                    floor: Some((floor.to_owned(), of(&what, way))),
                    figure: of(&what, "sbx"),
                    unit: "µs",
                });
            }
        }
        rows.push(Row {
            what: format!("most memory of an endpoint in a flood of {words}"),
            floor: None,
            figure: of(&format!("{what}-memory"), "sbx"),
            unit: "MB",
        });
        rows.push(Row {
            what: format!("what it has of a processor in a flood of {words}"),
            floor: None,
            figure: of(&format!("{what}-processor"), "sbx"),
            unit: "%",
        });
    }
    Ok(rows)
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
