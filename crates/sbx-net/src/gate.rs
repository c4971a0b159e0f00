//! The one place where a flow is judged.
//!
//! Owns: the policy and the proof [`Pass`] without which nothing is dialled.
//! Never: sockets to anywhere, packets.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use sbx_spec::guard::{self, Guard};
use sbx_spec::{
    Answer, Destination, DnsName, Flow, Host, HttpRequest, Policy, Protocol, RESERVED_NAME, Reason,
    ResolvedName, Rule, Verdict, decide, decide_name, decide_request, judge_resolved,
};
use tokio::sync::watch;

use crate::layout;
use crate::limits;
use crate::names::Names;
use crate::questions::asked_about;

/// Without them no address can be told from the host's own.
const HOST_ADDRESSES_UNKNOWN: &str = "default:host-addresses-unknown";

/// What a packet asks for, before anyone judged it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Intent {
    /// The flow as the policy sees it.
    pub(crate) flow: Flow,
    /// The address that the guest used.
    pub(crate) address: IpAddr,
    /// What the user said yes to, where rules ask: a name or an address of
    /// this flow.
    pub(crate) approved: Vec<Destination>,
}

impl Intent {
    /// The intent of a packet to `address`.
    pub(crate) fn new(protocol: Protocol, address: IpAddr, port: u16, names: &Names) -> Self {
        let destination = match Destination::of_address(address, |v4| names.name(v4).cloned()) {
            Destination::Gateway if guard::out(Guard::GatewayIsNotHost) => Destination::HostService,
            destination => destination,
        };
        Self {
            flow: Flow {
                protocol,
                destination,
                port,
            },
            address,
            approved: Vec::new(),
        }
    }

    /// The intent of a program that names a server to a proxy of the gateway,
    /// or why there can be none.
    pub(crate) fn asked(host: &Host, port: u16, names: &Names) -> (Self, Option<Reason>) {
        let (protocol, gateway) = (Protocol::Tcp, layout::GATEWAY_V4.into());
        let name = match host {
            Host::Address(address) => return (Self::new(protocol, *address, port, names), None),
            Host::Name(name) => name,
        };
        let known = Destination::of_name(name);
        let denied = known.is_none().then(|| RESERVED_NAME.into());
        let intent = Self {
            flow: Flow {
                protocol,
                destination: known.unwrap_or_else(|| Destination::Name(name.clone())),
                port,
            },
            address: gateway,
            approved: Vec::new(),
        };
        (intent, denied)
    }

    /// The user said yes.
    pub(crate) fn approve(&mut self, asked: Destination) {
        if !self.approved.contains(&asked) {
            self.approved.push(asked);
        }
    }

    /// A verdict on this flow, given what the user said.
    pub(crate) fn settle(&self, verdict: Verdict, flow: &Flow) -> Verdict {
        let approved = verdict.answer == Answer::Ask
            && self.approved.contains(&asked_about(flow, &verdict.reason))
            || self.is_proxied() && guard::out(Guard::AskedOfProxy);
        Verdict {
            answer: if approved {
                Answer::Allow
            } else {
                verdict.answer
            },
            ..verdict
        }
    }

    /// The flow once it is known where it goes.
    pub(crate) fn dialled(&self, address: IpAddr) -> Flow {
        let destination = match &self.flow.destination {
            Destination::Name(name) => Destination::Resolved(name.clone(), address),
            other => other.clone(),
        };
        Flow {
            destination,
            ..self.flow.clone()
        }
    }

    /// The server's name, where it has one.
    pub(crate) fn host(&self) -> Option<&str> {
        match &self.flow.destination {
            Destination::Name(name) | Destination::Resolved(name, _) => Some(name.as_str()),
            Destination::HostService => layout::HOST_NAMES.first().copied(),
            Destination::Gateway | Destination::Address(_) => None,
        }
    }

    /// Whether a proxy of ours was asked for it.
    fn is_proxied(&self) -> bool {
        self.is_named() && layout::is_gateway(self.address)
    }

