//! What is settled about a command line before its flags are read: old
//! spellings, words and flags of later versions, the habits of `docker run`.

use std::ffi::{OsStr, OsString};

use sbx_engine::command::{Code, Error};

/// A command line in today's spelling.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Prepared {
    /// The arguments, the program's name first.
    pub(crate) args: Vec<OsString>,
    /// What the user should type from now on.
    pub(crate) notes: Vec<String>,
}

/// Words that later versions will know.
pub(crate) const LATER: &[&str] = &[
    "secret", "login", "logout", "template", "kit", "init", "trust", "review", "diff", "apply",
    "discard", "cp", "df", "prune", "reset", "stats", "tui", "snapshot", "fork", "restore",
    "serve", "mcp", "ssh", "setup",
];

/// Old spellings of words, and today's.
pub(crate) const OLD: &[(&str, &str)] = &[
    ("list", "ls"),
    ("remove", "rm"),
    ("delete", "rm"),
    ("diagnose", "doctor"),
];

/// Words of other tools, and what to type here.
const ELSEWHERE: &[(&str, &str)] = &[
    ("ps", "sbx ls"),
    ("kill", "sbx stop -t 0 NAME"),
    ("attach", "sbx run --name NAME"),
    ("shell", "sbx run shell"),
    ("bash", "sbx run shell"),
    ("claude", "sbx run claude"),
    ("destroy", "sbx rm NAME"),
    ("status", "sbx ls"),
    ("info", "sbx doctor"),
    ("up", "sbx run"),
    ("down", "sbx stop NAME"),
];

/// Flags that stand before a command and take the next word as their value.
const VALUED: &[&str] = &["--format", "--color", "--progress"];

/// Where the command word stands.
fn verb_index(args: &[OsString]) -> Option<usize> {
    let mut index = 1;
    while let Some(arg) = args.get(index) {
        let text = arg.to_string_lossy();
        if !text.starts_with('-') {
            return Some(index);
        }
        if text == "--" {
            return None;
        }
        index += if VALUED.contains(&text.as_ref()) {
            2
        } else {
            1
        };
    }
    None
}

/// The command word, as typed.
pub(crate) fn verb(args: &[OsString]) -> Option<String> {
    verb_index(args)
        .and_then(|index| args.get(index))
        .map(|word| word.to_string_lossy().into_owned())
}

/// Whether every failure of this command is 125, because the codes below
/// are those of the program inside.
pub(crate) fn is_session(args: &[OsString]) -> bool {
    matches!(verb(args).as_deref(), Some("run" | "exec"))
}

/// Whether errors are to be printed as JSON, found out without relying on
/// the rest of the command line being right.
pub(crate) fn wants_json(args: &[OsString]) -> bool {
    let verb = verb_index(args);
    let exec = verb
        .and_then(|index| args.get(index))
        .is_some_and(|word| word == "exec");
    let mut previous: Option<&OsStr> = None;
    for (index, arg) in args.iter().enumerate().skip(1) {
        let program_of_exec = exec && verb.is_some_and(|verb| index > verb) && !is_flag(arg);
        if arg == "--" || program_of_exec {
            return false;
        }
        let valued = previous.is_some_and(|flag| flag == "--format") && arg == "json";
        if arg == "--json" || arg == "--format=json" || valued {
            return true;
        }
        previous = Some(arg);
    }
    false
}

fn is_flag(arg: &OsStr) -> bool {
    arg.as_encoded_bytes().starts_with(b"-")
}

/// Puts a command line into today's spelling.
///
/// # Errors
/// Words and flags of later versions, words that no version knows.
pub(crate) fn prepare(mut args: Vec<OsString>, known: &[String]) -> Result<Prepared, Error> {
    let mut notes = Vec::new();
    let Some(index) = verb_index(&args) else {
        return Ok(Prepared { args, notes });
    };
    let word = args
        .get(index)
        .map(|word| word.to_string_lossy().into_owned())
        .unwrap_or_default();
    if word == "help" {
        args.remove(index);
        args.push("--help".into());
        return prepare(args, known);
    }
    if LATER.contains(&word.as_str()) {
        return Err(not_in_this_version(&format!("`sbx {word}`")));
    }
    if let Some((old, new)) = OLD.iter().find(|(old, _)| *old == word) {
        if let Some(arg) = args.get_mut(index) {
            *arg = (*new).into();
        }
        if *old != "diagnose" {
            notes.push(format!("`sbx {old}` is spelled `sbx {new}` now"));
        }
    } else if !known.contains(&word) {
        return Err(unknown_word(&word, known));
    }
    if word == "policy" {
        policy_of_today(args.get_mut(index + 1), &mut notes);
    }
    if matches!(word.as_str(), "run" | "create" | "plan") {
        let rest = args.split_off(index + 1);
        for arg in of_today(rest, &mut notes)? {
            args.push(arg);
        }
    }
    Ok(Prepared { args, notes })
}

