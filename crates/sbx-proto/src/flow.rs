//! Credit per channel: a sender starts with [`WINDOW`] bytes, data spends
//! them, the receiver grants them back as it consumes.
//!
//! Counters only. The supervisor, which relays without reading, keeps a
//! [`Sender`] for each direction as the referee: `spend` on data, `grant` on
//! credit, and closes whoever makes it fail.

use std::fmt;

use crate::frame::{Frame, Kind};
use crate::message::MessageError;

/// First and largest credit of a channel, in bytes.
pub const WINDOW: u32 = 256 * 1024;

/// One direction of a session's data.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Channel {
    /// To the program.
    Stdin = 0,
    /// From the program; all of a terminal's output.
    Stdout = 1,
    /// From the program.
    Stderr = 2,
}

impl Channel {
    /// The channel with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Stdin),
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            _ => None,
        }
    }

    /// The channel whose data this kind of frame carries.
    #[must_use]
    pub fn of_kind(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Stdin => Some(Self::Stdin),
            Kind::Stdout => Some(Self::Stdout),
            Kind::Stderr => Some(Self::Stderr),
            _ => None,
        }
    }

    /// The kind of this channel's data frames.
    #[must_use]
    pub fn kind(self) -> Kind {
        match self {
            Self::Stdin => Kind::Stdin,
            Self::Stdout => Kind::Stdout,
            Self::Stderr => Kind::Stderr,
        }
    }

    /// The frame that ends this channel.
    #[must_use]
    pub fn eof(self, stream: u32) -> Frame {
        Frame::new(stream, Kind::Eof, [self as u8])
    }

    /// The channel that an [`Kind::Eof`] payload ends.
    ///
    /// # Errors
    /// [`MessageError::Field`] if it names none.
    pub fn from_eof(payload: &[u8]) -> Result<Self, MessageError> {
        match payload {
            [number] => Self::from_number(*number),
            _ => None,
        }
        .ok_or(MessageError::Field(Kind::Eof, "channel"))
    }
}

/// Payload of [`Kind::Credit`]: the channel, then the bytes as `u32` little
/// endian.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Credit {
    /// Whose sender may go on.
    pub channel: Channel,
    /// Bytes more, 1 to [`WINDOW`].
    pub bytes: u32,
}

impl Credit {
    /// The credit as a frame on `stream`.
    #[must_use]
    pub fn to_frame(self, stream: u32) -> Frame {
        let [a, b, c, d] = self.bytes.to_le_bytes();
        Frame::new(stream, Kind::Credit, [self.channel as u8, a, b, c, d])
    }

    /// The credit in `payload`.
    ///
    /// # Errors
    /// [`MessageError::Field`] for another length, an unknown channel, or a
    /// number of bytes outside 1 to [`WINDOW`].
    pub fn from_payload(payload: &[u8]) -> Result<Self, MessageError> {
        let &[channel, a, b, c, d] = payload else {
            return Err(MessageError::Field(Kind::Credit, "length"));
        };
        let channel =
            Channel::from_number(channel).ok_or(MessageError::Field(Kind::Credit, "channel"))?;
        let bytes = u32::from_le_bytes([a, b, c, d]);
        if !(1..=WINDOW).contains(&bytes) {
            return Err(MessageError::Field(Kind::Credit, "bytes"));
        }
        Ok(Self { channel, bytes })
    }
}

/// A peer broke the credit rule; nothing it sends can be believed any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowError {
    /// Data beyond the credit.
    Exceeded,
    /// Credit beyond [`WINDOW`].
    Overgranted,
}

impl fmt::Display for FlowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exceeded => "data sent beyond the granted credit",
            Self::Overgranted => "more credit granted than the window",
        })
    }
}

impl std::error::Error for FlowError {}

/// What one side may still send on a channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sender {
    credit: u32,
}

impl Default for Sender {
    fn default() -> Self {
        Self { credit: WINDOW }
    }
}

