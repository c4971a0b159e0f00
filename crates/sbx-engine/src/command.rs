//! The whole product as one enum: what may be asked of the engine, what it
//! answers, and what it needs from whoever asks.
//!
//! Owns: [`Command`], [`Reply`], [`Error`], and what the engine calls back
//! ([`Ui`], [`Terminal`]). Never: how a command is typed or how a reply is
//! shown. A request holds typed values; an `Option` that is `None` was not
//! said and is filled from the configuration or a default.

mod audit;
mod error;
mod policy;
mod ports;
mod question;
mod reply;
mod ui;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use sbx_spec::{EnvVar, GuestPath, Resource, SandboxName, SandboxRequest, SensitivePlaces};

pub use audit::{
    AUDIT_VERSION, AuditAsked, AuditEnd, AuditEvent, AuditFlood, AuditFlow, AuditRecord,
    AuditReply, AuditRequest, AuditTarget, Judged,
};
pub use error::{Code, Error};
pub use policy::{
    CheckedReply, CheckedRequest, PolicyCheck, PolicyEdited, PolicyListReply, PolicyListed,
    PolicyRequest, PolicyScope, PresetFrom, RuleChoice,
};
pub use ports::{PortsReply, PortsRequest, Published};
pub use question::{AnsweredReply, Given, PendingReply, Question, QuestionId, QuestionOf, Saying};
pub use reply::{
    ActedReply, Check, DoctorReply, Ended, Enforced, Fact, Failed, GcItem, GcReply, HeldName,
    InspectReply, ListReply, LogLine, LogsReply, Outcome, PlanReply, PlanStep, PromiseKept, Reply,
    SandboxBrief, SandboxReply, SessionReply, Status, VersionReply, Wall,
};
pub use ui::{
    Afterwards, Cancel, Canceller, EndBlock, Entered, OutputFilter, Prompt, ShareBrief, StartBlock,
    Terminal, TerminalEvent, TerminalMode, Terminals, TtySize, Ui, cancellation,
};

/// Everything that can be asked.
#[derive(Clone, Debug)]
pub enum Command {
    /// Create if needed, start if needed, run a session of the agent.
    Run(RunRequest),
    /// Create without starting.
    Create(CreateRequest),
    /// Run a program in a sandbox, starting it if needed.
    Exec(ExecRequest),
    /// List sandboxes.
    Ls(LsRequest),
    /// Tell everything about one sandbox.
    Inspect(InspectRequest),
    /// Start stopped sandboxes.
    Start(StartRequest),
    /// Stop running sandboxes.
    Stop(StopRequest),
    /// Remove sandboxes and what they keep.
    Rm(RmRequest),
    /// Show what a sandbox's parts wrote down.
    Logs(LogsRequest),
    /// Show what `run` would do.
    Plan(CreateRequest),
    /// Check the host.
    Doctor(DoctorRequest),
    /// Give back what nothing needs.
    Gc(GcRequest),
    /// Show and change what sandboxes may reach.
    Policy(PolicyRequest),
    /// Show and change which ports of a sandbox this host has.
    Ports(PortsRequest),
    /// Versions of the parts.
    Version,
}

/// Which agent or sandbox a positional word means; see
/// [`sbx_spec::subject`].
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Subject {
    /// The word, if there was one: an agent, a kit, or (old spelling) a
    /// sandbox.
    pub word: Option<String>,
    /// Whether it may be the name of a sandbox: it stood alone.
    pub may_be_sandbox: bool,
}

/// `sbx run`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct RunRequest {
    /// Which agent.
    pub subject: Subject,
    /// Which sandbox.
    pub sandbox: SandboxRequest,
    /// Arguments for the agent, added after the kit's own.
    pub agent_args: Vec<OsString>,
    /// `--dangerously-skip-permissions`: the agent's own unattended mode.
    pub unattended: bool,
    /// `--rm`: remove the sandbox after the session.
    pub remove_after: bool,
    /// `--detach`: no session, keep the sandbox up until it is stopped.
    pub detach: bool,
    /// `--dry-run`: the reply is [`Reply::Plan`].
    pub dry_run: bool,
    /// `--user`.
    pub user: Option<User>,
    /// What the caller lends to the session.
    pub session: SessionOptions,
}

/// `sbx create` and `sbx plan`.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct CreateRequest {
    /// Which agent.
    pub subject: Subject,
    /// Which sandbox.
    pub sandbox: SandboxRequest,
    /// `--dry-run`: the reply is [`Reply::Plan`].
    pub dry_run: bool,
}

/// `sbx exec`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExecRequest {
    /// Which sandbox.
    pub name: SandboxName,
    /// Program and arguments, at least one.
    pub argv: Vec<OsString>,
    /// `--detach`: do not wait for it, nor show its output.
    pub detach: bool,
    /// `--user`.
    pub user: Option<User>,
    /// `--workdir`.
    pub workdir: Option<GuestPath>,
    /// `--env` and `--env-file`, of this session only.
    pub env: Vec<EnvVar>,
    /// What the caller lends to the session.
    pub session: SessionOptions,
}

/// How a session is joined to the caller.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SessionOptions {
    /// Whether the program inside gets a terminal.
    pub tty: TtyChoice,
    /// Whether the caller's standard input is passed on.
    pub stdin: StdinChoice,
}

/// Whether the program inside gets a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum TtyChoice {
    /// If standard input and output of the caller are terminals.
    #[default]
    Auto,
    /// Always (`exec -t`): a pseudo terminal of 80 by 24 if the caller has
    /// none.
    Always,
    /// Never: three pipes.
    Never,
}

