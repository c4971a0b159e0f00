//! `sbx run`: create if needed, start, attach.

use std::ffi::OsString;

use clap::Args;
use sbx_engine::command::{Code, Command, Error, RunRequest, SessionOptions};

use super::Door;
use super::sandbox::{SandboxFlags, user};

const EXAMPLES: &str = "\
Examples:
  sbx run                          claude in a sandbox for this directory
  sbx run claude ~/src/app ~/doc:ro
  sbx run --rm shell -- -c 'make test'";

/// Run an agent in a sandbox for this directory
///
/// Creates the sandbox if there is none, starts it, and joins the agent's
/// terminal to yours. The same command in the same directory enters the same
/// sandbox again. Without AGENT it is claude; without PATH the current
/// directory is the workspace.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES, override_usage = "sbx run [FLAGS] [AGENT] [PATH[:ro]]... [-- AGENT_ARGS...]")]
pub(crate) struct RunFlags {
    /// The agent (claude, shell), and the directories it works on; `:ro` behind one keeps it as it is
    #[arg(value_name = "AGENT|PATH[:ro]")]
    words: Vec<OsString>,

    /// Arguments for the agent, added after its own
    #[arg(last = true, value_name = "AGENT_ARGS")]
    agent_args: Vec<OsString>,

    /// Remove the sandbox after the session; workspace files stay
    #[arg(long, help_heading = "Session", conflicts_with = "detach")]
    rm: bool,

    /// Start the sandbox without a session, print its name and keep it up
    #[arg(short, long, help_heading = "Session")]
    detach: bool,

    /// Let the agent work unattended, by its own flag for that
    #[arg(long, help_heading = "Session")]
    dangerously_skip_permissions: bool,

    /// Run as another user inside
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Session")]
    user: Option<String>,

    /// Let every terminal sequence of the sandbox through
    #[arg(long, help_heading = "Session")]
    pub(crate) raw_terminal: bool,

    /// Print the plan and do nothing
    #[arg(long, help_heading = "Session")]
    dry_run: bool,

    #[command(flatten)]
    sandbox: SandboxFlags,
}

impl RunFlags {
    pub(super) fn command(self, door: &mut Door<'_>) -> Result<Command, Error> {
        if self.detach && !self.agent_args.is_empty() {
            let message = "`--detach` starts no agent that could take arguments";
            return Err(Error::new(Code::Usage, message)
                .hint("`sbx exec -d NAME CMD…` runs a program in the background"));
        }
        let (subject, sandbox) = self.sandbox.request(self.words, door)?;
        Ok(Command::Run(RunRequest {
            subject,
            sandbox,
            agent_args: self.agent_args,
            unattended: self.dangerously_skip_permissions,
            remove_after: self.rm,
            detach: self.detach,
            dry_run: self.dry_run,
            user: self.user.as_deref().map(user).transpose()?,
            session: SessionOptions::default(),
        }))
    }
}
