//! Names resolved the way the host does: its hosts file, its name service
//! switch, its split DNS.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Instant;

use sbx_spec::DnsName;
use sbx_spec::guard::{self, Guard};

use crate::limits;
use crate::workers::{Full, Workers};

/// What a name resolved to; empty when it did not.
pub(crate) type Addresses = Arc<[IpAddr]>;

/// Who waits in the C library's resolver, and what was found lately.
#[derive(Debug)]
pub(crate) struct Resolver {
    workers: Workers<DnsName, (DnsName, Vec<IpAddr>)>,
    waiting: HashMap<DnsName, Vec<u64>>,
    recent: HashMap<DnsName, (Addresses, Instant)>,
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
    /// One that knows nothing yet.
    pub(crate) fn new() -> io::Result<Self> {
        let (threads, room) = (limits::RESOLVERS, limits::RESOLVER_QUEUE);
        Ok(Self {
            workers: Workers::new("resolver", threads, room, |name| {
                let addresses = look_up(&name);
                (name, addresses)
            })?,
            waiting: HashMap::new(),
            recent: HashMap::new(),
        })
    }

    /// Readable when answers have come.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.workers.as_fd()
    }

    /// Asks for a name on behalf of `who`.
    pub(crate) fn ask(&mut self, name: &DnsName, who: u64, now: Instant) -> Asked {
        if let Some((addresses, at)) = self.recent.get(name)
            && (now < *at + limits::RESOLVED_FOR || guard::out(Guard::ResolvedAnew))
        {
            return Asked::Found(Arc::clone(addresses));
        }
        if let Some(waiting) = self.waiting.get_mut(name) {
            waiting.push(who);
            return Asked::Later;
        }
        if let Err(Full) = self.workers.ask(name.clone()) {
            return Asked::Full;
        }
        self.waiting.insert(name.clone(), vec![who]);
        Asked::Later
    }

    /// Takes the answers that have come, and who waits for each.
    pub(crate) fn answers(&mut self, now: Instant) -> Vec<(DnsName, Addresses, Vec<u64>)> {
        let found = self.workers.answers();
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

/// The addresses of a name in the host's order, as many as are dialled; empty
/// where it has none. Waits for the C library's resolver.
#[must_use]
pub fn look_up(name: &DnsName) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for found in (name.as_str(), 0).to_socket_addrs().into_iter().flatten() {
        let address = found.ip().to_canonical();
        if !addresses.contains(&address) && addresses.len() < limits::CANDIDATES {
            addresses.push(address);
        }
    }
    addresses
}