impl Sender {
    /// A channel that was just opened.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that may be sent now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.credit as usize
    }

    /// Counts `bytes` as sent.
    ///
    /// # Errors
    /// [`FlowError::Exceeded`] if they are more than [`Sender::available`].
    pub fn spend(&mut self, bytes: usize) -> Result<(), FlowError> {
        let bytes = u32::try_from(bytes).map_err(|_| FlowError::Exceeded)?;
        self.credit = self.credit.checked_sub(bytes).ok_or(FlowError::Exceeded)?;
        Ok(())
    }

    /// Counts credit from the receiver.
    ///
    /// # Errors
    /// [`FlowError::Overgranted`] if the credit would pass [`WINDOW`].
    pub fn grant(&mut self, bytes: u32) -> Result<(), FlowError> {
        match self.credit.checked_add(bytes) {
            Some(credit) if credit <= WINDOW => {
                self.credit = credit;
                Ok(())
            }
            _ => Err(FlowError::Overgranted),
        }
    }
}

/// What one side has received and not yet consumed on a channel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Receiver {
    credit: u32,
    owed: u32,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            credit: WINDOW,
            owed: 0,
        }
    }
}

impl Receiver {
    /// A channel that was just opened.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts `bytes` as received, to be held until consumed.
    ///
    /// # Errors
    /// [`FlowError::Exceeded`] if the peer had less credit.
    pub fn receive(&mut self, bytes: usize) -> Result<(), FlowError> {
        let bytes = u32::try_from(bytes).map_err(|_| FlowError::Exceeded)?;
        self.credit = self.credit.checked_sub(bytes).ok_or(FlowError::Exceeded)?;
        Ok(())
    }

    /// Counts `bytes` as consumed. Returns the credit to send now, if enough
    /// has come together (a quarter of the window) to be worth a frame.
    #[must_use]
    pub fn consume(&mut self, bytes: usize) -> Option<u32> {
        let room = WINDOW - self.credit - self.owed;
        self.owed += u32::try_from(bytes).unwrap_or(room).min(room);
        if self.owed < WINDOW / 4 {
            return None;
        }
        self.credit += self.owed;
        Some(std::mem::take(&mut self.owed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sender_spends_to_zero_and_no_further() {
        let mut sender = Sender::new();
        sender.spend(WINDOW as usize).unwrap();
        assert_eq!(sender.available(), 0);
        assert_eq!(sender.spend(1), Err(FlowError::Exceeded));
        sender.grant(5).unwrap();
        assert_eq!(sender.available(), 5);
    }

    #[test]
    fn credit_never_passes_the_window() {
        let mut sender = Sender::new();
        assert_eq!(sender.grant(1), Err(FlowError::Overgranted));
        sender.spend(10).unwrap();
        assert_eq!(sender.grant(11), Err(FlowError::Overgranted));
        assert_eq!(sender.grant(u32::MAX), Err(FlowError::Overgranted));
        sender.grant(10).unwrap();
    }

    #[test]
    fn receiver_refuses_data_beyond_its_grant() {
        let mut receiver = Receiver::new();
        receiver.receive(WINDOW as usize).unwrap();
        assert_eq!(receiver.receive(1), Err(FlowError::Exceeded));
        assert_eq!(receiver.consume(WINDOW as usize), Some(WINDOW));
        receiver.receive(WINDOW as usize).unwrap();
    }

    #[test]
    fn both_ends_agree_for_ever() {
        let (mut sender, mut receiver) = (Sender::new(), Receiver::new());
        let mut moved = 0usize;
        for round in 0..10_000usize {
            let bytes = sender.available().min(round % 70_000);
            sender.spend(bytes).unwrap();
            receiver.receive(bytes).unwrap();
            if let Some(credit) = receiver.consume(bytes) {
                sender.grant(credit).unwrap();
            }
            moved += bytes;
        }
        assert!(moved > 100 * WINDOW as usize);
    }

    #[test]
    fn consuming_more_than_was_received_grants_nothing_extra() {
        let mut receiver = Receiver::new();
        receiver.receive(100_000).unwrap();
        assert_eq!(receiver.consume(usize::MAX), Some(100_000));
        assert_eq!(receiver.consume(1), None);
    }

    #[test]
    fn credit_frame_is_checked() {
        let credit = Credit {
            channel: Channel::Stderr,
            bytes: 65536,
        };
        let frame = credit.to_frame(7);
        assert_eq!(frame.payload, [2, 0, 0, 1, 0]);
        assert_eq!(Credit::from_payload(&frame.payload).unwrap(), credit);
        for bad in [
            &[0u8, 0, 0, 0, 0][..],
            &[3, 1, 0, 0, 0],
            &[0, 1, 0, 4, 0],
            &[0],
            &[],
        ] {
            assert!(Credit::from_payload(bad).is_err(), "{bad:?}");
        }
    }
}
