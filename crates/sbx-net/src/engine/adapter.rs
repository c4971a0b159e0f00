//! Programs that want a proxy: their requests become intents like those of
//! any packet, and what the gate allows is dialled like anything else.

use sbx_spec::Reason;
use smoltcp::socket::tcp::State as Tcp;

use super::Engine;
use crate::device::packet::Packet;
use crate::entry::proxy::{Asked, Language, Opened};
use crate::entry::tcp;
use crate::flow::{Asking, Parked, Relay, Role, State};
use crate::gate::{Decision, Intent};
use crate::inspect::Carries;
use crate::layout;
use crate::limits;
use crate::refusal;
use crate::relay::raw::Pipe;
use crate::table::Key;

/// The language of a port of the gateway, where it is a proxy's.
pub(super) fn language(port: u16) -> Option<Language> {
    match port {
        layout::HTTP_PROXY => Some(Language::Http),
        layout::SOCKS_PROXY => Some(Language::Socks(false)),
        _ => None,
    }
}

impl Engine {
    /// A connection to a proxy.
    pub(super) fn open_adapter(
        &mut self,
        packet: &Packet<'_>,
        segment: &tcp::Segment,
        intent: Intent,
        language: Language,
    ) {
        if self.adapters >= limits::ADAPTERS {
            self.refuse(&segment.ends, segment.reset());
            return self.denied(&intent, "limit:adapters".into());
        }
        let Some((claim, _)) = self.buffers.claim() else {
            return self.refuse(&segment.ends, segment.reset());
        };
        let socket = self.buffers.socket(&claim);
        let Some(mut stack) = self.listen(&segment.ends, socket) else {
            self.buffers.give_back(claim);
            return self.refuse(&segment.ends, segment.reset());
        };
        let now = self.smoltcp_now();
        stack.receive(packet.bytes, &mut self.output, self.guest, now);
        self.adapters += 1;
        let asking = Box::new(Asking {
            parked: Parked {
                stack,
                claim,
                language,
                ready: b"",
                first: Vec::new(),
                asked: Vec::new(),
            },
            heard: Vec::new(),
        });
        let state = State::Asking(asking);
        let key = self.insert((segment.ends, None), intent, state, limits::ADAPTER_TIME);
        self.ledger.enter(key, &segment.ends);
        self.table.queue(key);
    }

    pub(super) fn serve_asking(&mut self, key: Key) {
        let now = self.smoltcp_now();
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        let State::Asking(asking) = &mut flow.state else {
            return;
        };
        let asked = asking.hear();
        let stack = &mut asking.parked.stack;
        if let Asked::Open(opened) = asked {
            return self.ask_for(key, opened);
        }
        if let Asked::Refused(answer) = asked {
            // The buffer is larger than any answer.
            let _whole = stack.socket().send_slice(answer);
            stack.socket().close();
        }
        if matches!(stack.socket().state(), Tcp::CloseWait) {
            stack.socket().close();
        }
        if !stack.send(&mut self.output, self.guest, now) {
            return self.table.queue(key);
        }
        if matches!(
            stack.socket().state(),
            Tcp::Closed | Tcp::TimeWait | Tcp::Listen
        ) {
            return self.close(key, "closed");
        }
        if let Some(due) = stack.due(now) {
            self.wake_at(key, due);
        }
    }

    /// Judges what a proxy was asked for.
    fn ask_for(&mut self, key: Key, opened: Opened) {
        let Opened {
            target,
            ready,
            first,
        } = opened;
        let (intent, denied) = Intent::asked(&target.host, target.port, &self.names);
        let decision = match denied {
            Some(reason) => Decision::Deny(reason),
            None => self.gate.judge(&intent, self.now),
        };
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        flow.intent = intent;
        let State::Asking(asking) = std::mem::replace(&mut flow.state, State::Resolving) else {
            return;
        };
        let Asking { mut parked, heard } = *asking;
        parked.ready = ready;
        parked.first = first;
        parked.asked = heard;
        self.adapters -= 1;
        self.dialling += 1;
        flow.parked = Some(Box::new(parked));
        self.pursue(key, decision);
    }

