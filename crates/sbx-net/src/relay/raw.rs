//! Plain TCP to where a [`Pass`] leads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType, sockopt};

use crate::gate::Pass;
use crate::limits;

/// A connection to the outside, open or on its way.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Its bytes.
    pub(crate) pipe: Pipe,
    /// What allowed it.
    pub(crate) pass: Pass,
}

/// A socket that carries bytes both ways without waiting.
#[derive(Debug)]
pub(crate) struct Pipe {
    fd: OwnedFd,
    /// The kernel may have bytes for us.
    pub(crate) readable: bool,
    /// The kernel may take bytes from us.
    pub(crate) writable: bool,
    /// The other side has said its last byte.
    pub(crate) ended: bool,
    /// We have said our last byte.
    pub(crate) shut: bool,
}

/// What one transfer did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Moved {
    /// This many bytes.
    Bytes(usize),
    /// Nothing for now.
    Nothing,
    /// The connection is broken.
    Broken,
}

/// Starts a connection; its socket becomes writable when it stands or fell.
pub(crate) fn dial(pass: Pass) -> io::Result<Upstream> {
    let address = pass.address().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_tcp_nodelay(&fd, true)?;
    sockopt::set_socket_keepalive(&fd, true)?;
    sockopt::set_tcp_keepidle(&fd, limits::KEEP_ALIVE)?;
    match rustix::net::connect(&fd, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let pipe = Pipe::new(fd);
    Ok(Upstream { pipe, pass })
}

impl Upstream {
    /// Whether the connection stands by now: `Ok(false)` when it is still on
    /// its way, an error when it fell.
    pub(crate) fn established(&self) -> io::Result<bool> {
        sockopt::socket_error(&self.pipe.fd)??;
        match rustix::net::getpeername(&self.pipe.fd) {
            Ok(_) => Ok(true),
            Err(Errno::NOTCONN) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

impl Pipe {
    /// A pipe of a socket that does not block.
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            readable: false,
            writable: false,
            ended: false,
            shut: false,
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The socket.
    pub(crate) fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Writes from `bytes`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Moved {
        match rustix::net::send(&self.fd, bytes, rustix::net::SendFlags::NOSIGNAL) {
            Ok(count) => Moved::Bytes(count),
            Err(Errno::AGAIN) => {
                self.writable = false;
                Moved::Nothing
            }
            Err(Errno::INTR) => Moved::Nothing,
            Err(_) => Moved::Broken,
        }
    }

    /// Reads into `room`, which is not empty.
    pub(crate) fn read(&mut self, room: &mut [u8]) -> Moved {
        match rustix::io::read(&self.fd, room) {
            Ok(0) => {
                self.ended = true;
                self.readable = false;
                Moved::Nothing
            }
            Ok(count) => Moved::Bytes(count),
            Err(Errno::AGAIN) => {
                self.readable = false;
                Moved::Nothing
            }
            Err(Errno::INTR) => Moved::Nothing,
            Err(_) => Moved::Broken,
        }
    }

    /// Says the last byte.
    pub(crate) fn shut(&mut self) {
        self.shut = true;
        // Fails only where the connection is gone, which the next read tells.
        let _gone = rustix::net::shutdown(&self.fd, Shutdown::Write);
    }

    /// Ends the connection with a reset, as the guest did.
    pub(crate) fn reset(self) {
        // Without it the peer sees an orderly end, the safer of two wrongs.
        let _orderly = sockopt::set_socket_linger(&self.fd, Some(Duration::ZERO));
    }
}
