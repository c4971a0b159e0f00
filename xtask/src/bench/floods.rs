//! What a sandbox notices while another one floods its network: small requests of the one, beside
//! a guest that is as busy and sends nothing, and beside each flood, by turns. Once with a
//! processor for each side, which shows what the two share of ours, and once with all
//! processors for both.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use super::{Bench, Row, median, run_quietly};
use crate::programs::program;
use crate::tree::Failure;

/// Servers, floods and requests.
const SCRIPT: &str = include_str!("floods.py");

/// The floods by their words, in words; what they ask for is the port of a server that sends
/// everything back, or of one that never ends.
const FLOODS: [(&str, &str); 4] = [
    ("names", "questions for ever new names"),
    ("denied", "denied attempts"),
    ("attempts", "attempts at an allowed port"),
    ("slow", "1,000 readers of single bytes"),
];

/// What each costs by itself.
const SPIN: &str = "spin";

/// What the sandboxes are called.
pub(super) fn names(bench: &Bench) -> [String; 2] {
    ["calm", "flooding"].map(|which| format!("{}-{which}", bench.name))
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let processors = std::thread::available_parallelism();
    let last = processors.map_or(0, |number| number.get() - 1);
    let all = format!("0-{last}");
    let mut rows = Vec::new();
    if last > 0 {
        let apart = [last.to_string(), "0".to_owned()];
        rows = sides(bench, apart, true)?;
    }
    rows.extend(sides(bench, [all.clone(), all], false)?);
    Ok(rows)
}

/// The rows with these processors for the calm side and for the flood.
fn sides(bench: &Bench, processors: [String; 2], apart: bool) -> Result<Vec<Row>, Failure> {
    let mut server = program("python3", &bench.directory);
    let server = server.args(["-c", SCRIPT, "serve"]).stdin(Stdio::piped());
    let server = if apart { server.arg("1") } else { server };
    let (_server, ports) = said(server)?;
    let ports: Vec<&str> = ports.split(' ').collect();
    let [back, other, loud] = ports[..] else {
        return Err(Failure::new(
            "start the servers of a bench",
            "they do not say three ports",
        ));
    };
    let names = names(bench);
    for (name, processors) in names.iter().zip(processors) {
        // All that is of a sandbox keeps to the processors that it is started on.
        let mut up = program("taskset", &bench.directory);
        up.args(["-c", &processors]).arg(&bench.sbx);
        up.args(["run", "-d", "-q", "--isolation", "container"]);
        let rules = [back, other, loud].map(|port| format!("--allow-network=localhost:{port}"));
        up.arg("--no-workspace").args(rules);
        run_quietly(up.args(["--name", name, "shell"]))?;
    }
    let [calm, flooding] = &names;
    let paced = || {
        let argv = ["exec", calm, "python3", "-c", SCRIPT, "paced", back];
        let text = run_quietly(&mut bench.sbx(&argv))?;
        text.trim()
            .parse::<f64>()
            .map_err(|e| Failure::new("read a time", e))
    };
    let mut alone = Vec::new();
    let mut all = [const { Vec::new() }; FLOODS.len() + 1];
    for _ in 0..bench.rounds {
        alone.push(paced()?);
        let words = FLOODS.map(|(word, _)| word);
        for (word, times) in [SPIN].iter().chain(&words).zip(&mut all) {
            let port = if *word == "slow" { loud } else { other };
            let argv = ["exec", flooding, "python3", "-c", SCRIPT, word, port];
            let (flood, _) = said(&mut bench.sbx(&argv))?;
            times.push(paced()?);
            // Its connections go with it, inside as well.
            drop(flood);
            let end = ["exec", flooding, "sh", "-c", "pkill -KILL -x python3; true"];
            run_quietly(&mut bench.sbx(&end))?;
        }
    }
    let [spin, floods @ ..] = all;
    let spin = median(spin);
    let row = |what: String, floor: &str, of: f64, figure| Row {
        what,
        floor: Some((floor.to_owned(), of)),
        figure,
        unit: "µs",
    };
    for name in &names {
        run_quietly(&mut bench.sbx(&["rm", "-f", name]))?;
    }
    let whose = match apart {
        true => "requests of another sandbox on another processor",
        false => "requests of another sandbox",
    };
    let within = format!("{whose}, 99 of 100 within, beside");
    let busy = format!("{within} a guest that is busy and sends nothing");
    let mut rows = vec![row(busy, "calm", median(alone), spin)];
    rows.extend(FLOODS.iter().zip(floods).map(|((_, words), times)| {
        let what = format!("{within} {words}");
        row(what, "beside a busy guest", spin, median(times))
    }));
    Ok(rows)
}

/// A program of a bench that ends with it.
pub(super) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a program and waits for its first line.
pub(super) fn said(command: &mut Command) -> Result<(Running, String), Failure> {
    let failed = |e| Failure::new("start a program of a bench", e);
    let child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut running = Running(child);
    let mut line = String::new();
    if let Some(output) = running.0.stdout.take() {
        BufReader::new(output)
            .read_line(&mut line)
            .map_err(failed)?;
    }
    if line.is_empty() {
        return Err(Failure::new(
            "start a program of a bench",
            "it says nothing",
        ));
    }
    Ok((running, line.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flood_is_in_the_script() {
        for word in FLOODS.map(|(word, _)| word).iter().chain(&[SPIN]) {
            assert!(SCRIPT.contains(&format!("\ndef {word}(")), "{word}");
        }
    }
}
