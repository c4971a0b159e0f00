//! One TCP connection of the guest from its SYN to its end.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Instant;

use sbx_spec::Reason;
use smoltcp::socket::tcp;
use smoltcp::wire::EthernetAddress;

use crate::buffers::Claim;
use crate::device::link::Output;
use crate::entry::proxy::Language;
use crate::entry::tcp::{Ends, Reset};
use crate::gate::{Intent, Pass};
use crate::limits;
use crate::opening::{self, Opening};
use crate::relay::raw::{Moved, Pipe, Upstream};
use crate::stack::Stack;

/// A connection.
#[derive(Debug)]
pub(crate) struct Flow {
    /// Number in the records.
    pub(crate) id: u64,
    /// Both ends as the guest sees them.
    pub(crate) ends: Ends,
    /// What opened it, while the outside has not answered.
    pub(crate) first: Option<First>,
    /// What was asked.
    pub(crate) intent: Intent,
    /// Its guest waits for the answer of a proxy: how, where that is so.
    pub(crate) parked: Option<Box<Parked>>,
    /// How far it is.
    pub(crate) state: State,
    /// When the present state has lasted too long.
    pub(crate) deadline: Option<Instant>,
    /// The earliest entry of the timer heap.
    pub(crate) timer: Option<Instant>,
    /// In the list of connections to be served.
    pub(crate) queued: bool,
    /// Distinguishes the users of one place in the table.
    pub(crate) generation: u32,
}

/// How far a connection is.
#[derive(Debug)]
pub(crate) enum State {
    /// Waits for the user's word.
    Held,
    /// Waits for the host's resolver.
    Resolving,
    /// Waits for a proxy of the host's.
    Tunnelling(Pass),
    /// Waits for the outside.
    Dialling(Dialling),
    /// Carries bytes.
    Relaying(Box<Relay>),
    /// Carries questions to the name server.
    Dns(Box<DnsStream>),
    /// Asks a proxy for something.
    Asking(Box<Asking>),
    /// Carries datagrams.
    Exchanging(Box<Exchange>),
}

/// Datagrams both ways.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) way: Way,
    /// Bytes from the guest.
    pub(crate) sent: u64,
    /// Bytes to the guest.
    pub(crate) received: u64,
}

/// Where the datagrams of a guest go, and those to it come from.
#[derive(Debug)]
pub(crate) enum Way {
    /// To somebody outside that a rule allows.
    Out {
        /// A socket that is connected to them.
        fd: OwnedFd,
        pass: Pass,
        /// The kernel may have datagrams for us.
        readable: bool,
    },
    /// To whoever sent one to a published port.
    In(Visitor),
}

impl Way {
    /// What let it through.
    pub(crate) fn pass(&self) -> Option<&Pass> {
        match self {
            Self::Out { pass, .. } => Some(pass),
            Self::In(_) => None,
        }
    }

    /// Who came by a published port.
    pub(crate) fn visitor(&self) -> Option<Visitor> {
        match self {
            Self::Out { .. } => None,
            Self::In(visitor) => Some(*visitor),
        }
    }
}

/// Who sent datagrams to a published port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Visitor {
    /// The number of the port's socket.
    pub(crate) door: usize,
    pub(crate) address: SocketAddr,
}

/// What a guest sent first.
#[derive(Debug)]
pub(crate) enum First {
    /// The beginning of a connection.
    Syn(Syn),
    /// A datagram: the whole IP packet.
    Datagram(Vec<u8>),
}

/// A guest's connection to a proxy.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) stack: Stack,
    pub(crate) claim: Claim,
    pub(crate) language: Language,
    /// The answer once what was asked for stands.
    pub(crate) ready: &'static [u8],
    /// What is then said first.
    pub(crate) first: Vec<u8>,
    /// What the proxy was asked, for whoever tells the guest that it may not.
    pub(crate) asked: Vec<u8>,
}

/// A guest that has not said yet what it wants of a proxy.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) parked: Parked,
    pub(crate) heard: Vec<u8>,
}

/// The guest's SYN, kept until the outside has answered.
#[derive(Debug)]
pub(crate) struct Syn {
    /// The whole IP packet.
    pub(crate) packet: Vec<u8>,
    /// How to refuse it.
    pub(crate) reset: Reset,
}

