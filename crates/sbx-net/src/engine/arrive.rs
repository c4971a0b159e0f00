//! What comes from the guest: frames become packets, packets intents, and
//! SYNs connections.

use std::hash::BuildHasher;
use std::net::IpAddr;
use std::time::Duration;

use sbx_spec::Protocol;
use sbx_spec::guard::{self, Guard};
use smoltcp::wire::IpProtocol;

use super::name_server::{Asker, Said};
use super::{Engine, adapter};
use crate::device::link::{Received, Room};
use crate::device::neighbour;
use crate::device::packet::{self, Carried, Outlet, Packet};
use crate::entry::tcp::Ends;
use crate::entry::{icmp, tcp, udp};
use crate::error::{Attempt, Error};
use crate::flow::{First, Flow, State, Syn};
use crate::gate::{Decision, Intent};
use crate::layout;
use crate::limits;
use crate::table::Key;

impl Engine {
    /// Reads the link and deals with its frames; true at its end.
    pub(super) fn take_frames(&mut self, room: &mut Room) -> Result<bool, Error> {
        // Read even where the answers find no room: a VMM that writes before
        // it reads would otherwise wait for us while we wait for it.
        for _ in 0..limits::LINK_INPUT {
            if !self.link.readable || self.rests_until.is_some() {
                break;
            }
            self.bears_fruit = false;
            match self.link.receive(room).map_err(Error::of(Attempt::Link))? {
                Received::Frame(frame) => self.take_frame(frame),
                Received::NoFrame => {}
                Received::Nothing => break,
                Received::End => return Ok(true),
            }
            if !self.bears_fruit {
                self.was_in_vain(1);
            }
        }
        Ok(false)
    }

    /// What the guest wanted with so many frames came to nothing. Where too
    /// much does, it waits: its frames stay in the link, and its machine cannot
    /// send more.
    pub(super) fn was_in_vain(&mut self, frames: u32) {
        if !self.fruitless.take_some(frames, self.now) {
            self.rests_until = Some(self.now + limits::FRUITLESS_PAUSE);
        }
    }

    fn take_frame(&mut self, frame: &[u8]) {
        let Some((sender, carried)) = packet::parse(frame) else {
            return;
        };
        if !sender.is_unicast() {
            return;
        }
        self.guest = sender;
        let mut outlet = Outlet {
            output: &mut self.output,
            guest: self.guest,
        };
        match carried {
            Carried::Arp(body) => neighbour::answer_arp(body, &mut outlet),
            Carried::Ip(packet) => {
                if packet.protocol == IpProtocol::Icmpv6
                    && neighbour::answer_ndp(&packet, &mut outlet)
                {
                    return;
                }
                // Only the guest itself is answered, and only for itself:
                // multicast and broadcast are met with silence, as they should.
                let own = layout::is_guest(packet.source) || guard::out(Guard::OwnSource);
                if !own || !is_unicast(packet.destination) {
                    return;
                }
                match packet.protocol {
                    IpProtocol::Tcp => self.take_tcp(&packet),
                    IpProtocol::Udp => self.take_udp(&packet),
                    IpProtocol::Icmp | IpProtocol::Icmpv6 => self.take_icmp(&packet),
                    _ => icmp::refuse(&packet, icmp::Refusal::Protocol, &mut outlet),
                }
            }
        }
    }

    fn take_icmp(&mut self, packet: &Packet<'_>) {
        if !icmp::is_echo_request(packet) {
            return;
        }
        let intent = Intent::new(Protocol::Icmp, packet.destination, 0, &self.names);
        let decision = self.gate.judge(&intent, self.now);
        let mut outlet = Outlet {
            output: &mut self.output,
            guest: self.guest,
        };
        match decision {
            _ if guard::out(Guard::EchoOfAllowed) => icmp::answer_echo(packet, &mut outlet),
            // The answer says that the host may be reached, and nothing of
            // whether it is there. Nobody is asked about an echo.
            Decision::Answer | Decision::Dial(_) | Decision::Resolve(_) => {
                icmp::answer_echo(packet, &mut outlet);
            }
            Decision::Deny(reason) | Decision::Ask(_, reason) => {
                icmp::refuse(packet, icmp::Refusal::Prohibited, &mut outlet);
                self.denied(&intent, reason);
            }
        }
    }

    fn take_udp(&mut self, packet: &Packet<'_>) {
        let Some(datagram) = udp::parse(packet) else {
            return;
        };
        if layout::is_gateway(packet.destination) && datagram.destination == 53 {
            let asker = Asker::Datagram(Ends {
                guest: (packet.source, datagram.source).into(),
                server: (packet.destination, datagram.destination).into(),
            });
            if let Said::Reply(message) = self.answer_dns(datagram.payload, asker) {
                let mut outlet = Outlet {
                    output: &mut self.output,
                    guest: self.guest,
                };
                udp::answer(packet, &datagram, &message, &mut outlet);
            }
            return;
        }
        self.exchange(packet, &datagram);
    }

