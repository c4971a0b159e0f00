//! Control payloads: CBOR with numbered fields, unknown numbers ignored.

use std::fmt;

use minicbor::{Decode, Encode};

use crate::frame::{Frame, Kind};

/// A byte string field; derefs to `Vec<u8>`, `From<Vec<u8>>`.
pub type Bytes = minicbor::bytes::ByteVec;

/// Why a payload is not the message that its kind says, or is too long to send.
#[derive(Debug)]
pub enum MessageError {
    /// Not this message.
    Malformed(Kind, minicbor::decode::Error),
    /// Bytes after the message.
    Trailing(Kind),
    /// Encoded longer than [`Kind::max_payload`]; the length in bytes.
    Long(Kind, usize),
    /// A field is out of its bounds; its name.
    Field(Kind, &'static str),
    /// The frame is of another kind than the one wanted.
    Kind(Kind, Kind),
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(kind, _) => write!(f, "malformed {kind:?} message"),
            Self::Trailing(kind) => write!(f, "bytes after a {kind:?} message"),
            Self::Long(kind, len) => write!(f, "{kind:?} message of {len} bytes is too long"),
            Self::Field(kind, name) => write!(f, "{kind:?} message with `{name}` out of bounds"),
            Self::Kind(want, got) => write!(f, "{got:?} frame where {want:?} was expected"),
        }
    }
}

impl std::error::Error for MessageError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Malformed(_, source) => Some(source),
            _ => None,
        }
    }
}

/// A message that is the payload of one kind of frame.
pub trait Message: Encode<()> + for<'b> Decode<'b, ()> {
    /// The kind of its frame.
    const KIND: Kind;

    /// The message as a frame on `stream`.
    ///
    /// # Errors
    /// [`MessageError::Long`] if it does not fit.
    fn to_frame(&self, stream: u32) -> Result<Frame, MessageError> {
        let mut payload = Vec::new();
        // Writing to a vector cannot fail and no field has a custom encoder
        // that does, so a failure can only mean length.
        if minicbor::encode(self, &mut payload).is_err() || payload.len() > Self::KIND.max_payload()
        {
            return Err(MessageError::Long(Self::KIND, payload.len()));
        }
        Ok(Frame::new(stream, Self::KIND, payload))
    }

    /// The message in `payload`, which must hold nothing else.
    ///
    /// # Errors
    /// [`MessageError::Malformed`], [`MessageError::Trailing`] or
    /// [`MessageError::Long`].
    fn from_payload(payload: &[u8]) -> Result<Self, MessageError> {
        if payload.len() > Self::KIND.max_payload() {
            return Err(MessageError::Long(Self::KIND, payload.len()));
        }
        let mut decoder = minicbor::Decoder::new(payload);
        let message = decoder
            .decode()
            .map_err(|error| MessageError::Malformed(Self::KIND, error))?;
        if decoder.position() != payload.len() {
            return Err(MessageError::Trailing(Self::KIND));
        }
        Ok(message)
    }

    /// The message in `frame`.
    ///
    /// # Errors
    /// [`MessageError::Kind`] for a frame of another kind, else as
    /// [`Message::from_payload`].
    fn from_frame(frame: &Frame) -> Result<Self, MessageError> {
        if frame.kind != Self::KIND {
            return Err(MessageError::Kind(Self::KIND, frame.kind));
        }
        Self::from_payload(&frame.payload)
    }
}