/// Whether the caller's standard input is passed on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum StdinChoice {
    /// Passed on.
    #[default]
    Passed,
    /// The program inside reads an end of file.
    Closed,
}

/// Who a program inside runs as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum User {
    /// The agent's user.
    Agent,
    /// Uid and gid 0 of the guest.
    Root,
    /// A user of the guest's `/etc/passwd`, with `:group` if one was given.
    Name(String, Option<String>),
    /// Numbers of the guest; without a group the user's own, or the same
    /// number.
    Ids(u32, Option<u32>),
}

/// `sbx ls`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LsRequest {
    /// Stopped ones too. Without it the list holds every sandbox that is
    /// not broken; `-a` adds those whose state cannot be read.
    pub all: bool,
}

/// `sbx inspect`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InspectRequest {
    /// Which sandbox.
    pub name: SandboxName,
}

/// `sbx start`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StartRequest {
    /// Which sandboxes, at least one.
    pub names: Vec<SandboxName>,
}

/// `sbx stop`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StopRequest {
    /// Which sandboxes, at least one.
    pub names: Vec<SandboxName>,
    /// Seconds before it is forced; `None` for the configured grace.
    pub grace_s: Option<u32>,
}

/// `sbx rm`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RmRequest {
    /// Which sandboxes; empty only with `all`.
    pub names: Vec<SandboxName>,
    /// `--all`: every sandbox there is.
    pub all: bool,
    /// `--force`: stop running ones and do not ask.
    pub force: bool,
}

/// `sbx logs`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogsRequest {
    /// Which sandbox.
    pub name: SandboxName,
    /// Go on until interrupted or the sandbox is gone; lines go to
    /// [`Ui::log`] and the reply is [`Reply::Done`].
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<usize>,
}

/// `sbx doctor`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct DoctorRequest {
    /// Verify images by their contents too, which takes longer.
    pub full: bool,
}

/// `sbx gc`.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct GcRequest {
    /// Say what would be freed and free nothing.
    pub dry_run: bool,
}

/// Who asks: facts that only the program may read. Nothing of it but
/// `terminal` and `git` ever enters a sandbox.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Home directory, links followed.
    pub home: PathBuf,
    /// Current directory, links followed.
    pub cwd: PathBuf,
    /// The `sbx` program itself: the roles are this very file.
    pub program: PathBuf,
    /// `TERM`, `COLORTERM`, `LANG`, `LANGUAGE`, `LC_*`: what a session takes
    /// over, already restricted to printable ASCII of at most 128 bytes.
    pub terminal: Vec<EnvVar>,
    /// Time zone as a name of the tz database (`Europe/Berlin`) or a POSIX
    /// rule; `None` for UTC.
    pub timezone: Option<String>,
    /// Name and address that git records, from the user's own configuration.
    pub git: AskedGit,
    /// Variables that the clients of package archives need to reach them
    /// (proxies, extra roots); for making images alone.
    pub archives: Vec<(String, String)>,
    /// Package registries that the host's own tools are configured to use,
    /// each with the tool's name.
    pub registries: Vec<(String, Resource)>,
    /// Variables by which clients of container engines find theirs.
    pub engines: Vec<(String, String)>,
    /// What of this host no sandbox sees, links followed, our own
    /// directories included: for [`sbx_spec::resolve`].
    pub sensitive: SensitivePlaces,
}

/// What git was asked, in the middle of other work. Who needs the answer first
/// waits for it.
#[derive(Clone, Debug)]
pub struct AskedGit(Arc<LazyLock<Option<GitIdentity>, Answer>>);

type Answer = Box<dyn FnOnce() -> Option<GitIdentity> + Send>;

impl AskedGit {
    /// `answer` is called at most once, and may wait.
    #[must_use]
    pub fn new(answer: impl FnOnce() -> Option<GitIdentity> + Send + 'static) -> Self {
        Self(Arc::new(LazyLock::new(Box::new(answer))))
    }

    /// The answer; `None` if git knows nothing, or there is none.
    #[must_use]
    pub fn answer(&self) -> Option<&GitIdentity> {
        self.0.as_ref().as_ref()
    }
}

/// Name and address that git records.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GitIdentity {
    /// `user.name`: one line.
    pub name: Option<String>,
    /// `user.email`: one line.
    pub email: Option<String>,
}

impl GitIdentity {
    /// The `~/.gitconfig` that says so and nothing else, `None` if there is
    /// nothing to say. Values are quoted as git-config(1) reads them;
    /// control characters are left out.
    #[must_use]
    pub fn to_config(&self) -> Option<String> {
        let quote = |value: &str| {
            let mut quoted = String::from("\"");
            for c in value.chars().filter(|c| !c.is_control()) {
                if matches!(c, '"' | '\\') {
                    quoted.push('\\');
                }
                quoted.push(c);
            }
            quoted + "\""
        };
        let line = |key: &str, value: &Option<String>| {
            value
                .as_deref()
                .map(|value| format!("\t{key} = {}\n", quote(value)))
        };
        let lines: String = [line("name", &self.name), line("email", &self.email)]
            .into_iter()
            .flatten()
            .collect();
        (!lines.is_empty()).then(|| format!("[user]\n{lines}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_git_identity_cannot_leave_its_two_values() {
        let identity = GitIdentity {
            name: Some("A \"B\" \\ C\n[core]\nhooksPath = /x".into()),
            email: Some("a@b.example".into()),
        };
        assert_eq!(
            identity.to_config().unwrap(),
            "[user]\n\tname = \"A \\\"B\\\" \\\\ C[core]hooksPath = /x\"\n\temail = \"a@b.example\"\n"
        );
        assert_eq!(
            GitIdentity {
                name: None,
                email: None
            }
            .to_config(),
            None
        );
    }
}
