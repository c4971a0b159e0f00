//! The sbx command line.
//!
//! Reads what was typed and the environment, asks the engine, shows the
//! answer. Everything that is printed leaves through [`render`], everything
//! read from the environment comes through [`environment`].

mod cli;
mod engine;
mod environment;
mod filter;
mod host_path;
#[cfg(test)]
mod reference;
mod registries;
mod render;
mod terminal;
mod ui;

use std::ffi::OsString;
use std::process::ExitCode;

use sbx_engine::Engine;
use sbx_engine::command::{Code, Command, Error, LsRequest, Reply};

use cli::{Cli, Door, Stop, Verb, argv};
use environment::Environment;
use render::Screen;
use ui::Console;

/// What `sbx` alone says below the list.
const NEXT: &str = "
sbx run               claude in a sandbox for this directory
sbx run shell         a shell in one
sbx doctor            check this host
";

fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    if let Some(role) = role(&args) {
        return match engine::role(role) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                Screen::plain(false).error(&error);
                ExitCode::from(error.exit())
            }
        };
    }
    terminal::restore_on_panic();
    ExitCode::from(command_line(args))
}

/// The hidden role that this process is to play, if it is to play one.
fn role(args: &[OsString]) -> Option<&'static str> {
    let word = args.get(1)?;
    engine::ROLES.iter().find(|role| word == *role).copied()
}

/// Carries out a command line and returns the exit code.
fn command_line(args: Vec<OsString>) -> u8 {
    let early = Screen::plain(argv::wants_json(&args));
    let session = argv::is_session(&args);
    let exit = |error: &Error| {
        if session {
            error.code.session_exit()
        } else {
            error.exit()
        }
    };
    let fail = |screen: &Screen, error: &Error| {
        screen.error(error);
        exit(error)
    };
    let command = cli::command();
    let prepared = match argv::prepare(args, &cli::words(&command)) {
        Ok(prepared) => prepared,
        Err(error) => return fail(&early, &error),
    };
    let cli = match cli::parse(command, &prepared.args) {
        Ok(cli) => cli,
        Err(Stop::Wrong(error)) => return fail(&early, &error),
        Err(Stop::Help(text)) => return early.data(text.as_bytes()).map_or(1, |()| 0),
    };
    let environment = Environment::read();
    let mut screen = Screen::new(&cli.global, &environment);
    screen.wide = cli.verb.as_ref().is_some_and(Verb::wide);
    match carry_out(cli, &environment, screen, prepared.notes) {
        Ok(code) => code,
        Err(error) => fail(&screen, &error),
    }
}

fn carry_out(
    cli: Cli,
    environment: &Environment,
    screen: Screen,
    notes: Vec<String>,
) -> Result<u8, Error> {
    let Cli { global, verb } = cli;
    let printed = |result: std::io::Result<()>| {
        result.map_err(|source| Error::new(Code::Io, "cannot write the answer").because(source))
    };
    if global.version {
        printed(screen.data(concat!("sbx ", env!("CARGO_PKG_VERSION"), "\n").as_bytes()))?;
        return Ok(0);
    }
    if let Some(Verb::Completion(flags)) = &verb {
        printed(screen.data(&cli::host::completion(cli::command(), flags.shell)))?;
        return Ok(0);
    }
    let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
    let mut door = Door {
        environment,
        cwd,
        notes,
        directory: None,
    };
    let bare = verb.is_none();
    let raw_terminal = verb.as_ref().is_some_and(Verb::raw_terminal);
    let with_git = verb.as_ref().is_some_and(Verb::begins_session);
    let command = match verb {
        Some(verb) => verb.command(&mut door)?,
        None => Some(Command::Ls(LsRequest::default())),
    };
    for note in &door.notes {
        screen.warn(note);
    }
    let Some(command) = command else { return Ok(0) };
    let engine = cli::engine(environment, with_git)?;
    let no_input = global.no_input || environment.switch("SBX_NO_INPUT");
    let mut console = Console::new(screen, no_input, raw_terminal)?;
    let reply = ask(&engine, command, &mut console).map_err(|error| match door.directory {
        Some(word) if matches!(error.code, Code::UnknownAgent | Code::SandboxNotFound) => {
            error.hint(format!("if the directory is meant, type `./{word}`"))
        }
        _ => error,
    })?;
    printed(screen.reply(&reply))?;
    if bare && screen.format == cli::Format::Table && !screen.quiet {
        screen.say(NEXT);
    }
    Ok(reply.exit_code())
}

fn ask(engine: &Engine, command: Command, console: &mut Console) -> Result<Reply, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::new(Code::Io, "cannot start").because(source))?;
    let reply = runtime.block_on(engine.execute(command, console));
    // A thread that still waits for the terminal must not hold the answer.
    runtime.shutdown_background();
    reply
}
