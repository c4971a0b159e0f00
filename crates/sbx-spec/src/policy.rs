//! What a sandbox may reach: the one decision.
//!
//! Owns: [`decide`]. Never: packets, lookups, time. A flow is judged by name
//! before anything is resolved, and again for each address it resolved to.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::host::{Denial, DnsName};
use crate::spec::NetworkPreset;

/// The rules of one sandbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// What is allowed to begin with.
    pub preset: NetworkPreset,
    /// Ports of the host's loopback that a rule opened.
    pub localhost_ports: BTreeSet<u16>,
    /// Addresses of the host's own interfaces, at the time of asking.
    pub host_addresses: BTreeSet<IpAddr>,
}

/// Transport protocols that a decision tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP or ICMPv6 echo.
    Icmp,
}

impl Protocol {
    /// Its name in events and records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// Where a flow is bound for, as far as it is known.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Destination {
    /// The host's loopback, by the address reserved for it.
    HostService,
    /// The sandbox's own gateway.
    Gateway,
    /// A name that was asked before, not resolved yet.
    Name(DnsName),
    /// An address that this name resolved to on the host.
    Resolved(DnsName, IpAddr),
    /// An address that no name stands for.
    Address(IpAddr),
}

/// What is asked of [`decide`].
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Flow {
    /// Transport.
    pub protocol: Protocol,
    /// Destination.
    pub destination: Destination,
    /// Destination port; 0 for ICMP.
    pub port: u16,
}

/// Yes or no.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// The flow may go on.
    Allow,
    /// The flow is refused at once.
    Deny,
}

/// The answer and the rule that gave it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Verdict {
    /// The answer.
    pub answer: Answer,
    /// The rule's name in events and records.
    pub rule: &'static str,
}

impl Verdict {
    const fn allow(rule: &'static str) -> Self {
        Self {
            answer: Answer::Allow,
            rule,
        }
    }

    const fn deny(rule: &'static str) -> Self {
        Self {
            answer: Answer::Deny,
            rule,
        }
    }

    /// Whether the answer is [`Answer::Allow`].
    #[must_use]
    pub fn is_allow(self) -> bool {
        self.answer == Answer::Allow
    }
}

/// DNS and DNS over TLS: names are answered by the engine alone, and a server
/// elsewhere would be a tunnel.
const DNS_PORTS: [u16; 2] = [53, 853];

/// Judges one flow. Whatever no line below allows is denied.
#[must_use]
pub fn decide(policy: &Policy, flow: &Flow) -> Verdict {
    if policy.preset == NetworkPreset::None {
        return Verdict::deny("preset:none");
    }
    match &flow.destination {
        Destination::Gateway => match flow.protocol {
            Protocol::Icmp => Verdict::allow("gateway:echo"),
            _ => Verdict::deny("gateway:no-such-service"),
        },
        Destination::HostService => match flow.protocol {
            Protocol::Tcp if policy.localhost_ports.contains(&flow.port) => {
                Verdict::allow("rule:localhost")
            }
            _ => Verdict::deny("default:loopback"),
        },
        Destination::Name(_) => by_transport(flow),
        Destination::Resolved(_, address) | Destination::Address(address) => {
            let address = address.to_canonical();
            if let Some(denial) = Denial::of(address) {
                return Verdict::deny(denial.rule());
            }
            if policy.host_addresses.contains(&address) {
                return Verdict::deny(Denial::HostInterface.rule());
            }
            by_transport(flow)
        }
    }
}

fn by_transport(flow: &Flow) -> Verdict {
    match flow.protocol {
        Protocol::Tcp if flow.port == 0 => Verdict::deny("default:port-zero"),
        Protocol::Tcp if DNS_PORTS.contains(&flow.port) => Verdict::deny("default:dns-port"),
        Protocol::Tcp => Verdict::allow("preset:open"),
        Protocol::Udp => Verdict::deny("default:udp"),
        Protocol::Icmp => Verdict::deny("default:icmp"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(preset: NetworkPreset) -> Policy {
        Policy {
            preset,
            localhost_ports: BTreeSet::from([8080]),
            host_addresses: BTreeSet::from(["203.0.113.7".parse().unwrap()]),
        }
    }

    fn tcp(destination: Destination, port: u16) -> Flow {
        Flow {
            protocol: Protocol::Tcp,
            destination,
            port,
        }
    }

    fn name() -> DnsName {
        "example.com".parse().unwrap()
    }

    fn resolved(address: &str) -> Destination {
        Destination::Resolved(name(), address.parse().unwrap())
    }

    #[test]
    fn open_allows_public_names_and_addresses() {
        let open = policy(NetworkPreset::Open);
        for destination in [
            Destination::Name(name()),
            resolved("1.1.1.1"),
            resolved("203.0.113.8"),
            Destination::Address("2606:4700::1111".parse().unwrap()),
        ] {
            assert!(
                decide(&open, &tcp(destination.clone(), 443)).is_allow(),
                "{destination:?}"
            );
        }
    }

    #[test]
    fn a_name_that_resolves_near_the_host_is_denied() {
        let open = policy(NetworkPreset::Open);
        for (address, rule) in [
            ("127.0.0.1", "default:loopback"),
            ("::ffff:10.0.0.1", "default:private"),
            ("169.254.169.254", "default:link-local"),
            ("203.0.113.7", "default:host-interface"),
            ("::ffff:203.0.113.7", "default:host-interface"),
        ] {
            let verdict = decide(&open, &tcp(resolved(address), 443));
            assert_eq!(verdict, Verdict::deny(rule), "{address}");
        }
    }

    #[test]
    fn one_port_of_the_host_opens_no_other() {
        let open = policy(NetworkPreset::Open);
        assert!(decide(&open, &tcp(Destination::HostService, 8080)).is_allow());
        assert!(!decide(&open, &tcp(Destination::HostService, 8081)).is_allow());
        let udp = Flow {
            protocol: Protocol::Udp,
            destination: Destination::HostService,
            port: 8080,
        };
        assert!(!decide(&open, &udp).is_allow());
    }

    #[test]
    fn name_servers_elsewhere_are_denied() {
        let open = policy(NetworkPreset::Open);
        for port in DNS_PORTS {
            assert!(!decide(&open, &tcp(resolved("8.8.8.8"), port)).is_allow());
            assert!(!decide(&open, &tcp(Destination::Name(name()), port)).is_allow());
        }
    }

    #[test]
    fn none_allows_nothing() {
        let none = policy(NetworkPreset::None);
        for destination in [
            Destination::HostService,
            Destination::Name(name()),
            resolved("1.1.1.1"),
        ] {
            assert!(!decide(&none, &tcp(destination, 8080)).is_allow());
        }
    }

    proptest! {
        #[test]
        fn whatever_is_allowed_by_address_has_no_default_denial(bits: u128, v4: bool, port: u16) {
            let address = if v4 {
                IpAddr::from((bits as u32).to_be_bytes())
            } else {
                IpAddr::from(bits.to_be_bytes())
            };
            let verdict = decide(&policy(NetworkPreset::Open), &tcp(Destination::Resolved(name(), address), port));
            prop_assert!(!verdict.is_allow() || Denial::of(address).is_none());
        }
    }
}
