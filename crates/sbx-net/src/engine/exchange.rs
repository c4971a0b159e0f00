//! Datagrams of the guest that a rule lets out, and their answers.
//!
//! Owns: one socket for each pair of ends, connected to the one address that
//! passed the gate, so that nobody else's datagrams come back. It is gone
//! once nothing was said for [`limits::EXCHANGE_TIME`].

use std::io;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};
use sbx_spec::Protocol;

use super::Engine;
use crate::device::packet::{self, Outlet, Packet};
use crate::entry::tcp::Ends;
use crate::entry::{icmp, udp};
use crate::flow::{Exchange, First, State, Way};
use crate::gate::{Decision, Intent, Pass};
use crate::limits;
use crate::table::Key;

impl Engine {
    /// A datagram for somebody outside.
    pub(super) fn exchange(&mut self, packet: &Packet<'_>, datagram: &udp::Datagram<'_>) {
        let ends = Ends {
            guest: (packet.source, datagram.source).into(),
            server: (packet.destination, datagram.destination).into(),
        };
        if let Some(key) = self.table.find(Protocol::Udp, &ends) {
            self.bears_fruit = true;
            return self.say(key, datagram.payload);
        }
        let intent = Intent::new(
            Protocol::Udp,
            packet.destination,
            datagram.destination,
            &self.names,
        );
        let full = self.exchanges >= limits::EXCHANGES || self.table.len() >= limits::FLOWS;
        let decision = match full {
            true => Decision::Deny("limit:exchanges".into()),
            false => self.gate.judge(&intent, self.now),
        };
        match decision {
            Decision::Deny(reason) => {
                self.refuse_datagram(packet.bytes);
                self.denied(&intent, reason);
            }
            decision => {
                self.exchanges += 1;
                self.dialling += 1;
                let first = First::Datagram(packet.bytes.to_vec());
                let key = self.insert(
                    (ends, Some(first)),
                    intent,
                    State::Resolving,
                    limits::RESOLVE_TIME,
                );
                self.pursue(key, decision);
            }
        }
    }

    /// Tells the guest's program that nobody is there; clients of QUIC fall
    /// back to TCP at once.
    pub(super) fn refuse_datagram(&mut self, bytes: &[u8]) {
        let mut outlet = Outlet {
            output: &mut self.output,
            guest: self.guest,
        };
        if let Some(packet) = packet::parse_ip(bytes) {
            icmp::refuse(&packet, icmp::Refusal::Port, &mut outlet);
        }
    }

    /// Opens the way for a datagram that is allowed, and sends it.
    pub(super) fn open_exchange(&mut self, key: Key, passes: Vec<Pass>) {
        let opened = passes.into_iter().find_map(|pass| {
            let fd = open(&pass).ok()?;
            self.watch(&fd, key.token(0)).ok()?;
            Some((pass, fd))
        });
        let deadline = self.now + limits::EXCHANGE_TIME;
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        let Some((pass, fd)) = opened else {
            return self.dial_failed(key, "unreachable");
        };
        let Some(First::Datagram(bytes)) = flow.first.take() else {
            return self.close(key, "failed");
        };
        flow.state = State::Exchanging(Box::new(Exchange {
            way: Way::Out {
                fd,
                pass: pass.clone(),
                readable: true,
            },
            sent: 0,
            received: 0,
        }));
        flow.deadline = Some(deadline);
        let (id, intent) = (flow.id, flow.intent.clone());
        self.dialling -= 1;
        let address = pass.ip();
        self.record(id, &intent, ("allow", pass.reason()), address, None);
        self.table.set_timer(key, deadline);
        let datagram = packet::parse_ip(&bytes)
            .and_then(|packet| udp::parse(&packet).map(|datagram| datagram.payload.to_vec()));
        if let Some(payload) = datagram {
            self.say(key, &payload);
        }
    }

    /// Sends what the guest says; while it is not known whether it may, only
    /// its first words are kept.
    fn say(&mut self, key: Key, payload: &[u8]) {
        let deadline = self.now + limits::EXCHANGE_TIME;
        if let Some(flow) = self.table.get_mut(key)
            && let State::Exchanging(exchange) = &mut flow.state
        {
            flow.deadline = Some(deadline);
            // A datagram that cannot be sent is lost, as datagrams are.
            let sent = match &exchange.way {
                Way::Out { fd, .. } => rustix::net::send(fd, payload, SendFlags::NOSIGNAL),
                Way::In(visitor) => self.doors.answer(visitor, payload),
            };
            if let Ok(count) = sent {
                exchange.sent += count as u64;
            }
        }
    }

    /// Hands on what came back.
    pub(super) fn serve_exchange(&mut self, key: Key) {
        let deadline = self.now + limits::EXCHANGE_TIME;
        let mut room = [0; limits::DATAGRAM];
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        let ends = flow.ends;
        let State::Exchanging(exchange) = &mut flow.state else {
            return;
        };
        // A sender that is faster than this must not hold everybody else up.
        let mut left = limits::LINK_INPUT;
        // What comes by a published port is read from its socket.
        let Way::Out { fd, readable, .. } = &mut exchange.way else {
            return;
        };
        while *readable && left > 0 {
            left -= 1;
            match rustix::io::read(&*fd, &mut room) {
                Ok(count) => {
                    exchange.received += count as u64;
                    flow.deadline = Some(deadline);
                    let mut outlet = Outlet {
                        output: &mut self.output,
                        guest: self.guest,
                    };
                    let message = room.get(..count).unwrap_or_default();
                    udp::send(&ends, message, &mut outlet);
                }
                Err(Errno::AGAIN) => *readable = false,
                Err(Errno::INTR) => {}
                // Nobody listens there: the guest's program asks again or not.
                Err(_) => return self.close(key, "refused"),
            }
        }
        if *readable {
            self.table.queue(key);
        }
    }
}

fn open(pass: &Pass) -> io::Result<std::os::fd::OwnedFd> {
    let address = pass.address().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    rustix::net::connect(&fd, &address)?;
    Ok(fd)
}