    /// Keeps a guest company that waits for a proxy's answer. False when it
    /// did not wait.
    pub(super) fn serve_parked(&mut self, key: Key) -> bool {
        let now = self.smoltcp_now();
        let Some(flow) = self.table.get_mut(key) else {
            return false;
        };
        let Some(parked) = &mut flow.parked else {
            return true;
        };
        let sent = parked.stack.send(&mut self.output, self.guest, now);
        let socket = parked.stack.socket();
        if matches!(socket.state(), Tcp::Closed | Tcp::TimeWait | Tcp::Listen) {
            self.close(key, "reset");
            return false;
        }
        let due = parked.stack.due(now);
        if !sent {
            self.table.queue(key);
        } else if let Some(due) = due {
            self.wake_at(key, due);
        }
        true
    }

    /// Tells a guest that waits for a proxy's answer that there is no
    /// connection, and why where there are words for it.
    pub(super) fn refuse_parked(&mut self, key: Key, parked: Parked, reason: Option<&Reason>) {
        let Parked {
            mut stack,
            claim,
            language,
            asked,
            ..
        } = parked;
        let Some(flow) = self.table.get_mut(key) else {
            return self.buffers.give_back(claim);
        };
        let text = reason
            .filter(|_| language == Language::Http && self.refusals < limits::REFUSALS)
            .and_then(|reason| refusal::of_proxied(&flow.intent, reason));
        let (id, intent) = (flow.id, flow.intent.clone());
        let Some((mut pipe, theirs)) = self.pair(key) else {
            self.ledger.erase(key);
            self.buffers.give_back(claim);
            return self.close(key, "denied");
        };
        pipe.readable = true;
        let mut leftover = Vec::new();
        match text {
            Some(text) => {
                leftover = asked;
                self.tell(key, id, intent, theirs, (Carries::Http1, text));
            }
            None => {
                // Nobody is at the other end: it closes once this is said.
                let _whole = stack.socket().send_slice(language.failed(reason.is_some()));
            }
        }
        let mut relay = Relay::new(stack, pipe, Role::Refused, claim);
        relay.established = true;
        relay.leftover = leftover;
        let deadline = self.now + limits::REFUSAL_TIME;
        self.dialling -= 1;
        self.refusals += 1;
        if let Some(flow) = self.table.get_mut(key) {
            flow.state = State::Relaying(Box::new(relay));
            flow.deadline = Some(deadline);
            self.table.set_timer(key, deadline);
        }
        self.table.queue(key);
    }
}

impl Asking {
    /// Takes what the guest says, as far as it belongs to the request, and
    /// reads it.
    fn hear(&mut self) -> Asked {
        let Self { parked, heard } = self;
        let socket = parked.stack.socket();
        while let Ok(1..) = socket.recv(|bytes| {
            let room = limits::ADAPTER_REQUEST.saturating_sub(heard.len());
            let taken = bytes.get(..bytes.len().min(room)).unwrap_or_default();
            heard.extend_from_slice(taken);
            (taken.len(), taken.len())
        }) {}
        match parked.language.read(heard) {
            Asked::Greeted(answer, used) => {
                let _whole = socket.send_slice(answer);
                heard.drain(..used.min(heard.len()));
                parked.language = Language::Socks(true);
                parked.language.read(heard)
            }
            other => other,
        }
    }
}

/// A relay whose guest heard what it waited for.
pub(super) fn unparked(parked: Parked, pipe: Pipe, role: Role) -> Relay {
    let Parked {
        mut stack,
        claim,
        ready,
        first,
        ..
    } = parked;
    // There was nothing before it but a greeting.
    let _whole = stack.socket().send_slice(ready);
    let mut relay = Relay::new(stack, pipe, role, claim);
    relay.established = true;
    relay.sent = first.len() as u64;
    relay.leftover = first;
    relay
}