    /// Whether it is a connection to a name, on which names can be said that
    /// have to agree with it.
    pub(crate) fn is_named(&self) -> bool {
        matches!(
            self.flow.destination,
            Destination::Name(_) | Destination::Resolved(..)
        )
    }
}

/// What comes of an intent.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Refused; what did it.
    Deny(Reason),
    /// The user is to decide on this; which rule asks.
    Ask(Flow, Reason),
    /// To be dialled, in this order.
    Dial(Vec<Pass>),
    /// Allowed by name; each address has to be judged.
    Resolve(DnsName),
    /// Answered by the endpoint itself.
    Answer,
}

/// The proof that the policy allows a connection to one address, or to a name
/// that only a proxy of the host's resolves. Only this module can make one,
/// and a dialer takes nothing else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pass {
    address: Option<SocketAddr>,
    reason: Reason,
    inspect: bool,
}

impl Pass {
    /// What may be dialled; `None` where only the name is known.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The same without its port.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.address.map(|address| address.ip())
    }

    /// What allows it.
    pub(crate) fn reason(&self) -> &Reason {
        &self.reason
    }

    /// Whether it allows only requests that are looked at one by one.
    pub(crate) fn inspect(&self) -> bool {
        self.inspect
    }
}

/// The rules of the moment, for whoever judges what comes on a connection
/// that the gate let through.
#[derive(Clone, Debug)]
pub(crate) struct Judge(watch::Receiver<Policy>);

impl Judge {
    /// The verdict on a whole connection.
    pub(crate) fn connection(&self, flow: &Flow) -> Verdict {
        decide(&self.0.borrow(), flow)
    }

    /// The verdict on one request on it.
    pub(crate) fn request(&self, flow: &Flow, request: &HttpRequest<'_>) -> Verdict {
        decide_request(&self.0.borrow(), flow, request)
    }

    /// What is in force now is no news.
    pub(crate) fn seen(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits for other rules than those that were last seen by this method.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // The loop is gone, and soon everything is.
            std::future::pending::<()>().await;
        }
    }
}

/// The policy of this sandbox; without rules it allows nothing.
#[derive(Default, Debug)]
pub(crate) struct Gate {
    policy: watch::Sender<Policy>,
    addresses_read: Option<Instant>,
}

impl Gate {
    /// Judges by these rules from now on.
    pub(crate) fn replace_rules(&mut self, rules: Vec<Rule>) {
        let rules = rules.into_iter().map(Arc::new).collect();
        self.policy.send_modify(|policy| policy.rules = rules);
    }

    /// The same rules for others.
    pub(crate) fn judge_of_requests(&self) -> Judge {
        Judge(self.policy.subscribe())
    }

    /// Why a connection that stands may not go on, if it may not.
    pub(crate) fn objection(
        &mut self,
        intent: &Intent,
        dialled: Option<IpAddr>,
        inspected: bool,
        now: Instant,
    ) -> Option<Reason> {
        let Ok(()) = self.read_host_addresses(now) else {
            return Some(HOST_ADDRESSES_UNKNOWN.into());
        };
        let flow = match dialled {
            Some(address) => intent.dialled(address),
            None => intent.flow.clone(),
        };
        let verdict = intent.settle(self.verdict(&flow), &flow);
        match verdict.answer {
            Answer::Allow => None,
            Answer::Inspect => (!inspected).then_some(verdict.reason),
            Answer::Ask | Answer::Deny => Some(verdict.reason),
        }
    }

    /// What the rules say of a flow.
    pub(crate) fn verdict(&self, flow: &Flow) -> Verdict {
        decide(&self.policy.borrow(), flow)
    }

    /// What the rules say of a question about a name.
    pub(crate) fn verdict_on_name(&self, name: &DnsName) -> Verdict {
        decide_name(&self.policy.borrow(), name)
    }

