//! The user's configuration, `config.toml`: defaults for what a command line
//! leaves unsaid.
//!
//! Never: reads the file; it is given the text. An unknown key is an error,
//! since a misspelt limit that is silently ignored is no limit.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::{Accel, Access, ByteSize, Cpus, Driver, Isolation, KitName, WorkspaceGuard};

/// Seconds a sandbox stays up after its last session where nothing else is
/// configured.
pub const STOP_GRACE_S: u32 = 30;

/// The user's configuration. Everything may be left out.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Config {
    /// `agent`: what `run` without an agent runs.
    pub agent: Option<KitName>,
    /// `isolation`.
    pub isolation: Option<Isolation>,
    /// `driver`.
    pub driver: Option<Driver>,
    /// `accel`.
    pub accel: Option<Accel>,
    /// `cpus`.
    pub cpus: Option<Cpus>,
    /// `memory`.
    pub memory: Option<ByteSize>,
    /// `disk`.
    pub disk: Option<ByteSize>,
    /// `pids-limit`.
    pub pids: Option<u32>,
    /// `workspace-mode`.
    pub workspace_access: Option<Access>,
    /// `workspace-guard`: of containers.
    pub guard: Option<WorkspaceGuard>,
    /// `stop-grace`: seconds a sandbox stays up after its last session.
    pub stop_grace_s: Option<u32>,
}

/// Every key of the file, with an example and one line of help: the source
/// of `docs/cli.md`.
pub const KEYS: &[(&str, &str, &str)] = &[
    (
        "agent",
        "\"claude\"",
        "what `sbx run` runs where no agent is named",
    ),
    ("isolation", "\"microvm\"", "the boundary of new sandboxes"),
    (
        "driver",
        "\"auto\"",
        "what runs a microVM: `auto` or `qemu`",
    ),
    (
        "accel",
        "\"auto\"",
        "what executes it: `auto`, `kvm` or `tcg`",
    ),
    ("cpus", "2", "processors of new sandboxes, fractions too"),
    ("memory", "\"4g\"", "memory of new sandboxes"),
    ("disk", "\"20g\"", "upper bound of a sandbox's own disk"),
    ("pids-limit", "4096", "processes and threads inside"),
    (
        "workspace-mode",
        "\"direct\"",
        "whether workspaces are writable: `direct` or `ro`",
    ),
    (
        "workspace-guard",
        "\"full\"",
        "what a container's workspace is held by: `full` or `existing`",
    ),
    (
        "stop-grace",
        "\"30s\"",
        "how long a sandbox stays up after its last session",
    ),
];

/// Why a text is no configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConfigError {
    /// Line of the file, counted from 1, if it is known.
    pub line: Option<usize>,
    /// What is wrong there.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for ConfigError {}

/// The file as it stands: a number or a word where either is natural.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    agent: Option<toml::Spanned<String>>,
    isolation: Option<toml::Spanned<String>>,
    driver: Option<toml::Spanned<String>>,
    accel: Option<toml::Spanned<String>>,
    cpus: Option<toml::Spanned<Scalar>>,
    memory: Option<toml::Spanned<Scalar>>,
    disk: Option<toml::Spanned<Scalar>>,
    pids_limit: Option<toml::Spanned<u32>>,
    network: Option<toml::Spanned<toml::Value>>,
    workspace_mode: Option<toml::Spanned<String>>,
    workspace_guard: Option<toml::Spanned<String>>,
    stop_grace: Option<toml::Spanned<Scalar>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Whole(u64),
    Real(f64),
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Whole(number) => write!(f, "{number}"),
            Self::Real(number) => write!(f, "{number}"),
        }
    }
}

