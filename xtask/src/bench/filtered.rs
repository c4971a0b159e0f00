//! One filtered path out of a sandbox beside that of another one of its trade, where `srt` is
//! installed: a stream, requests, connections, by turns.

use std::process::{Command, Stdio};

use super::{Bench, Row, floods::said, median, run_quietly};
use crate::programs::program;
use crate::tree::Failure;

/// The server, and its client inside.
const SCRIPT: &str = include_str!("filtered.py");

/// What is measured, in the order of the script's figures.
const FIGURES: [(&str, &str); 3] = [
    ("a stream out of a sandbox, filtered", "MB/s"),
    ("a request of 1 KB and its answer, likewise", "µs"),
    ("connections one after the other, likewise", "a second"),
];

/// What the sandbox is called.
pub(super) fn name(bench: &Bench) -> String {
    format!("{}-filtered", bench.name)
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let peer = program("srt", &bench.directory).arg("--version").output();
    if !peer.is_ok_and(|output| output.status.success()) {
        return Ok(Vec::new());
    }
    let mut server = program("python3", &bench.directory);
    let server = server.args(["-c", SCRIPT, "serve"]).stdin(Stdio::piped());
    let (_server, port) = said(server)?;
    let allowed = format!("--allow-network=localhost:{port}");
    let up = ["run", "-d", "-q", "--isolation=container", "--no-workspace"];
    let mut up = bench.sbx(&up);
    let name = name(bench);
    run_quietly(up.args([&allowed, "--name", &name, "shell"]))?;

    // It makes one line of a shell out of the words that it is given.
    let [settings, script] = ["srt.json", "filtered.py"].map(|name| bench.directory.join(name));
    let text = r#"{"network":{"allowedDomains":["127.0.0.1"],"deniedDomains":[]},
        "filesystem":{"denyRead":[],"allowWrite":[],"denyWrite":[]}}"#;
    for (path, text) in [(&settings, text), (&script, SCRIPT)] {
        std::fs::write(path, text).map_err(|e| Failure::new("write what srt reads", e))?;
    }
    let ours = || {
        let argv = ["exec", &name, "python3", "-c", SCRIPT, "measure"];
        figures(bench.sbx(&argv).args(["host.sbx.internal", &port]))
    };
    let theirs = || {
        let mut call = program("srt", &bench.directory);
        call.arg("-s").arg(&settings);
        let call = call.arg("python3").arg(&script);
        figures(call.args(["measure", "127.0.0.1", &port]))
    };
    let mut all = [const { (Vec::new(), Vec::new()) }; FIGURES.len()];
    for _ in 0..bench.rounds {
        let pairs = ours()?.into_iter().zip(theirs()?);
        for ((our, their), (mine, other)) in pairs.zip(&mut all) {
            mine.push(our);
            other.push(their);
        }
    }
    let rows = FIGURES.iter().zip(all);
    let row = |((what, unit), (ours, theirs)): (&(&str, &'static str), _)| Row {
        what: (*what).to_owned(),
        floor: Some(("srt".to_owned(), median(theirs))),
        figure: median(ours),
        unit,
    };
    Ok(rows.map(row).collect())
}

/// What the script prints.
fn figures(command: &mut Command) -> Result<[f64; FIGURES.len()], Failure> {
    let text = run_quietly(command)?;
    let figures: Result<Vec<f64>, _> = text.split_whitespace().map(str::parse).collect();
    let figures = figures.map_err(|e| Failure::new("read the figures of a path", e))?;
    <[f64; FIGURES.len()]>::try_from(figures)
        .map_err(|_| Failure::new("read the figures of a path", text.trim()))
}
