//! Connections that the inspector serves: which they are, how it gets them
//! and what it has to say.

use std::os::fd::OwnedFd;

use rustix::event::epoll;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sbx_spec::Reason;
use sbx_spec::guard::{self, Guard};

use super::Engine;
use crate::control::RequestRecord;
use crate::entry::tcp;
use crate::flow::{Demand, Relay, Role, State, Syn};
use crate::gate::{Intent, Pass};
use crate::inspect::{self, Carries, Job, Report, Task};
use crate::limits;
use crate::opening::Opening;
use crate::questions::Asker;
use crate::refusal;
use crate::relay::raw::Pipe;
use crate::stack;
use crate::table::Key;

/// What was said first is none of what may be said.
const NOT_A_REQUEST: &str = "default:not-http";
/// What was said first stays what could become several things.
const UNFINISHED: &str = "default:opening";
/// The hello asks for another server than the connection's.
const OTHER_SERVER: &str = "default:tls-server-name";
/// The port where requests come in clear.
const HTTP: u16 = 80;

/// Who is to hear a guest whose connection `pass` let through.
pub(super) fn role(intent: &Intent, pass: Pass) -> Role {
    let named = intent.is_named();
    if guard::out(Guard::EachRequest) {
        Role::Spliced(pass)
    } else if pass.inspect() || (named && intent.flow.port == HTTP) {
        Role::Unopened(pass, Demand::Requests)
    } else if named {
        Role::Unopened(pass, Demand::Agreement)
    } else {
        Role::Spliced(pass)
    }
}

/// What becomes of a connection once its guest has spoken.
enum Heard {
    /// Its server hears it as it is.
    Splice,
    /// Each request is judged.
    Inspect(Carries),
    /// It ends.
    Deny(Reason),
}

fn heard(intent: &Intent, relay: &Relay, opening: Opening) -> Heard {
    let Role::Unopened(pass, demand) = &relay.role else {
        return Heard::Splice;
    };
    let judged = |carries| {
        // A server that spoke first speaks no HTTP.
        if *demand == Demand::Requests || relay.received == 0 {
            Heard::Inspect(carries)
        } else {
            Heard::Splice
        }
    };
    match opening {
        Opening::Malformed(rule) => Heard::Deny(rule.into()),
        Opening::Tls(name) => {
            if !inspect::server_name(&intent.flow.destination, name.as_deref())
                && !guard::out(Guard::ServerName)
            {
                Heard::Deny(OTHER_SERVER.into())
            } else if pass.inspect() || *demand == Demand::Requests {
                // Where requests are waited for, rules that came meanwhile
                // count on each of them being judged.
                Heard::Inspect(Carries::Tls)
            } else {
                Heard::Splice
            }
        }
        Opening::Http => judged(Carries::Http1),
        Opening::Http2 => judged(Carries::Http2),
        Opening::Other | Opening::Unclear if guard::out(Guard::OnlyRequests) => Heard::Splice,
        Opening::Other | Opening::Unclear if *demand == Demand::Requests => {
            Heard::Deny(NOT_A_REQUEST.into())
        }
        Opening::Other | Opening::Unclear => Heard::Splice,
    }
}

impl Engine {
    /// Looks at what a guest says first, where nobody hears it yet. False
    /// when the connection is gone over it.
    pub(super) fn hear_opening(&mut self, key: Key) -> bool {
        let Some(flow) = self.table.get_mut(key) else {
            return false;
        };
        let State::Relaying(relay) = &mut flow.state else {
            return true;
        };
        let Some(opening) = relay.open() else {
            return true;
        };
        match heard(&flow.intent, relay, opening) {
            Heard::Splice => {
                relay.opened(Role::Spliced);
                flow.deadline = None;
                true
            }
            Heard::Inspect(carries) => {
                flow.deadline = None;
                match self.hand_over(key, carries) {
                    Ok(()) => true,
                    Err(reason) => self.break_off(key, reason),
                }
            }
            Heard::Deny(reason) => self.break_off(key, reason),
        }
    }

    /// Ends a connection whose guest may only make requests and makes none, or
    /// has begun something and does not go on.
    pub(super) fn never_opened(&mut self, key: Key) {
        let waits = self.table.get_mut(key).is_some_and(
            |flow| matches!(&flow.state, State::Relaying(relay) if relay.waits_for_requests()),
        );
        let reason = if waits { NOT_A_REQUEST } else { UNFINISHED };
        self.break_off(key, reason.into());
    }

    /// Denies a connection that stands; it is gone then.
    fn break_off(&mut self, key: Key, reason: Reason) -> bool {
        if let Some(flow) = self.table.get_mut(key)
            && let State::Relaying(relay) = &flow.state
        {
            let address = relay.role.pass().and_then(Pass::ip);
            let (id, intent) = (flow.id, flow.intent.clone());
            self.record(id, &intent, ("deny", &reason), address, None);
            self.abort(key, "denied");
        }
        false
    }

