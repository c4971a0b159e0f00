//! Frames: a 12-byte header (little endian: payload length `u32`, stream
//! `u32`, kind `u8`, three zero bytes), then the payload.
//!
//! The decoder holds at most one unfinished frame plus what was pushed, knows
//! which side it listens to, and refuses what that side may not say before
//! it stores the payload.

use std::fmt;

/// Bytes of a frame header.
pub const HEADER: usize = 12;
/// Longest payload of a data frame and of every message without a larger
/// bound, in bytes.
pub const MAX_PAYLOAD: usize = 64 * 1024;
/// Longest payload of [`Kind::Setup`], [`Kind::Open`], [`Kind::Request`] and
/// [`Kind::Reply`], in bytes.
pub const MAX_MESSAGE: usize = 1024 * 1024;
/// The stream of link-level messages.
pub const LINK: u32 = 0;

/// Who wrote the bytes that a [`Decoder`] reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// PID 1 of the sandbox, to the supervisor.
    Guest,
    /// The supervisor, to the guest.
    Host,
    /// A client (`sbx exec`), to the supervisor.
    Client,
    /// The supervisor, to a client.
    Supervisor,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// What a frame is.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $value,)* }

        impl Kind {
            /// Every kind, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The kind with this number.
            #[must_use]
            pub fn from_number(number: u8) -> Option<Self> {
                match number { $($value => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// Guest to host, first frame of all: [`crate::link::Hello`].
    Hello = 1,
    /// Host to guest, once: [`crate::link::Setup`].
    Setup = 2,
    /// Guest to host, set-up is done: [`crate::link::Ready`].
    Ready = 3,
    /// Guest to host, before it powers off: [`crate::link::SetupFailed`].
    SetupFailed = 4,
    /// Host to guest: [`crate::link::Clock`].
    Clock = 5,
    /// Host to guest: [`crate::link::Shutdown`].
    Shutdown = 6,
    /// Guest to host: [`crate::link::Event`].
    Event = 7,
    /// Host to guest, no payload: asks for a [`Kind::StatusReply`].
    Status = 8,
    /// Guest to host: [`crate::link::StatusReply`].
    StatusReply = 9,
    /// Opens a session on a new stream: [`crate::session::Exec`].
    Open = 16,
    /// The program runs: [`crate::session::Started`].
    Started = 17,
    /// The program does not run; ends the stream: [`crate::session::Refused`].
    Refused = 18,
    /// Raw bytes for the program.
    Stdin = 19,
    /// Raw bytes of the program (all output of a terminal).
    Stdout = 20,
    /// Raw bytes of the program.
    Stderr = 21,
    /// One byte, the [`crate::flow::Channel`] that ends.
    Eof = 22,
    /// [`crate::flow::Credit`].
    Credit = 23,
    /// [`crate::session::Resize`].
    Resize = 24,
    /// [`crate::session::Signal`].
    Signal = 25,
    /// The program ended and its output is sent; ends the stream:
    /// [`crate::session::Exit`].
    Exit = 26,
    /// The client is gone, no payload; the guest hangs the session up and
    /// still sends [`Kind::Exit`].
    Close = 27,
    /// Client to supervisor: [`crate::client::Request`].
    Request = 32,
    /// Supervisor to client: [`crate::client::Reply`].
    Reply = 33,
    /// Supervisor to client: [`crate::client::Progress`].
    Progress = 34,
}

impl Kind {
    /// Longest payload of this kind, in bytes.
    #[must_use]
    pub fn max_payload(self) -> usize {
        match self {
            Self::Setup | Self::Open | Self::Request | Self::Reply => MAX_MESSAGE,
            Self::Stdin | Self::Stdout | Self::Stderr => MAX_PAYLOAD,
            Self::Hello
            | Self::Ready
            | Self::SetupFailed
            | Self::Event
            | Self::StatusReply
            | Self::Refused
            | Self::Progress => 8 * 1024,
            Self::Clock
            | Self::Shutdown
            | Self::Started
            | Self::Resize
            | Self::Signal
            | Self::Exit => 256,
            Self::Credit => 5,
            Self::Eof => 1,
            Self::Status | Self::Close => 0,
        }
    }

    /// Whether `side` may send this kind.
    #[must_use]
    pub fn is_sent_by(self, side: Side) -> bool {
        match self {
            Self::Hello | Self::Ready | Self::SetupFailed | Self::StatusReply => {
                side == Side::Guest
            }
            Self::Event
            | Self::Started
            | Self::Refused
            | Self::Stdout
            | Self::Stderr
            | Self::Exit => {
                matches!(side, Side::Guest | Side::Supervisor)
            }
            Self::Setup | Self::Clock | Self::Shutdown | Self::Status => side == Side::Host,
            Self::Open | Self::Stdin | Self::Resize | Self::Signal | Self::Close => {
                matches!(side, Side::Host | Side::Client)
            }
            Self::Eof | Self::Credit => true,
            Self::Request => side == Side::Client,
            Self::Reply | Self::Progress => side == Side::Supervisor,
        }
    }

    /// Whether this kind belongs to a session's stream (not [`LINK`]).
    #[must_use]
    pub fn is_session(self) -> bool {
        (16..32).contains(&(self as u8))
    }
}

/// One frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// [`LINK`], or the session's number.
    pub stream: u32,
    /// What the payload is.
    pub kind: Kind,
    /// At most [`Kind::max_payload`] bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame.
    #[must_use]
    pub fn new(stream: u32, kind: Kind, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            stream,
            kind,
            payload: payload.into(),
        }
    }
}

/// Why bytes are not frames, or a frame cannot be sent. The stream cannot be
/// read any further after one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// No kind has this number.
    Kind(u8),
    /// The side that is listened to may not send this kind.
    Unexpected(Kind),
    /// A link-level kind on a session stream, or the other way round.
    Stream(Kind, u32),
    /// The payload is longer than its kind allows.
    Long(Kind, u32),
    /// The three spare bytes are not zero.
    Spare,
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(number) => write!(f, "frame of unknown kind {number}"),
            Self::Unexpected(kind) => write!(f, "{kind:?} frame from the wrong side"),
            Self::Stream(kind, stream) => write!(f, "{kind:?} frame on stream {stream}"),
            Self::Long(kind, len) => write!(f, "{kind:?} frame of {len} bytes"),
            Self::Spare => f.write_str("frame header with spare bytes set"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Appends `frame` to `out`.
///
/// # Errors
/// [`FrameError::Long`] if the payload is over [`Kind::max_payload`]; `out` is
/// then unchanged.
pub fn encode(frame: &Frame, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let len = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
    if frame.payload.len() > frame.kind.max_payload() {
        return Err(FrameError::Long(frame.kind, len));
    }
    out.reserve(HEADER + frame.payload.len());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&frame.stream.to_le_bytes());
    out.extend_from_slice(&[frame.kind as u8, 0, 0, 0]);
    out.extend_from_slice(&frame.payload);
    Ok(())
}

/// Cuts a byte stream into frames.
///
/// Call [`Decoder::next`] until it returns `None` after every push: the memory
/// held is then at most the longest frame plus one push.
#[derive(Debug)]
pub struct Decoder {
    from: Side,
    buffer: Vec<u8>,
    start: usize,
    failed: Option<FrameError>,
}

impl Decoder {
    /// A decoder for the bytes that `from` writes.
    #[must_use]
    pub fn new(from: Side) -> Self {
        Self {
            from,
            buffer: Vec::new(),
            start: 0,
            failed: None,
        }
    }

    /// Adds bytes as they were read. Ignored after an error.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes that are held and not yet returned.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// The next whole frame, `None` if more bytes are needed.
    ///
    /// # Errors
    /// [`FrameError`], the same one again on every later call.
    #[expect(
        clippy::should_implement_trait,
        reason = "a result of an option is no iterator"
    )]
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        match self.cut() {
            Ok(frame) => {
                if self.start == self.buffer.len() {
                    self.buffer.clear();
                    self.start = 0;
                    // One large message must not pin its memory for ever.
                    self.buffer.shrink_to(2 * MAX_PAYLOAD);
                }
                Ok(frame)
            }
            Err(error) => {
                self.failed = Some(error);
                self.buffer = Vec::new();
                self.start = 0;
                Err(error)
            }
        }
    }

    fn cut(&mut self) -> Result<Option<Frame>, FrameError> {
        let held = self.buffer.get(self.start..).unwrap_or_default();
        let Some((&[l0, l1, l2, l3, s0, s1, s2, s3, number, x, y, z], rest)) =
            held.split_first_chunk::<HEADER>()
        else {
            return Ok(None);
        };
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        let stream = u32::from_le_bytes([s0, s1, s2, s3]);
        if [x, y, z] != [0; 3] {
            return Err(FrameError::Spare);
        }
        let kind = Kind::from_number(number).ok_or(FrameError::Kind(number))?;
        if !kind.is_sent_by(self.from) {
            return Err(FrameError::Unexpected(kind));
        }
        if kind.is_session() != (stream != LINK) {
            return Err(FrameError::Stream(kind, stream));
        }
        let length = len as usize;
        if length > kind.max_payload() {
            return Err(FrameError::Long(kind, len));
        }
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = Frame::new(stream, kind, payload);
        self.start += HEADER + length;
        Ok(Some(frame))
    }
}
