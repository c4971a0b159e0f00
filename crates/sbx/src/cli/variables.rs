//! `--env` and `--env-file`: the only ways a variable of the host enters.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use sbx_engine::command::{Code, Error};
use sbx_spec::{EnvVar, is_variable_name};

use super::Door;
use crate::render::escape;

/// Largest file of variables.
const MAX_FILE: u64 = 1 << 20;
/// Largest value: what the kernel takes for one string of a program's
/// environment.
const MAX_VALUE: usize = 128 << 10;

/// The flags that pass variables.
#[derive(Args, Debug)]
pub(crate) struct VariableFlags {
    /// Set a variable inside; without =VALUE, to the caller's value
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = "Environment")]
    env: Vec<String>,

    /// Set the variables of FILE: lines of NAME=VALUE, NAME or # comment
    #[arg(long, value_name = "FILE", help_heading = "Environment")]
    env_file: Vec<PathBuf>,
}

impl VariableFlags {
    /// The variables: those of files first, so that a flag wins.
    pub(crate) fn resolve(&self, door: &mut Door<'_>) -> Result<Vec<EnvVar>, Error> {
        let mut found = Vec::new();
        for path in &self.env_file {
            for (number, line) in lines(&door.cwd, path)?.lines().enumerate() {
                let line = line.trim_start();
                if line.is_empty() || line.starts_with('#') {
                    continue;
                }
                let place = format!("{}:{}", escape(&path.to_string_lossy()), number + 1);
                found.extend(variable(&place, line, door)?);
            }
        }
        for text in &self.env {
            found.extend(variable("--env", text, door)?);
        }
        Ok(found)
    }
}

fn lines(cwd: &Path, path: &Path) -> Result<String, Error> {
    let shown = escape(&path.to_string_lossy());
    let failed = |source: std::io::Error| {
        Error::new(Code::Io, format!("cannot read the variables of `{shown}`")).because(source)
    };
    let mut text = String::new();
    let file = File::open(cwd.join(path)).map_err(failed)?;
    file.take(MAX_FILE + 1)
        .read_to_string(&mut text)
        .map_err(failed)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Error::new(
            Code::Io,
            format!("`{shown}` is larger than 1 MiB"),
        ));
    }
    Ok(text)
}

/// One variable. A name without a value takes the caller's; one that the
/// caller does not have is left out, as Docker does, but said.
fn variable(place: &str, text: &str, door: &mut Door<'_>) -> Result<Option<EnvVar>, Error> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text.trim_end(), None),
    };
    let wrong = |why: &str| {
        // The value may be a secret: only the name is shown.
        let message = format!("{place} {}: {why}", escape(name));
        Err(Error::new(Code::Usage, message))
    };
    if !is_variable_name(name) {
        return wrong("a variable's name is made of a-z A-Z 0-9 _ and starts with no digit");
    }
    let value = match (value, door.environment.exact(name)) {
        (Some(value), _) => value.to_owned(),
        (None, Some(value)) => match value.to_str() {
            Some(value) => value.to_owned(),
            None => return wrong("the caller's value is not UTF-8"),
        },
        (None, None) => {
            door.notes
                .push(format!("{name} is not set here and so not inside either"));
            return Ok(None);
        }
    };
    if value.contains('\0') {
        return wrong("a value holds no NUL byte");
    }
    if value.len() > MAX_VALUE {
        return wrong("the value is longer than 128 KiB");
    }
    Ok(Some(EnvVar {
        name: name.to_owned(),
        value,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;

    fn resolve(flags: &VariableFlags) -> (Result<Vec<EnvVar>, Error>, Vec<String>) {
        let environment = Environment::of(&[("HERE", "1"), ("EMPTY", "")]);
        let mut door = Door {
            environment: &environment,
            cwd: "/".into(),
            notes: Vec::new(),
            directory: None,
        };
        (flags.resolve(&mut door), door.notes)
    }

    fn of(env: &[&str]) -> VariableFlags {
        let env = env.iter().map(|text| (*text).to_owned()).collect();
        VariableFlags {
            env,
            env_file: Vec::new(),
        }
    }

    fn pairs(found: Vec<EnvVar>) -> Vec<String> {
        found
            .into_iter()
            .map(|var| format!("{}={}", var.name, var.value))
            .collect()
    }

    #[test]
    fn takes_values_given_and_values_of_the_caller() {
        let (found, notes) = resolve(&of(&["A=x=y", "HERE", "EMPTY", "GONE", "B="]));
        assert_eq!(pairs(found.unwrap()), ["A=x=y", "HERE=1", "EMPTY=", "B="]);
        assert_eq!(notes, ["GONE is not set here and so not inside either"]);
    }

    #[test]
    fn refuses_what_is_no_name_without_showing_the_value() {
        for text in ["=x", "A B=secret", "1A=secret", "A\n=secret"] {
            let error = resolve(&of(&[text])).0.unwrap_err();
            assert!(!error.message.contains("secret"), "{}", error.message);
        }
    }

    #[test]
    fn reads_a_file_as_docker_does() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "# c\n\nA=1\n  B='2' # x\nHERE\nGONE\n").unwrap();
        let flags = VariableFlags {
            env: vec!["A=9".into()],
            env_file: vec![file.path().into()],
        };
        let (found, notes) = resolve(&flags);
        assert_eq!(pairs(found.unwrap()), ["A=1", "B='2' # x", "HERE=1", "A=9"]);
        assert_eq!(notes.len(), 1);
    }

    #[test]
    fn a_file_that_is_missing_is_an_error_with_its_name() {
        let flags = VariableFlags {
            env: Vec::new(),
            env_file: vec!["/none/here".into()],
        };
        assert!(
            resolve(&flags)
                .0
                .unwrap_err()
                .message
                .contains("/none/here")
        );
    }
}
