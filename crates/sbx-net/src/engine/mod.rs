//! The loop: one thread, one wait, everything else non-blocking.
//!
//! A packet costs one table lookup whatever the number of connections; timers
//! are in a heap; connections that have something to do are in a list. Where
//! the link is full, connections wait in that list.

mod adapter;
mod arrive;
mod cut;
mod exchange;
mod handed;
mod held;
mod name_server;
mod published;
mod serve;
mod tunnel;
mod visitors;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use sbx_spec::guard::{self, Guard};
use sbx_spec::{Destination, DnsName, MAX_PUBLISHED, Protocol};
use smoltcp::wire::EthernetAddress;

use crate::buffers::Buffers;
use crate::control::{AnswerOrder, Closed, Control, Order, PolicyOrder, PolicyRecord, Rate, Ready};
use crate::device::link::{Link, Output, Room};
use crate::device::packet::Outlet;
use crate::entry::tcp;
use crate::error::{Attempt, Error};
use crate::flow::{Dialling, State, Way};
use crate::gate::{Gate, Pass};
use crate::inspect::{Inspector, Roots};
use crate::layout;
use crate::ledger::Ledger;
use crate::limits;
use crate::names::{self, Names};
use crate::questions::Questions;
use crate::resolve::{Asked, Resolver};
use crate::table::{Key, Table};
use crate::upstream::{Proxies, Ways};

use published::Doors;

const LINK: u64 = u64::MAX;
const CONTROL: u64 = u64::MAX - 1;
const RESOLVER: u64 = u64::MAX - 2;
const INSPECTOR: u64 = u64::MAX - 3;
const DOORS: u64 = u64::MAX - 4;
const RECORDS: u64 = u64::MAX - 5;
/// The first of the published ports of datagrams, each with its number.
const DATAGRAMS: u64 = RECORDS - MAX_PUBLISHED as u64;

/// Why the loop ended in good order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    /// The virtual machine is gone.
    Link,
    /// The supervisor is gone.
    Control,
}

/// What an endpoint is reached by.
#[derive(Debug)]
pub struct Links {
    /// Frames: a Unix socket of messages to the VMM, or a container's packet
    /// socket ([`sbx_sys::veth::pair`]).
    pub link: OwnedFd,
    /// JSON lines: a Unix stream socket to the supervisor.
    pub control: OwnedFd,
    /// The connections that stand, for the endpoint after this one: a memory
    /// file of [`crate::limits::LEDGER`] bytes that whoever starts endpoints
    /// keeps.
    pub ledger: OwnedFd,
    /// The names that earlier endpoints of this sandbox gave addresses, the
    /// oldest first: a sealed memory file made by [`crate::names_file`].
    pub names: OwnedFd,
    /// Connections of the host into published ports: a Unix socket of
    /// messages, each `{"port":N}` of the guest with one connected socket. A
    /// socket of datagrams that is connected to nobody is read from until
    /// `{"shut":"IP:PORT"}` names its end.
    pub published: OwnedFd,
    /// Whom to believe where TLS is ended here: certificates in PEM, or
    /// nothing for the host's own trust store.
    pub trust: Vec<u8>,
    /// The proxies that stand between this host and the network.
    pub proxies: Proxies,
}

/// Everything of one endpoint.
pub(crate) struct Engine {
    epoll: OwnedFd,
    link: Link,
    output: Output,
    control: Control,
    ledger: Ledger,
    orphans: Vec<tcp::Ends>,
    orphans_asked: u32,
    ask_orphans_at: Option<Instant>,
    resolver: Resolver,
    records: name_server::Lookups,
    inspector: Inspector,
    /// Whether the guest trusts what the inspector is to it.
    has_authority: bool,
    gate: Gate,
    names: Names,
    questions: Questions,
    table: Table,
    buffers: Buffers,
    dialling: usize,
    half_open: usize,
    dns_streams: usize,
    refusals: usize,
    inspected: usize,
    adapters: usize,
    doors: Doors,
    published: usize,
    exchanges: usize,
    ways: Ways,
    dns_rate: Rate,
    record_rate: Rate,
    fruitless: Rate,
    /// The present frame is not in vain.
    bears_fruit: bool,
    /// The link is not read before.
    rests_until: Option<Instant>,
    guest: EthernetAddress,
    next_id: u64,
    seeds: RandomState,
    start: Instant,
    now: Instant,
}

