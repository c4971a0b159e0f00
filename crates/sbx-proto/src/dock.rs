//! What goes over the standard input and output of the containers that an
//! engine runs: what each is told first, and Ethernet frames behind their
//! length.
//!
//! A first message is its length as `u32` little endian and CBOR. A frame is
//! its length as `u16` little endian and that many bytes.

use std::io::{self, ErrorKind, Read};
use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::link::NetSetup;
use crate::message::Bytes;

/// Longest first message, in bytes.
pub const MAX_FIRST: usize = 256 * 1024;
/// Longest frame, in bytes: what an MTU of 65,520 and an Ethernet header take.
pub const MAX_FRAME: usize = 65_534;
/// What the keeper of the network says once the interface is up; anything else
/// is the text of what went wrong.
pub const UP: &str = "up";
/// Longest such text, in bytes.
pub const MAX_SAID: usize = 1000;
/// How often the host says something to each container, if only a frame of no
/// bytes. An engine that was killed leaves the streams of its containers open.
pub const SIGN_OF_LIFE: Duration = Duration::from_secs(10);
/// How long a container goes on without hearing anything.
pub const SILENCE: Duration = Duration::from_secs(90);
/// A frame of no bytes, which is carried nowhere.
pub const NO_FRAME: [u8; 2] = [0, 0];

/// What the keeper of the network is told.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Wire {
    /// The interface.
    #[n(0)]
    pub net: NetSetup,
    /// Its link address.
    #[n(1)]
    pub mac: [u8; 6],
}

/// What the first process of the agent's container is told: what it has to
/// find mounted, or nothing runs.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Places {
    /// Each of them.
    #[n(0)]
    pub places: Vec<Place>,
}

/// A file or directory of the host, and where it is inside.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Place {
    /// Absolute path inside.
    #[n(0)]
    pub path: Bytes,
    /// Its device, as the kernel numbers it.
    #[n(1)]
    pub device: u64,
    /// Its inode.
    #[n(2)]
    pub inode: u64,
}

/// The bytes of a first message; `None` if it is too long.
pub fn first<T: Encode<()>>(message: &T) -> Option<Vec<u8>> {
    let body = minicbor::to_vec(message).ok()?;
    let length = u32::try_from(body.len()).ok()?;
    (body.len() <= MAX_FIRST).then(|| [&length.to_le_bytes()[..], &body].concat())
}

/// The first message of `input`.
///
/// # Errors
/// If it ends before, or the message is longer than any or another one.
pub fn read_first<T: for<'b> Decode<'b, ()>>(input: &mut impl Read) -> io::Result<T> {
    let mut prefix = [0; 4];
    input.read_exact(&mut prefix)?;
    let length = usize::try_from(u32::from_le_bytes(prefix)).unwrap_or(usize::MAX);
    if length > MAX_FIRST {
        return Err(ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    minicbor::decode(&body).map_err(|_| ErrorKind::InvalidData.into())
}

/// Appends a frame, or nothing if it is longer than any.
pub fn put_frame(out: &mut Vec<u8>, frame: &[u8]) {
    if let Ok(length) = u16::try_from(frame.len())
        && (1..=MAX_FRAME).contains(&frame.len())
    {
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(frame);
    }
}

/// Finds frames in a stream of bytes. Holds at most what was pushed and one
/// frame.
#[derive(Default, Debug)]
pub struct Frames {
    bytes: Vec<u8>,
    start: usize,
}

impl Frames {
    /// More of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start);
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame that is whole; it may have no bytes.
    #[expect(
        clippy::should_implement_trait,
        reason = "what it lends is part of itself"
    )]
    pub fn next(&mut self) -> Option<&[u8]> {
        let rest = self.bytes.get(self.start..)?;
        let (prefix, rest) = rest.split_first_chunk()?;
        let length = usize::from(u16::from_le_bytes(*prefix));
        let frame = rest.get(..length)?;
        self.start += prefix.len() + length;
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let mut wire = Vec::new();
        let sent = [vec![1; 60], vec![2; MAX_FRAME], vec![3; 1]];
        for frame in &sent {
            put_frame(&mut wire, frame);
        }
        for cut in [1, 3, 1000, wire.len()] {
            let mut frames = Frames::default();
            let mut found = Vec::new();
            for bytes in wire.chunks(cut) {
                frames.push(bytes);
                while let Some(frame) = frames.next() {
                    found.push(frame.to_vec());
                }
            }
            assert_eq!(found, sent, "{cut}");
        }
    }

    #[test]
    fn what_is_no_frame_is_not_put() {
        let mut wire = Vec::new();
        put_frame(&mut wire, &[]);
        put_frame(&mut wire, &vec![0; MAX_FRAME + 1]);
        assert_eq!(wire, Vec::<u8>::new());
        let mut frames = Frames::default();
        frames.push(&NO_FRAME);
        assert_eq!(frames.next(), Some(&[][..]));
        assert_eq!(frames.next(), None);
    }

    #[test]
    fn a_first_message_is_this_many_bytes_and_no_more_than_it_may_be() {
        let places = Places {
            places: vec![Place {
                path: b"/w".to_vec().into(),
                device: 1,
                inode: 300,
            }],
        };
        let wire = first(&places).unwrap();
        let golden = b"\x0c\0\0\0\x81\x81\x83\x42/w\x01\x19\x01\x2c";
        assert_eq!(wire[4..], golden[4..], "{wire:02x?}");
        let read = |mut bytes: &[u8]| read_first::<Places>(&mut bytes);
        assert_eq!(read(&wire).unwrap(), places);
        for (bytes, why) in [
            (&wire[..wire.len() - 1], ErrorKind::UnexpectedEof),
            (&[0, 0, 0, 1], ErrorKind::InvalidData),
            (&[1, 0, 0, 0, 0x81], ErrorKind::InvalidData),
        ] {
            assert_eq!(read(bytes).unwrap_err().kind(), why, "{bytes:02x?}");
        }
    }
}
