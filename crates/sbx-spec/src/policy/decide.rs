//! The one decision.
//!
//! Owns: [`decide`]. A flow is judged by name before anything is resolved,
//! and again for each address it resolved to.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::http::{HttpRequest, NOT_CANONICAL};
use super::resource::Target;
use super::rule::{Action, Reason, Rule};
use crate::guard::{self, Guard};
use crate::host::{Denial, DnsName};

/// The rules of one sandbox, from every layer.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Policy {
    /// Their order means nothing: one that denies beats one that asks, and
    /// that one which allows.
    pub rules: Vec<Arc<Rule>>,
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

/// Yes, no, or it depends.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// The flow may go on.
    Allow,
    /// Some of what may be asked on the flow may go on: each request has to
    /// be judged, and what is no request is refused.
    Inspect,
    /// The user decides, each time.
    Ask,
    /// The flow is refused at once.
    Deny,
}

/// The answer and what gave it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Verdict {
    /// The answer.
    pub answer: Answer,
    /// What gave it, for records and for the user.
    pub reason: Reason,
}

impl Verdict {
    fn allow(reason: impl Into<Reason>) -> Self {
        Self {
            answer: Answer::Allow,
            reason: reason.into(),
        }
    }

    fn deny(reason: impl Into<Reason>) -> Self {
        Self {
            answer: Answer::Deny,
            reason: reason.into(),
        }
    }

    fn inspect(reason: impl Into<Reason>) -> Self {
        Self {
            answer: Answer::Inspect,
            reason: reason.into(),
        }
    }

    fn ask(reason: impl Into<Reason>) -> Self {
        Self {
            answer: Answer::Ask,
            reason: reason.into(),
        }
    }

    /// Whichever of the two grants less. A request that is looked at is
    /// judged once more, and what is to be asked is asked then.
    fn and(self, other: Option<Self>) -> Self {
        let rank = |verdict: &Self| match verdict.answer {
            Answer::Allow => 0,
            Answer::Ask => 1,
            Answer::Inspect => 2,
            Answer::Deny => 3,
        };
        match other {
            Some(other) if rank(&other) > rank(&self) => other,
            _ => self,
        }
    }

    /// Whether the answer is [`Answer::Allow`].
    #[must_use]
    pub fn is_allow(&self) -> bool {
        self.answer == Answer::Allow
    }
}

/// DNS and DNS over TLS: names are answered by the engine alone, and a server
/// elsewhere would be a tunnel.
const DNS_PORTS: [u16; 2] = [53, 853];

/// The port of HTTP over QUIC.
const QUIC: u16 = 443;

/// What is denied because no rule is about it.
const UNLISTED: &str = "default:unlisted";

/// Judges one flow: what denies it beats what was approved, that beats what
/// asks, and that what allows; whatever no rule is about is denied.
/// [`Answer::Inspect`] where it depends on what is asked on it, or where a
/// rule about it is marked so: then [`decide_request`] judges each request.
#[must_use]
pub fn decide(policy: &Policy, flow: &Flow) -> Verdict {
    Court {
        policy,
        flow,
        asks: Asks::Anything,
    }
    .judge()
}

/// Judges one request of HTTP on a flow: never [`Answer::Inspect`].
#[must_use]
pub fn decide_request(policy: &Policy, flow: &Flow, request: &HttpRequest<'_>) -> Verdict {
    Court {
        policy,
        flow,
        asks: Asks::Request(request),
    }
    .judge()
}

/// Judges a question about a name that its own name servers answer: allowed
/// where a connection to the name may go on, on whatever port.
#[must_use]
pub fn decide_name(policy: &Policy, name: &DnsName) -> Verdict {
    let covers = |rule: &&Arc<Rule>| rule.resource().covers_name(name);
    let policy = Policy {
        rules: policy.rules.iter().filter(covers).cloned().collect(),
        host_addresses: BTreeSet::new(),
    };
    let verdict = |protocol, port| {
        let flow = Flow {
            protocol,
            destination: Destination::Name(name.clone()),
            port,
        };
        Court {
            policy: &policy,
            flow: &flow,
            asks: Asks::Name,
        }
        .judge()
    };
    // From one of these ports to the next, the verdict is the same.
    let refused = DNS_PORTS.into_iter().chain([QUIC]);
    let ports: BTreeSet<u16> = (policy.rules.iter())
        .flat_map(|rule| rule.resource().edges())
        .chain(refused.map(|port| port + 1))
        .chain([1])
        .collect();
    for port in ports {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let found = verdict(protocol, port);
            if let Answer::Allow | Answer::Inspect = found.answer {
                return Verdict::allow(found.reason);
            }
        }
    }
    Verdict::deny(verdict(Protocol::Tcp, QUIC).reason)
}

/// One question.
struct Court<'a> {
    policy: &'a Policy,
    flow: &'a Flow,
    asks: Asks<'a>,
}

/// What is asked on a flow.
#[derive(Clone, Copy)]
enum Asks<'a> {
    /// That is not known yet.
    Anything,
    /// Nothing but its name. Whether more would be looked into makes no
    /// difference.
    Name,
    /// This.
    Request(&'a HttpRequest<'a>),
}

/// What a list of rules has to say.
enum Said {
    /// Nothing.
    Nothing,
    /// This rule counts for some requests, and it is not known which comes.
    Perhaps(Reason),
    /// This rule counts.
    Counts(Reason),
}

