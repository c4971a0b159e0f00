//! `sudo` without a setuid program: the client sends what it was asked for
//! and its own descriptors to a socket of PID 1; a root process of ours runs
//! it and sends the end back.
//!
//! Not a boundary: whoever is inside may be root. What it must not do is hurt
//! PID 1.

pub(crate) mod arguments;
pub(crate) mod client;
pub(crate) mod server;

use minicbor::{Decode, Encode};
use sbx_proto::Bytes;
use sbx_proto::session::User;

/// The socket that clients connect to.
pub(crate) const SOCKET: &str = "/run/sbx/sudo.sock";
/// Longest request, in bytes.
pub(crate) const MAX_REQUEST: usize = 1024 * 1024;
/// Descriptors that come with a request: standard input, output, error, and
/// the working directory.
pub(crate) const DESCRIPTORS: usize = 4;

/// What a client asks for; follows its length as `u32` little endian.
#[derive(Debug, Encode, Decode)]
pub(crate) struct Request {
    #[n(0)]
    pub(crate) user: User,
    /// Empty: the user's shell.
    #[n(1)]
    pub(crate) argv: Vec<Bytes>,
    /// Environment to set over the sandbox's.
    #[n(2)]
    pub(crate) env: Vec<(Bytes, Bytes)>,
    #[n(3)]
    pub(crate) shell: Shell,
    /// Standard input is a terminal made for this request.
    #[n(4)]
    pub(crate) terminal: bool,
    /// Another group than the user's.
    #[n(5)]
    pub(crate) gid: Option<u32>,
    /// The working directory in place of the caller's.
    #[n(6)]
    pub(crate) cwd: Option<Bytes>,
}

/// Whether a shell comes between.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
#[cbor(index_only)]
pub(crate) enum Shell {
    #[n(0)]
    None,
    /// `-s`: the shell runs the command.
    #[n(1)]
    Plain,
    /// `-i`: a login shell in the user's home.
    #[n(2)]
    Login,
}

/// The server's answer, its only one.
#[derive(Debug, Encode, Decode)]
pub(crate) enum Answer {
    #[n(0)]
    Exited {
        #[n(0)]
        code: u8,
    },
    #[n(1)]
    Killed {
        #[n(0)]
        signal: u8,
    },
    #[n(2)]
    Refused {
        #[n(0)]
        code: u8,
        #[n(1)]
        message: String,
    },
}
