//! What the engine calls back while it works, and what it borrows from the
//! caller for a session. Everything here is implemented by the program.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tokio::sync::{mpsc, watch};

use sbx_spec::{GuestPath, Isolation, KitName, NetworkPreset, SandboxName, WorkspaceGuard};

use super::{AuditRecord, Error, HeldName, LogLine, PolicyListed, Question, QuestionId, Saying};

/// What the engine calls while it works. All methods return at once but
/// [`Ui::confirm`], and none of them fails: a broken screen does not stop a
/// sandbox from being cleaned up.
pub trait Ui: Send {
    /// A step of preparation moved on. `step` is a short phrase ("build the
    /// guest kernel"), `done` and `total` are in one unit; a step ends when
    /// they are equal; `total` 0 means unknown.
    fn progress(&mut self, step: &str, done: u64, total: u64);

    /// Something the user should know, one line, lower case.
    fn warn(&mut self, text: &str);

    /// Asks a yes-or-no question and blocks for the answer. `flag` is what
    /// answers it beforehand (`--force`).
    ///
    /// # Errors
    /// [`Code::NoTerminal`] where nobody can be asked, naming the flag.
    fn confirm(&mut self, prompt: &str, flag: &str) -> Result<bool, Error>;

    /// A session is about to begin: shown before its first byte.
    fn opening(&mut self, block: &StartBlock);

    /// A session ended: shown after the terminal is the caller's again.
    fn closing(&mut self, block: &EndBlock);

    /// A line of a log that is followed.
    fn log(&mut self, line: &LogLine);

    /// A record of the network that is followed.
    fn audit(&mut self, record: &AuditRecord);

    /// Takes the caller's standard streams for a session; once per process.
    ///
    /// # Errors
    /// [`Code::Io`] if a descriptor cannot be duplicated.
    fn terminal(&mut self) -> Result<Terminal, Error>;

    /// Becomes cancelled when the user wants out: the first `^C` or
    /// termination signal outside a session. During one (from
    /// [`Ui::terminal`] on, until that [`Terminal`] is dropped) signals are
    /// events of the terminal instead.
    fn cancel(&self) -> Cancel;
}

/// The wish to stop, to be waited for beside any work.
#[derive(Clone, Debug)]
pub struct Cancel(watch::Receiver<bool>);

/// The other end of a [`Cancel`].
#[derive(Debug)]
pub struct Canceller(watch::Sender<bool>);

/// A [`Cancel`] and the way to trigger it.
#[must_use]
pub fn cancellation() -> (Canceller, Cancel) {
    let (sender, receiver) = watch::channel(false);
    (Canceller(sender), Cancel(receiver))
}

impl Canceller {
    /// Cancels for good.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }
}

