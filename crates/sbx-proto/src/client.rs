//! Messages between a client and the supervisor, on its Unix socket.
//!
//! One connection is one thing: a [`Request`], its [`Reply`]; after
//! [`Request::Attach`] the client opens stream [`SESSION`] and the frames of
//! [`crate::session`] follow.

use minicbor::{Decode, Encode};

use crate::frame::Kind;
use crate::message::{Bytes, Message};

/// The stream of the one session of a client's connection.
pub const SESSION: u32 = 1;

/// What a client wants; always the first frame.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Request {
    /// A session: answered [`Reply::Attached`] once the sandbox is ready
    /// (with [`Progress`] before it), then [`Kind::Open`] follows.
    #[n(0)]
    Attach,
    /// State: answered [`Reply::Inspected`].
    #[n(1)]
    Inspect,
    /// Stop the sandbox: answered [`Reply::Stopped`] when it is down.
    #[n(2)]
    Stop {
        /// Milliseconds between SIGTERM and SIGKILL inside.
        #[n(0)]
        grace_ms: u32,
    },
    /// Whether it lives: answered [`Reply::Pong`].
    #[n(3)]
    Ping,
    /// Any other request, as JSON that the engine defines.
    #[n(4)]
    Call {
        /// JSON text.
        #[n(0)]
        json: Bytes,
    },
}

impl Message for Request {
    const KIND: Kind = Kind::Request;
}

/// The supervisor's answer.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Reply {
    /// To [`Request::Attach`].
    #[n(0)]
    Attached,
    /// To [`Request::Inspect`].
    #[n(1)]
    Inspected {
        /// JSON text that the engine defines.
        #[n(0)]
        json: Bytes,
    },
    /// To [`Request::Stop`].
    #[n(2)]
    Stopped,
    /// To [`Request::Ping`].
    #[n(3)]
    Pong {
        /// [`crate::GENERATION`] of the supervisor.
        #[n(0)]
        generation: u16,
        /// Its process id.
        #[n(1)]
        pid: u32,
    },
    /// To [`Request::Call`].
    #[n(4)]
    Answered {
        /// JSON text.
        #[n(0)]
        json: Bytes,
    },
    /// The request could not be met.
    #[n(5)]
    Failed {
        /// Exit code for the caller, 125 as a rule.
        #[n(0)]
        code: u8,
        /// What was attempted and why it failed.
        #[n(1)]
        message: String,
        /// What the user can do.
        #[n(2)]
        hint: Option<String>,
    },
}

impl Message for Reply {
    const KIND: Kind = Kind::Reply;
}

/// What the start is at.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Progress {
    /// One line, under 200 bytes.
    #[n(0)]
    pub text: String,
    /// 0 to 100 where it is known.
    #[n(1)]
    pub percent: Option<u8>,
}

impl Message for Progress {
    const KIND: Kind = Kind::Progress;
}