impl Court<'_> {
    fn judge(&self) -> Verdict {
        let verdict = self.judge_by_destination();
        match (self.flow.protocol, verdict.answer) {
            // Neither carries a request, and an echo waits for nobody.
            (Protocol::Icmp | Protocol::Udp, Answer::Inspect) => Verdict::deny(UNLISTED),
            (Protocol::Icmp, Answer::Ask) => Verdict::deny(verdict.reason),
            _ => verdict,
        }
    }

    fn judge_by_destination(&self) -> Verdict {
        let flow = self.flow;
        if let (Destination::Gateway, Protocol::Icmp) = (&flow.destination, flow.protocol) {
            return Verdict::allow("gateway:echo");
        }
        if let Some(line) = of_transport(flow) {
            return Verdict::deny(line);
        }
        match &flow.destination {
            Destination::Gateway => Verdict::deny("gateway:no-such-service"),
            Destination::HostService => self.by(
                |rule| *rule.resource().target() == Target::Localhost,
                Denial::Loopback.rule(),
            ),
            Destination::Name(name) => self.by_name(name),
            Destination::Resolved(name, address) => {
                self.by_name(name).and(self.refusal(address.to_canonical()))
            }
            Destination::Address(address) => {
                let address = address.to_canonical();
                let verdict = self.by(|rule| rule.resource().covers_address(address), UNLISTED);
                match self.refusal(address) {
                    // Where both deny it, the range is the better reason.
                    Some(denied) if denied.answer == Answer::Deny => denied,
                    refusal => verdict.and(refusal),
                }
            }
        }
    }

    /// What the first rule says that covers the flow and does this.
    fn said(&self, action: Action, covers: impl Fn(&Rule) -> bool) -> Said {
        let mut perhaps = Said::Nothing;
        for rule in &self.policy.rules {
            if rule.action() != action
                || !rule.covers_protocol(self.flow.protocol)
                || !rule.resource().covers_port(self.flow.port)
                || !covers(rule)
            {
                continue;
            }
            let reason = || Reason::Rule(Arc::clone(rule));
            let covered = match self.asks {
                Asks::Request(request) => rule.covers_request(request),
                Asks::Anything | Asks::Name => rule.is_whole().then_some(true),
            };
            match covered {
                Some(true) => return Said::Counts(reason()),
                Some(false) => {}
                None if matches!(perhaps, Said::Nothing) => perhaps = Said::Perhaps(reason()),
                None => {}
            }
        }
        perhaps
    }

    /// The verdict where one rule counts for some of what may be asked.
    fn depends(&self, reason: Reason) -> Verdict {
        match self.asks {
            Asks::Anything | Asks::Name => Verdict::inspect(reason),
            // What is asked is known, and cannot be compared.
            Asks::Request(_) => Verdict::deny(NOT_CANONICAL),
        }
    }

    /// What the first rule says that covers the flow and is marked: whatever
    /// it allows, and whoever else does, is looked into.
    fn marked(&self, covers: impl Fn(&Rule) -> bool) -> Option<Verdict> {
        let Asks::Anything = self.asks else {
            return None;
        };
        let rule = self.policy.rules.iter().find(|rule| {
            rule.inspects()
                && rule.covers_protocol(self.flow.protocol)
                && rule.resource().covers_port(self.flow.port)
                && covers(rule)
        })?;
        Some(Verdict::inspect(Reason::Rule(Arc::clone(rule))))
    }

    /// What the rules that can open something say; `None` where there are
    /// none about it.
    fn leave(&self, covers: impl Fn(&Rule) -> bool + Copy) -> Option<Verdict> {
        let some_approved = match self.said(Action::Approve, covers) {
            Said::Counts(reason) => return Some(Verdict::allow(reason)),
            Said::Perhaps(reason) => Some(reason),
            Said::Nothing => None,
        };
        if guard::out(Guard::AskFirst)
            && let Said::Counts(reason) = self.said(Action::Allow, covers)
        {
            return Some(Verdict::allow(reason));
        }
        match (self.said(Action::Ask, covers), some_approved) {
            (Said::Counts(reason), None) => Some(Verdict::ask(reason)),
            (Said::Counts(_) | Said::Perhaps(_), Some(reason)) | (Said::Perhaps(reason), None) => {
                Some(self.depends(reason))
            }
            (Said::Nothing, some_approved) => match self.said(Action::Allow, covers) {
                Said::Counts(reason) => Some(Verdict::allow(reason)),
                Said::Perhaps(reason) => Some(self.depends(reason)),
                Said::Nothing => some_approved.map(|reason| self.depends(reason)),
            },
        }
    }

    fn by(&self, covers: impl Fn(&Rule) -> bool + Copy, otherwise: &'static str) -> Verdict {
        // A rule that denies every name means everything.
        let everything = |rule: &Rule| *rule.resource().target() == Target::AnyName;
        let denied = self.said(Action::Deny, |rule| covers(rule) || everything(rule));
        if !guard::out(Guard::DenialFirst)
            && let Said::Counts(reason) = denied
        {
            return Verdict::deny(reason);
        }
        match (self.leave(covers), denied) {
            (None, _) if guard::out(Guard::Absence) => Verdict::allow(otherwise),
            (None, _) => Verdict::deny(otherwise),
            (Some(_), Said::Perhaps(reason)) => self.depends(reason),
            (Some(verdict), _) => verdict.and(self.marked(covers)),
        }
    }

    fn by_name(&self, name: &DnsName) -> Verdict {
        self.by(|rule| rule.resource().covers_name(name), UNLISTED)
    }

    /// What speaks against an address whatever name led to it: a rule denies
    /// its range, in this form or one that carries it, or is marked; or it is
    /// near the host and no rule names it.
    fn refusal(&self, address: IpAddr) -> Option<Verdict> {
        let covers = |rule: &Rule| forms(address).any(|form| rule.resource().covers_address(form));
        let mut against = match self.said(Action::Deny, covers) {
            Said::Counts(reason) => return Some(Verdict::deny(reason)),
            Said::Perhaps(reason) => Some(self.depends(reason)),
            Said::Nothing => self.marked(covers),
        };
        // An address of the host's own may be a private one too: then a rule
        // has to name it as both.
        let own =
            self.policy.host_addresses.contains(&address) && !guard::out(Guard::HostInterfaces);
        let denials = [Denial::of(address), own.then_some(Denial::HostInterface)];
        for denial in denials.into_iter().flatten() {
            let Some(verdict) = self.leave(|rule| rule.lifts(denial, address)) else {
                return Some(Verdict::deny(denial.rule()));
            };
            against = Some(verdict.and(against));
        }
        against
    }
}

