//! Where a host leads from inside a sandbox, and what comes of it.
//!
//! Owns: which names and addresses mean the sandbox's surroundings, which
//! addresses of a name are dialled, and [`foresee`], which says what the
//! network engine would. The engine uses the same pieces, so that the two
//! cannot differ. Never: lookups.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::decide::{Answer, Destination, Flow, Policy, Protocol, Verdict, decide, decide_request};
use super::http::HttpRequest;
use super::rule::Reason;
use crate::host::{DnsName, Host};

/// A sandbox's gateway and name server.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 1);
/// The same in IPv6.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6278, 0x7800, 0, 0, 0, 0, 1);
/// The host's loopback inside a sandbox, as far as a rule opened it.
pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 254);
/// The same in IPv6.
pub const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6278, 0x7800, 0, 0, 0, 0, 0xfe);
/// The first of the IPv6 addresses that stand for names. The last 16 bits are
/// those of the name's IPv4 address in 198.18.0.0/16.
const NAMES_V6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6278, 0x7800, 1, 0, 0, 0, 0);
/// The gateway's port for programs that want an HTTP proxy.
pub const HTTP_PROXY: u16 = 3128;
/// The gateway's port for programs that want a SOCKS 5 proxy.
pub const SOCKS_PROXY: u16 = 1080;
/// The gateway's port for questions about names.
const NAME_SERVER: u16 = 53;

/// What denies a name that no name server inside answers.
pub const RESERVED_NAME: &str = "default:reserved-name";
/// What denies a name that leads to no address.
pub const NO_ADDRESS: &str = "default:no-address";

/// Zones of which no name has an address inside (RFC 6761, RFC 7686), the
/// sandbox's own loopback among them.
const RESERVED_ZONES: [&str; 5] = ["invalid", "onion", "localhost", "in-addr.arpa", "ip6.arpa"];

/// The IPv6 address that stands for the same name as this one of
/// 198.18.0.0/16.
#[must_use]
pub fn name_address_v6(v4: Ipv4Addr) -> Ipv6Addr {
    let [_, _, high, low] = v4.octets();
    let place = u128::from(u16::from_be_bytes([high, low]));
    Ipv6Addr::from(u128::from(NAMES_V6) | place)
}

/// The IPv4 address that may stand for a name, of one of either family.
#[must_use]
pub fn name_address(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => (v4.octets().starts_with(&[198, 18])).then_some(v4),
        IpAddr::V6(v6) => {
            let place = u128::from(v6).checked_sub(u128::from(NAMES_V6))?;
            let [high, low] = u16::try_from(place).ok()?.to_be_bytes();
            Some(Ipv4Addr::new(198, 18, high, low))
        }
    }
}

impl Destination {
    /// Where an address leads; `named` knows which name one of ours stands
    /// for.
    #[must_use]
    pub fn of_address(address: IpAddr, named: impl FnOnce(Ipv4Addr) -> Option<DnsName>) -> Self {
        let address = address.to_canonical();
        if address == GATEWAY_V4 || address == GATEWAY_V6 {
            return Self::Gateway;
        }
        if address == HOST_V4 || address == HOST_V6 {
            return Self::HostService;
        }
        let name = name_address(address).and_then(named);
        name.map_or(Self::Address(address), Self::Name)
    }

    /// Where a name leads; `None` where nothing has it ([`RESERVED_NAME`]).
    /// `localhost` means the host's, as it does in rules.
    #[must_use]
    pub fn of_name(name: &DnsName) -> Option<Self> {
        match name.as_str() {
            "localhost" | "host.sbx.internal" | "host.docker.internal" => Some(Self::HostService),
            "gateway.sbx.internal" | "gateway.docker.internal" => Some(Self::Gateway),
            // The name that asks browsers not to go round a name server.
            "use-application-dns.net" => None,
            _ if RESERVED_ZONES.iter().any(|zone| name.is_within(zone)) => None,
            _ => Some(Self::Name(name.clone())),
        }
    }
}

/// What comes of the addresses that an allowed name resolved to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resolved {
    /// These are dialled in this order, each for its reason; the others are
    /// not.
    Dial(Vec<(IpAddr, Verdict)>),
    /// The user is to decide on this; which rule asks.
    Ask(Flow, Reason),
    /// None may be dialled.
    Deny(Reason),
}

