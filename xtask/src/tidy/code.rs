//! What may stand in which file of Rust.

use super::Finding;
use crate::rust::{Source, words};
use crate::tree::{File, Tree};

/// Lines with code, tests of the same file aside.
const MAX_LINES: usize = 500;

/// Files that are longer, each with its reason.
const LONGER: &[(&str, &str)] = &[];

/// Where unsafe code lives.
const UNSAFE_HOME: &str = "crates/sbx-sys/";

/// What alone prints: everything that leaves the program goes through it.
const PRINT_HOME: &str = "crates/sbx/src/render";

/// What alone reads the environment, the arguments and the current directory.
const ENVIRONMENT_HOMES: &[&str] = &[
    // For tests alone: which guard is out.
    "crates/sbx-spec/src/guard.rs",
    "crates/sbx-vmm/src/start.rs",
    "crates/sbx/src/environment.rs",
    "crates/sbx/src/main.rs",
    "crates/sbx-guest/src/program.rs",
    "xtask/src/main.rs",
    "xtask/src/bench.rs",
];

/// What alone starts programs through the standard library.
const PROGRAM_HOMES: &[&str] = &[
    "crates/sbx/src/environment.rs",
    "crates/sbx-guest/src/program.rs",
    "crates/sbx-images/src/command.rs",
    "crates/sbx-vmm/src/start.rs",
    "xtask/src/programs.rs",
];

pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (file, source) in tree.rust() {
        let path = file.path.as_str();
        findings.extend(unsafe_at_home(path, source));
        findings.extend(length(path, file.is_test(), source));
        if path.contains("/src/") {
            findings.extend(header(path, file.text.as_deref().unwrap_or_default()));
        }
        if !file.is_test() {
            findings.extend(at_home(file, source));
        }
    }
    for (path, _) in LONGER.iter().filter(|(path, _)| !tree.has(path)) {
        findings.push(Finding::new(
            *path,
            "may be longer than others, and is not there",
        ));
    }
    findings
}

fn unsafe_at_home(path: &str, source: &Source) -> Vec<Finding> {
    if path.starts_with(UNSAFE_HOME) {
        return Vec::new();
    }
    words(&source.code)
        .filter(|(_, word)| matches!(*word, "unsafe" | "unsafe_code"))
        .map(|(line, word)| Finding::at(path, line, format!("`{word}` outside {UNSAFE_HOME}")))
        .collect()
}

/// A file begins with what it is for.
fn header(path: &str, text: &str) -> Option<Finding> {
    (!text.starts_with("//!")).then(|| Finding::new(path, "does not begin with a `//!` header"))
}

fn length(path: &str, is_test: bool, source: &Source) -> Option<Finding> {
    let text = if is_test {
        &source.code
    } else {
        &source.without_tests
    };
    let lines = text.lines().filter(|l| !l.trim().is_empty()).count();
    let longer = LONGER.iter().any(|(p, _)| *p == path);
    (lines > MAX_LINES && !longer).then(|| {
        Finding::new(
            path,
            format!("{lines} lines of code, {MAX_LINES} are the limit"),
        )
    })
}

fn at_home(file: &File, source: &Source) -> Vec<Finding> {
    let path = file.path.as_str();
    let mut findings = Vec::new();
    for (at, line) in source.without_tests.lines().enumerate() {
        let mut found = |what: &str| findings.push(Finding::at(path, at + 1, what));
        if !path.starts_with(PRINT_HOME)
            && calls_macro(line, &["print", "println", "eprint", "eprintln", "dbg"])
        {
            found("prints outside the renderer");
        }
        if calls_macro(line, &["todo", "unimplemented"]) {
            found("is not finished");
        }
        if !ENVIRONMENT_HOMES.contains(&path) && reads_environment(line) {
            found("reads the environment outside its homes");
        }
        if !PROGRAM_HOMES.contains(&path) && line.contains("Command::new(") {
            found("starts a program outside its homes");
        }
    }
    findings
}

