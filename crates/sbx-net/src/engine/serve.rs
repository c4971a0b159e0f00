//! Connections that have something to do.

use std::io;
use std::net::IpAddr;

use sbx_spec::{Destination, Protocol, Reason};

use super::{Engine, NO_ADDRESS, adapter, handed};
use crate::control::{EndRecord, FlowRecord};
use crate::device::packet::Outlet;
use crate::entry::tcp;
use crate::flow::{Exchange, First, Flow, Relay, Role, Served, State};
use crate::gate::{Intent, Pass};
use crate::limits;
use crate::relay::raw::{self, Upstream};
use crate::table::Key;

/// What came of the addresses on trial.
enum Dialled {
    /// This one stands.
    Stands(Upstream),
    /// None yet.
    Waiting,
    /// None is left.
    Failed,
}

impl Engine {
    pub(super) fn smoltcp_now(&self) -> smoltcp::time::Instant {
        let passed = self.now.saturating_duration_since(self.start).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(passed).unwrap_or(i64::MAX))
    }

    /// Serves every connection on the list once, or until the link is full.
    pub(super) fn serve_queued(&mut self) {
        for _ in 0..self.table.queued() {
            if !self.output.has_room() {
                return;
            }
            let Some(key) = self.table.next_queued() else {
                return;
            };
            self.serve(key);
        }
    }

    fn serve(&mut self, key: Key) {
        let now = self.now;
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        if flow.deadline.is_some_and(|deadline| now >= deadline) {
            return self.expired(key);
        }
        match &mut flow.state {
            State::Held | State::Resolving | State::Tunnelling(_) => {
                let _company = self.serve_parked(key);
            }
            State::Dialling(_) => {
                if self.serve_parked(key) {
                    self.serve_dial(key);
                }
            }
            State::Asking(_) => self.serve_asking(key),
            State::Relaying(_) => self.serve_relay(key),
            State::Dns(_) => self.serve_dns(key),
            State::Exchanging(_) => self.serve_exchange(key),
        }
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        if let Some(deadline) = flow.deadline {
            self.table.set_timer(key, deadline);
        }
    }

    fn expired(&mut self, key: Key) {
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        match &flow.state {
            // Its question has the deadline.
            State::Held => {}
            State::Resolving => self.deny(key, "limit:resolve-time".into()),
            State::Tunnelling(_) | State::Dialling(_) => self.dial_failed(key, "timed out"),
            State::Exchanging(_) => self.close(key, "closed"),
            State::Relaying(relay) if relay.established => self.never_opened(key),
            State::Relaying(_) | State::Dns(_) | State::Asking(_) => {
                self.abort(key, "handshake timed out");
            }
        }
    }

    fn serve_dial(&mut self, key: Key) {
        match self.try_addresses(key) {
            Dialled::Stands(upstream) => self.accept(key, upstream),
            Dialled::Failed => {
                let failed = self.table.get_mut(key).and_then(|flow| match &flow.state {
                    State::Dialling(dialling) => dialling.failed,
                    _ => None,
                });
                self.dial_failed(key, failed.map_or("unreachable", |(_, why)| why));
            }
            Dialled::Waiting => {}
        }
    }

    fn try_addresses(&mut self, key: Key) -> Dialled {
        let now = self.now;
        loop {
            let Some(flow) = self.table.get_mut(key) else {
                return Dialled::Failed;
            };
            let State::Dialling(dialling) = &mut flow.state else {
                return Dialled::Failed;
            };
            let mut place = 0;
            while let Some((_, upstream)) = dialling.trying.get_mut(place) {
                let arrived = if upstream.pipe.writable {
                    upstream.established()
                } else {
                    Ok(false)
                };
                match arrived {
                    Ok(true) => return Dialled::Stands(dialling.trying.swap_remove(place).1),
                    Ok(false) => {
                        upstream.pipe.writable = false;
                        place += 1;
                    }
                    Err(error) => {
                        dialling.failed = Some((upstream.pass.ip(), why(&error)));
                        dialling.trying.swap_remove(place);
                        dialling.next = now;
                    }
                }
            }
            if dialling.left.is_empty() {
                return if dialling.trying.is_empty() {
                    Dialled::Failed
                } else {
                    Dialled::Waiting
                };
            }
            if now < dialling.next {
                let next = dialling.next;
                self.table.set_timer(key, next);
                return Dialled::Waiting;
            }
            let Some(pass) = dialling.left.pop() else {
                return Dialled::Waiting;
            };
            let attempt = dialling.attempt;
            dialling.attempt = dialling.attempt.wrapping_add(1);
            let address = pass.ip();
            let dialled = raw::dial(pass).and_then(|upstream| {
                self.watch(upstream.pipe.as_fd(), key.token(attempt))
                    .map(|()| upstream)
            });
            let Some(flow) = self.table.get_mut(key) else {
                return Dialled::Failed;
            };
            let State::Dialling(dialling) = &mut flow.state else {
                return Dialled::Failed;
            };
            match dialled {
                Ok(upstream) => {
                    dialling.trying.push((attempt, upstream));
                    dialling.next = now + limits::DIAL_STAGGER;
                }
                Err(error) => dialling.failed = Some((address, why(&error))),
            }
        }
    }

    /// The outside has answered: now the guest's SYN is, too.
    pub(super) fn accept(&mut self, key: Key, upstream: Upstream) {
        let now = self.smoltcp_now();
        if let Some(flow) = self.table.get_mut(key)
            && let Some(parked) = flow.parked.take()
        {
            let Upstream { mut pipe, pass } = upstream;
            pipe.readable = true;
            pipe.writable = true;
            let role = handed::role(&flow.intent, pass.clone());
            flow.state = State::Relaying(Box::new(adapter::unparked(*parked, pipe, role)));
            return self.stands(key, &pass, false);
        }
        let deadline = self.now + limits::HANDSHAKE_TIME;
        let Some((claim, _)) = self.buffers.claim() else {
            return self.dial_failed(key, "no memory");
        };
        let socket = self.buffers.socket(&claim);
        let seed = self.next_seed();
        let Some(flow) = self.table.get_mut(key) else {
            return self.buffers.give_back(claim);
        };
        let stack = crate::stack::Stack::listen(flow.ends.server, socket, seed, now);
        let (Some(mut stack), Some(First::Syn(syn))) = (stack, flow.first.take()) else {
            self.buffers.give_back(claim);
            return self.close(key, "reset");
        };
        stack.receive(&syn.packet, &mut self.output, self.guest, now);
        let Upstream { mut pipe, pass } = upstream;
        pipe.readable = true;
        pipe.writable = true;
        let role = handed::role(&flow.intent, pass.clone());
        let relay = Relay::new(stack, pipe, role, claim);
        flow.state = State::Relaying(Box::new(relay));
        flow.deadline = Some(deadline);
        self.half_open += 1;
        self.ledger.enter(key, &flow.ends);
        self.stands(key, &pass, true);
    }

    /// A connection has been dialled.
    fn stands(&mut self, key: Key, pass: &Pass, half_open: bool) {
        self.dialling -= 1;
        let until_opened = self.now + limits::OPENING_TIME;
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        if !half_open {
            let waits = matches!(
                &flow.state,
                State::Relaying(relay) if relay.waits_for_requests()
            );
            flow.deadline = waits.then_some(until_opened);
        }
        let (id, intent) = (flow.id, flow.intent.clone());
        self.record(id, &intent, ("allow", pass.reason()), pass.ip(), None);
        self.table.queue(key);
    }

    fn serve_relay(&mut self, key: Key) {
        let now = self.smoltcp_now();
        if !self.hear_opening(key) {
            return;
        }
        let until_opened = self.now + limits::OPENING_TIME;
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        let State::Relaying(relay) = &mut flow.state else {
            return;
        };
        let was_established = relay.established;
        let served = relay.serve(&mut self.output, self.guest, now);
        if relay.established && !was_established {
            self.half_open -= 1;
            flow.deadline = relay.waits_for_requests().then_some(until_opened);
        }
        if relay.established && flow.deadline.is_none() && relay.has_begun() {
            flow.deadline = Some(until_opened);
        }
        match served {
            Served::Idle => {
                if let Some(due) = relay.stack.due(now) {
                    self.wake_at(key, due);
                }
            }
            Served::LinkFull => self.table.queue(key),
            Served::Over(how) => self.close(key, how),
        }
    }

    pub(super) fn wake_at(&mut self, key: Key, due: smoltcp::time::Instant) {
        let passed = u64::try_from(due.total_micros()).unwrap_or(0);
        let at = self.start + std::time::Duration::from_micros(passed);
        self.table.set_timer(key, at);
    }

    /// Ends a connection from our side with a reset.
    pub(super) fn abort(&mut self, key: Key, how: &'static str) {
        let now = self.smoltcp_now();
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        let stack = match &mut flow.state {
            State::Relaying(relay) => &mut relay.stack,
            State::Dns(stream) => &mut stream.stack,
            State::Asking(asking) => &mut asking.parked.stack,
            State::Held
            | State::Resolving
            | State::Tunnelling(_)
            | State::Dialling(_)
            | State::Exchanging(_) => {
                return self.close(key, how);
            }
        };
        stack.socket().abort();
        // A full link loses the reset; the guest gets another for its next segment.
        let _lost = stack.send(&mut self.output, self.guest, now);
        self.close(key, how);
    }

    /// Forgets a connection.
    pub(super) fn close(&mut self, key: Key, how: &'static str) {
        let Some(flow) = self.table.remove(key) else {
            return;
        };
        let Flow {
            id,
            intent,
            state,
            parked,
            ..
        } = flow;
        let visitor = match &state {
            State::Exchanging(exchange) => exchange.way.visitor(),
            _ => None,
        };
        match visitor {
            Some(visitor) => {
                self.published -= 1;
                self.doors.forget(&visitor);
            }
            None if intent.flow.protocol == Protocol::Udp => self.exchanges -= 1,
            None => {}
        }
        if let Some(parked) = parked {
            self.ledger.erase(key);
            self.buffers.give_back(parked.claim);
        }
        match state {
            State::Held | State::Resolving | State::Tunnelling(_) | State::Dialling(_) => {
                self.dialling -= 1;
            }
            State::Exchanging(exchange) => {
                let Exchange { sent, received, .. } = *exchange;
                let record = EndRecord {
                    id,
                    sent,
                    received,
                    how,
                };
                self.control.end(&record, self.now);
            }
            State::Asking(asking) => {
                self.ledger.erase(key);
                self.adapters -= 1;
                self.buffers.give_back(asking.parked.claim);
            }
            State::Dns(stream) => {
                self.ledger.erase(key);
                self.dns_streams -= 1;
                self.buffers.give_back(stream.claim);
            }
            State::Relaying(relay) => {
                self.ledger.erase(key);
                let Relay {
                    stack,
                    pipe,
                    role,
                    claim,
                    established,
                    sent,
                    received,
                    ..
                } = *relay;
                if !established {
                    self.half_open -= 1;
                }
                if how == "closed" {
                    self.buffers.retire(claim, stack);
                } else {
                    pipe.reset();
                    self.buffers.give_back(claim);
                }
                match role {
                    Role::Refused => {
                        self.inspector.forget(key);
                        return self.refusals -= 1;
                    }
                    Role::Inspected(_) => {
                        self.inspector.forget(key);
                        self.inspected -= 1;
                    }
                    Role::Published => self.published -= 1,
                    Role::Unopened(..) | Role::Spliced(_) => {}
                }
                self.control.end(
                    &EndRecord {
                        id,
                        sent,
                        received,
                        how,
                    },
                    self.now,
                );
            }
        }
    }

    /// Refuses a connection that has not been answered yet.
    pub(super) fn deny(&mut self, key: Key, reason: Reason) {
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        let (id, ends, intent) = (flow.id, flow.ends, flow.intent.clone());
        let first = flow.first.take();
        let parked = flow.parked.take();
        self.record(id, &intent, ("deny", &reason), None, None);
        if let Some(parked) = parked {
            return self.refuse_parked(key, *parked, Some(&reason));
        }
        self.close(key, "denied");
        match first {
            Some(First::Syn(syn)) => self.turn_away(ends, &syn, &intent, &reason),
            Some(First::Datagram(bytes)) => self.refuse_datagram(&bytes),
            None => {}
        }
    }

    pub(super) fn dial_failed(&mut self, key: Key, why: &'static str) {
        self.was_in_vain(1);
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        let (id, ends, intent) = (flow.id, flow.ends, flow.intent.clone());
        let (address, reason) = match &flow.state {
            State::Dialling(dialling) => (
                dialling.failed.and_then(|(address, _)| address),
                dialling.reason.clone(),
            ),
            State::Tunnelling(pass) => (pass.ip(), pass.reason().clone()),
            _ => (None, NO_ADDRESS.into()),
        };
        let (first, parked) = (flow.first.take(), flow.parked.take());
        match first {
            Some(First::Syn(syn)) => self.refuse(&ends, syn.reset),
            Some(First::Datagram(bytes)) => self.refuse_datagram(&bytes),
            None => {}
        }
        self.record(id, &intent, ("allow", &reason), address, Some(why));
        if let Some(parked) = parked {
            return self.refuse_parked(key, *parked, None);
        }
        self.close(key, "failed");
    }

    pub(super) fn refuse(&mut self, ends: &tcp::Ends, reset: tcp::Reset) {
        let mut outlet = Outlet {
            output: &mut self.output,
            guest: self.guest,
        };
        tcp::refuse(ends, reset, &mut outlet);
    }

    /// Records a denial that never became a connection.
    pub(super) fn denied(&mut self, intent: &Intent, reason: Reason) {
        let id = self.next_id;
        self.next_id += 1;
        self.record(id, intent, ("deny", &reason), None, None);
    }

    pub(super) fn record(
        &mut self,
        id: u64,
        intent: &Intent,
        (verdict, rule): (&'static str, &Reason),
        address: Option<IpAddr>,
        failed: Option<&str>,
    ) {
        let host = intent.host();
        let address = address.or(match intent.flow.destination {
            Destination::Gateway | Destination::Address(_) => Some(intent.address),
            _ => None,
        });
        let proto = intent.flow.protocol;
        let record = FlowRecord {
            id,
            verdict,
            rule,
            proto: Protocol::name(proto),
            host,
            addr: address,
            port: intent.flow.port,
            failed,
        };
        self.control.flow(&record, self.now);
    }
}

pub(super) fn why(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::TimedOut => "timed out",
        io::ErrorKind::HostUnreachable => "host unreachable",
        io::ErrorKind::NetworkUnreachable => "network unreachable",
        io::ErrorKind::ConnectionReset => "reset",
        io::ErrorKind::PermissionDenied => "not permitted",
        _ => "unreachable",
    }
}