    fn hand_over(&mut self, key: Key, carries: Carries) -> Result<(), Reason> {
        const FAILED: &str = "limit:descriptors";
        if self.inspected >= limits::INSPECTED {
            return Err("limit:inspected".into());
        }
        if carries == Carries::Tls && !self.has_authority {
            return Err("default:no-authority".into());
        }
        let (pipe, theirs) = self.pair(key).ok_or(FAILED)?;
        let Some(flow) = self.table.get_mut(key) else {
            return Ok(());
        };
        let State::Relaying(relay) = &mut flow.state else {
            return Ok(());
        };
        let address = relay.role.pass().and_then(Pass::ip);
        relay.opened(Role::Inspected);
        let upstream = std::mem::replace(&mut relay.pipe, pipe).into_fd();
        // The inspector waits for it in its own way.
        let _watched = epoll::delete(&self.epoll, &upstream);
        self.inspected += 1;
        let task = Task::Relay {
            upstream,
            flow: match address {
                Some(address) => flow.intent.dialled(address),
                None => flow.intent.flow.clone(),
            },
        };
        self.inspector.take(Job {
            key,
            id: flow.id,
            intent: flow.intent.clone(),
            guest: theirs,
            carries,
            task,
        });
        Ok(())
    }

    /// A pair of sockets of which the first is watched for `key`.
    pub(super) fn pair(&self, key: Key) -> Option<(Pipe, OwnedFd)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
        self.watch(&ours, key.token(0)).ok()?;
        let mut pipe = Pipe::new(ours);
        pipe.writable = true;
        Some((pipe, theirs))
    }

    /// Refuses a connection: with words where there is somebody to read them,
    /// with a reset otherwise.
    pub(super) fn turn_away(
        &mut self,
        ends: tcp::Ends,
        syn: &Syn,
        intent: &Intent,
        reason: &Reason,
    ) {
        let told = refusal::of_connection(intent, reason).is_some_and(|(carries, text)| {
            (carries != Carries::Tls || self.has_authority)
                && self.open_refusal(ends, syn, intent, (carries, text))
        });
        if !told {
            self.refuse(&ends, syn.reset);
        }
    }

    fn open_refusal(
        &mut self,
        ends: tcp::Ends,
        syn: &Syn,
        intent: &Intent,
        (carries, text): (Carries, String),
    ) -> bool {
        if self.refusals >= limits::REFUSALS {
            return false;
        }
        let Some((claim, _)) = self.buffers.claim() else {
            return false;
        };
        let Some(mut stack) = self.listen(&ends, stack::socket(limits::REFUSAL)) else {
            self.buffers.give_back(claim);
            return false;
        };
        let now = self.smoltcp_now();
        stack.receive(&syn.packet, &mut self.output, self.guest, now);
        // The pair is made once its connection has a place in the table.
        let key = self.insert(
            (ends, None),
            intent.clone(),
            State::Resolving,
            limits::REFUSAL_TIME,
        );
        let Some((pipe, theirs)) = self.pair(key) else {
            self.buffers.give_back(claim);
            self.table.remove(key);
            return false;
        };
        let relay = Relay::new(stack, pipe, Role::Refused, claim);
        let Some(flow) = self.table.get_mut(key) else {
            return false;
        };
        flow.state = State::Relaying(Box::new(relay));
        let id = flow.id;
        self.refusals += 1;
        self.half_open += 1;
        self.ledger.enter(key, &ends);
        self.tell(key, id, intent.clone(), theirs, (carries, text));
        self.table.queue(key);
        true
    }

    /// Has a guest told why there is no server behind its connection.
    pub(super) fn tell(
        &self,
        key: Key,
        id: u64,
        intent: Intent,
        guest: OwnedFd,
        (carries, text): (Carries, String),
    ) {
        self.inspector.take(Job {
            key,
            id,
            intent,
            guest,
            carries,
            task: Task::Tell(text),
        });
    }

    /// Hears what the inspector has to say.
    pub(super) fn take_reports(&mut self) {
        let (reports, lost) = self.inspector.reports().take();
        self.control.count(lost, self.now);
        for report in reports {
            match report {
                Report::Request {
                    id,
                    intent,
                    verdict,
                    rule,
                    method,
                    path,
                } => {
                    let record = RequestRecord {
                        id,
                        verdict,
                        rule: &rule,
                        host: intent.host(),
                        port: intent.flow.port,
                        method: &method,
                        path: &path,
                    };
                    self.control.request(&record, self.now);
                }
                Report::Ask {
                    subject,
                    rule,
                    answer,
                } => self.question(subject, rule, Asker::Request(answer)),
                Report::Tunnelled(key, tunnel) => self.tunnelled(key, tunnel),
                Report::Broken(key) => self.abort(key, "broken"),
            }
        }
    }
}