    /// Judges an intent.
    pub(crate) fn judge(&mut self, intent: &Intent, now: Instant) -> Decision {
        let Ok(()) = self.read_host_addresses(now) else {
            return Decision::Deny(HOST_ADDRESSES_UNKNOWN.into());
        };
        let verdict = intent.settle(self.verdict(&intent.flow), &intent.flow);
        match verdict.answer {
            Answer::Deny if intent.is_named() && guard::out(Guard::AllowedFirst) => {}
            Answer::Deny => return Decision::Deny(verdict.reason),
            Answer::Ask => return Decision::Ask(intent.flow.clone(), verdict.reason),
            Answer::Allow | Answer::Inspect => {}
        }
        let port = intent.flow.port;
        match &intent.flow.destination {
            Destination::Gateway => Decision::Answer,
            Destination::HostService => Decision::Dial(
                [
                    IpAddr::from(Ipv4Addr::LOCALHOST),
                    IpAddr::from(Ipv6Addr::LOCALHOST),
                ]
                .map(|address| pass(address, port, &verdict))
                .to_vec(),
            ),
            Destination::Name(name) => Decision::Resolve(name.clone()),
            Destination::Resolved(_, address) | Destination::Address(address) => {
                Decision::Dial(vec![pass(*address, port, &verdict)])
            }
        }
    }

    /// Judges the addresses that an allowed name resolved to. One allowed
    /// address is enough; the others are not dialled.
    pub(crate) fn judge_resolved(
        &mut self,
        intent: &Intent,
        name: &DnsName,
        addresses: &[IpAddr],
        now: Instant,
    ) -> Decision {
        let Ok(()) = self.read_host_addresses(now) else {
            return Decision::Deny(HOST_ADDRESSES_UNKNOWN.into());
        };
        let verdict = |flow: &Flow| match guard::out(Guard::JudgedAgain) {
            true => self.verdict(&intent.flow),
            false => intent.settle(self.verdict(flow), flow),
        };
        match judge_resolved(&intent.flow, name, addresses, verdict) {
            ResolvedName::Deny(reason) => Decision::Deny(reason),
            ResolvedName::Ask(flow, reason) => Decision::Ask(flow, reason),
            ResolvedName::Dial(dialled) => Decision::Dial(
                dialled
                    .iter()
                    .map(|(address, verdict)| pass(*address, intent.flow.port, verdict))
                    .collect(),
            ),
        }
    }

    /// Judges a name that this host cannot resolve and a proxy of its may.
    pub(crate) fn judge_unresolved(&mut self, intent: &Intent, now: Instant) -> Decision {
        match self.judge(intent, now) {
            Decision::Resolve(_) => {
                let verdict = intent.settle(self.verdict(&intent.flow), &intent.flow);
                Decision::Dial(vec![Pass {
                    address: None,
                    reason: verdict.reason,
                    inspect: verdict.answer == Answer::Inspect,
                }])
            }
            other => other,
        }
    }

    /// The host's own addresses change under us (a VPN, a new network): they
    /// are read again when the list is old. Without a list nothing is allowed.
    fn read_host_addresses(&mut self, now: Instant) -> io::Result<()> {
        if self
            .addresses_read
            .is_some_and(|at| now < at + limits::HOST_ADDRESSES_FOR)
        {
            return Ok(());
        }
        let found = host_addresses()?;
        self.policy.send_if_modified(|policy| {
            let other = policy.host_addresses != found;
            policy.host_addresses = found;
            other
        });
        self.addresses_read = Some(now);
        Ok(())
    }
}

/// The addresses of this host's own interfaces.
///
/// # Errors
/// When the kernel does not tell.
pub fn host_addresses() -> io::Result<BTreeSet<IpAddr>> {
    let found = nix::ifaddrs::getifaddrs()?
        .filter_map(|interface| interface.address)
        .filter_map(|address| {
            address
                .as_sockaddr_in()
                .map(|v4| IpAddr::V4(v4.ip()))
                .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        });
    Ok(found.collect())
}

fn pass(address: IpAddr, port: u16, verdict: &Verdict) -> Pass {
    Pass {
        address: Some(SocketAddr::new(address.to_canonical(), port)),
        reason: verdict.reason.clone(),
        inspect: verdict.answer == Answer::Inspect,
    }
}

#[cfg(test)]
mod tests;