/// What is refused whatever the rules say.
fn of_transport(flow: &Flow) -> Option<&'static str> {
    match flow.protocol {
        Protocol::Icmp => None,
        _ if flow.port == 0 => Some("default:port-zero"),
        // Its clients fall back to TCP, which can be looked into.
        Protocol::Udp if flow.port == QUIC && !guard::out(Guard::Quic) => Some("default:quic"),
        _ if flow.destination == Destination::HostService => None,
        _ if guard::out(Guard::NameServerPorts) => None,
        _ if DNS_PORTS.contains(&flow.port) => Some("default:dns-port"),
        Protocol::Tcp | Protocol::Udp => None,
    }
}

/// An address, and the IPv4 addresses that it carries: where the host's
/// network translates, they are the same destination.
fn forms(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let carried = match address {
        IpAddr::V4(_) => [None; 3],
        IpAddr::V6(v6) => carried(v6),
    };
    [Some(address)]
        .into_iter()
        .chain(carried.map(|v4| v4.map(IpAddr::V4)))
        .flatten()
}

fn carried(address: Ipv6Addr) -> [Option<Ipv4Addr>; 3] {
    let bits = address.to_bits();
    let at = |shift: u32| Ipv4Addr::from_bits((bits >> shift) as u32);
    match address.segments() {
        _ if guard::out(Guard::CarriedForms) => [None; 3],
        // NAT64 and IPv4-compatible.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0, 0, ..] => [Some(at(0)), None, None],
        // 6to4.
        [0x2002, ..] => [Some(at(80)), None, None],
        // Teredo: server, and the client inverted.
        [0x2001, 0, ..] => [
            Some(at(64)),
            Some(Ipv4Addr::from_bits(!(bits as u32))),
            None,
        ],
        // ISATAP.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => [Some(at(0)), None, None],
        _ => [None; 3],
    }
}

#[cfg(test)]
mod tests {
    use super::super::preset::rules as preset_rules;
    use super::super::rule::Origin;
    use super::*;
    use crate::spec::NetworkPreset;
    use proptest::prelude::*;

    fn rule(action: Action, resource: &str) -> Arc<Rule> {
        Arc::new(Rule::read(action, resource, Origin::User).unwrap())
    }

    fn policy(allow: &[&str], deny: &[&str]) -> Policy {
        let rules = |action, texts: &[&str]| {
            texts
                .iter()
                .map(|text| rule(action, text))
                .collect::<Vec<_>>()
        };
        Policy {
            rules: [rules(Action::Deny, deny), rules(Action::Allow, allow)].concat(),
            host_addresses: BTreeSet::from(["203.0.113.7".parse().unwrap()]),
        }
    }

    fn open() -> Policy {
        Policy {
            rules: preset_rules(NetworkPreset::Open).map(Arc::new).collect(),
            ..policy(&[], &[])
        }
    }

    fn tcp(destination: Destination, port: u16) -> Flow {
        Flow {
            protocol: Protocol::Tcp,
            destination,
            port,
        }
    }

    fn to(text: &str, port: u16) -> Flow {
        let destination = match text.parse::<IpAddr>() {
            Ok(address) => Destination::Address(address),
            Err(_) => Destination::Name(text.parse().unwrap()),
        };
        tcp(destination, port)
    }

    fn resolved(name: &str, address: &str) -> Flow {
        let destination = Destination::Resolved(name.parse().unwrap(), address.parse().unwrap());
        tcp(destination, 443)
    }

    fn reason(policy: &Policy, flow: &Flow) -> String {
        let verdict = decide(policy, flow);
        format!(
            "{}{}",
            if verdict.is_allow() { "+" } else { "-" },
            verdict.reason
        )
    }

    #[test]
    fn open_allows_public_names_and_addresses() {
        for flow in [
            to("example.com", 443),
            resolved("example.com", "1.1.1.1"),
            resolved("example.com", "203.0.113.8"),
            to("2606:4700::1111", 443),
        ] {
            assert!(decide(&open(), &flow).is_allow(), "{flow:?}");
        }
    }

    #[test]
    fn absence_allows_nothing() {
        let empty = Policy::default();
        for destination in [
            Destination::HostService,
            Destination::Name("example.com".parse().unwrap()),
            Destination::Address("1.1.1.1".parse().unwrap()),
        ] {
            assert!(!decide(&empty, &tcp(destination, 8080)).is_allow());
        }
        assert_eq!(reason(&empty, &to("a.example", 443)), "-default:unlisted");
    }

    #[test]
    fn a_rule_allows_its_host_on_its_ports_and_nothing_else() {
        let policy = policy(&["a.example:443", "**.b.example", "192.0.2.0/24:22"], &[]);
        for (host, port, expected) in [
            ("a.example", 443, "+user allow a.example:443"),
            ("a.example", 80, "-default:unlisted"),
            ("c.a.example", 443, "-default:unlisted"),
            ("x.y.b.example", 80, "+user allow **.b.example"),
            ("b.example", 80, "-default:unlisted"),
            ("192.0.2.9", 22, "+user allow 192.0.2.0/24:22"),
            ("192.0.2.9", 23, "-default:unlisted"),
            ("198.51.100.1", 22, "-default:unlisted"),
        ] {
            assert_eq!(reason(&policy, &to(host, port)), expected, "{host}:{port}");
        }
    }

