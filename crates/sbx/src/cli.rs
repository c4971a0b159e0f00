//! From argv to a [`Command`] and from its reply to an exit code.
//!
//! Owns: the words and flags, one file per group of commands. Never: decides
//! what a sandbox is (that is [`sbx_spec::resolve`]) or how a reply looks
//! (that is [`crate::render`]).

pub(crate) mod argv;
mod create;
mod exec;
pub(crate) mod host;
mod life;
mod policy;
mod ports;
mod run;
mod sandbox;
mod usage;
mod variables;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use sbx_engine::Engine;
use sbx_engine::command::{Code, Command, Error};
use sbx_spec::Config;

use crate::environment::{Environment, VARIABLES};

/// What the commands take from outside the command line.
pub(crate) struct Door<'a> {
    /// The caller's environment.
    pub(crate) environment: &'a Environment,
    /// The current directory.
    pub(crate) cwd: PathBuf,
    /// What the user is told beside the answer.
    pub(crate) notes: Vec<String>,
    /// A word that was taken for an agent and is also a directory here.
    pub(crate) directory: Option<String>,
}

/// Run coding agents in sandboxes that the rest of the machine is safe from
#[derive(Parser, Debug)]
#[command(
    name = "sbx",
    bin_name = "sbx",
    disable_version_flag = true,
    disable_help_subcommand = true,
    subcommand_required = false,
    args_override_self = false
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalFlags,

    #[command(subcommand)]
    pub(crate) verb: Option<Verb>,
}

/// Flags that every command takes.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global flags")]
pub(crate) struct GlobalFlags {
    /// Show more of what goes wrong
    #[arg(short = 'D', long, global = true)]
    pub(crate) debug: bool,

    /// Never ask; fail with the flag to type instead
    #[arg(long, global = true)]
    pub(crate) no_input: bool,

    /// Print JSON (the same as --format json)
    #[arg(long, global = true, conflicts_with = "format")]
    json: bool,

    /// Choose the form of the answer
    #[arg(long, global = true, value_name = "FORM")]
    format: Option<Format>,

    /// Print names only in lists, and nothing around a session
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,

    /// Choose when to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorChoice,

    /// Choose how long steps are shown
    #[arg(long, global = true, value_name = "HOW", default_value = "auto")]
    pub(crate) progress: ProgressChoice,

    /// Print the version
    #[arg(short = 'V', long, action = ArgAction::SetTrue)]
    pub(crate) version: bool,
}

impl GlobalFlags {
    /// The form of the answer.
    pub(crate) fn format(&self) -> Format {
        if self.json {
            Format::Json
        } else {
            self.format.unwrap_or(Format::Table)
        }
    }
}

/// The form of an answer.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum Format {
    /// Text for people.
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

/// When to use colours.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// How long steps are shown.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
pub(crate) enum ProgressChoice {
    /// A bar on a terminal, else lines.
    Auto,
    /// A line where a step begins and ends.
    Plain,
    /// JSON lines.
    Json,
    /// Not at all.
    None,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    Run(Box<run::RunFlags>),
    Create(Box<create::CreateFlags>),
    Ls(life::LsFlags),
    Inspect(life::InspectFlags),
    Exec(exec::ExecFlags),
    Start(life::StartFlags),
    Stop(life::StopFlags),
    Rm(life::RmFlags),
    Logs(life::LogsFlags),
    Plan(Box<create::PlanFlags>),
    Policy(policy::PolicyFlags),
    Ports(ports::PortsFlags),
    Doctor(host::DoctorFlags),
    Gc(host::GcFlags),
    /// Print the versions of sbx and its parts
    Version,
    Completion(host::CompletionFlags),
}

