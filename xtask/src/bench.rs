//! `cargo xtask bench`: the figures of NUMBERS.md, measured on this machine.
//!
//! Prints a table and writes nothing. Every figure takes turns with its floor in the same run,
//! because a busy machine is busy for both; medians, because one slow round says nothing.

mod containers;
mod filtered;
mod floods;
mod floor;
mod machine;
mod memory;
mod net;
mod screen;
mod share;
mod start;
mod workspace;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::programs::program;
use crate::tree::{Failure, root};

/// Memory of the measured machines.
const MEMORY: &str = "1g";

/// One row of the table.
pub(crate) struct Row {
    what: String,
    floor: Option<(String, f64)>,
    figure: f64,
    unit: &'static str,
}

/// What is measured, and how often.
pub(crate) struct Bench {
    sbx: PathBuf,
    rounds: usize,
    /// Workspace of the sandboxes; goes with the run.
    directory: PathBuf,
    name: String,
}

/// Measures what `words` name, everything where they name nothing, and returns the table.
pub(crate) fn run(words: &[&str]) -> Result<String, Failure> {
    let mut parts = Vec::new();
    let mut rounds = 20;
    let mut sbx = root()?.join("target/release/sbx");
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let mut value = || {
            rest.next()
                .copied()
                .ok_or_else(|| Failure::new(format!("read `{word}`"), "it needs a value"))
        };
        match *word {
            "--rounds" => {
                rounds = value()?
                    .parse()
                    .map_err(|e| Failure::new("read `--rounds`", e))?;
            }
            "--sbx" => sbx = PathBuf::from(value()?),
            "start" | "screen" | "exec" | "memory" | "share" | "net" | "workspace" | "floods"
            | "containers" | "filtered" => parts.push(*word),
            other => return Err(Failure::new("measure", format!("there is no `{other}`"))),
        }
    }
    let id = std::process::id();
    let directory = std::env::temp_dir().join(format!("sbx-bench-{id}"));
    std::fs::create_dir(&directory).map_err(|e| Failure::new("make a workspace", e))?;
    let bench = Bench {
        sbx,
        rounds,
        directory,
        name: format!("bench-{id}"),
    };
    let measured = bench.all(&parts);
    let names = [bench.name.clone(), bench.agent_name()];
    let others = workspace::names(&bench)
        .into_iter()
        .chain(floods::names(&bench))
        .chain([filtered::name(&bench)]);
    for name in names.into_iter().chain(others) {
        let _ = bench.sbx(&["rm", "--force", &name]).output();
    }
    let _ = std::fs::remove_dir_all(&bench.directory);
    Ok(table(&measured?))
}

impl Bench {
    fn all(&self, parts: &[&str]) -> Result<Vec<Row>, Failure> {
        let wanted = |part: &str| parts.is_empty() || parts.contains(&part);
        let mut rows = Vec::new();
        if wanted("start") {
            rows.extend(start::measure(self)?);
        }
        if wanted("screen") {
            rows.extend(screen::measure(self)?);
        }
        if wanted("exec") || wanted("memory") || wanted("share") {
            let up = [
                "run", "-d", "-q", "--memory", MEMORY, "--name", &self.name, "shell",
            ];
            run_quietly(&mut self.sbx(&up))?;
        }
        if wanted("exec") {
            rows.extend(start::measure_further(self)?);
        }
        if wanted("memory") {
            rows.extend(memory::measure(self)?);
        }
        if wanted("share") {
            rows.extend(share::measure(self)?);
        }
        if wanted("workspace") {
            rows.extend(workspace::measure(self)?);
        }
        if wanted("containers") {
            rows.extend(containers::measure(self)?);
        }
        if wanted("filtered") {
            rows.extend(filtered::measure(self)?);
        }
        if wanted("floods") {
            rows.extend(floods::measure(self)?);
        }
        if wanted("net") {
            rows.extend(net::measure(self)?);
        }
        Ok(rows)
    }

    /// What the agent's sandbox is called; the others have the plain name.
    fn agent_name(&self) -> String {
        format!("{}-agent", self.name)
    }

    /// The measured program, in the workspace.
    fn sbx(&self, arguments: &[&str]) -> Command {
        let mut command = program(&self.sbx, &self.directory);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// What a command answers with `--json`.
    fn ask(&self, arguments: &[&str]) -> Result<Value, Failure> {
        let text = run_quietly(self.sbx(arguments).arg("--json"))?;
        serde_json::from_str(&text).map_err(|e| Failure::new("read an answer of sbx", e))
    }
}

/// Runs a program that must succeed; returns what it printed.
fn run_quietly(command: &mut Command) -> Result<String, Failure> {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let shown = format!("run `{}`", words.join(" "));
    let output = command
        .output()
        .map_err(|e| Failure::new(shown.clone(), e))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::new(shown, format!("{}: {said}", output.status)))
}

/// How long a program takes from its start to its end.
fn timed(command: &mut Command) -> Result<Duration, Failure> {
    let begin = Instant::now();
    run_quietly(command)?;
    Ok(begin.elapsed())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |n: usize| values.get(n).copied().unwrap_or(f64::NAN);
    if values.len().is_multiple_of(2) && middle > 0 {
        f64::midpoint(at(middle - 1), at(middle))
    } else {
        at(middle)
    }
}

fn milliseconds(times: &[Duration]) -> f64 {
    median(times.iter().map(|t| t.as_secs_f64() * 1_000.0).collect())
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from("| what | floor | here | ratio |\n|---|---|---|---|\n");
    for Row {
        what,
        floor,
        figure,
        unit,
    } in rows
    {
        let (floor, ratio) = match floor {
            Some((name, value)) => (
                format!("{value:.0} {unit}, {name}"),
                format!("{:.2}", figure / value),
            ),
            None => (String::new(), String::new()),
        };
        text.push_str(&format!(
            "| {what} | {floor} | {figure:.0} {unit} | {ratio} |\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_middle_two() {
        assert!((median(vec![4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < 1e-9);
        assert!((median(vec![9.0, 1.0, 3.0]) - 3.0).abs() < 1e-9);
        assert!(median(Vec::new()).is_nan());
    }

    #[test]
    fn a_row_shows_its_ratio_to_the_floor() {
        let row = |floor| Row {
            what: "a".into(),
            floor,
            figure: 30.0,
            unit: "ms",
        };
        let text = table(&[row(Some(("b".into(), 20.0))), row(None)]);
        assert!(text.ends_with("| a | 20 ms, b | 30 ms | 1.50 |\n| a |  | 30 ms |  |\n"));
    }
}