    #[test]
    fn a_denial_beats_every_leave_whoever_wrote_it() {
        let policy = policy(
            &["a.example", "**", "0.0.0.0/0"],
            &["a.example", "192.0.2.1"],
        );
        assert_eq!(
            reason(&policy, &to("a.example", 443)),
            "-user deny a.example"
        );
        assert!(decide(&policy, &to("b.example", 443)).is_allow());
        assert!(!decide(&policy, &to("192.0.2.1", 443)).is_allow());
        assert!(decide(&policy, &to("192.0.2.2", 443)).is_allow());
        assert!(!decide(&policy, &resolved("b.example", "192.0.2.1")).is_allow());
    }

    #[test]
    fn denying_every_name_denies_addresses_and_the_host_too() {
        let policy = policy(&["**", "0.0.0.0/0", "localhost:80"], &["**"]);
        for flow in [
            to("a.example", 80),
            to("192.0.2.1", 80),
            tcp(Destination::HostService, 80),
        ] {
            assert_eq!(reason(&policy, &flow), "-user deny **");
        }
    }

    #[test]
    fn every_name_is_no_address() {
        let policy = policy(&["**"], &[]);
        assert!(decide(&policy, &to("a.example", 443)).is_allow());
        assert!(!decide(&policy, &to("192.0.2.1", 443)).is_allow());
    }

    #[test]
    fn a_name_that_resolves_near_the_host_is_denied() {
        for (address, line) in [
            ("127.0.0.1", "-default:loopback"),
            ("::ffff:10.0.0.1", "-default:private"),
            ("169.254.169.254", "-default:link-local"),
            ("203.0.113.7", "-default:host-interface"),
            ("::ffff:203.0.113.7", "-default:host-interface"),
        ] {
            let flow = resolved("example.com", address);
            assert_eq!(reason(&open(), &flow), line, "{address}");
        }
    }

    #[test]
    fn a_private_range_opens_only_where_a_rule_names_it() {
        let named = policy(&["git.corp", "10.0.0.0/8"], &[]);
        assert!(decide(&named, &resolved("git.corp", "10.1.2.3")).is_allow());
        assert!(decide(&named, &to("10.1.2.3", 443)).is_allow());
        assert!(!decide(&named, &resolved("other.corp", "10.1.2.3")).is_allow());
        assert!(!decide(&named, &resolved("git.corp", "192.168.0.1")).is_allow());
        for broad in ["**", "0.0.0.0/0", "0.0.0.0/1", "10.0.0.0/7"] {
            let policy = policy(&["git.corp", broad], &[]);
            let flow = resolved("git.corp", "10.1.2.3");
            assert_eq!(reason(&policy, &flow), "-default:private", "{broad}");
        }
        let other_port = policy(&["git.corp", "10.0.0.0/8:22"], &[]);
        assert!(!decide(&other_port, &resolved("git.corp", "10.1.2.3")).is_allow());
    }

    #[test]
    fn an_address_of_the_hosts_own_opens_only_where_a_rule_names_just_it() {
        let with = |allow: &[&str]| Policy {
            host_addresses: BTreeSet::from(["10.1.2.3".parse().unwrap()]),
            ..policy(allow, &[])
        };
        let flow = to("10.1.2.3", 443);
        assert_eq!(
            reason(&with(&["10.0.0.0/8"]), &flow),
            "-default:host-interface"
        );
        assert!(decide(&with(&["10.1.2.3"]), &flow).is_allow());
        assert!(decide(&with(&["10.0.0.0/8"]), &to("10.1.2.4", 443)).is_allow());
    }

    #[test]
    fn a_denied_range_is_denied_in_every_form_that_carries_it() {
        let policy = policy(&["**", "::/0", "0.0.0.0/0"], &["8.8.8.0/24"]);
        for address in [
            "8.8.8.8",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2001:db8::5efe:808:808",
        ] {
            assert_eq!(
                reason(&policy, &to(address, 443)),
                "-user deny 8.8.8.0/24",
                "{address}"
            );
        }
        assert!(decide(&policy, &to("2606:4700::1111", 443)).is_allow());
    }

    #[test]
    fn one_port_of_the_host_opens_no_other() {
        let policy = policy(&["localhost:8080"], &[]);
        assert!(decide(&policy, &tcp(Destination::HostService, 8080)).is_allow());
        assert!(!decide(&policy, &tcp(Destination::HostService, 8081)).is_allow());
        assert!(!decide(&open(), &tcp(Destination::HostService, 8080)).is_allow());
        let udp = Flow {
            protocol: Protocol::Udp,
            ..tcp(Destination::HostService, 8080)
        };
        assert!(!decide(&policy, &udp).is_allow());
    }

    #[test]
    fn name_servers_elsewhere_are_denied() {
        for port in DNS_PORTS {
            assert!(!decide(&open(), &to("8.8.8.8", port)).is_allow());
            assert!(!decide(&open(), &to("dns.example", port)).is_allow());
        }
    }

    fn any_resource() -> impl Strategy<Value = String> {
        let host = prop::sample::select(vec![
            "a.example",
            "*.example",
            "**.example",
            "**",
            "10.0.0.0/8",
            "192.0.2.0/24",
            "0.0.0.0/0",
            "::/0",
            "8.8.8.8",
        ]);
        (host, prop::option::of(1_u16..5)).prop_map(|(host, port)| match port {
            Some(port) if host == "::/0" => format!("[::/0]:{port}"),
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        })
    }

    fn any_flow() -> impl Strategy<Value = Flow> {
        let name = prop::sample::select(vec!["a.example", "b.a.example", "c.test"]);
        let address = prop_oneof![
            any::<u32>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
            any::<u128>().prop_map(|bits| IpAddr::from(bits.to_be_bytes())),
            Just("10.1.1.1".parse().unwrap()),
            Just("192.0.2.5".parse().unwrap()),
            Just("64:ff9b::808:808".parse().unwrap()),
        ];
        (name, address, 0_u8..3, 0_u16..6).prop_map(|(name, address, kind, port)| {
            let name: DnsName = name.parse().unwrap();
            tcp(
                match kind {
                    0 => Destination::Name(name),
                    1 => Destination::Resolved(name, address),
                    _ => Destination::Address(address),
                },
                port,
            )
        })
    }