impl Verb {
    /// The command for the engine; `None` for `completion`, which needs
    /// none.
    pub(crate) fn command(self, door: &mut Door<'_>) -> Result<Option<Command>, Error> {
        Ok(Some(match self {
            Self::Run(flags) => flags.command(door)?,
            Self::Create(flags) => flags.command(door)?,
            Self::Ls(flags) => flags.command(),
            Self::Inspect(flags) => flags.command()?,
            Self::Exec(flags) => flags.command(door)?,
            Self::Start(flags) => flags.command()?,
            Self::Stop(flags) => flags.command()?,
            Self::Rm(flags) => flags.command()?,
            Self::Logs(flags) => flags.command()?,
            Self::Plan(flags) => flags.command(door)?,
            Self::Policy(flags) => flags.command()?,
            Self::Ports(flags) => flags.command()?,
            Self::Doctor(flags) => flags.command(),
            Self::Gc(flags) => flags.command(),
            Self::Version => Command::Version,
            Self::Completion(_) => return Ok(None),
        }))
    }

    /// Whether the caller asked for every terminal sequence.
    pub(crate) fn raw_terminal(&self) -> bool {
        match self {
            Self::Run(flags) => flags.raw_terminal,
            Self::Exec(flags) => flags.raw_terminal,
            _ => false,
        }
    }

    /// Whether a list of rules shows every one.
    pub(crate) fn wide(&self) -> bool {
        matches!(self, Self::Policy(flags) if flags.wide())
    }

    /// Whether sessions may begin, which take the user's git identity along.
    pub(crate) fn begins_session(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Exec(_) | Self::Start(_))
    }
}

/// The whole command line as clap sees it, with what its help says beside
/// the flags.
pub(crate) fn command() -> clap::Command {
    let mut help = String::from("Environment:\n");
    for variable in VARIABLES {
        help += &format!("  {:<16} {}\n", variable.name, variable.help);
    }
    help += "\n`sbx` alone lists the sandboxes. `sbx COMMAND --help` tells more.";
    Cli::command().after_help(help)
}

/// Reads a prepared command line with [`command`], which takes longer to make than to use.
///
/// # Errors
/// [`usage::Stop::Wrong`] with an error in our own form, or what `--help`
/// prints.
pub(crate) fn parse(command: clap::Command, args: &[OsString]) -> Result<Cli, Stop> {
    let matches = command
        .try_get_matches_from(args)
        .map_err(|error| usage::translate(&error))?;
    Cli::from_arg_matches(&matches).map_err(|error| usage::translate(&error))
}

pub(crate) use usage::Stop;

/// The words of all commands.
pub(crate) fn words(command: &clap::Command) -> Vec<String> {
    command
        .get_subcommands()
        .map(|found| found.get_name().to_owned())
        .collect()
}

/// The engine of the caller: directories, configuration, who asks.
pub(crate) fn engine(environment: &Environment, with_git: bool) -> Result<Engine, Error> {
    let home = environment.home()?;
    let directories = environment.directories(&home)?;
    let config = configuration(&directories.config.join("config.toml"))?;
    let caller = environment.caller(home, &directories, with_git)?;
    Ok(Engine {
        directories,
        config,
        caller,
    })
}

/// The user's configuration; a file that is not there says nothing.
fn configuration(path: &std::path::Path) -> Result<Config, Error> {
    let failed = || format!("cannot read the configuration `{}`", path.display());
    match std::fs::read_to_string(path) {
        Ok(text) => Config::parse(&text).map_err(|error| {
            Error::new(Code::Config, failed())
                .because(error)
                .hint("docs/cli.md lists the keys")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
        Err(error) => Err(Error::new(Code::Config, failed()).because(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }

    #[test]
    fn help_begins_with_an_imperative_under_72_characters() {
        for found in command().get_subcommands() {
            let about = found.get_about().unwrap().to_string();
            assert!(about.len() < 72 && !about.ends_with('.'), "{about}");
            assert!(about.starts_with(char::is_uppercase), "{about}");
        }
    }

    #[test]
    fn later_words_and_roles_are_not_commands() {
        for word in argv::LATER.iter().chain(crate::engine::ROLES.iter()) {
            assert!(
                !words(&command()).iter().any(|known| known == word),
                "{word}"
            );
        }
    }
}
