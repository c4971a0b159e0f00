//! Datagrams of the host into published ports of the guest.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use sbx_spec::{MAX_PUBLISHED, Protocol};

use super::published::{Doors, PUBLISHED, intent};
use super::{DATAGRAMS, Engine};
use crate::device::packet::Outlet;
use crate::entry::udp;
use crate::flow::{Exchange, State, Visitor, Way};
use crate::limits;
use crate::table::Key;

/// A published port of datagrams.
#[derive(Debug)]
pub(super) struct Port {
    fd: OwnedFd,
    /// Its end on the host.
    at: SocketAddr,
    /// The guest's port.
    guest: u16,
    /// The kernel may have datagrams for us.
    readable: bool,
    /// Who sent some lately.
    visitors: HashMap<SocketAddr, Key>,
}

impl Doors {
    fn port(&mut self, door: usize) -> Option<&mut Port> {
        self.datagrams.get_mut(door)?.as_mut()
    }

    /// The kernel said something of the port with this number.
    pub(super) fn wake(&mut self, door: u64, readable: bool) {
        let port = usize::try_from(door).ok().and_then(|door| self.port(door));
        if let Some(port) = port {
            port.readable |= readable;
        }
    }

    /// Whether some may be read.
    pub(super) fn waits(&self) -> bool {
        self.datagrams.iter().flatten().any(|port| port.readable)
    }

    /// Sends what the guest answers.
    ///
    /// # Errors
    /// If the kernel does not take it.
    pub(super) fn answer(&self, visitor: &Visitor, payload: &[u8]) -> Result<usize, Errno> {
        let port = self.datagrams.get(visitor.door).and_then(Option::as_ref);
        let port = port.ok_or(Errno::NOTCONN)?;
        rustix::net::sendto(&port.fd, payload, SendFlags::NOSIGNAL, &visitor.address)
    }

    /// Knows a sender no longer.
    pub(super) fn forget(&mut self, visitor: &Visitor) {
        if let Some(port) = self.port(visitor.door) {
            port.visitors.remove(&visitor.address);
        }
    }
}

impl Engine {
    /// Reads from a socket of datagrams from now on.
    ///
    /// # Errors
    /// If it cannot be waited for.
    pub(super) fn open_port(&mut self, fd: OwnedFd, at: SocketAddr, guest: u16) -> io::Result<()> {
        let ports = &mut self.doors.datagrams;
        let door = ports.iter().position(Option::is_none);
        let door = door.unwrap_or(ports.len());
        // Whoever publishes more was told so before.
        let (true, Ok(number)) = (door < MAX_PUBLISHED, u64::try_from(door)) else {
            return Ok(());
        };
        if door == ports.len() {
            ports.push(None);
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        self.watch(&fd, DATAGRAMS + number)?;
        let port = Port {
            fd,
            at,
            guest,
            readable: true,
            visitors: HashMap::new(),
        };
        if let Some(free) = self.doors.datagrams.get_mut(door) {
            *free = Some(port);
        }
        Ok(())
    }

    /// Ends everything at this end.
    pub(super) fn shut(&mut self, at: SocketAddr) {
        let ports = self.doors.datagrams.iter_mut();
        let shut = ports.filter(|port| port.as_ref().is_some_and(|port| port.at == at));
        let shut: Vec<Port> = shut.filter_map(Option::take).collect();
        for key in shut
            .into_iter()
            .flat_map(|port| port.visitors.into_values())
        {
            self.close(key, "closed");
        }
    }

    /// Takes what came, so much of each that nobody holds the others up.
    pub(super) fn take_datagrams(&mut self) {
        let mut room = [0; limits::DATAGRAM];
        for door in 0..self.doors.datagrams.len() {
            let mut left = limits::LINK_INPUT;
            while left > 0 && self.output.has_room() {
                left -= 1;
                let Some(port) = self.doors.port(door).filter(|port| port.readable) else {
                    break;
                };
                match rustix::net::recvfrom(&port.fd, &mut room[..], RecvFlags::empty()) {
                    Ok((count, _, sender)) => {
                        let sender = sender.and_then(|sender| SocketAddr::try_from(sender).ok());
                        if let (Some(address), Some(message)) = (sender, room.get(..count)) {
                            self.hand_in(Visitor { door, address }, message);
                        }
                    }
                    Err(Errno::INTR) => {}
                    // The next one wakes it again.
                    Err(_) => port.readable = false,
                }
            }
        }
    }

    /// Gives the guest a datagram.
    fn hand_in(&mut self, visitor: Visitor, message: &[u8]) {
        let Some(port) = self.doors.port(visitor.door) else {
            return;
        };
        let key = match port.visitors.get(&visitor.address) {
            Some(key) => *key,
            None => match self.receive(visitor) {
                Some(key) => key,
                None => return,
            },
        };
        let deadline = self.now + limits::EXCHANGE_TIME;
        if let Some(flow) = self.table.get_mut(key)
            && let State::Exchanging(exchange) = &mut flow.state
        {
            flow.deadline = Some(deadline);
            exchange.received += message.len() as u64;
            let mut outlet = Outlet {
                output: &mut self.output,
                guest: self.guest,
            };
            udp::send(&flow.ends, message, &mut outlet);
        }
    }

    /// Somebody who is not known yet.
    fn receive(&mut self, visitor: Visitor) -> Option<Key> {
        let guest = self.doors.port(visitor.door)?.guest;
        let intent = intent(Protocol::Udp, visitor.address, guest);
        let full = self.published >= limits::PUBLISHED || self.table.len() >= limits::FLOWS;
        let ends = self.free_ends(Protocol::Udp, guest).filter(|_| !full);
        let Some(ends) = ends else {
            self.denied(&intent, "limit:published".into());
            return None;
        };
        let exchange = Exchange {
            way: Way::In(visitor),
            sent: 0,
            received: 0,
        };
        let state = State::Exchanging(Box::new(exchange));
        let key = self.insert((ends, None), intent.clone(), state, limits::EXCHANGE_TIME);
        self.published += 1;
        let id = self.table.get_mut(key)?.id;
        self.record(id, &intent, ("allow", &PUBLISHED.into()), None, None);
        let port = self.doors.port(visitor.door)?;
        port.visitors.insert(visitor.address, key);
        Some(key)
    }
}