impl Config {
    /// Reads the text of a `config.toml`.
    ///
    /// # Errors
    /// The first thing that is wrong, and its line.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let file: File = toml::from_str(text).map_err(|error| ConfigError {
            line: error.span().map(|span| line_of(text, span.start)),
            message: error.message().trim().to_owned(),
        })?;
        if let Some(network) = file.network {
            return Err(ConfigError {
                line: Some(line_of(text, network.span().start)),
                message: "network: what may be reached is the policy's: `sbx policy init PRESET`"
                    .to_owned(),
            });
        }
        let at = Reader { text };
        Ok(Self {
            agent: at.read("agent", file.agent)?,
            isolation: at.read("isolation", file.isolation)?,
            driver: at.read("driver", file.driver)?,
            accel: at.read("accel", file.accel)?,
            cpus: at.read("cpus", file.cpus)?,
            memory: at.read("memory", file.memory)?,
            disk: at.read("disk", file.disk)?,
            pids: file.pids_limit.map(toml::Spanned::into_inner),
            workspace_access: at.read("workspace-mode", file.workspace_mode)?,
            guard: at.read("workspace-guard", file.workspace_guard)?,
            stop_grace_s: at
                .read::<_, Seconds>("stop-grace", file.stop_grace)?
                .map(|s| s.0),
        })
    }

    /// Seconds a sandbox stays up after its last session.
    #[must_use]
    pub fn stop_grace_s(&self) -> u32 {
        self.stop_grace_s.unwrap_or(STOP_GRACE_S)
    }
}

struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn read<S, T>(
        &self,
        key: &str,
        value: Option<toml::Spanned<S>>,
    ) -> Result<Option<T>, ConfigError>
    where
        S: fmt::Display,
        T: FromStr,
        T::Err: fmt::Display,
    {
        let Some(value) = value else { return Ok(None) };
        let line = line_of(self.text, value.span().start);
        let written = value.into_inner().to_string();
        match written.parse() {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(ConfigError {
                line: Some(line),
                message: format!("{key} = {written}: {error}"),
            }),
        }
    }
}

pub(crate) fn line_of(text: &str, offset: usize) -> usize {
    text.bytes()
        .take(offset)
        .filter(|byte| *byte == b'\n')
        .count()
        + 1
}

/// A span of time: a number of seconds, or a number with `s`, `m` or `h`.
struct Seconds(u32);

impl FromStr for Seconds {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "a time is a number of seconds, or a number with s, m or h";
        let digits = text
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let scale = match unit {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(FORM),
        };
        let number: u32 = number.parse().map_err(|_| FORM)?;
        let seconds = number.checked_mul(scale).ok_or(FORM)?;
        if seconds > 7 * 24 * 3600 {
            Err("at most a week")
        } else {
            Ok(Self(seconds))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_leaves_everything_unsaid() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
        assert_eq!(Config::default().stop_grace_s(), 30);
    }

    #[test]
    fn every_documented_key_is_read() {
        let text: String = KEYS
            .iter()
            .map(|(key, example, _)| format!("{key} = {example}\n"))
            .collect();
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.agent.unwrap().as_str(), "claude");
        assert_eq!(config.cpus, Some(Cpus::whole(2)));
        assert_eq!(config.memory, Some(ByteSize::gib(4)));
        assert_eq!(config.pids, Some(4096));
        assert_eq!(config.workspace_access, Some(Access::ReadWrite));
        assert_eq!(config.stop_grace_s, Some(30));
    }

    #[test]
    fn processors_may_be_written_as_a_number_with_a_fraction() {
        assert_eq!(
            Config::parse("cpus = 1.5").unwrap().cpus.unwrap().milli(),
            1500
        );
    }

    #[test]
    fn a_misspelt_key_is_an_error_with_its_line() {
        let error = Config::parse("cpus = 2\nmemori = \"4g\"\n").unwrap_err();
        assert_eq!(error.line, Some(2));
        assert!(error.message.contains("memori"), "{error}");
    }

    #[test]
    fn the_policy_is_not_a_part_of_it() {
        let error = Config::parse("network = \"open\"").unwrap_err();
        assert!(error.message.contains("sbx policy init"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_an_error_with_its_line() {
        let error = Config::parse("\n\nmemory = \"lots\"").unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 3: memory = lots: a size is a number and a unit: 512m, 1.5g, 20g"
        );
        let error = Config::parse("workspace-mode = \"overlay\"").unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 1: workspace-mode = overlay: `overlay` is not in this version"
        );
    }

    #[test]
    fn times_have_units_and_a_bound() {
        assert_eq!(
            Config::parse("stop-grace = 5").unwrap().stop_grace_s,
            Some(5)
        );
        assert_eq!(
            Config::parse("stop-grace = \"2m\"").unwrap().stop_grace_s,
            Some(120)
        );
        for text in [
            "\"\"",
            "\"s\"",
            "\"5d\"",
            "-1",
            "\"9999h\"",
            "\"4294967295h\"",
        ] {
            assert!(
                Config::parse(&format!("stop-grace = {text}")).is_err(),
                "{text}"
            );
        }
    }
}