/// Addresses on trial.
#[derive(Debug)]
pub(crate) struct Dialling {
    /// What allows them.
    pub(crate) reason: Reason,
    /// Not tried yet, last first.
    pub(crate) left: Vec<Pass>,
    /// On their way.
    pub(crate) trying: Vec<(u8, Upstream)>,
    /// Number of the next one.
    pub(crate) attempt: u8,
    /// When the next one joins.
    pub(crate) next: Instant,
    /// The last address that failed and why.
    pub(crate) failed: Option<(Option<IpAddr>, &'static str)>,
}

/// Who hears the guest.
#[derive(Debug)]
pub(crate) enum Role {
    /// The server, once it is known what the guest says first.
    Unopened(Pass, Demand),
    /// The server.
    Spliced(Pass),
    /// The inspector, and behind it the server.
    Inspected(Pass),
    /// The inspector, which tells why there is no server.
    Refused,
    /// Who connected to a published port.
    Published,
}

/// What a guest may say on a connection whose server it has not heard yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Demand {
    /// Anything; names in it have to agree with the connection's.
    Agreement,
    /// Requests that can be judged, and nothing else.
    Requests,
}

impl Role {
    /// What let it through.
    pub(crate) fn pass(&self) -> Option<&Pass> {
        match self {
            Self::Unopened(pass, _) | Self::Spliced(pass) | Self::Inspected(pass) => Some(pass),
            Self::Refused | Self::Published => None,
        }
    }
}

/// A connection that stands on both sides.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) stack: Stack,
    /// Towards whoever hears the guest.
    pub(crate) pipe: Pipe,
    pub(crate) role: Role,
    pub(crate) claim: Claim,
    /// The guest has finished its handshake.
    pub(crate) established: bool,
    /// The outside broke; the guest is told when it has read what came before.
    pub(crate) broken: bool,
    /// The outside takes no more bytes; what it said is still carried inside.
    pub(crate) deaf: bool,
    /// The guest has said its last byte.
    pub(crate) guest_ended: bool,
    /// What the guest said and nobody heard yet: before it was known what it
    /// is, or before its side was over.
    pub(crate) leftover: Vec<u8>,
    /// Bytes from the guest.
    pub(crate) sent: u64,
    /// Bytes to the guest.
    pub(crate) received: u64,
}

/// A connection to the name server.
#[derive(Debug)]
pub(crate) struct DnsStream {
    pub(crate) stack: Stack,
    pub(crate) claim: Claim,
    pub(crate) question: Vec<u8>,
    /// Its question is with other name servers.
    pub(crate) waiting: bool,
}

/// What serving a connection came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Served {
    /// Nothing more to do until something happens.
    Idle,
    /// The link is full.
    LinkFull,
    /// It is over, in this way.
    Over(&'static str),
}

impl Relay {
    /// A connection whose guest has not finished its handshake.
    pub(crate) fn new(stack: Stack, pipe: Pipe, role: Role, claim: Claim) -> Self {
        Self {
            stack,
            pipe,
            role,
            claim,
            established: false,
            broken: false,
            deaf: false,
            guest_ended: false,
            leftover: Vec::new(),
            sent: 0,
            received: 0,
        }
    }

    /// Whether nobody has said anything on a connection that the guest made.
    pub(crate) fn was_silent(&mut self) -> bool {
        let said = self.sent > 0 || self.received > 0 || self.stack.socket().recv_queue() > 0;
        !said && !matches!(self.role, Role::Published)
    }

    /// Whether it may carry requests and nothing else, and none has come yet.
    pub(crate) fn waits_for_requests(&self) -> bool {
        matches!(self.role, Role::Unopened(_, Demand::Requests))
    }

    /// Whether the guest has said something that nobody hears yet, because it
    /// is not clear what it will be.
    pub(crate) fn has_begun(&self) -> bool {
        matches!(self.role, Role::Unopened(..)) && !self.leftover.is_empty()
    }

    /// Looks at what the guest says first. `None` while that is not clear, and
    /// where it was looked at before.
    pub(crate) fn open(&mut self) -> Option<Opening> {
        if !matches!(self.role, Role::Unopened(..)) {
            return None;
        }
        let socket = self.stack.socket();
        while let Ok(count @ 1..) = socket.recv(|bytes| {
            let room = limits::OPENING.saturating_sub(self.leftover.len());
            let taken = bytes.get(..bytes.len().min(room)).unwrap_or_default();
            self.leftover.extend_from_slice(taken);
            (taken.len(), taken.len())
        }) {
            self.sent += count as u64;
        }
        let ended = !socket.may_recv() && socket.recv_queue() == 0 && self.established;
        match opening::read(&self.leftover) {
            // A server that spoke first speaks no HTTP; TLS is waited for.
            Opening::Unclear if ended || self.answers_a_server() => Some(Opening::Other),
            Opening::Unclear => None,
            clear => Some(clear),
        }
    }

    /// Whether the guest has said something after its server did, and that is
    /// no TLS.
    fn answers_a_server(&self) -> bool {
        let may_be_tls = self
            .leftover
            .first()
            .is_none_or(|byte| *byte == opening::HANDSHAKE);
        self.received > 0 && !may_be_tls
    }