impl Engine {
    pub(crate) fn new(links: Links, roots: Roots) -> Result<Self, Error> {
        let Links {
            link,
            control,
            ledger,
            names,
            published,
            trust: _,
            proxies,
        } = links;
        let names = names::read(names).map_err(|error| Error::new(Attempt::Names, error))?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|error| Error::new(Attempt::Wait, error))?;
        let resolver = Resolver::new().map_err(Error::of(Attempt::Resolver))?;
        let records = name_server::lookups().map_err(Error::of(Attempt::Resolver))?;
        let gate = Gate::default();
        let inspector = Inspector::start(gate.judge_of_requests(), roots)
            .map_err(Error::of(Attempt::Inspector))?;
        let now = Instant::now();
        for (fd, attempt) in [
            (&link, Attempt::Link),
            (&control, Attempt::Control),
            (&published, Attempt::Published),
        ] {
            rustix::io::ioctl_fionbio(fd, true).map_err(|error| Error::new(attempt, error))?;
        }
        let mut engine = Self {
            epoll,
            link: Link::new(link),
            output: Output::new(),
            control: Control::new(control, now),
            ledger: Ledger::new(ledger),
            orphans: Vec::new(),
            orphans_asked: 0,
            ask_orphans_at: None,
            resolver,
            records,
            inspector,
            has_authority: false,
            gate,
            names: Names::restored(&names),
            questions: Questions::default(),
            table: Table::default(),
            buffers: Buffers::default(),
            dialling: 0,
            half_open: 0,
            dns_streams: 0,
            refusals: 0,
            inspected: 0,
            adapters: 0,
            doors: Doors::new(published),
            published: 0,
            exchanges: 0,
            ways: Ways::of(&proxies),
            dns_rate: Rate::new(limits::DNS_RATE, now),
            record_rate: Rate::new(limits::RECORD_QUESTIONS, now),
            fruitless: Rate::new(limits::FRUITLESS_RATE, now).at_once(limits::FRUITLESS_AT_ONCE),
            bears_fruit: false,
            rests_until: None,
            guest: layout::GUEST_MAC,
            next_id: 1,
            seeds: RandomState::new(),
            start: now,
            now,
        };
        engine
            .watch(engine.link.as_fd(), LINK)
            .map_err(Error::of(Attempt::Wait))?;
        engine
            .watch(engine.control.as_fd(), CONTROL)
            .map_err(Error::of(Attempt::Wait))?;
        engine
            .watch(engine.resolver.as_fd(), RESOLVER)
            .map_err(Error::of(Attempt::Wait))?;
        engine
            .watch(engine.records.as_fd(), RECORDS)
            .map_err(Error::of(Attempt::Wait))?;
        engine
            .watch(engine.inspector.reports().as_fd(), INSPECTOR)
            .map_err(Error::of(Attempt::Wait))?;
        engine
            .watch(engine.doors.fd(), DOORS)
            .map_err(Error::of(Attempt::Wait))?;
        engine.orphans = engine.ledger.take().map_err(Error::of(Attempt::Ledger))?;
        engine.end_orphans();
        Ok(engine)
    }

    /// Ends what an endpoint before this one left behind: nobody knows how
    /// far those connections are, and their programs would wait.
    /// A guest answers such a question once a second at most, and may just
    /// have answered something else: it is asked more than once.
    fn end_orphans(&mut self) {
        self.ask_orphans_at = None;
        if self.orphans_asked >= limits::ORPHAN_QUESTIONS {
            self.orphans = Vec::new();
        }
        if self.orphans.is_empty() {
            return;
        }
        self.orphans_asked += 1;
        self.ask_orphans_at = Some(self.now + limits::ORPHAN_PAUSE);
        for (number, ends) in (0u32..).zip(&self.orphans) {
            let seed = (number, self.orphans_asked);
            let [a, b, c, d, ..] = self.seeds.hash_one(seed).to_ne_bytes();
            let guess = u32::from_ne_bytes([a, b, c, d]);
            let mut outlet = Outlet {
                output: &mut self.output,
                guest: self.guest,
            };
            // Some stacks answer only what acknowledges too much, and of
            // these two one does.
            for guess in [guess, !guess] {
                tcp::ask_where(ends, guess, &mut outlet);
            }
        }
    }

    fn watch(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        Ok(epoll::add(
            &self.epoll,
            fd,
            epoll::EventData::new_u64(token),
            flags,
        )?)
    }

    /// Serves until either link ends.
    pub(crate) fn run(mut self, ready: &Ready) -> Result<Ended, Error> {
        self.control.ready(ready);
        let mut room = Room::new();
        let mut events = Vec::with_capacity(512);
        loop {
            // Before any answer: a name that the guest knows is not lost with
            // this process.
            self.control.names(&mut self.names);
            if self.control.send().map_err(Error::of(Attempt::Control))? == Err(Closed) {
                return Ok(Ended::Control);
            }
            if self.send_frames()? {
                return Ok(Ended::Link);
            }
            self.wait(&mut events)?;
            match self
                .control
                .receive()
                .map_err(Error::of(Attempt::Control))?
            {
                Ok(orders) => orders.into_iter().for_each(|order| self.obey(order)),
                Err(Closed) => return Ok(Ended::Control),
            }
            self.take_published()
                .map_err(Error::of(Attempt::Published))?;
            if self.take_frames(&mut room)? {
                return Ok(Ended::Link);
            }
            self.table.expire(self.now);
            self.expire_questions();
            if self.ask_orphans_at.is_some_and(|at| at <= self.now) {
                self.end_orphans();
            }
            self.serve_queued();
            self.control.sum_up(self.now);
        }
    }

    /// Sends what waits for the guest; true when nobody takes it any more.
    fn send_frames(&mut self) -> Result<bool, Error> {
        let taken = self.link.send(&mut self.output);
        Ok(!taken.map_err(Error::of(Attempt::Link))?)
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Policy(PolicyOrder { revision, rules }) => {
                self.gate.replace_rules(rules);
                let cut = match guard::out(Guard::CutByRules) {
                    true => 0,
                    false => self.cut_objected(),
                };
                self.ask_by_new_rules();
                self.control.policy(&PolicyRecord { revision, cut });
                // The text of many rules, and at first the trust store's.
                sbx_sys::memory::give_back();
            }
            Order::Authority(authority) => {
                self.has_authority = true;
                self.inspector.use_authority(authority);
            }
            Order::Answer(AnswerOrder { question, approve }) => self.answered(question, approve),
        }
    }

    fn wait(&mut self, events: &mut Vec<epoll::Event>) -> Result<(), Error> {
        let reads = self.link.readable && self.rests_until.is_none();
        let waits = self.table.queued() > 0 || self.doors.waits();
        let busy = reads || (self.output.has_room() && waits);
        let timeout = if busy {
            Some(Duration::ZERO)
        } else {
            let next = [
                self.table.next_timer(),
                self.control.due(),
                self.questions.due(),
                self.ask_orphans_at,
                self.rests_until,
            ]
            .into_iter()
            .flatten()
            .min();
            next.map(|at| at.saturating_duration_since(Instant::now()))
        };
        // A timeout that does not fit is more than anyone waits.
        let timeout = timeout.and_then(|timeout| rustix::event::Timespec::try_from(timeout).ok());
        events.clear();
        match epoll::wait(
            &self.epoll,
            rustix::buffer::spare_capacity(events),
            timeout.as_ref(),
        ) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::new(Attempt::Wait, error)),
        }
        self.now = Instant::now();
        self.rests_until = self.rests_until.filter(|until| self.now < *until);
        for event in events.drain(..) {
            let flags = event.flags;
            let failed = flags.intersects(epoll::EventFlags::ERR | epoll::EventFlags::HUP);
            let readable =
                failed || flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::RDHUP);
            let writable = failed || flags.contains(epoll::EventFlags::OUT);
            match event.data.u64() {
                LINK => {
                    self.link.closed |= failed || flags.contains(epoll::EventFlags::RDHUP);
                    self.link.readable |= readable;
                    self.link.writable |= writable;
                }
                CONTROL => {
                    self.control.readable |= readable;
                    self.control.writable |= writable;
                }
                RESOLVER => self.take_answers(),
                RECORDS => self.take_records(),
                INSPECTOR => self.take_reports(),
                DOORS => self.doors.readable |= readable,
                token @ DATAGRAMS.. => self.doors.wake(token - DATAGRAMS, readable),
                token => self.wake(token, readable, writable),
            }
        }
        Ok(())
    }

    fn wake(&mut self, token: u64, readable: bool, writable: bool) {
        let (key, attempt) = Key::from_token(token);
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        match &mut flow.state {
            State::Relaying(relay) => {
                relay.pipe.readable |= readable;
                relay.pipe.writable |= writable;
            }
            State::Dialling(dialling) => {
                if let Some((_, upstream)) = dialling.trying.iter_mut().find(|(n, _)| *n == attempt)
                {
                    upstream.pipe.readable |= readable;
                    upstream.pipe.writable |= writable;
                }
            }
            State::Exchanging(exchange) => {
                if let Way::Out { readable: may, .. } = &mut exchange.way {
                    *may |= readable;
                }
            }
            State::Held
            | State::Resolving
            | State::Tunnelling(_)
            | State::Dns(_)
            | State::Asking(_) => {}
        }
        self.table.queue(key);
    }

    fn take_answers(&mut self) {
        for (_, addresses, waiting) in self.resolver.answers(self.now) {
            for token in waiting {
                self.resolved(Key::from_token(token).0, &addresses);
            }
        }
    }

    pub(super) fn resolved(&mut self, key: Key, addresses: &[IpAddr]) {
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        let (State::Resolving, Destination::Name(name)) =
            (&flow.state, &flow.intent.flow.destination)
        else {
            return;
        };
        let by_name = addresses.is_empty()
            && self
                .ways
                .way(&flow.intent)
                .is_some_and(|way| way.resolves());
        let decision = match by_name {
            true => self.gate.judge_unresolved(&flow.intent, self.now),
            false => self
                .gate
                .judge_resolved(&flow.intent, name, addresses, self.now),
        };
        self.pursue(key, decision);
    }

    /// Has a connection wait for the host's resolver.
    fn resolve(&mut self, key: Key, name: &DnsName) {
        let deadline = self.now + limits::RESOLVE_TIME;
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        flow.deadline = Some(deadline);
        flow.state = State::Resolving;
        self.table.set_timer(key, deadline);
        match self.resolver.ask(name, key.token(0), self.now) {
            Asked::Found(addresses) => self.resolved(key, &addresses),
            Asked::Later => {}
            Asked::Full => self.deny(key, "limit:resolver".into()),
        }
    }

    /// Has a connection wait for the outside.
    fn dial(&mut self, key: Key, passes: Vec<Pass>) {
        let deadline = self.now + limits::DIAL_TIME;
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        if flow.intent.flow.protocol == Protocol::Udp {
            return self.open_exchange(key, passes);
        }
        if let Some(way) = self.ways.way(&flow.intent) {
            return self.tunnel(key, way, passes);
        }
        flow.deadline = Some(deadline);
        flow.state = dialling(passes, self.now);
        self.table.set_timer(key, deadline);
        self.table.queue(key);
    }
}

/// No address was left to dial.
const NO_ADDRESS: &str = "default:no-address";

fn dialling(mut passes: Vec<Pass>, now: Instant) -> State {
    passes.reverse();
    State::Dialling(Dialling {
        reason: passes
            .last()
            .map_or(NO_ADDRESS.into(), |pass| pass.reason().clone()),
        left: passes,
        trying: Vec::new(),
        attempt: 0,
        next: now,
        failed: None,
    })
}
