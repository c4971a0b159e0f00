//! `cargo xtask guards`: takes out each guard of the network once. The attack on it has to get
//! through then, and what is allowed has to pass as ever; else a test proves nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Mutex;

use crate::programs::program;
use crate::tidy::guards::{Row, rows};
use crate::tree::{Failure, Tree, root};
use crate::{put, say};

/// What tells the tests which guard is out.
const VARIABLE: &str = "SBX_TEST_GUARD_OUT";

/// What an attack says that succeeded. Anything else that fails is no proof.
const THROUGH: &str = "got through: ";

/// Runs at once: most of their time they wait for programs to start.
const WORKERS: usize = 4;

pub(crate) fn run() -> Result<ExitCode, Failure> {
    let root = root()?;
    let tree = Tree::of_this_repository()?;
    let rows = rows(tree.text("ATTACKS.md").unwrap_or_default());
    let tests = build(&root)?;
    let names = names(&tests)?;
    let left = Mutex::new(rows.iter());
    let told = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                // The lock ends with this statement, not with the run.
                while let Some(row) = left.lock().map_or(None, |mut left| left.next()) {
                    let outcome = take_out(row, &tests, &names);
                    if let Ok(mut told) = told.lock() {
                        told.push((row.guard, row.attack, outcome));
                    }
                }
            });
        }
    });
    let told = told.into_inner().unwrap_or_default();
    let mut bad = rows.len() - told.len();
    for (guard, attack, outcome) in told {
        match outcome {
            Outcome::Held => {}
            Outcome::Skipped(why) => put(&format!("{guard}: {why}\n")),
            Outcome::Bad(why) => {
                bad += 1;
                say(&format!("{guard}: `{attack}`: {why}\n"));
            }
        }
    }
    if bad > 0 {
        say(&format!(
            "guards: {bad} of {} attacks prove nothing\n",
            rows.len()
        ));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// What came of a guard's absence.
enum Outcome {
    /// The attack got through, and nothing else changed.
    Held,
    /// It could not be tried here.
    Skipped(String),
    /// The test proves nothing, or the guard is no guard.
    Bad(String),
}

fn take_out(row: &Row<'_>, tests: &Path, names: &BTreeMap<String, String>) -> Outcome {
    let full = |name: &str| names.get(name).cloned().unwrap_or_default();
    let (attack, twin) = (full(row.attack), full(row.twin));
    let directory = tests.parent().unwrap_or(tests);
    let output = program(tests, directory)
        .args(["--exact", "--show-output", &attack, &twin])
        .env(VARIABLE, row.guard)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => judge(&String::from_utf8_lossy(&output.stdout), &attack, &twin),
        Err(error) => Outcome::Bad(error.to_string()),
    }
}

/// Reads what the test runner said.
fn judge(said: &str, attack: &str, twin: &str) -> Outcome {
    if let Some(skip) = said.lines().find(|line| line.starts_with("SKIPPED")) {
        return Outcome::Skipped(skip.to_owned());
    }
    let ended = |name: &str, how: &str| said.contains(&format!("test {name} ... {how}\n"));
    if !ended(twin, "ok") {
        return Outcome::Bad(format!("what is allowed did not pass:\n{said}"));
    }
    if ended(attack, "ok") {
        return Outcome::Bad("the attack fails without the guard, too".to_owned());
    }
    if !(ended(attack, "FAILED") && said.contains(THROUGH)) {
        return Outcome::Bad(format!("the attack failed in another way:\n{said}"));
    }
    Outcome::Held
}

/// Builds the tests and what they start. With the features of the whole workspace, so that what
/// the gate built already is not built once more; into names of their own, so that nothing without
/// guards is taken for something with them.
fn build(root: &Path) -> Result<PathBuf, Failure> {
    // A test is not built together with programs: those would become tests, too.
    let programs = "build --example unguarded --example tap --example web";
    let tests = "test --no-run --test guards";
    let cargo = |words: &str| {
        let output = program("cargo", root)
            .args(words.split_whitespace())
            .args(["--locked", "--workspace", "--features", "sbx-net/unguarded"])
            .args(["--quiet", "--message-format", "json"])
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| Failure::new("run cargo", error))?;
        match output.status.success() {
            true => Ok(output),
            false => Err(Failure::new("build what is unguarded", output.status)),
        }
    };
    cargo(programs)?;
    let output = cargo(tests)?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "guards")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| Failure::new("find the tests of the guards", "cargo does not name them"))
}

/// Names of tests as the runner has them, by those that documents have.
fn names(tests: &Path) -> Result<BTreeMap<String, String>, Failure> {
    let output = program(tests, tests.parent().unwrap_or(tests))
        .arg("--list")
        .output()
        .map_err(|error| Failure::new("list the tests of the guards", error))?;
    let listed = String::from_utf8_lossy(&output.stdout);
    let full = listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"));
    let short = |name: &str| name.rsplit("::").next().unwrap_or(name).to_owned();
    Ok(full.map(|name| (short(name), name.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(said: &str) -> &'static str {
        match judge(said, "m::attack", "m::twin") {
            Outcome::Held => "held",
            Outcome::Skipped(_) => "skipped",
            Outcome::Bad(_) => "bad",
        }
    }

    #[test]
    fn only_an_attack_that_got_through_beside_what_passed_is_a_proof() {
        let said = |attack: &str, twin: &str, words: &str| {
            format!("test m::attack ... {attack}\ntest m::twin ... {twin}\n{words}\n")
        };
        assert_eq!(outcome(&said("FAILED", "ok", "got through: x")), "held");
        for bad in [
            said("ok", "ok", ""),
            said("FAILED", "ok", "timed out"),
            said("FAILED", "FAILED", "got through: x"),
            "running 0 tests\n".to_owned(),
        ] {
            assert_eq!(outcome(&bad), "bad", "{bad}");
        }
        assert_eq!(outcome(&said("ok", "ok", "SKIPPED x: not root")), "skipped");
    }
}
