//! Names resolved the way the host does: its hosts file, its name service
//! switch, its split DNS.
//!
//! The C library's resolver blocks and cannot be interrupted, so a few
//! threads wait in it. Whoever asked has a time limit of their own.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};
use sbx_spec::DnsName;

use crate::limits;

/// What a name resolved to; empty when it did not.
pub(crate) type Addresses = Arc<[IpAddr]>;

/// The threads and what they found lately.
#[derive(Debug)]
pub(crate) struct Resolver {
    shared: Arc<Shared>,
    waiting: HashMap<DnsName, Vec<u64>>,
    recent: HashMap<DnsName, (Addresses, Instant)>,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct Queue {
    names: VecDeque<DnsName>,
    found: Vec<(DnsName, Vec<IpAddr>)>,
    closed: bool,
}

/// What becomes of a question.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Known.
    Found(Addresses),
    /// The answer will come by [`Resolver::answers`].
    Later,
    /// Too many names wait.
    Full,
}

impl Resolver {
    /// Starts the threads.
    pub(crate) fn start() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            work: Condvar::new(),
            wake,
        });
        for _ in 0..limits::RESOLVERS {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("resolver".to_owned())
                .stack_size(512 * 1024)
                .spawn(move || work(&shared))?;
        }
        Ok(Self {
            shared,
            waiting: HashMap::new(),
            recent: HashMap::new(),
        })
    }

    /// Readable when answers have come.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }

    /// Asks for a name on behalf of `who`.
    pub(crate) fn ask(&mut self, name: &DnsName, who: u64, now: Instant) -> Asked {
        if let Some((addresses, at)) = self.recent.get(name)
            && now < *at + limits::RESOLVED_FOR
        {
            return Asked::Found(Arc::clone(addresses));
        }
        if let Some(waiting) = self.waiting.get_mut(name) {
            waiting.push(who);
            return Asked::Later;
        }
        let mut queue = self.shared.queue.lock();
        if queue.names.len() >= limits::RESOLVER_QUEUE {
            return Asked::Full;
        }
        queue.names.push_back(name.clone());
        drop(queue);
        self.shared.work.notify_one();
        self.waiting.insert(name.clone(), vec![who]);
        Asked::Later
    }

    /// Takes the answers that have come, and who waits for each.
    pub(crate) fn answers(&mut self, now: Instant) -> Vec<(DnsName, Addresses, Vec<u64>)> {
        let mut count = [0; 8];
        // Empty when another wake-up took the count already.
        let _spurious = rustix::io::read(&self.shared.wake, &mut count);
        let found = std::mem::take(&mut self.shared.queue.lock().found);
        if self.recent.len() + found.len() > limits::RESOLVED_NAMES {
            self.recent
                .retain(|_, (_, at)| now < *at + limits::RESOLVED_FOR);
            if self.recent.len() + found.len() > limits::RESOLVED_NAMES {
                self.recent.clear();
            }
        }
        let mut answers = Vec::with_capacity(found.len());
        for (name, addresses) in found {
            let addresses: Addresses = addresses.into();
            if !addresses.is_empty() {
                self.recent
                    .insert(name.clone(), (Arc::clone(&addresses), now));
            }
            let waiting = self.waiting.remove(&name).unwrap_or_default();
            answers.push((name, addresses, waiting));
        }
        answers
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.work.notify_all();
    }
}

fn work(shared: &Shared) {
    loop {
        let mut queue = shared.queue.lock();
        let name = loop {
            if queue.closed {
                return;
            }
            if let Some(name) = queue.names.pop_front() {
                break name;
            }
            shared.work.wait(&mut queue);
        };
        drop(queue);
        let addresses = look_up(&name);
        shared.queue.lock().found.push((name, addresses));
        // Full only after 2^64 wake-ups that nobody read.
        let _full = rustix::io::write(&shared.wake, &1u64.to_ne_bytes());
    }
}

fn look_up(name: &DnsName) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for found in (name.as_str(), 0).to_socket_addrs().into_iter().flatten() {
        let address = found.ip().to_canonical();
        if !addresses.contains(&address) && addresses.len() < limits::CANDIDATES {
            addresses.push(address);
        }
    }
    addresses
}