fn calls_macro(line: &str, names: &[&str]) -> bool {
    line.match_indices('!').any(|(at, _)| {
        let before = line.get(..at).unwrap_or_default();
        let name = before
            .rsplit(|c: char| !(c.is_alphanumeric() || c == '_'))
            .next();
        name.is_some_and(|name| names.contains(&name))
    })
}

/// `std::env` by path or by import; its constants and the macro `env!` are no environment.
fn reads_environment(line: &str) -> bool {
    line.match_indices("std::env").any(|(at, text)| {
        let rest = line.get(at + text.len()..).unwrap_or_default();
        !rest.starts_with("::consts")
            && !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::super::whats;
    use super::*;

    fn found(path: &str, text: &str) -> Vec<Finding> {
        let tree = Tree::new(vec![File::new(
            path,
            format!("//! Header.\n{text}").into_bytes(),
        )]);
        check(&tree)
    }

    #[test]
    fn unsafe_code_lives_in_one_crate() {
        let text = "fn f() { unsafe { g() } }\n";
        assert_eq!(found("crates/sbx-sys/src/a.rs", text), []);
        let findings = found("crates/sbx-net/src/a.rs", text);
        assert_eq!(
            findings,
            [Finding::at(
                "crates/sbx-net/src/a.rs",
                2,
                "`unsafe` outside crates/sbx-sys/"
            )]
        );
        assert_eq!(
            found("crates/sbx-net/src/a.rs", "#![expect(unsafe_code)]\n").len(),
            1
        );
        assert_eq!(
            found(
                "crates/sbx-net/src/a.rs",
                "// unsafe\nconst A: &str = \"unsafe\";\n"
            ),
            []
        );
    }

    #[test]
    fn only_the_renderer_prints() {
        let text = "fn f() { println!(\"x\"); }\n";
        assert_eq!(found("crates/sbx/src/render/table.rs", text), []);
        assert_eq!(
            whats(&found("crates/sbx/src/ui.rs", text)),
            ["prints outside the renderer"]
        );
        assert_eq!(found("crates/sbx/tests/a.rs", text), []);
        assert_eq!(
            found(
                "crates/sbx/src/ui.rs",
                "#[cfg(test)]\nmod tests { fn f() { println!() } }\n"
            ),
            []
        );
    }

    #[test]
    fn the_environment_is_read_at_its_homes() {
        let text = "fn f() { std::env::vars_os(); }\n";
        assert_eq!(found("crates/sbx/src/environment.rs", text), []);
        assert_eq!(found("crates/sbx/src/ui.rs", text).len(), 1);
        assert_eq!(found("crates/sbx/src/ui.rs", "use std::env;\n").len(), 1);
        assert_eq!(
            found(
                "crates/sbx/src/ui.rs",
                "const A: &str = std::env::consts::ARCH;\n"
            ),
            []
        );
    }

    #[test]
    fn programs_are_started_at_their_homes() {
        let text = "fn f() { std::process::Command::new(p); }\n";
        assert_eq!(found("crates/sbx-images/src/command.rs", text), []);
        assert_eq!(found("crates/sbx-images/src/kernel.rs", text).len(), 1);
    }

    #[test]
    fn what_is_not_finished_is_found() {
        assert_eq!(
            whats(&found("crates/a/src/a.rs", "fn f() { todo!() }\n")),
            ["is not finished"]
        );
    }

    #[test]
    fn a_file_begins_with_what_it_is_for() {
        assert_eq!(header("p", "//! This.\n"), None);
        assert!(header("p", "use a;\n//! This.\n").is_some());
    }

    #[test]
    fn a_long_file_is_found_and_its_comments_and_tests_do_not_count() {
        let code = "fn f() {}\n".repeat(MAX_LINES);
        let rest = format!("// c\n\n#[cfg(test)]\nmod tests {{\n{code}}}\n");
        assert_eq!(found("crates/a/src/a.rs", &format!("{code}{rest}")), []);
        assert_eq!(
            found("crates/a/src/a.rs", &format!("{code}fn g() {{}}\n{rest}")).len(),
            1
        );
    }
}
