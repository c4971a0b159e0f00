//! `sbx create` and `sbx plan`: a sandbox without a session, or none at all.

use std::ffi::OsString;

use clap::Args;
use sbx_engine::command::{Command, CreateRequest, Error};

use super::Door;
use super::sandbox::SandboxFlags;

/// Create a sandbox without starting it
///
/// Takes the flags of `sbx run`, prints the sandbox's name.
/// Example: sbx create --memory 4g claude ~/src/app
#[derive(Args, Debug)]
#[command(override_usage = "sbx create [FLAGS] AGENT [PATH[:ro]]...")]
pub(crate) struct CreateFlags {
    /// The agent (claude, shell), and the directories it works on
    #[arg(value_name = "AGENT|PATH[:ro]", required = true)]
    words: Vec<OsString>,

    /// Print the plan and do nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    sandbox: SandboxFlags,
}

/// Show what `sbx run` would do, and do nothing
///
/// Prints the sandbox with every default filled in, what the plan rests on
/// and each step. Example: sbx plan --memory 4g claude
#[derive(Args, Debug)]
#[command(override_usage = "sbx plan [FLAGS] [AGENT] [PATH[:ro]]...")]
pub(crate) struct PlanFlags {
    /// The agent (claude, shell), and the directories it works on
    #[arg(value_name = "AGENT|PATH[:ro]")]
    words: Vec<OsString>,

    #[command(flatten)]
    sandbox: SandboxFlags,
}

impl CreateFlags {
    pub(super) fn command(self, door: &mut Door<'_>) -> Result<Command, Error> {
        let (mut subject, sandbox) = self.sandbox.request(self.words, door)?;
        subject.may_be_sandbox = false;
        Ok(Command::Create(CreateRequest {
            subject,
            sandbox,
            dry_run: self.dry_run,
        }))
    }
}

impl PlanFlags {
    pub(super) fn command(self, door: &mut Door<'_>) -> Result<Command, Error> {
        let (subject, sandbox) = self.sandbox.request(self.words, door)?;
        Ok(Command::Plan(CreateRequest {
            subject,
            sandbox,
            dry_run: true,
        }))
    }
}