    fn take_tcp(&mut self, packet: &Packet<'_>) {
        let Some(segment) = tcp::parse(packet) else {
            return;
        };
        let Some(key) = self.table.find(Protocol::Tcp, &segment.ends) else {
            if segment.opens {
                self.open(packet, &segment);
            } else if !segment.resets {
                self.refuse(&segment.ends, segment.reset());
            }
            return;
        };
        self.bears_fruit = true;
        let now = self.smoltcp_now();
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        match &mut flow.state {
            State::Relaying(relay) => {
                let stack = &mut relay.stack;
                let waiting = stack.socket().send_queue();
                stack.receive(packet.bytes, &mut self.output, self.guest, now);
                // Who takes a byte at a time has the rest cut as small.
                let left = stack.socket().send_queue();
                let taken = waiting.saturating_sub(left);
                self.bears_fruit =
                    segment.carries || taken >= limits::MORSEL || (taken > 0 && left == 0);
                let in_vain = segment.is_last && relay.was_silent();
                self.table.queue(key);
                if in_vain {
                    self.was_in_vain(limits::FRUITLESS_CONNECTION);
                }
            }
            State::Dns(stream) => {
                stream
                    .stack
                    .receive(packet.bytes, &mut self.output, self.guest, now);
                self.table.queue(key);
            }
            State::Asking(asking) => {
                let stack = &mut asking.parked.stack;
                stack.receive(packet.bytes, &mut self.output, self.guest, now);
                self.table.queue(key);
            }
            State::Held | State::Resolving | State::Tunnelling(_) | State::Dialling(_)
                if flow.parked.is_some() =>
            {
                if let Some(parked) = &mut flow.parked {
                    parked
                        .stack
                        .receive(packet.bytes, &mut self.output, self.guest, now);
                }
                self.table.queue(key);
            }
            // The guest repeats its SYN while we dial; only a reset matters.
            State::Held | State::Resolving | State::Tunnelling(_) | State::Dialling(_)
                if segment.resets =>
            {
                self.was_in_vain(limits::FRUITLESS_CONNECTION);
                self.close(key, "reset");
            }
            State::Held
            | State::Resolving
            | State::Tunnelling(_)
            | State::Dialling(_)
            | State::Exchanging(_) => {}
        }
    }

    /// A new connection.
    fn open(&mut self, packet: &Packet<'_>, segment: &tcp::Segment) {
        let server = segment.ends.server;
        let intent = Intent::new(Protocol::Tcp, server.ip(), server.port(), &self.names);
        let reset = segment.reset();
        if self.table.len() >= limits::FLOWS {
            self.refuse(&segment.ends, reset);
            return self.denied(&intent, "limit:flows".into());
        }
        if layout::is_gateway(server.ip()) && server.port() == 53 {
            return self.open_dns(packet, segment, intent);
        }
        if layout::is_gateway(server.ip())
            && let Some(language) = adapter::language(server.port())
        {
            return self.open_adapter(packet, segment, intent, language);
        }
        if self.dialling >= limits::DIALS || self.half_open >= limits::HALF_OPEN {
            return;
        }
        let syn = Syn {
            packet: packet.bytes.to_vec(),
            reset,
        };
        match self.gate.judge(&intent, self.now) {
            Decision::Deny(reason) => {
                self.turn_away(segment.ends, &syn, &intent, &reason);
                self.denied(&intent, reason);
            }
            decision => {
                self.dialling += 1;
                let key = self.insert(
                    (segment.ends, Some(First::Syn(syn))),
                    intent,
                    State::Resolving,
                    limits::RESOLVE_TIME,
                );
                self.pursue(key, decision);
            }
        }
    }

    pub(super) fn next_seed(&self) -> u64 {
        self.seeds.hash_one(self.next_id)
    }

    pub(super) fn insert(
        &mut self,
        (ends, first): (tcp::Ends, Option<First>),
        intent: Intent,
        state: State,
        within: Duration,
    ) -> Key {
        self.bears_fruit = true;
        let id = self.next_id;
        self.next_id += 1;
        let deadline = self.now + within;
        let key = self.table.insert(Flow {
            id,
            ends,
            first,
            intent,
            parked: None,
            state,
            deadline: Some(deadline),
            timer: None,
            queued: false,
            generation: 0,
        });
        self.table.set_timer(key, deadline);
        key
    }
}

fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !(v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified()),
        IpAddr::V6(v6) => !(v6.is_multicast() || v6.is_unspecified()),
    }
}
