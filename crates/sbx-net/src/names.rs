//! The synthetic address of every name that was asked.
//!
//! Owns: which name an address of 198.18.0.0/16 stands for, and the one of IPv6
//! that goes with it. An address is
//! derived from its name, never changes hands, and outlives the process:
//! every new one is told to the supervisor, which hands them all to the next.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;

use sbx_spec::DnsName;
use sbx_spec::guard::{self, Guard};
use sbx_sys::memfd;
use serde::{Deserialize, Serialize};

use crate::limits;

/// A name and the address that stands for it in one sandbox.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownName {
    /// The address, in 198.18.0.0/16.
    pub addr: Ipv4Addr,
    /// The name.
    pub name: DnsName,
}

/// The memory file that hands `known` to an endpoint.
///
/// # Errors
/// When the kernel refuses it.
pub fn file(known: &[KnownName]) -> sbx_sys::Result<OwnedFd> {
    let text = serde_json::to_vec(known).map_err(|error| {
        sbx_sys::Error::new("write down the names", std::io::Error::from(error))
    })?;
    memfd::sealed("sbx-names", &text)
}

/// What is in a file that [`file`] made.
pub(crate) fn read(file: OwnedFd) -> sbx_sys::Result<Vec<KnownName>> {
    let text = memfd::read_sealed(file, limits::NAMES * limits::NAME)?;
    serde_json::from_slice(&text)
        .map_err(|error| sbx_sys::Error::new("understand the names", std::io::Error::from(error)))
}

/// How many places a name may try before it is refused. With at most a
/// quarter of the places taken, sixteen misses in a row do not happen.
const TRIES: u32 = 16;

/// Names by address and addresses by name.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_name: HashMap<DnsName, u16>,
    by_place: HashMap<u16, DnsName>,
    /// Not told to the supervisor yet, the oldest first.
    untold: VecDeque<u16>,
}

impl Names {
    /// Takes over what earlier endpoints of this sandbox handed out. What
    /// contradicts the earlier entries, or cannot be, is left out.
    pub(crate) fn restored(known: &[KnownName]) -> Self {
        let mut names = Self::default();
        for KnownName { addr, name } in known.iter().take(limits::NAMES) {
            let Some(place) = place_of(*addr) else {
                continue;
            };
            if names.is_free(place) && !names.by_name.contains_key(name) {
                names.put(place, name);
            }
        }
        names
    }

    /// The oldest new name, until [`Self::told`].
    pub(crate) fn untold(&self) -> Option<KnownName> {
        let place = self.untold.front()?;
        let name = self.by_place.get(place)?.clone();
        Some(KnownName {
            addr: at(*place),
            name,
        })
    }

    /// The supervisor knows what [`Self::untold`] said.
    pub(crate) fn told(&mut self) {
        self.untold.pop_front();
    }

    /// The address of a name, new or known. `None` when the table is full.
    pub(crate) fn address(&mut self, name: &DnsName) -> Option<Ipv4Addr> {
        if let Some(place) = self.by_name.get(name) {
            return Some(at(*place));
        }
        if guard::out(Guard::OneName)
            && let Some(place) = self.by_place.keys().next()
        {
            return Some(at(*place));
        }
        if self.by_name.len() >= limits::NAMES && !guard::out(Guard::NameCount) {
            return None;
        }
        let place = (0..TRIES)
            .map(|attempt| place(name, attempt))
            .find(|place| self.is_free(*place))?;
        self.put(place, name);
        self.untold.push_back(place);
        Some(at(place))
    }

    fn is_free(&self, place: u16) -> bool {
        // .0.0 and .255.255 look like a network and its broadcast address.
        place != 0 && place != u16::MAX && !self.by_place.contains_key(&place)
    }

    fn put(&mut self, place: u16, name: &DnsName) {
        self.by_name.insert(name.clone(), place);
        self.by_place.insert(place, name.clone());
    }

    /// The name an address stands for.
    pub(crate) fn name(&self, address: Ipv4Addr) -> Option<&DnsName> {
        self.by_place.get(&place_of(address)?)
    }

    /// How many names have an address.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
    }
}

fn place_of(address: Ipv4Addr) -> Option<u16> {
    match address.octets() {
        [198, 18, high, low] => Some(u16::from_be_bytes([high, low])),
        _ => None,
    }
}

fn at(place: u16) -> Ipv4Addr {
    let [high, low] = place.to_be_bytes();
    Ipv4Addr::new(198, 18, high, low)
}

fn place(name: &DnsName, attempt: u32) -> u16 {
    let mut hasher = DefaultHasher::new();
    name.as_str().hash(&mut hasher);
    attempt.hash(&mut hasher);
    let [.., high, low] = hasher.finish().to_be_bytes();
    u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_one_address_and_every_address_one_name() {
        let mut names = Names::default();
        let a: DnsName = "a.example".parse().unwrap();
        let b: DnsName = "b.example".parse().unwrap();
        let first = names.address(&a).unwrap();
        assert_ne!(first, names.address(&b).unwrap());
        assert_eq!(names.address(&a), Some(first));
        assert_eq!(names.name(first), Some(&a));
        assert_eq!(Names::default().address(&a), Some(first));
        assert_eq!(names.name(Ipv4Addr::new(198, 19, 255, 1)), None);
    }

    #[test]
    fn what_was_told_comes_back_and_what_cannot_be_does_not() {
        let mut names = Names::default();
        let name = |text: &str| text.parse::<DnsName>().unwrap();
        let first = names.address(&name("a.example")).unwrap();
        let second = names.address(&name("b.example")).unwrap();
        let mut told = Vec::new();
        while let Some(known) = names.untold() {
            told.push(known);
            names.told();
        }
        assert_eq!(told.len(), 2);
        let lie = |addr: [u8; 4], text| KnownName {
            addr: addr.into(),
            name: name(text),
        };
        told.push(lie([127, 0, 0, 1], "c.example"));
        told.push(lie([198, 18, 0, 0], "d.example"));
        told.push(lie(first.octets(), "e.example"));
        told.push(lie([198, 18, 1, 1], "a.example"));
        let mut restored = Names::restored(&told);
        assert_eq!(restored.len(), 2);
        assert_eq!(restored.name(first), Some(&name("a.example")));
        assert_eq!(restored.address(&name("b.example")), Some(second));
        assert_eq!(restored.untold(), None);
    }

    #[test]
    fn the_table_is_bounded_and_known_names_keep_working() {
        let mut names = Names::default();
        let name = |n: usize| format!("n{n}.example").parse::<DnsName>().unwrap();
        let given = (0..limits::NAMES + 100)
            .filter(|n| names.address(&name(*n)).is_some())
            .count();
        assert_eq!(given, limits::NAMES);
        assert_eq!(names.len(), limits::NAMES);
        assert!(names.address(&name(0)).is_some());
        assert!(names.address(&name(limits::NAMES + 50)).is_none());
    }
}
