//! Connections to the endpoint's own name server.

use smoltcp::socket::tcp::State as Tcp;

use super::Engine;
use crate::device::packet::Packet;
use crate::entry::{dns, tcp};
use crate::flow::{DnsStream, State};
use crate::gate::Intent;
use crate::limits;
use crate::stack::Stack;
use crate::table::Key;

impl Engine {
    /// A connection to the name server.
    pub(super) fn open_dns(&mut self, packet: &Packet<'_>, segment: &tcp::Segment, intent: Intent) {
        let stack = match self.buffers.claim() {
            Some((claim, _)) if self.dns_streams < limits::DNS_STREAMS => {
                let size = 2 + limits::DNS_MESSAGE;
                match self.listen(&segment.ends, size) {
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

    pub(super) fn listen(&self, ends: &tcp::Ends, size: usize) -> Option<Stack> {
        Stack::listen(ends.server, size, self.next_seed(), self.smoltcp_now())
    }

    pub(super) fn serve_dns(&mut self, key: Key) {
        let now = self.smoltcp_now();
        // One question at a time: the next is read when the answer has room.
        while let Some(question) = self.dns_stream(key).and_then(DnsStream::next_question) {
            let Ok(question) = question else {
                return self.abort(key, "too long");
            };
            let answer = self.answer_dns(&question, dns::Carrier::Tcp);
            let deadline = self.now + limits::DNS_STREAM_TIME;
            if let Some(flow) = self.table.get_mut(key) {
                flow.deadline = Some(deadline);
            }
            if let (Some(stream), Some(answer)) = (self.dns_stream(key), answer) {
                stream.reply(&answer);
            }
        }
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        let State::Dns(stream) = &mut flow.state else {
            return;
        };
        let socket = stream.stack.socket();
        if socket.state() == Tcp::CloseWait && socket.recv_queue() == 0 {
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
        let socket = self.stack.socket();
        let most = 2 + limits::DNS_MESSAGE;
        // A client that does not read its answers is not asked for more.
        if socket.send_capacity() - socket.send_queue() < limits::DNS_MESSAGE / 2 {
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
