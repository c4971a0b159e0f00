//! From a request to a running program.
//!
//! PID 1 never opens a path that a session names, nor waits for one: it
//! starts this program again ([`parent`]), and that process ([`child`]) takes
//! the identity, writes the home files, changes directory and execs, so that
//! whatever hangs or fails there is only that session's.

pub(crate) mod child;
pub(crate) mod home;
pub(crate) mod identity;
pub(crate) mod parent;
pub(crate) mod path;

use minicbor::{Decode, Encode};
use sbx_proto::Bytes;
use sbx_proto::link::AgentUser;
use sbx_proto::session::{HomeFile, User};

/// What is written to `oom_score_adj` of programs, so that they are ended for
/// want of memory before PID 1, and where the host's memory is theirs before
/// what runs around their container.
pub(crate) const FIRST_TO_GO: &str = "500";

/// What every session of this sandbox has in common.
#[derive(Clone, Debug, Encode, Decode)]
pub(crate) struct Context {
    #[n(0)]
    pub(crate) agent: AgentUser,
    /// Environment of every session.
    #[n(1)]
    pub(crate) env: Vec<(Bytes, Bytes)>,
    /// `bin` directories of the kits.
    #[n(2)]
    pub(crate) kit_paths: Vec<Bytes>,
    /// Working directory of sessions that name none.
    #[n(3)]
    pub(crate) workdir: Option<Bytes>,
    /// No identity is taken: everything runs as the caller.
    #[n(4)]
    pub(crate) bare: bool,
}

/// One program to start.
#[derive(Debug, Encode, Decode)]
pub(crate) struct Launch {
    #[n(0)]
    pub(crate) context: Context,
    #[n(1)]
    pub(crate) user: User,
    /// Program and arguments.
    #[n(2)]
    pub(crate) argv: Vec<Bytes>,
    /// First argument in place of `argv[0]`.
    #[n(3)]
    pub(crate) arg0: Option<Bytes>,
    /// Over the context's environment.
    #[n(4)]
    pub(crate) env: Vec<(Bytes, Bytes)>,
    #[n(5)]
    pub(crate) cwd: Cwd,
    #[n(6)]
    pub(crate) files: Vec<HomeFile>,
    #[n(7)]
    pub(crate) terminal: Terminal,
    /// The standard descriptors are the session's alone: give them to its user.
    #[n(8)]
    pub(crate) own_stdio: bool,
    /// Root's programs run unconfined; all others without new privileges.
    #[n(9)]
    pub(crate) privileges: Privileges,
}

/// Where a program starts.
#[derive(Debug, Encode, Decode)]
pub(crate) enum Cwd {
    /// The context's, else the home.
    #[n(0)]
    Default,
    #[n(1)]
    Home,
    #[n(2)]
    Path {
        #[n(0)]
        path: Bytes,
    },
    /// The directory where the launching process is.
    #[n(3)]
    Here,
}

/// Which standard descriptor is the terminal to control.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum Terminal {
    #[n(0)]
    None,
    #[n(1)]
    Stdin,
}

/// Whether a program may gain privileges by what it execs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum Privileges {
    /// By its user: root keeps all, everybody else gains none.
    #[n(0)]
    ByUser,
    /// Asked for through `sudo`: nothing is taken away.
    #[n(1)]
    Keep,
}

/// Why a program does not run, as a shell counts it.
#[derive(Debug, Encode, Decode)]
pub(crate) struct Failure {
    /// 125, 126 or 127.
    #[n(0)]
    pub(crate) code: u8,
    #[n(1)]
    pub(crate) message: String,
}
