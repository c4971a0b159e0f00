//! Connections and datagrams of the host into a published port of the guest.
//!
//! Owns: nothing that listens. The supervisor accepted the connections and
//! hands each over with the port of the guest that it is for; here it gets a
//! connection to the guest, from the gateway, and is carried like any other.
//! Sockets of datagrams it bound itself; here each sender gets an end of the
//! gateway's, until nothing was said for [`limits::EXCHANGE_TIME`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{SocketType, sockopt};
use sbx_spec::{Destination, Flow, Protocol};
use serde::Deserialize;

use super::Engine;
use super::visitors::Port;
use crate::entry::tcp;
use crate::flow::{Relay, Role, State};
use crate::gate::Intent;
use crate::layout;
use crate::limits;
use crate::relay::raw::Pipe;

/// What is said on the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Said {
    /// With a socket: it is for this port of the guest.
    Port(u16),
    /// The socket of datagrams with this end is published no longer.
    Shut(SocketAddr),
}

/// What came.
enum Came {
    /// A connection, who made it, and the guest's port.
    Connection(OwnedFd, SocketAddr, u16),
    /// A socket of datagrams, its end, and the guest's port.
    Datagrams(OwnedFd, SocketAddr, u16),
    /// No more datagrams at this end.
    Shut(SocketAddr),
}

/// What allows them.
pub(super) const PUBLISHED: &str = "published";
/// Ports that connections and datagrams to the guest come from.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 49_152..=u16::MAX;

/// The link on which they come.
#[derive(Debug)]
pub(crate) struct Doors {
    fd: OwnedFd,
    pub(crate) readable: bool,
    /// Where the next connection comes from.
    next: u16,
    /// Sockets of datagrams.
    pub(super) datagrams: Vec<Option<Port>>,
}

impl Doors {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            readable: true,
            next: *EPHEMERAL.start(),
            datagrams: Vec::new(),
        }
    }

    pub(crate) fn fd(&self) -> impl AsFd {
        &self.fd
    }

    /// The next one that came; a socket of another kind is closed.
    fn next(&mut self) -> io::Result<Option<Came>> {
        let mut room = [0; 64];
        while self.readable {
            let (count, mut fds) = match sbx_sys::unix::receive(&self.fd, &mut room, 1) {
                Ok(came) => came,
                Err(error) if error.errno() == Some(Errno::AGAIN.raw_os_error()) => {
                    self.readable = false;
                    break;
                }
                Err(error) => return Err(io::Error::other(error)),
            };
            if count == 0 {
                // Its end is the supervisor's, which the control link tells.
                self.readable = false;
                break;
            }
            let said = serde_json::from_slice(room.get(..count).unwrap_or_default());
            let came = match (said, fds.pop()) {
                (Ok(Said::Port(port)), Some(fd)) => of_socket(fd, port),
                (Ok(Said::Shut(at)), None) => Some(Came::Shut(at)),
                _ => None,
            };
            if came.is_some() {
                return Ok(came);
            }
        }
        Ok(None)
    }
}

/// What a socket is; `None` for what is neither a connected stream of the
/// Internet's nor one of its datagrams that anybody may send to.
fn of_socket(fd: OwnedFd, port: u16) -> Option<Came> {
    let kind = sockopt::socket_type(&fd).ok()?;
    let peer = rustix::net::getpeername(&fd).ok().flatten();
    match (kind, peer) {
        (SocketType::STREAM, Some(peer)) => {
            Some(Came::Connection(fd, SocketAddr::try_from(peer).ok()?, port))
        }
        (SocketType::DGRAM, None) => {
            let at = SocketAddr::try_from(rustix::net::getsockname(&fd).ok()?).ok()?;
            Some(Came::Datagrams(fd, at, port))
        }
        _ => None,
    }
}

