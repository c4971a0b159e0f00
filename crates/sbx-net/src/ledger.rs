//! Which connections stand, in a memory file that outlives the process.
//!
//! An endpoint that follows a dead one finds there whom to tell that it is
//! over. Owns: the form of an entry. Never: numbers or bytes of a connection.
//! Trusts nothing it reads: the one before may have been taken over.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use crate::entry::tcp::Ends;
use crate::layout;
use crate::limits;
use crate::table::Key;

/// Bytes of an entry: the guest's port, the server's, and the server's
/// address, an IPv4 one in its IPv6 form; all zero when it is free.
const ENTRY: usize = limits::LEDGER / limits::FLOWS;

/// The list.
#[derive(Debug)]
pub(crate) struct Ledger(OwnedFd);

impl Ledger {
    pub(crate) fn new(file: OwnedFd) -> Self {
        Self(file)
    }

    /// Everything that is listed; the list is empty then.
    pub(crate) fn take(&mut self) -> io::Result<Vec<Ends>> {
        let mut bytes = vec![0; limits::LEDGER];
        let mut read = 0;
        while let Some(room) = bytes.get_mut(read..).filter(|room| !room.is_empty()) {
            match rustix::io::pread(&self.0, room, read as u64)? {
                0 => break,
                count => read += count,
            }
        }
        let (entries, _) = bytes.as_chunks::<ENTRY>();
        let listed: Vec<_> = entries.iter().filter_map(parse).collect();
        if !listed.is_empty() {
            bytes.fill(0);
            rustix::io::pwrite(&self.0, &bytes, 0)?;
        }
        Ok(listed)
    }

    /// Lists a connection.
    pub(crate) fn enter(&self, key: Key, ends: &Ends) {
        self.write(key, &emit(ends));
    }

    /// Takes it off the list.
    pub(crate) fn erase(&self, key: Key) {
        self.write(key, &[0; ENTRY]);
    }

    fn write(&self, key: Key, entry: &[u8; ENTRY]) {
        let at = u64::from(key.place()) * ENTRY as u64;
        // Without its entry a connection only ends later, should this
        // process die.
        let _unlisted = rustix::io::pwrite(&self.0, entry, at);
    }
}

fn emit(ends: &Ends) -> [u8; ENTRY] {
    let address = match ends.server.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut entry = [0; ENTRY];
    let parts = [
        &ends.guest.port().to_be_bytes()[..],
        &ends.server.port().to_be_bytes(),
        &address.octets(),
    ];
    for (to, from) in entry.iter_mut().zip(parts.into_iter().flatten()) {
        *to = *from;
    }
    entry
}

fn parse(entry: &[u8; ENTRY]) -> Option<Ends> {
    let (guest, rest) = entry.split_first_chunk::<2>()?;
    let (server, rest) = rest.split_first_chunk::<2>()?;
    let (address, _) = rest.split_first_chunk::<16>()?;
    let (guest, server) = (u16::from_be_bytes(*guest), u16::from_be_bytes(*server));
    if guest == 0 {
        return None;
    }
    let address = std::net::Ipv6Addr::from(*address);
    let (ours, theirs) = match address.to_ipv4_mapped() {
        Some(v4) => (IpAddr::V4(layout::GUEST_V4), IpAddr::V4(v4)),
        None => (IpAddr::V6(layout::GUEST_V6), IpAddr::V6(address)),
    };
    Some(Ends {
        guest: SocketAddr::new(ours, guest),
        server: SocketAddr::new(theirs, server),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_come_back_and_free_entries_do_not() {
        for server in ["198.18.4.5:443", "[fd73:6278:7800::fe]:8080"] {
            let server: SocketAddr = server.parse().unwrap();
            let guest = match server {
                SocketAddr::V4(_) => SocketAddr::from((layout::GUEST_V4, 40_000)),
                SocketAddr::V6(_) => SocketAddr::from((layout::GUEST_V6, 40_000)),
            };
            let ends = Ends { guest, server };
            assert_eq!(parse(&emit(&ends)), Some(ends));
        }
        assert_eq!(parse(&[0; ENTRY]), None);
    }
}
