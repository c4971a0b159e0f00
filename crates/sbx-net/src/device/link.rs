//! Frames on the stream to the VMM: a 4-byte big-endian length and the frame,
//! as QEMU's `-netdev stream` has them. Never blocks.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::limits;

const PREFIX: usize = 4;

/// Both directions of the link.
#[derive(Debug)]
pub(crate) struct Link {
    fd: OwnedFd,
    /// The kernel may have bytes for us.
    pub(crate) readable: bool,
    /// The kernel may take bytes from us.
    pub(crate) writable: bool,
}

/// What one read brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received {
    /// Some bytes.
    Bytes,
    /// Nothing for now.
    Nothing,
    /// The VMM is gone.
    End,
}

impl Link {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            readable: true,
            writable: true,
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads once into `input`.
    pub(crate) fn receive(&mut self, input: &mut Input) -> io::Result<Received> {
        let room = input.room();
        if room.is_empty() {
            return Ok(Received::Bytes);
        }
        let wanted = room.len();
        match rustix::io::read(&self.fd, room) {
            Ok(0) => Ok(Received::End),
            Ok(read) => {
                input.end += read;
                // A short read means that the socket is empty: the next edge tells.
                self.readable = read == wanted;
                Ok(Received::Bytes)
            }
            Err(Errno::AGAIN) => {
                self.readable = false;
                Ok(Received::Nothing)
            }
            Err(Errno::INTR) => Ok(Received::Nothing),
            Err(Errno::CONNRESET) => Ok(Received::End),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes what `output` holds, as far as the kernel takes it.
    pub(crate) fn send(&mut self, output: &mut Output) -> io::Result<()> {
        while self.writable && !output.is_empty() {
            match rustix::io::write(&self.fd, output.waiting()) {
                Ok(written) => output.sent(written),
                Err(Errno::AGAIN) => self.writable = false,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// Bytes from the VMM that are not a whole frame yet, or not looked at yet.
#[derive(Debug)]
pub(crate) struct Input {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

/// The VMM announced a frame that cannot be one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Oversized(pub(crate) u32);

impl Input {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; limits::LINK_INPUT].into_boxed_slice(),
            start: 0,
            end: 0,
        }
    }

    fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        } else if self.bytes.len() - self.end < PREFIX + limits::FRAME {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// The next whole frame, if there is one.
    pub(crate) fn frame(&mut self) -> Result<Option<&[u8]>, Oversized> {
        let waiting = self.bytes.get(self.start..self.end).unwrap_or_default();
        let Some((prefix, rest)) = waiting.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let announced = u32::from_be_bytes(*prefix);
        let length = match usize::try_from(announced) {
            Ok(length) if length <= limits::FRAME => length,
            _ => return Err(Oversized(announced)),
        };
        if rest.len() < length {
            return Ok(None);
        }
        let begin = self.start + PREFIX;
        self.start = begin + length;
        Ok(self.bytes.get(begin..begin + length))
    }

    /// Takes bytes as if they had been read.
    #[cfg(test)]
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> usize {
        let room = self.room();
        let taken = bytes.len().min(room.len());
        room[..taken].copy_from_slice(&bytes[..taken]);
        self.end += taken;
        taken
    }
}

/// Frames that wait for the VMM, in one contiguous piece so that one system
/// call takes them all.
#[derive(Debug)]
pub(crate) struct Output {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
    /// Frames that found no room.
    pub(crate) dropped: u64,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self {
            bytes: vec![0; limits::LINK_OUTPUT].into_boxed_slice(),
            start: 0,
            end: 0,
            dropped: 0,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether flows may still add data.
    pub(crate) fn has_room(&self) -> bool {
        self.end - self.start < limits::LINK_OUTPUT_SOFT
    }

    fn waiting(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    fn sent(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Adds a frame of `length` bytes, to be written by the caller; without
    /// room it is counted as dropped and `None` comes back.
    pub(crate) fn frame(&mut self, length: usize) -> Option<&mut [u8]> {
        let Some(range) = self.reserve(length) else {
            self.dropped += 1;
            return None;
        };
        let announced = u32::try_from(length).ok()?;
        self.end = range.end;
        let (prefix, frame) = self
            .bytes
            .get_mut(range)?
            .split_first_chunk_mut::<PREFIX>()?;
        *prefix = announced.to_be_bytes();
        Some(frame)
    }

    fn reserve(&mut self, length: usize) -> Option<Range<usize>> {
        let need = PREFIX + length;
        if length > limits::FRAME {
            return None;
        }
        if self.bytes.len() - self.end < need {
            if self.start < need {
                return None;
            }
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        Some(self.end..self.end + need)
    }

    /// Takes every waiting frame out.
    #[cfg(test)]
    pub(crate) fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut rest = self.waiting();
        while let Some((prefix, tail)) = rest.split_first_chunk::<PREFIX>() {
            let (frame, tail) = tail.split_at(u32::from_be_bytes(*prefix) as usize);
            frames.push(frame.to_vec());
            rest = tail;
        }
        let count = self.end - self.start;
        self.sent(count);
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(frame: &[u8]) -> Vec<u8> {
        let mut bytes = (frame.len() as u32).to_be_bytes().to_vec();
        bytes.extend_from_slice(frame);
        bytes
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let mut stream = framed(b"one");
        stream.extend(framed(b""));
        stream.extend(framed(&[7; limits::FRAME]));
        for cut in [1, 2, 3, 5, 8, 4096, 70_000] {
            let mut input = Input::new();
            let mut frames = Vec::new();
            for piece in stream.chunks(cut) {
                assert_eq!(input.feed(piece), piece.len());
                while let Some(frame) = input.frame().unwrap() {
                    frames.push(frame.len());
                }
            }
            assert_eq!(frames, [3, 0, limits::FRAME], "cut {cut}");
        }
    }

    #[test]
    fn a_length_beyond_the_largest_frame_is_an_error() {
        let mut input = Input::new();
        let length = limits::FRAME as u32 + 1;
        input.feed(&length.to_be_bytes());
        assert_eq!(input.frame(), Err(Oversized(length)));
    }

    #[test]
    fn a_full_output_drops_and_counts() {
        let mut output = Output::new();
        let fit = limits::LINK_OUTPUT / (PREFIX + limits::FRAME);
        for _ in 0..fit {
            assert!(output.frame(limits::FRAME).is_some());
        }
        assert!(output.frame(limits::FRAME).is_none());
        assert!(!output.has_room());
        assert_eq!(output.dropped, 1);
        assert_eq!(output.drain().len(), fit);
        output.frame(1).unwrap().fill(9);
        assert_eq!(output.drain(), [[9]]);
    }
}