    fn asked(policy: &Policy, flow: &Flow, method: &str, path: &str) -> Verdict {
        let (method, path) = (method.parse().unwrap(), path.parse().ok());
        let request = HttpRequest {
            method: &method,
            path: path.as_ref(),
        };
        decide_request(policy, flow, &request)
    }

    #[test]
    fn a_path_with_another_spelling_is_denied_where_a_rule_looks_at_paths() {
        let odd = "/@scope%2fname";
        let flow = to("a.example", 443);
        let methods = policy(&["a.example"], &["** DELETE"]);
        assert!(asked(&methods, &flow, "GET", odd).is_allow());
        let allowed = policy(&["a.example GET /@scope/**"], &[]);
        let verdict = asked(&allowed, &flow, "GET", odd);
        assert_eq!(verdict.reason, NOT_CANONICAL.into());
        let denied = policy(&["a.example"], &["a.example GET /secret/**"]);
        let verdict = asked(&denied, &flow, "GET", odd);
        assert_eq!(verdict.reason, NOT_CANONICAL.into());
        assert!(asked(&denied, &flow, "PUT", odd).is_allow());
    }

    #[test]
    fn a_rule_about_requests_lets_a_connection_in_to_be_looked_at() {
        let policy = policy(&["a.example:443 GET /v1/**"], &[]);
        let flow = to("a.example", 443);
        let verdict = decide(&policy, &flow);
        assert_eq!(verdict.answer, Answer::Inspect);
        assert!(!verdict.is_allow());
        assert_eq!(
            verdict.reason.to_string(),
            "user allow a.example:443 GET /v1/**"
        );
        assert!(asked(&policy, &flow, "GET", "/v1/x").is_allow());
        assert!(!asked(&policy, &flow, "POST", "/v1/x").is_allow());
        assert!(!asked(&policy, &flow, "GET", "/v2").is_allow());
        assert_eq!(decide(&policy, &to("a.example", 80)).answer, Answer::Deny);
        assert_eq!(decide(&policy, &to("b.example", 443)).answer, Answer::Deny);
    }

    #[test]
    fn a_denial_of_requests_is_looked_for_where_something_is_allowed() {
        let some = policy(&["a.example"], &["a.example DELETE"]);
        let flow = to("a.example", 443);
        assert_eq!(decide(&some, &flow).answer, Answer::Inspect);
        assert!(asked(&some, &flow, "GET", "/").is_allow());
        assert!(!asked(&some, &flow, "DELETE", "/").is_allow());
        let none = policy(&[], &["a.example DELETE"]);
        assert_eq!(decide(&none, &flow).answer, Answer::Deny);
        // What is allowed as a whole needs no look at what is allowed in part.
        let both = policy(&["a.example", "a.example GET"], &[]);
        assert_eq!(decide(&both, &flow).answer, Answer::Allow);
        // And what is denied as a whole stays denied.
        let denied = policy(&["a.example GET"], &["a.example"]);
        assert_eq!(decide(&denied, &flow).answer, Answer::Deny);
    }

    #[test]
    fn a_mark_has_a_connection_looked_into_whatever_else_allows_it() {
        let with =
            |rules: &[&str]| mixed(&rules.iter().map(ToString::to_string).collect::<Vec<_>>());
        let mark = "allow a.example:443 inspect";
        let flow = to("a.example", 443);
        for rules in [
            &[mark][..],
            &["allow a.example", mark],
            &[mark, "allow **"],
            &["allow **", "allow *.example:443 GET /x inspect"],
            &["ask **", mark],
            &["ask **", "approve **", mark],
        ] {
            let verdict = decide(&with(rules), &flow);
            assert_eq!(verdict.answer, Answer::Inspect, "{rules:?}");
            assert!(
                verdict.reason.to_string().ends_with(" inspect"),
                "{rules:?}"
            );
        }
        let policy = with(&["allow **", mark]);
        assert!(asked(&policy, &flow, "DELETE", "/x/../y").is_allow());
        assert!(decide(&policy, &to("a.example", 80)).is_allow());
        assert!(decide(&policy, &to("b.example", 443)).is_allow());
        let some = with(&["allow *.example GET /x inspect"]);
        assert!(asked(&some, &flow, "GET", "/x").is_allow());
        assert!(!asked(&some, &flow, "GET", "/y").is_allow());
        let asks = with(&["ask **", mark]);
        assert_eq!(asked(&asks, &flow, "GET", "/").answer, Answer::Ask);
        let denied = with(&["deny a.example", mark]);
        assert_eq!(decide(&denied, &flow).answer, Answer::Deny);
    }

    #[test]
    fn a_marked_range_counts_for_names_that_lead_there_and_for_every_form_of_it() {
        let policy = policy(
            &[
                "a.example",
                "::/0",
                "10.0.0.0/8 inspect",
                "192.0.2.0/24 inspect",
            ],
            &[],
        );
        for flow in [
            resolved("a.example", "192.0.2.1"),
            resolved("a.example", "10.1.2.3"),
            resolved("a.example", "::ffff:192.0.2.1"),
            to("64:ff9b::c000:201", 443),
            to("192.0.2.1", 443),
        ] {
            assert_eq!(decide(&policy, &flow).answer, Answer::Inspect, "{flow:?}");
            assert!(asked(&policy, &flow, "GET", "/").is_allow(), "{flow:?}");
        }
        assert!(decide(&policy, &resolved("a.example", "198.51.100.1")).is_allow());
        // The name still has to be allowed.
        assert!(!asked(&policy, &resolved("b.example", "192.0.2.1"), "GET", "/").is_allow());
    }

