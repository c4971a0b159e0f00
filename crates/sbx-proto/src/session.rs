//! Messages of a session's stream. Client, supervisor and guest use the same.

use minicbor::{Decode, Encode};

use crate::frame::Kind;
use crate::message::{Bytes, Message};

macro_rules! message {
    ($type:ty, $kind:ident) => {
        impl Message for $type {
            const KIND: Kind = Kind::$kind;
        }
    };
}

/// A program to run.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Exec {
    /// Program and arguments; the first is looked up in PATH inside if it
    /// holds no slash. At least one.
    #[n(0)]
    pub argv: Vec<Bytes>,
    /// Environment over [`crate::link::Setup::env`].
    #[n(1)]
    pub env: Vec<(Bytes, Bytes)>,
    /// Working directory; absent: [`crate::link::Setup::workdir`].
    #[n(2)]
    pub cwd: Option<Bytes>,
    /// As whom.
    #[n(3)]
    pub user: User,
    /// A terminal; absent: three pipes.
    #[n(4)]
    pub tty: Option<Tty>,
    /// Written below the user's home before the program starts.
    #[n(5)]
    pub files: Vec<HomeFile>,
    /// Nanoseconds since the Unix epoch; the guest steps its clock to it if
    /// it is off.
    #[n(6)]
    pub clock_ns: u64,
    /// The program is the main one of `sbx run` (reserved; the guest treats
    /// all alike).
    #[n(7)]
    pub login: bool,
}
message!(Exec, Open);

/// A user inside.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum User {
    /// The agent.
    #[n(0)]
    Agent,
    /// Root, with every capability.
    #[n(1)]
    Root,
    /// Any ids.
    #[n(2)]
    Ids {
        /// User id.
        #[n(0)]
        uid: u32,
        /// Group id.
        #[n(1)]
        gid: u32,
    },
    /// A name of `/etc/passwd` inside.
    #[n(3)]
    Name {
        /// The name.
        #[n(0)]
        name: String,
    },
}

/// A terminal.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Tty {
    /// Lines.
    #[n(0)]
    pub rows: u16,
    /// Columns.
    #[n(1)]
    pub cols: u16,
    /// TERM.
    #[n(2)]
    pub term: String,
}

/// A small file below the user's home, written as that user, no link followed.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct HomeFile {
    /// Relative path without `..`.
    #[n(0)]
    pub path: Bytes,
    /// Permission bits.
    #[n(1)]
    pub mode: u32,
    /// Content.
    #[n(2)]
    pub content: Bytes,
    /// When.
    #[n(3)]
    pub when: When,
}

/// When a [`HomeFile`] is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub enum When {
    /// Only if nothing is there.
    #[n(0)]
    Missing,
    /// At each start.
    #[n(1)]
    Always,
}

/// The program runs.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Started {
    /// Its process id inside.
    #[n(0)]
    pub pid: u32,
}
message!(Started, Started);

/// The program does not run.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Refused {
    /// 127 not found, 126 found and not executable, 125 anything else.
    #[n(0)]
    pub code: u8,
    /// What was attempted and why it failed; to be escaped.
    #[n(1)]
    pub message: String,
}
message!(Refused, Refused);

/// The program ended. One of the two is set.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Exit {
    /// Its exit code.
    #[n(0)]
    pub code: Option<u8>,
    /// The signal that killed it.
    #[n(1)]
    pub signal: Option<u8>,
}
message!(Exit, Exit);

impl Exit {
    /// The code a shell shows: the exit code, or 128 and the signal.
    #[must_use]
    pub fn shell_code(&self) -> u8 {
        match (self.code, self.signal) {
            (Some(code), _) => code,
            (None, Some(signal)) => signal.saturating_add(128),
            (None, None) => 125,
        }
    }
}

/// The terminal's size changed.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Resize {
    /// Lines.
    #[n(0)]
    pub rows: u16,
    /// Columns.
    #[n(1)]
    pub cols: u16,
}
message!(Resize, Resize);

/// A signal for the program's process group (with a terminal: its foreground
/// group).
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Signal {
    /// Number as on x86-64 Linux, 1 to 64.
    #[n(0)]
    pub number: u8,
}
message!(Signal, Signal);
