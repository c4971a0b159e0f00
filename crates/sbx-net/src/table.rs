//! The connections of one endpoint, by number and by their ends.
//!
//! Finding one costs the same with one and with five thousand.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Instant;

use sbx_spec::Protocol;
use slab::Slab;

use crate::entry::tcp::Ends;
use crate::flow::Flow;

/// Where a connection is in the table; it names no other one later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct Key {
    place: u32,
    generation: u32,
}

impl Key {
    const GENERATIONS: u32 = 1 << 24;

    /// Its place: below the largest number of connections there were at once.
    pub(crate) fn place(self) -> u32 {
        self.place
    }

    /// The key and one of its sockets as event data.
    pub(crate) fn token(self, attempt: u8) -> u64 {
        u64::from(self.generation) << 40 | u64::from(self.place) << 8 | u64::from(attempt)
    }

    /// Back from event data.
    pub(crate) fn from_token(token: u64) -> (Self, u8) {
        let [g0, g1, g2, p0, p1, p2, p3, attempt] = token.to_be_bytes();
        let key = Self {
            place: u32::from_be_bytes([p0, p1, p2, p3]),
            generation: u32::from_be_bytes([0, g0, g1, g2]),
        };
        (key, attempt)
    }
}

/// All connections, those to be served and when to look at the others.
#[derive(Debug, Default)]
pub(crate) struct Table {
    flows: Slab<Flow>,
    by_ends: HashMap<(Protocol, Ends), Key>,
    generation: u32,
    ready: VecDeque<Key>,
    timers: BinaryHeap<Reverse<(Instant, Key)>>,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    pub(crate) fn find(&self, protocol: Protocol, ends: &Ends) -> Option<Key> {
        self.by_ends.get(&(protocol, *ends)).copied()
    }

    pub(crate) fn get_mut(&mut self, key: Key) -> Option<&mut Flow> {
        let place = usize::try_from(key.place).ok()?;
        self.flows
            .get_mut(place)
            .filter(|flow| flow.generation == key.generation)
    }

    /// All of them, as they are now.
    pub(crate) fn keys(&self) -> Vec<Key> {
        self.by_ends.values().copied().collect()
    }

    pub(crate) fn insert(&mut self, mut flow: Flow) -> Key {
        self.generation = (self.generation + 1) % Key::GENERATIONS;
        flow.generation = self.generation;
        let ends = (flow.intent.flow.protocol, flow.ends);
        let place = self.flows.insert(flow);
        let key = Key {
            place: u32::try_from(place).unwrap_or(u32::MAX),
            generation: self.generation,
        };
        self.by_ends.insert(ends, key);
        key
    }

    pub(crate) fn remove(&mut self, key: Key) -> Option<Flow> {
        let flow = self.get_mut(key)?;
        let ends = (flow.intent.flow.protocol, flow.ends);
        self.by_ends.remove(&ends);
        self.flows.try_remove(usize::try_from(key.place).ok()?)
    }

    /// Puts a connection on the list of those to be served.
    pub(crate) fn queue(&mut self, key: Key) {
        if let Some(flow) = self.get_mut(key)
            && !flow.queued
        {
            flow.queued = true;
            self.ready.push_back(key);
        }
    }

    /// How many wait to be served.
    pub(crate) fn queued(&self) -> usize {
        self.ready.len()
    }

    /// The next connection to be served.
    pub(crate) fn next_queued(&mut self) -> Option<Key> {
        loop {
            let key = self.ready.pop_front()?;
            if let Some(flow) = self.get_mut(key) {
                flow.queued = false;
                return Some(key);
            }
        }
    }

    /// Wants the connection served at `at` or before.
    pub(crate) fn set_timer(&mut self, key: Key, at: Instant) {
        if let Some(flow) = self.get_mut(key)
            && flow.timer.is_none_or(|earlier| at < earlier)
        {
            flow.timer = Some(at);
            self.timers.push(Reverse((at, key)));
        }
    }

    /// The next time that anyone waits for.
    pub(crate) fn next_timer(&self) -> Option<Instant> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Queues every connection whose time has come.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(Reverse((at, key))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            if let Some(flow) = self.get_mut(key)
                && flow.timer == Some(at)
            {
                flow.timer = None;
                self.queue(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_way_through_the_kernel() {
        let key = Key {
            place: 0x0102_0304,
            generation: 0x00a1_b2c3,
        };
        assert_eq!(Key::from_token(key.token(0x7f)), (key, 0x7f));
    }
}