impl Cancel {
    /// Whether it was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is cancelled, for ever if the other end is gone.
    pub async fn cancelled(&mut self) {
        if self.0.wait_for(|cancelled| *cancelled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The caller's standard streams, lent to one session.
///
/// The descriptors are duplicates: closing them leaves the caller's own
/// open. They may be in blocking mode and shared with other programs, so
/// read and write them on threads of their own and never set `O_NONBLOCK`.
pub struct Terminal {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
    /// Which of them are terminals.
    pub is: Terminals,
    /// Size of the terminal, `None` if there is none.
    pub size: Option<TtySize>,
    /// What happens to the terminal and the process meanwhile. In raw mode
    /// `^C` and `^Z` are bytes on standard input, not events; a stop from
    /// outside is handled here and only shows as [`TerminalEvent::Continued`].
    pub events: mpsc::UnboundedReceiver<TerminalEvent>,
    /// Switches the terminal's mode.
    pub mode: Box<dyn TerminalMode>,
    /// What puts questions of the sandbox to whoever sits there; `None` where
    /// nobody does, or nobody is to be asked.
    pub prompt: Option<Box<dyn Prompt>>,
    /// What the sandbox's standard output passes through before it is
    /// written.
    pub stdout_filter: Box<dyn OutputFilter>,
    /// The same for standard error.
    pub stderr_filter: Box<dyn OutputFilter>,
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal")
            .field("is", &self.is)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Which of the standard streams are terminals.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Terminals {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TtySize {
    /// Rows, at least 1.
    pub rows: u16,
    /// Columns, at least 1.
    pub cols: u16,
}

/// What happens to the caller's terminal or process during a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TerminalEvent {
    /// The terminal has another size.
    Resized(TtySize),
    /// A signal to pass on to the program inside: SIGINT, SIGTERM, SIGHUP,
    /// SIGQUIT, SIGUSR1 or SIGUSR2 by number.
    Signal(i32),
    /// The caller was stopped and runs again; its mode and size were put
    /// right already.
    Continued,
}

/// The mode of the caller's terminal. Whatever was switched on is switched
/// off again on drop, on a panic and on a fatal signal.
pub trait TerminalMode: Send {
    /// Raw mode: every key is a byte of standard input. Does nothing where
    /// standard input is no terminal.
    ///
    /// # Errors
    /// What the kernel says to tcsetattr.
    fn raw(&mut self) -> io::Result<()>;

    /// The mode found at the start.
    ///
    /// # Errors
    /// What the kernel says to tcsetattr.
    fn restore(&mut self) -> io::Result<()>;
}

/// What the bytes of a sandbox pass through on their way to a terminal.
pub trait OutputFilter: Send {
    /// Appends what may be shown of `input` to `output`. State is kept
    /// between calls, so the split into calls does not matter.
    fn filter(&mut self, input: &[u8], output: &mut Vec<u8>);

    /// The stream ended: appends what was held back and is harmless.
    fn finish(&mut self, output: &mut Vec<u8>);

    /// Appends what shows `screen`, text and sequences of our own, over what
    /// the sandbox has drawn, or in place of what is shown over it already.
    fn cover(&mut self, screen: &[u8], output: &mut Vec<u8>);

    /// Appends what brings the sandbox's screen back. True where its program
    /// has to draw it anew.
    fn uncover(&mut self, output: &mut Vec<u8>) -> bool;
}

/// What puts a question to whoever sits at the terminal.
pub trait Prompt: Send {
    /// What is shown of a question, from the upper left corner of an empty
    /// screen on; `keys` says whether keys count by now.
    fn screen(&self, id: &QuestionId, question: &Question, keys: bool, size: TtySize) -> Vec<u8>;

    /// What was said by these keys, if it was anything.
    fn answer(&self, keys: &[u8]) -> Option<Saying>;
}

/// What the caller is told before the first byte of a session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StartBlock {
    /// The sandbox.
    pub name: SandboxName,
    /// Its agent.
    pub agent: KitName,
    /// Whether it was made, started, or found running.
    pub how: Entered,
    /// The boundary.
    pub isolation: Isolation,
    /// What stands between the host's files and what is inside.
    pub guard: WorkspaceGuard,
    /// What enforces it on this host, one phrase ("QEMU 7.2 with KVM").
    pub enforced_by: String,
    /// Emulation and why, or nothing.
    pub accel_note: Option<String>,
    /// What of the host is seen inside.
    pub shares: Vec<ShareBrief>,
    /// What may be reached.
    pub network: NetworkPreset,
    /// The user's own rules and those of the sandbox.
    pub rules: Vec<PolicyListed>,
    /// Published ports, as `127.0.0.1:8080->80/tcp`.
    pub ports: Vec<String>,
    /// What the agent would like to reach, where the preset takes nothing over
    /// from kits and no rule is about it.
    pub wanted: Vec<String>,
    /// Names of variables that carry a credential as a plain value.
    pub plain_credentials: Vec<String>,
    /// Names whose changes are held in the sandbox.
    pub held: Vec<HeldName>,
}

/// How a session came to its sandbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entered {
    /// The sandbox was created for it.
    Created,
    /// It was stopped and has been started.
    Started,
    /// It was running.
    Joined,
}

/// What the caller is told after a session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EndBlock {
    /// The sandbox.
    pub name: SandboxName,
    /// Names whose changes are held in the sandbox.
    pub held: Vec<HeldName>,
    /// What becomes of the sandbox.
    pub then: Afterwards,
}

/// What becomes of a sandbox after a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Afterwards {
    /// It stops in so many seconds unless another session begins.
    StopsIn(u32),
    /// Other sessions go on, or it was started to stay.
    StaysUp,
    /// It was removed.
    Removed,
    /// It is gone: the machine ended before the session.
    Down,
}

/// A share as shown to the user.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ShareBrief {
    /// Where it is on the host.
    pub host: PathBuf,
    /// Where the guest sees it.
    pub guest: GuestPath,
    /// `direct` or `ro`.
    pub mode: String,
}
