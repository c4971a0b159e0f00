//! Ports of a sandbox that the host reaches.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::guard::{self, Guard};
use crate::policy::Transport;

/// Most ports that one sandbox publishes.
pub const MAX_PUBLISHED: usize = 64;

/// A port of a sandbox behind one of this host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Publication {
    /// The host's address: loopback unless the user named another.
    pub address: IpAddr,
    /// The host's port; `None` for whichever is free when it is first bound.
    pub host: Option<u16>,
    /// The guest's port.
    pub guest: u16,
    /// What of: connections or datagrams.
    pub transport: Transport,
}

/// Why a text is no such port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PublicationError {
    /// Not of the form.
    Form,
    /// Not a port.
    Port,
    /// Not an address.
    Address,
    /// Another protocol than TCP and UDP.
    Protocol,
}

impl fmt::Display for PublicationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Form => "a published port is [[IP:]HOST:]GUEST[/tcp|udp], such as 8080:80",
            Self::Port => "a port is a number from 1 to 65535",
            Self::Address => "an address is 127.0.0.1 or [::1], without a name",
            Self::Protocol => "a published port is of tcp or udp",
        })
    }
}

impl std::error::Error for PublicationError {}

impl FromStr for Publication {
    type Err = PublicationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (text, transport) = match text.split_once('/') {
            Some((ports, "tcp")) => (ports, Transport::Tcp),
            Some((ports, "udp")) => (ports, Transport::Udp),
            Some(_) => return Err(PublicationError::Protocol),
            None => (text, Transport::Tcp),
        };
        let (address, ports) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, ports) = rest.split_once("]:").ok_or(PublicationError::Form)?;
                let address = address.parse().map_err(|_| PublicationError::Address)?;
                (IpAddr::V6(address), ports)
            }
            None => match text.split(':').count() {
                1 | 2 if guard::out(Guard::PublishedLoopback) => {
                    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), text)
                }
                1 | 2 => (IpAddr::V4(Ipv4Addr::LOCALHOST), text),
                3 => {
                    let (address, ports) = text.split_once(':').ok_or(PublicationError::Form)?;
                    let address = address.parse().map_err(|_| PublicationError::Address)?;
                    (IpAddr::V4(address), ports)
                }
                _ => return Err(PublicationError::Form),
            },
        };
        let (host, guest) = match ports.split_once(':') {
            Some(("" | "0", guest)) => (None, guest),
            Some((host, guest)) => (Some(port(host)?), guest),
            None => (None, ports),
        };
        Ok(Self {
            address,
            host,
            guest: port(guest)?,
            transport,
        })
    }
}

fn port(text: &str) -> Result<u16, PublicationError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| digits && *port > 0);
    port.ok_or(PublicationError::Port)
}

impl fmt::Display for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(address) => write!(f, "{address}:")?,
            IpAddr::V6(address) => write!(f, "[{address}]:")?,
        }
        match self.host {
            Some(host) => write!(f, "{host}:{}", self.guest)?,
            None => write!(f, ":{}", self.guest)?,
        }
        match self.transport {
            Transport::Tcp => Ok(()),
            Transport::Udp => f.write_str("/udp"),
        }
    }
}

impl Publication {
    /// As lists show it: `127.0.0.1:8080->80/tcp`.
    #[must_use]
    pub fn shown(&self) -> String {
        let host = self.host.map_or("*".to_owned(), |port| port.to_string());
        let (guest, transport) = (self.guest, self.transport.name());
        match self.address {
            IpAddr::V4(address) => format!("{address}:{host}->{guest}/{transport}"),
            IpAddr::V6(address) => format!("[{address}]:{host}->{guest}/{transport}"),
        }
    }

    /// Whether it is what was asked for by `wanted`, which may leave the
    /// host's port open.
    #[must_use]
    pub fn is(&self, wanted: &Self) -> bool {
        let host = wanted.host.is_none() || wanted.host == self.host;
        host && self.at(wanted) && self.guest == wanted.guest
    }

    /// Whether it is of the same address and transport of the host.
    fn at(&self, other: &Self) -> bool {
        self.address == other.address && self.transport == other.transport
    }

    /// Whether both want the same port of this host.
    #[must_use]
    pub fn collides(&self, other: &Self) -> bool {
        self.host.is_some() && self.host == other.host && self.at(other)
    }
}

impl From<Publication> for String {
    fn from(publication: Publication) -> Self {
        publication.to_string()
    }
}

impl TryFrom<String> for Publication {
    type Error = PublicationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_port_is_published_on_loopback_unless_an_address_is_named() {
        for (text, shown) in [
            ("80", "127.0.0.1:*->80/tcp"),
            ("8080:80", "127.0.0.1:8080->80/tcp"),
            ("8080:80/tcp", "127.0.0.1:8080->80/tcp"),
            ("0:80", "127.0.0.1:*->80/tcp"),
            ("0.0.0.0:8080:80", "0.0.0.0:8080->80/tcp"),
            ("192.0.2.1::80", "192.0.2.1:*->80/tcp"),
            ("[::1]:8080:80", "[::1]:8080->80/tcp"),
            ("[::1]::80", "[::1]:*->80/tcp"),
            ("5353:53/udp", "127.0.0.1:5353->53/udp"),
        ] {
            assert_eq!(
                text.parse::<Publication>().unwrap().shown(),
                shown,
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_port_is_told_why() {
        for (text, error) in [
            ("", PublicationError::Port),
            ("+80", PublicationError::Port),
            ("0", PublicationError::Port),
            ("70000", PublicationError::Port),
            ("8080:", PublicationError::Port),
            ("80-90:80", PublicationError::Port),
            ("53:53/sctp", PublicationError::Protocol),
            ("53:53/udp/tcp", PublicationError::Protocol),
            ("80/TCP", PublicationError::Protocol),
            ("localhost:80:80", PublicationError::Address),
            ("::1:80:80", PublicationError::Form),
            ("[::1]80:80", PublicationError::Form),
        ] {
            assert_eq!(text.parse::<Publication>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(
            address: IpAddr,
            host in prop::option::of(1_u16..),
            guest in 1_u16..,
            transport in prop::sample::select(&[Transport::Tcp, Transport::Udp][..]),
        ) {
            let publication = Publication { address, host, guest, transport };
            prop_assert_eq!(publication.to_string().parse(), Ok(publication));
        }

        #[test]
        fn any_text_is_a_port_or_an_error(text in "\\PC{0,40}") {
            let _read = text.parse::<Publication>();
        }
    }
}
