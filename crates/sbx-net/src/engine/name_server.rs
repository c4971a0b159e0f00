//! Questions to the endpoint's own name server: the connections they come by,
//! and whether those that only other servers can answer go to them.

use std::io;
use std::net::IpAddr;

use sbx_spec::guard::{self, Guard};
use sbx_spec::{Protocol, Reason};
use smoltcp::socket::tcp::State as Tcp;

use super::Engine;
use crate::control::{EndRecord, FlowRecord};
use crate::device::packet::{Outlet, Packet};
use crate::entry::dns::{self, Carrier, Outcome, Reply};
use crate::entry::{tcp, udp};
use crate::flow::{DnsStream, State};
use crate::gate::Intent;
use crate::layout;
use crate::limits;
use crate::records::{self, Found, Question};
use crate::stack::{self, Socket, Stack};
use crate::table::Key;
use crate::workers::{Full, Workers};

/// Who wants an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asker {
    /// Whoever sent a datagram.
    Datagram(tcp::Ends),
    /// A connection.
    Stream(Key),
}

/// What there is to say at once.
#[derive(Debug)]
pub(super) enum Said {
    /// The answer.
    Reply(Vec<u8>),
    /// It will come by [`Engine::take_records`].
    Later,
    /// To that, nothing.
    Nothing,
}

/// A question that is with other name servers.
#[derive(Debug)]
pub(super) struct Lookup {
    /// Its number in the records.
    id: u64,
    asker: Asker,
    query: Vec<u8>,
    question: Question,
}

/// Those who wait for them.
pub(super) type Lookups = Workers<Lookup, (Lookup, Found)>;

/// None yet.
pub(super) fn lookups() -> io::Result<Lookups> {
    let (threads, room) = (limits::RECORD_LOOKUPS, limits::RECORD_QUEUE);
    Workers::new("records", threads, room, |lookup: Lookup| {
        let found = records::look_up(&lookup.question);
        (lookup, found)
    })
}

impl Asker {
    fn carrier(self) -> Carrier {
        match self {
            Self::Datagram(_) => Carrier::Udp,
            Self::Stream(_) => Carrier::Tcp,
        }
    }
}

impl Engine {
    /// Answers a message to the name server.
    pub(super) fn answer_dns(&mut self, query: &[u8], asker: Asker) -> Said {
        let carrier = asker.carrier();
        let in_time = self.dns_rate.take(self.now) || guard::out(Guard::QuestionRate);
        self.bears_fruit |= in_time;
        let outcome = match in_time {
            true => dns::answer(query, &mut self.names, carrier),
            false => dns::refuse(query).map(|message| {
                let refused = Some("limit:dns-rate");
                Outcome::Reply(Reply { message, refused })
            }),
        };
        let reply = match outcome {
            Some(Outcome::Reply(reply)) => reply,
            Some(Outcome::Ask(question)) => return self.ask_others(question, query, asker),
            None => return Said::Nothing,
        };
        if let Some(rule) = reply.refused {
            let protocol = match carrier {
                Carrier::Udp => Protocol::Udp,
                Carrier::Tcp => Protocol::Tcp,
            };
            let gateway = IpAddr::V4(layout::GATEWAY_V4);
            let intent = Intent::new(protocol, gateway, 53, &self.names);
            self.denied(&intent, rule.into());
        }
        Said::Reply(reply.message)
    }

    /// Has other name servers asked where the name's rules allow it: what is
    /// asked goes out, and so a question is a flow.
    fn ask_others(&mut self, question: Question, query: &[u8], asker: Asker) -> Said {
        let id = self.next_id;
        self.next_id += 1;
        let name = question.name.clone();
        let verdict = self.gate.verdict_on_name(&name);
        let lookup = Lookup {
            id,
            asker,
            query: query.to_vec(),
            question,
        };
        let full = || Reason::from("limit:resolver");
        let refused = match verdict.is_allow() || guard::out(Guard::AllowedRecords) {
            true if !self.record_rate.take(self.now) => Some("limit:dns-rate".into()),
            true => (self.records.ask(lookup).err()).map(|Full| full()),
            false => Some(verdict.reason.clone()),
        };
        let record = FlowRecord {
            id,
            verdict: if refused.is_some() { "deny" } else { "allow" },
            rule: refused.as_ref().unwrap_or(&verdict.reason),
            proto: "dns",
            host: Some(name.as_str()),
            addr: None,
            port: 53,
            failed: None,
        };
        self.control.flow(&record, self.now);
        match refused {
            Some(_) => dns::refuse(query).map_or(Said::Nothing, Said::Reply),
            None => Said::Later,
        }
    }

    /// Hands on what other name servers said.
    pub(super) fn take_records(&mut self) {
        for (lookup, found) in self.records.answers() {
            let Lookup {
                id,
                asker,
                query,
                question,
            } = lookup;
            // The rules may have changed since it was asked.
            let (how, message) = match self.gate.verdict_on_name(&question.name).is_allow() {
                true => (found.how(), dns::hand_on(&query, &found, asker.carrier())),
                false => ("policy", dns::refuse(&query)),
            };
            let message = message.unwrap_or_default();
            let record = EndRecord {
                id,
                sent: query.len() as u64,
                received: message.len() as u64,
                how,
            };
            self.control.end(&record, self.now);
            match asker {
                Asker::Datagram(ends) => {
                    let mut outlet = Outlet {
                        output: &mut self.output,
                        guest: self.guest,
                    };
                    udp::send(&ends, &message, &mut outlet);
                }
                Asker::Stream(key) => {
                    if let Some(stream) = self.dns_stream(key) {
                        stream.waiting = false;
                        stream.reply(&message);
                        self.keep_dns_stream(key, limits::DNS_STREAM_TIME);
                        self.table.queue(key);
                    }
                }
            }
        }
    }