/// The word after `policy`.
fn policy_of_today(word: Option<&mut OsString>, notes: &mut Vec<String>) {
    if let Some(word) = word
        && word == "set-default"
    {
        *word = "init".into();
        notes.push("`sbx policy set-default` is spelled `sbx policy init` now".to_owned());
    }
}

fn of_today(rest: Vec<OsString>, notes: &mut Vec<String>) -> Result<Vec<OsString>, Error> {
    let mut kept = Vec::new();
    let mut rest = rest.into_iter();
    while let Some(arg) = rest.next() {
        match arg.to_str() {
            Some("--") => {
                kept.push(arg);
                kept.extend(rest);
                break;
            }
            Some("-i" | "-it" | "-ti") => {}
            Some("--detached") => {
                notes.push("`--detached` is spelled `--detach` now".to_owned());
                kept.push("--detach".into());
            }
            Some(text) if text == "--branch" || text.starts_with("--branch=") => {
                let message = "`--branch` is no flag of sbx: use --clone";
                return Err(Error::new(Code::Usage, message)
                    .hint("`--clone` itself comes in a later version"));
            }
            _ => kept.push(arg),
        }
    }
    Ok(kept)
}

/// The error for something that a later version will know.
pub(crate) fn not_in_this_version(what: &str) -> Error {
    Error::new(
        Code::NotInThisVersion,
        format!("{what} is not in this version"),
    )
}

fn unknown_word(word: &str, known: &[String]) -> Error {
    let error = Error::new(
        Code::Usage,
        format!("no command `{}`", crate::render::escape(word)),
    );
    if let Some((_, here)) = ELSEWHERE.iter().find(|(there, _)| *there == word) {
        return error.hint(format!("type `{here}`"));
    }
    let known = known
        .iter()
        .map(String::as_str)
        .chain(OLD.iter().map(|(old, _)| *old));
    match sbx_spec::nearest(word, known) {
        Some(nearest) => error.hint(format!("did you mean `sbx {nearest}`?")),
        None => error.hint("`sbx --help` lists the commands"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    fn prepared(text: &str) -> Result<Prepared, Error> {
        let known = ["run", "create", "ls", "rm", "exec", "doctor", "plan"];
        prepare(args(text), &known.map(str::to_owned))
    }

    #[test]
    fn habits_of_docker_run_mean_nothing_on_run_and_stay_on_exec() {
        assert_eq!(
            prepared("sbx run -it claude -i -- -it").unwrap().args,
            args("sbx run claude -- -it")
        );
        assert_eq!(
            prepared("sbx exec -it box sh").unwrap().args,
            args("sbx exec -it box sh")
        );
        assert_eq!(prepared("sbx run -t x").unwrap().args, args("sbx run -t x"));
    }

    #[test]
    fn old_spellings_work_and_name_the_new_one() {
        let old = prepared("sbx --format json list").unwrap();
        assert_eq!(old.args, args("sbx --format json ls"));
        assert_eq!(old.notes, ["`sbx list` is spelled `sbx ls` now"]);
        assert_eq!(
            prepared("sbx run --detached").unwrap().args,
            args("sbx run --detach")
        );
        assert!(prepared("sbx diagnose").unwrap().notes.is_empty());
    }

    #[test]
    fn help_is_a_word_too() {
        assert_eq!(prepared("sbx help").unwrap().args, args("sbx --help"));
        assert_eq!(
            prepared("sbx help run").unwrap().args,
            args("sbx run --help")
        );
        assert!(prepared("sbx help me").is_err());
    }

    #[test]
    fn later_words_and_unknown_ones_are_told_apart() {
        assert_eq!(
            prepared("sbx secret ls").unwrap_err().code,
            Code::NotInThisVersion
        );
        let slip = prepared("sbx craete").unwrap_err();
        assert_eq!(slip.hint.as_deref(), Some("did you mean `sbx create`?"));
        let habit = prepared("sbx ps").unwrap_err();
        assert_eq!(habit.hint.as_deref(), Some("type `sbx ls`"));
    }

    #[test]
    fn a_branch_is_a_clone_here() {
        assert!(
            prepared("sbx run --branch x")
                .unwrap_err()
                .message
                .contains("use --clone")
        );
        assert!(prepared("sbx run --branch=x").is_err());
        assert!(prepared("sbx run claude -- --branch x").is_ok());
    }

    #[test]
    fn json_is_seen_in_a_line_that_is_wrong_and_not_in_the_agents_part() {
        assert!(wants_json(&args("sbx run --json --nope")));
        assert!(wants_json(&args("sbx --format json nope")));
        assert!(!wants_json(&args("sbx run -- --json")));
        assert!(!wants_json(&args("sbx exec box tool --json")));
        assert!(wants_json(&args("sbx --json exec box tool")));
    }
}
