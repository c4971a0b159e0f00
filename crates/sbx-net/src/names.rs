//! The synthetic address of every name that was asked.
//!
//! Owns: which name an address of 198.18.0.0/16 stands for. An address is
//! derived from its name, so that a restarted endpoint hands out the same
//! ones, and never changes hands while the process lives.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;

use sbx_spec::DnsName;

use crate::limits;

/// How many places a name may try before it is refused. With at most a
/// quarter of the places taken, sixteen misses in a row do not happen.
const TRIES: u32 = 16;

/// Names by address and addresses by name.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_name: HashMap<DnsName, u16>,
    by_place: HashMap<u16, DnsName>,
}

impl Names {
    /// The address of a name, new or known. `None` when the table is full.
    pub(crate) fn address(&mut self, name: &DnsName) -> Option<Ipv4Addr> {
        if let Some(place) = self.by_name.get(name) {
            return Some(at(*place));
        }
        if self.by_name.len() >= limits::NAMES {
            return None;
        }
        let place = (0..TRIES)
            .map(|attempt| place(name, attempt))
            .find(|place| {
                // .0.0 and .255.255 look like a network and its broadcast address.
                *place != 0 && *place != u16::MAX && !self.by_place.contains_key(place)
            })?;
        self.by_name.insert(name.clone(), place);
        self.by_place.insert(place, name.clone());
        Some(at(place))
    }

    /// The name an address stands for.
    pub(crate) fn name(&self, address: Ipv4Addr) -> Option<&DnsName> {
        match address.octets() {
            [198, 18, high, low] => self.by_place.get(&u16::from_be_bytes([high, low])),
            _ => None,
        }
    }

    /// How many names have an address.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.by_name.len()
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
