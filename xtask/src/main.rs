//! House rules and measurements of this repository: `cargo xtask tidy`,
//! `cargo xtask promises`, `cargo xtask guards`, `cargo xtask readme --list`,
//! `cargo xtask bench`.
//!
//! Nothing here is part of what is shipped.

mod bench;
mod guards;
mod programs;
mod readme;
mod rust;
mod tidy;
mod tree;

use std::io::Write;
use std::process::ExitCode;

use tree::{Failure, Tree};

const USAGE: &str = "\
usage: cargo xtask tidy            check the house rules
       cargo xtask promises        write the table of promises into its documents
       cargo xtask guards          see that attacks get through where their guard is out
       cargo xtask readme --list   print the commands that README shows
       cargo xtask bench [start|screen|exec|memory|share|workspace|containers|floods|net] [--rounds N] [--sbx PROGRAM]
                                   print the ratios of NUMBERS.md
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["tidy"] => tidy(),
        ["promises"] => promises(),
        ["guards"] => guards::run(),
        ["readme", "--list"] => readme_list(),
        ["bench", rest @ ..] => bench::run(rest).map(|table| {
            put(&table);
            ExitCode::SUCCESS
        }),
        _ => {
            say(USAGE);
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            say(&format!("xtask: {failure}\n"));
            ExitCode::FAILURE
        }
    }
}

fn tidy() -> Result<ExitCode, Failure> {
    let tree = Tree::of_this_repository()?;
    let findings = tidy::check(&tree);
    for finding in &findings {
        say(&format!("{finding}\n"));
    }
    if findings.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    say(&format!("tidy: {} findings\n", findings.len()));
    Ok(ExitCode::FAILURE)
}

fn promises() -> Result<ExitCode, Failure> {
    let tree = Tree::of_this_repository()?;
    let all = tidy::promises::all_written(&tree)
        .map_err(|path| Failure::new("find the table", format!("{path} has no place for it")))?;
    for (path, text) in all {
        let path = tree::root()?.join(path);
        std::fs::write(&path, text)
            .map_err(|error| Failure::new(format!("write `{}`", path.display()), error))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn readme_list() -> Result<ExitCode, Failure> {
    let tree = Tree::of_this_repository()?;
    let commands = readme::commands(tree.text("README.md").unwrap_or_default());
    put(&commands
        .iter()
        .map(|c| format!("{c}\n"))
        .collect::<String>());
    Ok(ExitCode::SUCCESS)
}

/// To standard error; a reader that went away is no failure of the check.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// To standard output.
fn put(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