    #[test]
    fn what_is_no_http_is_not_allowed_by_a_marked_rule_nor_hindered_by_it() {
        let marked = policy(&["a.example inspect"], &[]);
        let both = policy(
            &["a.example", "a.example inspect", "a.example:123 udp"],
            &[],
        );
        let echo = Flow {
            protocol: Protocol::Icmp,
            ..to("a.example", 0)
        };
        let datagram = Flow {
            protocol: Protocol::Udp,
            ..to("a.example", 123)
        };
        for flow in [echo, datagram] {
            assert_eq!(decide(&marked, &flow).answer, Answer::Deny, "{flow:?}");
            assert_eq!(decide(&both, &flow).answer, Answer::Allow, "{flow:?}");
        }
    }

    #[test]
    fn a_private_address_is_opened_for_the_requests_that_a_rule_names() {
        let policy = policy(&["a.example", "10.0.0.0/8 GET /ok"], &[]);
        let flow = resolved("a.example", "10.1.2.3");
        assert_eq!(decide(&policy, &flow).answer, Answer::Inspect);
        assert!(asked(&policy, &flow, "GET", "/ok").is_allow());
        let other = asked(&policy, &flow, "GET", "/other");
        assert_eq!(other.reason.to_string(), "default:private");
    }

    #[test]
    fn datagrams_go_where_a_rule_says_so_and_a_denial_is_about_them_too() {
        let to = |host: &str, port| Flow {
            protocol: Protocol::Udp,
            ..to(host, port)
        };
        let policy = policy(
            &["a.example:123 udp", "b.example", "**:443 udp"],
            &["c.example"],
        );
        for (flow, expected) in [
            (to("a.example", 123), "+user allow a.example:123 udp"),
            (to("a.example", 124), "-default:unlisted"),
            (to("b.example", 123), "-default:unlisted"),
            (to("c.example", 123), "-user deny c.example"),
            (to("b.example", 443), "-default:quic"),
            (to("b.example", 53), "-default:dns-port"),
            (to("b.example", 0), "-default:port-zero"),
        ] {
            assert_eq!(reason(&policy, &flow), expected, "{flow:?}");
        }
        assert!(!decide(&policy, &tcp(to("a.example", 1).destination, 123)).is_allow());
        let denied = super::tests::policy(&["a.example"], &["a.example udp"]);
        assert!(decide(&denied, &tcp(to("a.example", 1).destination, 80)).is_allow());
        assert!(!decide(&open(), &to("a.example", 123)).is_allow());
    }

    #[test]
    fn a_name_is_asked_about_where_something_of_it_may_be_reached() {
        let name: DnsName = "a.example".parse().unwrap();
        for (rules, expected) in [
            (&[][..], "-default:unlisted"),
            (&["allow b.example"], "-default:unlisted"),
            (&["allow a.example:25"], "+user allow a.example:25"),
            (&["allow *.example GET /x"], "+user allow *.example GET /x"),
            (
                &["allow a.example:123 udp"],
                "+user allow a.example:123 udp",
            ),
            (&["allow a.example:53"], "-default:unlisted"),
            (&["allow **", "deny a.example"], "-user deny a.example"),
            (&["allow **", "deny **"], "-user deny **"),
            (&["allow **", "deny a.example:2-65535"], "+user allow **"),
            (
                &["allow a.example:80", "deny a.example:1-100"],
                "-default:unlisted",
            ),
            (&["allow **", "ask a.example"], "-user ask a.example"),
            (
                &["ask **", "approve a.example:25"],
                "+user approve a.example:25",
            ),
        ] {
            let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
            let verdict = decide_name(&mixed(&rules), &name);
            let sign = if verdict.is_allow() { "+" } else { "-" };
            assert_eq!(format!("{sign}{}", verdict.reason), expected, "{rules:?}");
        }
    }

    /// Rules of all four kinds, as "ACTION WRITTEN".
    fn mixed(rules: &[String]) -> Policy {
        let rules = rules.iter().map(|line| {
            let (action, written) = line.split_once(' ').unwrap();
            let action = match action {
                "allow" => Action::Allow,
                "ask" => Action::Ask,
                "approve" => Action::Approve,
                _ => Action::Deny,
            };
            rule(action, written)
        });
        Policy {
            rules: rules.collect(),
            ..policy(&[], &[])
        }
    }

    fn answer(rules: &[&str], flow: &Flow) -> Answer {
        let rules: Vec<String> = rules.iter().map(ToString::to_string).collect();
        decide(&mixed(&rules), flow).answer
    }

    #[test]
    fn what_asks_beats_what_allows_and_loses_to_approval_and_denial() {
        let flow = to("a.example", 443);
        for (rules, expected) in [
            (&["ask a.example"][..], Answer::Ask),
            (&["ask a.example:443", "allow **"], Answer::Ask),
            (&["ask a.example:80", "allow **"], Answer::Allow),
            (&["ask **", "approve a.example:443"], Answer::Allow),
            (&["ask **", "approve b.example:443"], Answer::Ask),
            (&["ask **", "approve **", "deny a.example"], Answer::Deny),
            (&["ask a.example GET"], Answer::Inspect),
            (&["ask a.example", "approve a.example GET"], Answer::Inspect),
            (&["ask a.example", "deny a.example DELETE"], Answer::Inspect),
            (&["ask a.example GET", "approve a.example"], Answer::Allow),
        ] {
            assert_eq!(answer(rules, &flow), expected, "{rules:?}");
        }
    }

    #[test]
    fn an_address_near_the_host_is_asked_about_only_where_a_rule_names_it() {
        let flow = resolved("a.example", "10.1.2.3");
        for (rules, expected) in [
            (&["ask **"][..], Answer::Deny),
            (&["ask **", "allow 10.0.0.0/8"], Answer::Ask),
            (&["allow **", "ask 10.0.0.0/8"], Answer::Ask),
            (
                &["allow **", "ask 10.0.0.0/8", "approve 10.1.2.3"],
                Answer::Allow,
            ),
            (
                &["allow **", "ask 10.0.0.0/8", "deny 10.1.2.3"],
                Answer::Deny,
            ),
            (&["allow **", "ask 0.0.0.0/0"], Answer::Deny),
        ] {
            assert_eq!(answer(rules, &flow), expected, "{rules:?}");
        }
        let echo = Flow {
            protocol: Protocol::Icmp,
            ..flow
        };
        assert_eq!(answer(&["allow **", "ask 10.0.0.0/8"], &echo), Answer::Deny);
    }