/// Judges the addresses that `name`, where `flow` is bound for, resolved to.
/// One allowed address is enough, and one that the user would be asked about
/// is better than none.
#[must_use]
pub fn judge_resolved(
    flow: &Flow,
    name: &DnsName,
    addresses: &[IpAddr],
    verdict: impl Fn(&Flow) -> Verdict,
) -> Resolved {
    let (mut dialled, mut asked) = (Vec::new(), None);
    let mut denied = Reason::Fixed(NO_ADDRESS);
    for address in addresses {
        let flow = Flow {
            destination: Destination::Resolved(name.clone(), *address),
            ..flow.clone()
        };
        let found = verdict(&flow);
        match found.answer {
            Answer::Deny => denied = found.reason,
            Answer::Ask => asked = asked.or(Some((flow, found.reason))),
            Answer::Allow | Answer::Inspect => dialled.push((*address, found)),
        }
    }
    match asked {
        _ if !dialled.is_empty() => Resolved::Dial(dialled),
        Some((flow, reason)) => Resolved::Ask(flow, reason),
        None => Resolved::Deny(denied),
    }
}

/// A connection that could be made, and a request on it where that is known.
#[derive(Clone, Debug)]
pub struct Trial<'a> {
    /// Where to.
    pub host: &'a Host,
    /// Its port.
    pub port: u16,
    /// Over which transport.
    pub protocol: Protocol,
    /// What is asked on it.
    pub request: Option<&'a HttpRequest<'a>>,
}

/// What can be said before anything is resolved.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Foreseen {
    /// This.
    Settled(Verdict),
    /// It depends on what this name, where this flow is bound for, resolves
    /// to: [`foresee_resolved`].
    Resolve(DnsName, Flow),
}

/// Says what the network engine would of a trial. `named` knows which name
/// an address of ours stands for.
#[must_use]
pub fn foresee(
    policy: &Policy,
    trial: &Trial<'_>,
    named: impl FnOnce(Ipv4Addr) -> Option<DnsName>,
) -> Foreseen {
    let destination = match trial.host {
        Host::Address(address) => Some(Destination::of_address(*address, named)),
        Host::Name(name) => Destination::of_name(name),
    };
    let Some(destination) = destination else {
        return Foreseen::Settled(settled(Answer::Deny, RESERVED_NAME));
    };
    let flow = Flow {
        protocol: trial.protocol,
        destination,
        port: trial.port,
    };
    if let Some(service) = gateway_service(&flow) {
        return Foreseen::Settled(settled(Answer::Allow, service));
    }
    let verdict = decide(policy, &flow);
    match (&flow.destination, verdict.answer) {
        // Only who may connect learns what a name resolves to, and nothing
        // does before the user said yes. An echo goes nowhere.
        (Destination::Name(name), Answer::Allow | Answer::Inspect)
            if flow.protocol != Protocol::Icmp =>
        {
            Foreseen::Resolve(name.clone(), flow)
        }
        _ => Foreseen::Settled(of_request(policy, &flow, verdict, trial.request)),
    }
}

/// Says what the network engine would once a name is resolved. `elsewhere`
/// says that a proxy of the host's is asked for what the host cannot resolve.
#[must_use]
pub fn foresee_resolved(
    policy: &Policy,
    trial: &Trial<'_>,
    (name, flow): (&DnsName, &Flow),
    addresses: &[IpAddr],
    elsewhere: bool,
) -> Verdict {
    if addresses.is_empty() && elsewhere {
        return of_request(policy, flow, decide(policy, flow), trial.request);
    }
    match judge_resolved(flow, name, addresses, |flow| decide(policy, flow)) {
        Resolved::Deny(reason) => settled(Answer::Deny, reason),
        Resolved::Ask(_, reason) => settled(Answer::Ask, reason),
        Resolved::Dial(dialled) => match dialled.into_iter().next() {
            Some((address, verdict)) => {
                let flow = Flow {
                    destination: Destination::Resolved(name.clone(), address),
                    ..flow.clone()
                };
                of_request(policy, &flow, verdict, trial.request)
            }
            None => settled(Answer::Deny, NO_ADDRESS),
        },
    }
}

/// What the gateway itself serves, whatever the rules say.
fn gateway_service(flow: &Flow) -> Option<&'static str> {
    if flow.destination != Destination::Gateway {
        return None;
    }
    match (flow.protocol, flow.port) {
        (Protocol::Tcp | Protocol::Udp, NAME_SERVER) => Some("gateway:name-server"),
        (Protocol::Tcp, HTTP_PROXY | SOCKS_PROXY) => Some("gateway:proxy"),
        _ => None,
    }
}

