//! The work of a project on the host and in containers, whose workspace is a mere mount or served
//! by a file server.

use super::{Bench, Row, median, run_quietly};
use crate::programs::program;
use crate::tree::Failure;

/// Prints `WHAT MICROSECONDS` lines.
const SCRIPT: &str = include_str!("workspace.sh");

/// What the script measures, by its word, in words.
const WHATS: [(&str, &str); 6] = [
    (
        "status",
        "`git status` of 5,000 files, nothing known of them",
    ),
    ("again", "`git status` again at once"),
    ("unpack", "unpacking 10,000 small files"),
    ("remove", "removing them"),
    ("build", "`cargo build` of 12 small crates"),
    ("install", "`npm ci` of 40 small packages"),
];

/// What stands between a container and its workspace.
const GUARDS: [&str; 2] = ["existing", "full"];

/// What the sandboxes are called.
pub(super) fn names(bench: &Bench) -> [String; 2] {
    GUARDS.map(|guard| format!("{}-{guard}", bench.name))
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let mut find = program("rustc", &bench.directory);
    let toolchain = run_quietly(find.args(["--print", "sysroot"]))?;
    let toolchain = toolchain.trim();
    let names = names(bench);
    let at = |place: &str| bench.directory.join(place);
    let mount = format!("{toolchain}:/toolchain:ro");
    for place in ["host", GUARDS[0], GUARDS[1]] {
        std::fs::create_dir(at(place)).map_err(|e| Failure::new("make a workspace", e))?;
    }
    for (guard, name) in GUARDS.iter().zip(&names) {
        let isolation = ["create", "-q", "--isolation", "container"];
        let flags = ["--workspace-guard", guard, "-v", &mount, "--name", name];
        let mut create = bench.sbx(&isolation);
        run_quietly(create.args(flags).arg("shell").current_dir(at(guard)))?;
    }
    // The first makes the projects.
    let mut lines = [String::new(), String::new(), String::new()];
    for round in 0..=bench.rounds {
        let [host, existing, full] = &mut lines;
        let mut here = program("bash", &at("host"));
        let here = run_quietly(here.args(["-c", SCRIPT, "round", toolchain]))?;
        let inside = |name: &String| {
            let script = ["exec", name, "bash", "-c", SCRIPT, "round", "/toolchain"];
            run_quietly(&mut bench.sbx(&script))
        };
        let (there, served) = (inside(&names[0])?, inside(&names[1])?);
        if round > 0 {
            *host += &here;
            *existing += &there;
            *full += &served;
        }
    }
    let [host, existing, full] = &lines;
    let row = |words: &str, what: &str, inside: &str, guard: &str| Row {
        what: format!("{words}, guard {guard}"),
        floor: Some(("host".to_owned(), median(times(host, what)))),
        figure: median(times(inside, what)),
        unit: "ms",
    };
    let rows = WHATS.iter().flat_map(|(what, words)| {
        [
            row(words, what, existing, GUARDS[0]),
            row(words, what, full, GUARDS[1]),
        ]
    });
    Ok(rows.collect())
}

/// Those of `what`, in milliseconds.
fn times(lines: &str, what: &str) -> Vec<f64> {
    let lines = lines.lines().filter_map(|line| line.split_once(' '));
    let micros = lines.filter(|(found, _)| *found == what);
    let micros = micros.filter_map(|(_, time)| time.trim().parse::<f64>().ok());
    micros.map(|time| time / 1_000.0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_apart_by_what() {
        let lines = "status 1500\nagain 3000\nstatus 2500\n";
        assert_eq!(times(lines, "status"), [1.5, 2.5]);
    }

    #[test]
    fn everything_that_is_shown_is_measured() {
        for (what, _) in WHATS {
            assert!(SCRIPT.contains(&format!("timed {what} ")), "{what}");
        }
    }
}
