//! `true` in a new container, from the command to its end, beside what others take for it: those
//! that are installed. An engine is measured where `DOCKER_HOST` names one, with the image that
//! `SBX_BENCH_IMAGE` names.

use std::process::Command;

use super::{Bench, Row, milliseconds, run_quietly, timed};
use crate::programs::program;
use crate::tree::Failure;

/// Others, by name: with all namespaces and nothing else, then whole tools of the trade as their
/// defaults are.
const OTHERS: [(&str, &[&str]); 5] = [
    (
        "bwrap",
        &[
            "--ro-bind",
            "/",
            "/",
            "--dev",
            "/dev",
            "--proc",
            "/proc",
            "--unshare-all",
            "--die-with-parent",
            "/bin/true",
        ],
    ),
    ("unshare", &["-Urmpfnui", "/bin/true"]),
    ("runc", &["run", "--bundle", BUNDLE, "sbx-bench"]),
    ("ai-jail", &["--no-status-bar", "--no-save-config", "true"]),
    ("srt", &["true"]),
];

/// What `runc` runs, in the bench's directory.
const BUNDLE: &str = "bundle";

/// How many at once.
const CROWD: usize = 20;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let whole = |name: &str, isolation: &str| {
        let isolation = format!("--isolation={isolation}");
        let mut call = bench.sbx(&["run", "--rm", "-q", &isolation, "--name", name]);
        call.args(["--no-workspace", "shell", "--", "-c", "true"]);
        call
    };
    // Makes what is missing, and warms what is cold.
    run_quietly(&mut whole(&bench.name, "container"))?;
    let installed = |name: &str| {
        let version = program(name, &bench.directory).arg("--version").output();
        version.is_ok_and(|output| output.status.success())
    };
    let mut others: Vec<_> = OTHERS
        .iter()
        .filter(|(name, _)| installed(name))
        .map(|(name, argv)| (*name, *argv, Vec::new()))
        .collect();
    if others.iter().any(|(name, ..)| *name == "runc") {
        bundle(bench)?;
    }
    let engine = engine(bench)?;
    if engine.is_some() {
        run_quietly(&mut whole(&bench.name, "docker"))?;
    }
    let mut ours = Vec::new();
    let (mut engines, mut docked) = (Vec::new(), Vec::new());
    let mut crowds = Vec::new();
    for _ in 0..bench.rounds {
        ours.push(timed(&mut whole(&bench.name, "container"))?);
        for (name, argv, times) in &mut others {
            times.push(timed(program(name, &bench.directory).args(*argv))?);
        }
        if let Some(argv) = &engine {
            engines.push(timed(program("docker", &bench.directory).args(argv))?);
            docked.push(timed(&mut whole(&bench.name, "docker"))?);
        }
        let crowd = (0..CROWD).map(|n| whole(&format!("{}-{n}", bench.name), "container"));
        crowds.push(together(crowd.collect())?);
    }
    let row = |what: &str, floor: (&str, &[_]), figure| Row {
        what: what.to_owned(),
        floor: Some((floor.0.to_owned(), milliseconds(floor.1))),
        figure,
        unit: "ms",
    };
    let what = "`true` in a new container, made, run and removed";
    let mut rows: Vec<_> = others
        .iter()
        .map(|(name, _, times)| row(what, (name, times), milliseconds(&ours)))
        .collect();
    if engine.is_some() {
        let docker = ("docker run", &engines[..]);
        rows.push(row(what, docker, milliseconds(&ours)));
        let what = "the same in a container of an engine";
        rows.push(row(what, docker, milliseconds(&docked)));
    }
    let what = format!("{CROWD} at once, until the last has ended");
    rows.push(row(&what, ("one", &ours), milliseconds(&crowds)));
    Ok(rows)
}

/// Makes a root with one program, and the namespaces that `runc spec` writes down.
fn bundle(bench: &Bench) -> Result<(), Failure> {
    let made = "mkdir -p rootfs/bin && cp \"$(command -v busybox)\" rootfs/bin/true && \
        runc spec && sed -i 's/\"terminal\": true/\"terminal\": false/; s/\"sh\"/\"true\"/' config.json";
    let directory = bench.directory.join(BUNDLE);
    std::fs::create_dir(&directory).map_err(|e| Failure::new("make a bundle", e))?;
    run_quietly(program("sh", &directory).args(["-ec", made]))?;
    Ok(())
}

/// The words of `docker run`, where there is an engine.
fn engine(bench: &Bench) -> Result<Option<Vec<String>>, Failure> {
    let mut look = program("printenv", &bench.directory);
    let look = look.args(["DOCKER_HOST", "SBX_BENCH_IMAGE"]).output();
    let look = look.map_err(|e| Failure::new("look for an engine", e))?;
    let found = String::from_utf8_lossy(&look.stdout).into_owned();
    let Some(image) = found.lines().nth(1) else {
        return Ok(None);
    };
    let argv = ["run", "--rm", "--network", "none", image, "true"];
    Ok(Some(argv.map(str::to_owned).to_vec()))
}

/// How long all of them take.
fn together(mut calls: Vec<Command>) -> Result<std::time::Duration, Failure> {
    let failed = |e| Failure::new("start many sandboxes", e);
    let begun = std::time::Instant::now();
    let started: Result<Vec<_>, _> = calls.iter_mut().map(Command::spawn).collect();
    for mut one in started.map_err(failed)? {
        let ended = one.wait().map_err(failed)?;
        if !ended.success() {
            return Err(Failure::new("start many sandboxes", ended));
        }
    }
    Ok(begun.elapsed())
}
