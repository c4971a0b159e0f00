//! Frames and messages between supervisor, guest and client.
//!
//! Owns: the bytes on the link of a running sandbox (supervisor to guest) and
//! on the supervisor's socket (client to supervisor), their bounds and the
//! generation number. Never: I/O, threads, clocks. Trusts nobody: every byte
//! that a decoder here sees may come from the guest's root.
//!
//! One byte stream carries [`Frame`]s. Stream 0 is the link itself; each
//! session has a stream of its own, numbered by whoever opens it. Control
//! payloads are CBOR with numbered fields, so that an older side ignores what
//! a newer one adds; data payloads are raw bytes under credit ([`flow`]).

pub mod client;
pub mod dock;
pub mod flow;
pub mod frame;
pub mod link;
pub mod message;
#[doc(hidden)]
pub mod replay;
pub mod session;

pub use client::{Reply, Request};
pub use flow::{FlowError, WINDOW};
pub use frame::{
    Decoder, Frame, FrameError, HEADER, Kind, LINK, MAX_MESSAGE, MAX_PAYLOAD, Side, encode,
};
pub use message::{Bytes, Message, MessageError};

/// Generation of this wire format; both [`link::Hello`] and
/// [`client::Reply::Pong`] carry it.
pub const GENERATION: u16 = 1;