/// The verdict on a request, where a connection says that those are judged.
fn of_request(
    policy: &Policy,
    flow: &Flow,
    verdict: Verdict,
    request: Option<&HttpRequest<'_>>,
) -> Verdict {
    match request {
        Some(request) if verdict.answer == Answer::Inspect => decide_request(policy, flow, request),
        _ => verdict,
    }
}

fn settled(answer: Answer, reason: impl Into<Reason>) -> Verdict {
    Verdict {
        answer,
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::preset::rules as preset_rules;
    use super::super::rule::{Action, Origin, Rule};
    use super::*;
    use crate::spec::NetworkPreset;
    use std::sync::Arc;

    fn open(rules: &[(Action, &str)]) -> Policy {
        let own = rules
            .iter()
            .map(|(action, text)| Rule::read(*action, text, Origin::User).unwrap());
        Policy {
            rules: own
                .chain(preset_rules(NetworkPreset::Open))
                .map(Arc::new)
                .collect(),
            ..Policy::default()
        }
    }

    #[test]
    fn both_addresses_of_a_name_lead_to_it_and_those_beside_to_nobody() {
        let v4 = Ipv4Addr::new(198, 18, 7, 9);
        let v6 = name_address_v6(v4);
        let named = |address| (address == v4).then(|| "a.example".parse().unwrap());
        let name = Destination::Name("a.example".parse().unwrap());
        assert_eq!(Destination::of_address(v4.into(), named), name);
        assert_eq!(Destination::of_address(v6.into(), named), name);
        for beside in ["fd73:6278:7800:1::1:709", "fd73:6278:7800::709", "::709"] {
            let address: IpAddr = beside.parse().unwrap();
            let destination = Destination::of_address(address, named);
            assert_eq!(destination, Destination::Address(address));
        }
    }

    fn said(policy: &Policy, host: &str, port: u16, addresses: &[&str]) -> String {
        let host: Host = host.parse().unwrap();
        let trial = Trial {
            host: &host,
            port,
            protocol: Protocol::Tcp,
            request: None,
        };
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        let verdict = match foresee(policy, &trial, |_| None) {
            Foreseen::Settled(verdict) => verdict,
            Foreseen::Resolve(name, flow) => {
                foresee_resolved(policy, &trial, (&name, &flow), &addresses, false)
            }
        };
        format!("{:?} {}", verdict.answer, verdict.reason)
    }

    #[test]
    fn a_name_that_nothing_inside_answers_leads_nowhere_whatever_is_allowed() {
        let policy = open(&[]);
        for host in [
            "x.invalid",
            "x.onion",
            "app.localhost",
            "use-application-dns.net",
            "1.2.0.192.in-addr.arpa",
        ] {
            let said = said(&policy, host, 443, &["192.0.2.1"]);
            assert_eq!(said, format!("Deny {RESERVED_NAME}"), "{host}");
        }
    }

    #[test]
    fn the_surroundings_are_the_same_by_every_name_and_address() {
        let policy = open(&[(Action::Allow, "localhost:3000")]);
        for host in [
            "localhost",
            "host.sbx.internal",
            "host.docker.internal",
            "198.19.255.254",
            "::ffff:198.19.255.254",
            "fd73:6278:7800::fe",
        ] {
            let allowed = said(&policy, host, 3000, &[]);
            assert_eq!(allowed, "Allow user allow localhost:3000", "{host}");
            assert_eq!(said(&policy, host, 3001, &[]), "Deny default:loopback");
        }
        for host in [
            "gateway.sbx.internal",
            "gateway.docker.internal",
            "198.19.255.1",
            "fd73:6278:7800::1",
        ] {
            let denied = said(&policy, host, 443, &["192.0.2.1"]);
            assert_eq!(denied, "Deny gateway:no-such-service", "{host}");
            assert_eq!(said(&policy, host, 53, &[]), "Allow gateway:name-server");
            assert_eq!(said(&policy, host, 3128, &[]), "Allow gateway:proxy");
        }
    }

    #[test]
    fn a_name_without_an_allowed_address_is_denied_as_by_the_engine() {
        let policy = open(&[(Action::Deny, "192.0.2.0/24")]);
        let said = |addresses: &[&str]| said(&policy, "a.example", 443, addresses);
        assert_eq!(said(&[]), "Deny default:no-address");
        assert_eq!(said(&["127.0.0.1"]), "Deny default:loopback");
        assert_eq!(said(&["192.0.2.1"]), "Deny user deny 192.0.2.0/24");
        let allowed = said(&["127.0.0.1", "198.51.100.1"]);
        assert!(allowed.starts_with("Allow "), "{allowed}");
    }
}
