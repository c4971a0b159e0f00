//! `sbx exec`: a program in a sandbox.

use std::ffi::OsString;

use clap::Args;
use sbx_engine::command::{
    Code, Command, Error, ExecRequest, SessionOptions, StdinChoice, TtyChoice,
};

use super::Door;
use super::sandbox::{guest_path, user, value};
use super::variables::VariableFlags;

const EXAMPLES: &str = "\
Examples:
  sbx exec -it claude-app bash
  echo x | sbx exec -i claude-app cat";

/// Run a program in a sandbox, starting it if it is stopped
///
/// Returns what the program returns, 128+n if signal n ended it, 126 if it
/// cannot be executed, 127 if there is none, 125 if sbx itself failed.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, override_usage = "sbx exec [FLAGS] NAME CMD...")]
pub(crate) struct ExecFlags {
    /// Pass standard input on
    #[arg(short, long)]
    interactive: bool,

    /// Give the program a terminal
    #[arg(short, long)]
    tty: bool,

    /// Do not wait for the program nor show its output
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,

    /// Run as another user inside
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Start in DIR inside [default: the workspace]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,

    /// Let every terminal sequence of the sandbox through
    #[arg(long)]
    pub(crate) raw_terminal: bool,

    #[command(flatten)]
    variables: VariableFlags,

    /// The sandbox
    #[arg(value_name = "NAME")]
    name: String,

    /// The program and its arguments
    #[arg(
        value_name = "CMD",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    argv: Vec<OsString>,
}

impl ExecFlags {
    pub(super) fn command(self, door: &mut Door<'_>) -> Result<Command, Error> {
        let name = value("NAME", Some(&self.name))?
            .ok_or_else(|| Error::new(Code::Usage, "no sandbox is named"))?;
        if self.argv.first().is_none_or(|program| program.is_empty()) {
            return Err(Error::new(Code::Usage, "the program's name is empty"));
        }
        Ok(Command::Exec(ExecRequest {
            name,
            argv: self.argv,
            detach: self.detach,
            user: self.user.as_deref().map(user).transpose()?,
            workdir: self.workdir.as_deref().map(guest_path).transpose()?,
            env: self.variables.resolve(door)?,
            session: SessionOptions {
                tty: if self.tty {
                    TtyChoice::Always
                } else {
                    TtyChoice::Never
                },
                stdin: if self.interactive {
                    StdinChoice::Passed
                } else {
                    StdinChoice::Closed
                },
            },
        }))
    }
}