/// What somebody of the host's wants of a port of the guest.
pub(super) fn intent(protocol: Protocol, peer: SocketAddr, port: u16) -> Intent {
    let address = peer.ip().to_canonical();
    Intent {
        flow: Flow {
            protocol,
            destination: Destination::Address(address),
            port,
        },
        address,
        approved: Vec::new(),
    }
}

impl Engine {
    /// Takes what came.
    pub(super) fn take_published(&mut self) -> io::Result<()> {
        while let Some(came) = self.doors.next()? {
            match came {
                Came::Connection(fd, peer, port) => self.admit(fd, peer, port),
                Came::Datagrams(fd, at, port) => self.open_port(fd, at, port)?,
                Came::Shut(at) => self.shut(at),
            }
        }
        self.take_datagrams();
        Ok(())
    }

    fn admit(&mut self, fd: OwnedFd, peer: SocketAddr, port: u16) {
        let intent = intent(Protocol::Tcp, peer, port);
        if self.published >= limits::PUBLISHED || self.table.len() >= limits::FLOWS {
            Pipe::new(fd).reset();
            return self.denied(&intent, "limit:published".into());
        }
        let Some(ends) = self.free_ends(Protocol::Tcp, port) else {
            Pipe::new(fd).reset();
            return self.denied(&intent, "limit:published".into());
        };
        if let Err(fd) = self.open_published(fd, ends, &intent) {
            Pipe::new(fd).reset();
            self.denied(&intent, "limit:memory".into());
        }
    }

    /// An end of the gateway's that nothing to this port of the guest has.
    pub(super) fn free_ends(&mut self, protocol: Protocol, port: u16) -> Option<tcp::Ends> {
        let guest = SocketAddr::new(IpAddr::V4(layout::GUEST_V4), port);
        for _ in EPHEMERAL {
            let port = self.doors.next;
            self.doors.next = port.checked_add(1).unwrap_or(*EPHEMERAL.start());
            let server = SocketAddr::new(IpAddr::V4(layout::GATEWAY_V4), port);
            let ends = tcp::Ends { guest, server };
            if self.table.find(protocol, &ends).is_none() {
                return Some(ends);
            }
        }
        None
    }

    fn open_published(
        &mut self,
        fd: OwnedFd,
        ends: tcp::Ends,
        intent: &Intent,
    ) -> Result<(), OwnedFd> {
        let Some((claim, _)) = self.buffers.claim() else {
            return Err(fd);
        };
        let socket = self.buffers.socket(&claim);
        let (seed, now) = (self.next_seed(), self.smoltcp_now());
        let stack = crate::stack::Stack::connect(&ends, socket, seed, now);
        let ready = rustix::io::ioctl_fionbio(&fd, true)
            .and_then(|()| sockopt::set_tcp_nodelay(&fd, true))
            .and_then(|()| sockopt::set_socket_keepalive(&fd, true))
            .and_then(|()| sockopt::set_tcp_keepidle(&fd, limits::KEEP_ALIVE));
        let (Some(stack), Ok(())) = (stack, ready) else {
            self.buffers.give_back(claim);
            return Err(fd);
        };
        let key = self.insert(
            (ends, None),
            intent.clone(),
            State::Resolving,
            limits::HANDSHAKE_TIME,
        );
        if self.watch(&fd, key.token(0)).is_err() {
            self.buffers.give_back(claim);
            self.table.remove(key);
            return Err(fd);
        }
        let mut pipe = Pipe::new(fd);
        pipe.readable = true;
        pipe.writable = true;
        let relay = Relay::new(stack, pipe, Role::Published, claim);
        let Some(flow) = self.table.get_mut(key) else {
            return Ok(());
        };
        flow.state = State::Relaying(Box::new(relay));
        let id = flow.id;
        self.published += 1;
        self.half_open += 1;
        self.ledger.enter(key, &ends);
        self.record(id, intent, ("allow", &PUBLISHED.into()), None, None);
        self.table.queue(key);
        Ok(())
    }
}