    #[test]
    fn a_request_is_asked_about_where_its_rule_asks() {
        let rules = ["ask a.example POST /v1/**", "allow a.example"].map(str::to_owned);
        let policy = mixed(&rules);
        let flow = to("a.example", 443);
        assert_eq!(asked(&policy, &flow, "POST", "/v1/x").answer, Answer::Ask);
        assert_eq!(asked(&policy, &flow, "GET", "/v1/x").answer, Answer::Allow);
        let odd = asked(&policy, &flow, "POST", "/v1/%2f");
        assert_eq!(odd.reason, NOT_CANONICAL.into());
    }

    const INSPECT: &str = " inspect";

    fn any_rule() -> impl Strategy<Value = String> {
        (any_action(), any_written(), any::<bool>()).prop_map(|(action, written, marked)| {
            let mark = if marked && action == "allow" {
                INSPECT
            } else {
                ""
            };
            format!("{action} {written}{mark}")
        })
    }

    fn any_action() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["allow", "ask", "approve", "deny"])
    }

    fn any_written() -> impl Strategy<Value = String> {
        let condition = prop_oneof![Just(""), Just(" GET"), Just(" /a/**"), Just(" GET,POST /a"),];
        (any_resource(), condition)
            .prop_map(|(resource, condition)| format!("{resource}{condition}"))
    }

    /// The same without marks.
    fn unmarked(rules: &[String]) -> Vec<String> {
        let plain = |rule: &String| rule.trim_end_matches(INSPECT).to_owned();
        rules.iter().map(plain).collect()
    }

    /// A plain reading of what a resource of names covers.
    fn plainly_covers(resource: &str, name: &str, port: u16) -> bool {
        let (host, ports) = resource.split_once(':').unwrap_or((resource, ""));
        let in_zone = |zone: &str| name.strip_suffix(zone).filter(|rest| rest.ends_with('.'));
        let is_host = match host.rsplit_once("*.") {
            _ if host == "**" => true,
            Some(("*", zone)) => in_zone(zone).is_some(),
            Some((_, zone)) => in_zone(zone).is_some_and(|rest| rest.matches('.').count() == 1),
            None => host == name,
        };
        is_host && (ports.is_empty() || ports == port.to_string())
    }

    proptest! {
        #[test]
        fn a_mark_never_allows_more_and_changes_no_verdict_on_a_request(
            rules in prop::collection::vec(any_rule(), 0..8),
            flow in any_flow(),
            protocol in prop::sample::select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Icmp]),
            path in "/|/a|/a/b|/b|//a",
        ) {
            let flow = Flow { protocol, ..flow };
            let (marked, plain) = (mixed(&rules), mixed(&unmarked(&rules)));
            let (with, without) = (decide(&marked, &flow).answer, decide(&plain, &flow).answer);
            match with {
                Answer::Inspect => prop_assert_ne!(without, Answer::Deny),
                with if protocol == Protocol::Tcp => prop_assert_eq!(with, without),
                with => prop_assert!(with == without || with == Answer::Deny),
            }
            if protocol == Protocol::Tcp {
                let answer = |policy| asked(policy, &flow, "GET", &path).answer;
                prop_assert_eq!(answer(&marked), answer(&plain));
            }
            let name: DnsName = "a.example".parse().unwrap();
            prop_assert_eq!(decide_name(&marked, &name).is_allow(), decide_name(&plain, &name).is_allow());
        }

        #[test]
        fn what_a_marked_rule_covers_never_passes_unseen(
            rules in prop::collection::vec(any_rule(), 0..8),
            written in any_written(),
            flow in any_flow(),
        ) {
            let mut rules = rules;
            rules.push(format!("allow {written}{INSPECT}"));
            let rule = rule(Action::Allow, &format!("{written}{INSPECT}"));
            let covered = rule.resource().covers_port(flow.port) && match &flow.destination {
                Destination::Name(name) => rule.resource().covers_name(name),
                Destination::Resolved(name, address) => {
                    rule.resource().covers_name(name) || rule.resource().covers_address(*address)
                }
                Destination::Address(address) => rule.resource().covers_address(*address),
                Destination::HostService | Destination::Gateway => false,
            };
            let answer = decide(&mixed(&rules), &flow).answer;
            prop_assert!(!covered || matches!(answer, Answer::Inspect | Answer::Deny));
        }

        #[test]
        fn a_denial_beats_approval_that_a_question_and_that_a_leave(
            rules in prop::collection::vec(
                (any_action(), prop::sample::select(vec!["", ":1", ":2"]), prop::sample::select(
                    vec!["a.example", "b.a.example", "*.example", "**.example", "**"],
                )),
                0..10,
            ),
            name in prop::sample::select(vec!["a.example", "b.a.example", "c.test"]),
            port in 1_u16..4,
        ) {
            let lines = rules.iter().map(|(action, ports, host)| format!("{action} {host}{ports}"));
            let policy = mixed(&lines.collect::<Vec<_>>());
            let some = |wanted: &str| {
                rules.iter().any(|(action, ports, host)| {
                    *action == wanted && plainly_covers(&format!("{host}{ports}"), name, port)
                })
            };
            let expected = match [some("deny"), some("approve"), some("ask"), some("allow")] {
                [true, ..] => Answer::Deny,
                [_, true, ..] => Answer::Allow,
                [_, _, true, _] => Answer::Ask,
                [.., true] => Answer::Allow,
                _ => Answer::Deny,
            };
            prop_assert_eq!(decide(&policy, &to(name, port)).answer, expected);
        }

        #[test]
        fn a_rule_reads_back_as_it_is_written_and_as_a_message(line in any_rule()) {
            let rule = mixed(&[line]).rules.remove(0);
            let again = Rule::read(rule.action(), &rule.written(), Origin::User);
            prop_assert_eq!(again.as_ref(), Ok(&*rule));
            let message = serde_json::to_string(&*rule).unwrap();
            let again: Rule = serde_json::from_str(&message).unwrap();
            prop_assert_eq!(&again, &*rule);
            prop_assert_eq!(again.id(), rule.id());
        }

        #[test]
        fn a_name_is_asked_about_exactly_where_some_port_of_it_is_open(
            rules in prop::collection::vec(any_rule(), 0..8),
        ) {
            // Marks make no difference to it.
            let policy = mixed(&unmarked(&rules));
            let name: DnsName = "a.example".parse().unwrap();
            let open = [Protocol::Tcp, Protocol::Udp].into_iter().any(|protocol| {
                (1..=u16::MAX).step_by(13).chain(1..10).any(|port| {
                    let destination = Destination::Name(name.clone());
                    let flow = Flow { protocol, destination, port };
                    matches!(decide(&policy, &flow).answer, Answer::Allow | Answer::Inspect)
                })
            });
            prop_assert_eq!(decide_name(&policy, &name).is_allow(), open);
        }

        #[test]
        fn one_more_denial_of_requests_never_allows_one(
            allow in prop::collection::vec(any_written(), 0..6),
            deny in prop::collection::vec(any_written(), 0..6),
            more in any_written(),
            flow in any_flow(),
            path in "/|/a|/a/b|/b|/a/../b",
        ) {
            let allow: Vec<&str> = allow.iter().map(String::as_str).collect();
            let deny: Vec<&str> = deny.iter().map(String::as_str).collect();
            let answer = |deny: &[&str]| asked(&policy(&allow, deny), &flow, "GET", &path).is_allow();
            prop_assert!(answer(&deny) || !answer(&[&deny[..], &[&more]].concat()));
        }

        #[test]
        fn one_more_denial_opens_nothing_and_one_more_question_allows_nothing(
            rules in prop::collection::vec(any_rule(), 0..8),
            more in any_written(),
            flow in any_flow(),
            path in "/|/a|/a/b|/b|//a",
        ) {
            let with = |action: &str| {
                let mut rules = rules.clone();
                rules.push(format!("{action} {more}"));
                asked(&mixed(&rules), &flow, "GET", &path).answer
            };
            let before = asked(&mixed(&rules), &flow, "GET", &path).answer;
            prop_assert!(before != Answer::Deny || with("deny") == Answer::Deny);
            prop_assert!(before != Answer::Ask || with("deny") != Answer::Allow);
            prop_assert!(before == Answer::Allow || with("ask") != Answer::Allow);
            prop_assert!(before == Answer::Deny || with("ask") != Answer::Deny || path == "//a");
        }

        #[test]
        fn a_clear_verdict_on_a_connection_is_that_on_each_request(
            rules in prop::collection::vec(any_rule(), 0..8),
            flow in any_flow(),
            method in "GET|POST|PUT",
            path in "/|/a|/a/b|/b|//a",
        ) {
            let policy = mixed(&rules);
            let answer = asked(&policy, &flow, &method, &path).answer;
            prop_assert_ne!(answer, Answer::Inspect);
            match decide(&policy, &flow).answer {
                Answer::Inspect => {}
                clear => prop_assert_eq!(answer, clear),
            }
        }

        #[test]
        fn nothing_is_allowed_near_the_host_that_no_rule_names(
            allow in prop::collection::vec(any_resource(), 0..6),
            flow in any_flow(),
        ) {
            let allow: Vec<&str> = allow.iter().map(String::as_str).collect();
            let verdict = decide(&policy(&allow, &[]), &flow);
            if let Destination::Resolved(_, address) | Destination::Address(address) = &flow.destination
                && verdict.is_allow()
                && let Some(denial) = Denial::of(*address)
            {
                prop_assert_eq!(denial, Denial::Private);
                prop_assert!(allow.iter().any(|text| text.starts_with("10.0.0.0/8")));
            }
        }

        #[test]
        fn one_more_denial_never_allows_and_one_more_leave_never_denies(
            allow in prop::collection::vec(any_resource(), 0..6),
            deny in prop::collection::vec(any_resource(), 0..6),
            more in any_resource(),
            flow in any_flow(),
        ) {
            let allow: Vec<&str> = allow.iter().map(String::as_str).collect();
            let deny: Vec<&str> = deny.iter().map(String::as_str).collect();
            let answer = |allow: &[&str], deny: &[&str]| decide(&policy(allow, deny), &flow).is_allow();
            let before = answer(&allow, &deny);
            prop_assert!(before || !answer(&allow, &[&deny[..], &[&more]].concat()));
            prop_assert!(!before || answer(&[&allow[..], &[&more]].concat(), &deny));
        }

        #[test]
        fn a_denied_name_stays_denied_whatever_it_resolves_to(
            allow in prop::collection::vec(any_resource(), 0..6),
            deny in prop::collection::vec(any_resource(), 0..6),
            address: u32,
            port in 1_u16..5,
        ) {
            let allow: Vec<&str> = allow.iter().map(String::as_str).collect();
            let deny: Vec<&str> = deny.iter().map(String::as_str).collect();
            let policy = policy(&allow, &deny);
            let name: DnsName = "a.example".parse().unwrap();
            let by_name = decide(&policy, &tcp(Destination::Name(name.clone()), port));
            let address = IpAddr::from(address.to_be_bytes());
            let by_address = decide(&policy, &tcp(Destination::Resolved(name, address), port));
            prop_assert!(by_name.is_allow() || !by_address.is_allow());
        }
    }
}