    fn keep_dns_stream(&mut self, key: Key, time: std::time::Duration) {
        let deadline = self.now + time;
        if let Some(flow) = self.table.get_mut(key) {
            flow.deadline = Some(deadline);
            self.table.set_timer(key, deadline);
        }
    }

    /// A connection to the name server.
    pub(super) fn open_dns(&mut self, packet: &Packet<'_>, segment: &tcp::Segment, intent: Intent) {
        let stack = match self.buffers.claim() {
            Some((claim, _)) if self.dns_streams < limits::DNS_STREAMS => {
                // Twice the longest answer: while one is on its way, the
                // next has room.
                let size = 2 * (2 + limits::DNS_ANSWER);
                match self.listen(&segment.ends, stack::socket(size)) {
                    Some(stack) => Some((claim, stack)),
                    None => {
                        self.buffers.give_back(claim);
                        None
                    }
                }
            }
            Some((claim, _)) => {
                self.buffers.give_back(claim);
                None
            }
            None => None,
        };
        let Some((claim, mut stack)) = stack else {
            return self.refuse(&segment.ends, segment.reset());
        };
        let now = self.smoltcp_now();
        stack.receive(packet.bytes, &mut self.output, self.guest, now);
        self.dns_streams += 1;
        let stream = Box::new(DnsStream {
            stack,
            claim,
            question: Vec::new(),
            waiting: false,
        });
        let key = self.insert(
            (segment.ends, None),
            intent,
            State::Dns(stream),
            limits::DNS_STREAM_TIME,
        );
        self.ledger.enter(key, &segment.ends);
        self.table.queue(key);
    }

    pub(super) fn listen(&self, ends: &tcp::Ends, socket: Socket) -> Option<Stack> {
        Stack::listen(ends.server, socket, self.next_seed(), self.smoltcp_now())
    }

    pub(super) fn serve_dns(&mut self, key: Key) {
        let now = self.smoltcp_now();
        // One question at a time: the next is read when the answer has room.
        while let Some(question) = self.dns_stream(key).and_then(DnsStream::next_question) {
            let Ok(question) = question else {
                return self.abort(key, "too long");
            };
            let said = self.answer_dns(&question, Asker::Stream(key));
            let time = match said {
                Said::Later => limits::RESOLVE_TIME,
                Said::Reply(_) | Said::Nothing => limits::DNS_STREAM_TIME,
            };
            self.keep_dns_stream(key, time);
            match (self.dns_stream(key), said) {
                (Some(stream), Said::Reply(answer)) => stream.reply(&answer),
                (Some(stream), Said::Later) => stream.waiting = true,
                _ => {}
            }
        }
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        let State::Dns(stream) = &mut flow.state else {
            return;
        };
        let waiting = stream.waiting;
        let socket = stream.stack.socket();
        if socket.state() == Tcp::CloseWait && socket.recv_queue() == 0 && !waiting {
            socket.close();
        }
        if !stream.stack.send(&mut self.output, self.guest, now) {
            return self.table.queue(key);
        }
        if matches!(
            stream.stack.socket().state(),
            Tcp::Closed | Tcp::TimeWait | Tcp::Listen
        ) {
            return self.close(key, "closed");
        }
        if let Some(due) = stream.stack.due(now) {
            self.wake_at(key, due);
        }
    }

    fn dns_stream(&mut self, key: Key) -> Option<&mut DnsStream> {
        match &mut self.table.get_mut(key)?.state {
            State::Dns(stream) => Some(stream),
            _ => None,
        }
    }
}

/// A question beyond [`limits::DNS_MESSAGE`].
struct TooLong;

impl DnsStream {
    fn next_question(&mut self) -> Option<Result<Vec<u8>, TooLong>> {
        if self.waiting {
            return None;
        }
        let socket = self.stack.socket();
        let most = 2 + limits::DNS_MESSAGE;
        // A client that does not read its answers is not asked for more.
        if socket.send_capacity() - socket.send_queue() < 2 + limits::DNS_ANSWER {
            return None;
        }
        while self.question.len() < most && socket.can_recv() {
            let room = most - self.question.len();
            let question = &mut self.question;
            let taken = socket.recv(|bytes| {
                let take = bytes.get(..bytes.len().min(room)).unwrap_or_default();
                question.extend_from_slice(take);
                (take.len(), take.len())
            });
            if taken.unwrap_or(0) == 0 {
                break;
            }
        }
        let (length, rest) = self.question.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        if length > limits::DNS_MESSAGE {
            return Some(Err(TooLong));
        }
        let question = rest.get(..length)?.to_vec();
        self.question.drain(..2 + length);
        Some(Ok(question))
    }

    fn reply(&mut self, answer: &[u8]) {
        let Ok(length) = u16::try_from(answer.len()) else {
            return;
        };
        let socket = self.stack.socket();
        if socket.send_capacity() - socket.send_queue() >= 2 + answer.len() {
            // There is room for both, so neither is cut.
            let _whole = socket.send_slice(&length.to_be_bytes());
            let _whole = socket.send_slice(answer);
        }
    }
}
