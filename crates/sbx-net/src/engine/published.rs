//! Connections of the host into a published port of the guest.
//!
//! Owns: nothing that listens. The supervisor accepted them and hands each
//! over with the port of the guest that it is for; here it gets a connection
//! to the guest, from the gateway, and is carried like any other.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{SocketType, sockopt};
use sbx_spec::{Destination, Flow, Protocol};
use serde::Deserialize;

use super::Engine;
use crate::entry::tcp;
use crate::flow::{Relay, Role, State};
use crate::gate::Intent;
use crate::layout;
use crate::limits;
use crate::relay::raw::Pipe;

/// What is said with a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Published {
    /// The guest's port.
    port: u16,
}

/// What allows them.
const PUBLISHED: &str = "published";
/// Ports that connections to the guest come from.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 49_152..=u16::MAX;

/// The link on which they come.
#[derive(Debug)]
pub(crate) struct Doors {
    fd: OwnedFd,
    pub(crate) readable: bool,
    /// Where the next connection comes from.
    next: u16,
}

impl Doors {
    pub(crate) fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            readable: true,
            next: *EPHEMERAL.start(),
        }
    }

    pub(crate) fn fd(&self) -> impl AsFd {
        &self.fd
    }

    /// The next one that came; what is no connection of the host's is closed.
    fn next(&mut self) -> io::Result<Option<(OwnedFd, SocketAddr, u16)>> {
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
            if let (Ok(Published { port }), Some(fd)) = (said, fds.pop())
                && let Some(peer) = peer(&fd)
            {
                return Ok(Some((fd, peer, port)));
            }
        }
        Ok(None)
    }
}

/// Who connected; `None` for what is no connected stream of the Internet's.
fn peer(fd: &OwnedFd) -> Option<SocketAddr> {
    let stream = sockopt::socket_type(fd).is_ok_and(|kind| kind == SocketType::STREAM);
    let peer = rustix::net::getpeername(fd).ok().filter(|_| stream)?;
    SocketAddr::try_from(peer?).ok()
}

impl Engine {
    /// Takes what came.
    pub(super) fn take_published(&mut self) -> io::Result<()> {
        while let Some((fd, peer, port)) = self.doors.next()? {
            self.admit(fd, peer, port);
        }
        Ok(())
    }

    fn admit(&mut self, fd: OwnedFd, peer: SocketAddr, port: u16) {
        let intent = Intent {
            flow: Flow {
                protocol: Protocol::Tcp,
                destination: Destination::Address(peer.ip().to_canonical()),
                port,
            },
            address: peer.ip().to_canonical(),
            approved: Vec::new(),
        };
        if self.published >= limits::PUBLISHED || self.table.len() >= limits::FLOWS {
            Pipe::new(fd).reset();
            return self.denied(&intent, "limit:published".into());
        }
        let guest = SocketAddr::new(IpAddr::V4(layout::GUEST_V4), port);
        let Some(ends) = self.free_ends(guest) else {
            Pipe::new(fd).reset();
            return self.denied(&intent, "limit:published".into());
        };
        if let Err(fd) = self.open_published(fd, ends, &intent) {
            Pipe::new(fd).reset();
            self.denied(&intent, "limit:memory".into());
        }
    }

    /// An end of the gateway's that no connection to this end of the guest
    /// has.
    fn free_ends(&mut self, guest: SocketAddr) -> Option<tcp::Ends> {
        for _ in EPHEMERAL {
            let port = self.doors.next;
            self.doors.next = port.checked_add(1).unwrap_or(*EPHEMERAL.start());
            let server = SocketAddr::new(IpAddr::V4(layout::GATEWAY_V4), port);
            let ends = tcp::Ends { guest, server };
            if self.table.find(Protocol::Tcp, &ends).is_none() {
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