    /// Hears the guest from now on.
    pub(crate) fn opened(&mut self, role: impl FnOnce(Pass) -> Role) {
        let before = std::mem::replace(&mut self.role, Role::Refused);
        self.role = match before {
            Role::Unopened(pass, _) => role(pass),
            other => other,
        };
    }

    /// Moves what can be moved, both ways.
    pub(crate) fn serve(
        &mut self,
        output: &mut Output,
        guest: EthernetAddress,
        now: smoltcp::time::Instant,
    ) -> Served {
        loop {
            let moved = self.carry_out() | self.carry_in();
            let socket = self.stack.socket();
            if self.broken && socket.send_queue() == 0 && socket.is_open() {
                socket.abort();
            }
            if !self.stack.send(output, guest, now) {
                return Served::LinkFull;
            }
            match self.stack.socket().state() {
                // The last acknowledgement is out; the link loses nothing, so
                // nobody has to wait for stray segments.
                tcp::State::Closed | tcp::State::TimeWait | tcp::State::Listen => {
                    return self.finish();
                }
                tcp::State::SynReceived | tcp::State::SynSent => {}
                _ => self.established = true,
            }
            if !moved {
                return Served::Idle;
            }
        }
    }

    /// The guest's side is over; what it said may still be on its way out.
    fn finish(&mut self) -> Served {
        if !(self.guest_ended && self.pipe.ended) {
            return Served::Over("reset");
        }
        let socket = self.stack.socket();
        while let Ok(count @ 1..) = socket.recv(|bytes| {
            self.leftover.extend_from_slice(bytes);
            (bytes.len(), bytes.len())
        }) {
            self.sent += count as u64;
        }
        self.carry_out();
        if self.pipe.shut || self.broken {
            Served::Over("closed")
        } else {
            Served::Idle
        }
    }

    fn carry_out(&mut self) -> bool {
        if matches!(self.role, Role::Unopened(..)) {
            return false;
        }
        let mut moved = false;
        while self.pipe.writable && !self.leftover.is_empty() {
            match self.pipe.write(&self.leftover) {
                Moved::Bytes(count) => drop(self.leftover.drain(..count)),
                Moved::Nothing => {}
                Moved::Broken => {
                    self.broken = true;
                    return false;
                }
            }
        }
        let socket = self.stack.socket();
        while self.pipe.writable && !self.pipe.shut && socket.can_recv() {
            let pipe = &mut self.pipe;
            let deaf = self.deaf;
            let taken = socket.recv(|bytes| {
                let moved = if deaf {
                    Moved::Broken
                } else {
                    pipe.write(bytes)
                };
                match moved {
                    Moved::Bytes(count) => (count, moved),
                    Moved::Nothing => (0, moved),
                    Moved::Broken => (bytes.len(), moved),
                }
            });
            match taken {
                Ok(Moved::Bytes(count)) => {
                    self.sent += count as u64;
                    moved = true;
                }
                // A server that answers early and hangs up is still to be
                // heard; its end, or its reset, comes with a read.
                Ok(Moved::Broken) => {
                    self.deaf = true;
                    self.pipe.readable = true;
                }
                Ok(Moved::Nothing) | Err(_) => break,
            }
        }
        self.guest_ended |= matches!(
            socket.state(),
            tcp::State::CloseWait
                | tcp::State::LastAck
                | tcp::State::Closing
                | tcp::State::TimeWait
        );
        let all_out = socket.recv_queue() == 0 && self.leftover.is_empty();
        if self.guest_ended && !self.pipe.shut && all_out {
            self.pipe.shut();
            moved = true;
        }
        moved
    }

    fn carry_in(&mut self) -> bool {
        // A server that may only answer requests is not heard before one.
        if matches!(self.role, Role::Unopened(_, Demand::Requests)) {
            return false;
        }
        let mut moved = false;
        let socket = self.stack.socket();
        while self.pipe.readable && !self.broken && socket.can_send() {
            let pipe = &mut self.pipe;
            let put = socket.send(|room| match pipe.read(room) {
                Moved::Bytes(count) => (count, Moved::Bytes(count)),
                other => (0, other),
            });
            match put {
                Ok(Moved::Bytes(count)) => {
                    self.received += count as u64;
                    moved = true;
                }
                Ok(Moved::Broken) => self.broken = true,
                Ok(Moved::Nothing) | Err(_) => break,
            }
        }
        self.broken |= self.deaf && self.pipe.ended;
        if self.pipe.ended && socket.may_send() && !self.broken {
            socket.close();
            moved = true;
        }
        moved
    }
}
