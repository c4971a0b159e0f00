//! Frames on the socket to the VMM: one message is one frame, as QEMU's
//! `-netdev dgram` has them; or on the packet socket that is a container's
//! wire, where one message is one frame too. Never blocks.
//!
//! The borders are the kernel's, so an endpoint that dies in the middle of
//! its work leaves no half frame behind for the one that follows it.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_send_buffer_size, socket_send_buffer_size};
use rustix::net::{RecvFlags, SendFlags};

use crate::limits;

const PREFIX: usize = 4;

/// Both directions of the link.
#[derive(Debug)]
pub(crate) struct Link {
    fd: OwnedFd,
    /// The kernel may have frames for us.
    pub(crate) readable: bool,
    /// The kernel may take frames from us.
    pub(crate) writable: bool,
    /// The other end is closed; what it sent before can still be read.
    pub(crate) closed: bool,
}

/// What one read brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Received<'a> {
    /// A frame.
    Frame(&'a [u8]),
    /// A message longer than any frame, or an empty one; it is dropped.
    NoFrame,
    /// Nothing for now.
    Nothing,
    /// The VMM is gone, or the container's end of the wire.
    End,
}

impl Link {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        // Less room is slower, and nothing else. The kernel counts double what
        // it is asked for.
        if socket_send_buffer_size(&fd).is_ok_and(|size| size < limits::LINK_ON_ITS_WAY) {
            let _smaller = set_socket_send_buffer_size(&fd, limits::LINK_ON_ITS_WAY / 2);
        }
        Self {
            fd,
            readable: true,
            writable: true,
            closed: false,
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Reads one frame into `room`.
    pub(crate) fn receive<'a>(&mut self, room: &'a mut Room) -> io::Result<Received<'a>> {
        match rustix::net::recv(&self.fd, &mut *room.0, RecvFlags::empty()) {
            // An empty message reads like the end, which epoll tells apart.
            Ok((_, 0)) if self.closed => Ok(Received::End),
            Ok((_, 0)) => Ok(Received::NoFrame),
            Ok((_, length)) => Ok(match room.0.get(..length) {
                Some(frame) if length <= limits::FRAME => Received::Frame(frame),
                _ => Received::NoFrame,
            }),
            Err(Errno::AGAIN) => {
                self.readable = false;
                Ok(Received::Nothing)
            }
            Err(Errno::INTR) => Ok(Received::Nothing),
            Err(error) if is_end(error) => Ok(Received::End),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends the frames that `output` holds, as far as the kernel takes them;
    /// whether there is anybody to take them.
    pub(crate) fn send(&mut self, output: &mut Output) -> io::Result<bool> {
        while self.writable
            && let Some(frame) = output.first()
        {
            match rustix::net::send(&self.fd, frame, SendFlags::NOSIGNAL) {
                Ok(_) => output.sent(),
                Err(Errno::AGAIN) => self.writable = false,
                Err(Errno::INTR) => {}
                // No memory for this one, the container's end is down, or the
                // wire takes only shorter ones: lost, as on any wire.
                Err(Errno::NOBUFS | Errno::MSGSIZE) => output.sent(),
                Err(error) if is_end(error) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }
}

/// Whether there is no other end any more: a Unix socket's peer has closed it,
/// or a packet socket's interface went, which it says once to whoever asks
/// first and differently to whoever sends afterwards.
fn is_end(error: Errno) -> bool {
    matches!(
        error,
        Errno::CONNRESET | Errno::PIPE | Errno::NETDOWN | Errno::NXIO | Errno::NODEV
    )
}

/// Room for one frame, and for one byte that tells a longer one.
#[derive(Debug)]
pub(crate) struct Room(Box<[u8]>);

impl Room {
    pub(crate) fn new() -> Self {
        Self(vec![0; limits::FRAME + 1].into_boxed_slice())
    }
}

/// Frames that wait for the VMM, one after the other, each behind its length.
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

    /// Whether flows may still add data.
    pub(crate) fn has_room(&self) -> bool {
        self.end - self.start < limits::LINK_OUTPUT_SOFT
    }

    /// The frame that has waited for longest.
    fn first(&self) -> Option<&[u8]> {
        let waiting = self.bytes.get(self.start..self.end)?;
        let (prefix, rest) = waiting.split_first_chunk::<PREFIX>()?;
        rest.get(..usize::try_from(u32::from_ne_bytes(*prefix)).ok()?)
    }

    /// Forgets that frame.
    fn sent(&mut self) {
        self.start += self.first().map_or(0, |frame| PREFIX + frame.len());
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
        *prefix = announced.to_ne_bytes();
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
        while let Some(frame) = self.first() {
            frames.push(frame.to_vec());
            self.sent();
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linked() -> (Link, OwnedFd) {
        let (near, far) = sbx_sys::unix::message_pair().unwrap();
        rustix::io::ioctl_fionbio(&near, true).unwrap();
        (Link::new(near), far)
    }

    #[test]
    fn frames_come_out_as_they_went_in() {
        let (mut link, far) = linked();
        let mut room = Room::new();
        for length in [1, 60, limits::FRAME] {
            rustix::net::send(&far, &vec![7; length], SendFlags::empty()).unwrap();
            let received = link.receive(&mut room).unwrap();
            assert_eq!(received, Received::Frame(&vec![7; length]));
        }
        assert_eq!(link.receive(&mut room).unwrap(), Received::Nothing);
        rustix::net::send(&far, &[], SendFlags::empty()).unwrap();
        assert_eq!(link.receive(&mut room).unwrap(), Received::NoFrame);
        drop(far);
        link.closed = true;
        assert_eq!(link.receive(&mut room).unwrap(), Received::End);
    }

    #[test]
    fn a_frame_beyond_the_largest_is_dropped_and_the_next_one_read() {
        let (mut link, far) = linked();
        let mut room = Room::new();
        for length in [limits::FRAME + 1, 100_000, 3] {
            rustix::net::send(&far, &vec![7; length], SendFlags::empty()).unwrap();
        }
        assert_eq!(link.receive(&mut room).unwrap(), Received::NoFrame);
        assert_eq!(link.receive(&mut room).unwrap(), Received::NoFrame);
        assert_eq!(link.receive(&mut room).unwrap(), Received::Frame(&[7; 3]));
    }

    #[test]
    fn a_vmm_that_does_not_read_gets_its_frames_later() {
        let (mut link, far) = linked();
        let mut output = Output::new();
        for number in 0..16 {
            output.frame(limits::FRAME).unwrap().fill(number);
        }
        link.send(&mut output).unwrap();
        assert!(!link.writable && output.first().is_some());
        let mut room = vec![0; limits::FRAME];
        for number in 0..16 {
            let (count, _) = rustix::net::recv(&far, &mut *room, RecvFlags::empty()).unwrap();
            assert_eq!((count, room[0]), (limits::FRAME, number));
            link.writable = true;
            link.send(&mut output).unwrap();
        }
        assert!(output.first().is_none());
        drop(far);
        output.frame(1).unwrap().fill(1);
        assert!(!link.send(&mut output).unwrap());
    }

    #[test]
    fn a_frame_that_is_too_long_for_the_wire_is_lost_and_the_next_one_sent() {
        let (mut link, far) = linked();
        rustix::net::sockopt::set_socket_send_buffer_size(&link.fd, 1).unwrap();
        let mut output = Output::new();
        output.frame(limits::FRAME).unwrap().fill(1);
        output.frame(60).unwrap().fill(2);
        assert!(link.send(&mut output).unwrap());
        let mut room = [0; 128];
        let (length, _) = rustix::net::recv(&far, &mut room[..], RecvFlags::empty()).unwrap();
        assert_eq!((length, room[0]), (60, 2));
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
