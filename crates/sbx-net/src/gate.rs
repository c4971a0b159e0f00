//! The one place where a flow is judged.
//!
//! Owns: the policy and the proof [`Pass`] without which nothing is dialled.
//! Never: sockets to anywhere, packets.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use sbx_spec::{Destination, DnsName, Flow, Policy, Protocol, Reason, Rule, decide};

use crate::layout;
use crate::limits;
use crate::names::Names;

/// Without them no address can be told from the host's own.
const HOST_ADDRESSES_UNKNOWN: &str = "default:host-addresses-unknown";

/// What a packet asks for, before anyone judged it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Intent {
    /// The flow as the policy sees it.
    pub(crate) flow: Flow,
    /// The address that the guest used.
    pub(crate) address: IpAddr,
}

impl Intent {
    /// The intent of a packet to `address`.
    pub(crate) fn new(protocol: Protocol, address: IpAddr, port: u16, names: &Names) -> Self {
        let named = match address {
            IpAddr::V4(v4) => names.name(v4),
            IpAddr::V6(_) => None,
        };
        let destination = match named {
            Some(name) => Destination::Name(name.clone()),
            None if layout::is_gateway(address) => Destination::Gateway,
            None if layout::is_host(address) => Destination::HostService,
            None => Destination::Address(address),
        };
        Self {
            flow: Flow {
                protocol,
                destination,
                port,
            },
            address,
        }
    }
}

/// What comes of an intent.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Refused; what did it.
    Deny(Reason),
    /// To be dialled, in this order.
    Dial(Vec<Pass>),
    /// Allowed by name; each address has to be judged.
    Resolve(DnsName),
    /// Answered by the endpoint itself.
    Answer,
}

/// The proof that the policy allows a connection to one address. Only this
/// module can make one, and a dialer takes nothing else.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pass {
    address: SocketAddr,
    reason: Reason,
}

impl Pass {
    /// What may be dialled.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What allows it.
    pub(crate) fn reason(&self) -> &Reason {
        &self.reason
    }
}

/// The policy of this sandbox; without rules it allows nothing.
#[derive(Default, Debug)]
pub(crate) struct Gate {
    policy: Policy,
    addresses_read: Option<Instant>,
}

impl Gate {
    /// Judges by these rules from now on.
    pub(crate) fn replace_rules(&mut self, rules: Vec<Rule>) {
        self.policy.rules = rules.into_iter().map(Arc::new).collect();
    }

    /// Why a connection that stands may not go on, if it may not.
    pub(crate) fn objection(
        &mut self,
        intent: &Intent,
        dialled: Option<IpAddr>,
        now: Instant,
    ) -> Option<Reason> {
        let Ok(()) = self.read_host_addresses(now) else {
            return Some(HOST_ADDRESSES_UNKNOWN.into());
        };
        let destination = match (&intent.flow.destination, dialled) {
            (Destination::Name(name), Some(address)) => {
                Destination::Resolved(name.clone(), address)
            }
            (destination, _) => destination.clone(),
        };
        let flow = Flow {
            destination,
            ..intent.flow.clone()
        };
        let verdict = decide(&self.policy, &flow);
        (!verdict.is_allow()).then_some(verdict.reason)
    }

    /// Judges an intent.
    pub(crate) fn judge(&mut self, intent: &Intent, now: Instant) -> Decision {
        let Ok(()) = self.read_host_addresses(now) else {
            return Decision::Deny(HOST_ADDRESSES_UNKNOWN.into());
        };
        let verdict = decide(&self.policy, &intent.flow);
        if !verdict.is_allow() {
            return Decision::Deny(verdict.reason);
        }
        let port = intent.flow.port;
        match &intent.flow.destination {
            Destination::Gateway => Decision::Answer,
            Destination::HostService => Decision::Dial(
                [
                    IpAddr::from(Ipv4Addr::LOCALHOST),
                    IpAddr::from(Ipv6Addr::LOCALHOST),
                ]
                .map(|address| pass(address, port, &verdict.reason))
                .to_vec(),
            ),
            Destination::Name(name) => Decision::Resolve(name.clone()),
            Destination::Resolved(_, address) | Destination::Address(address) => {
                Decision::Dial(vec![pass(*address, port, &verdict.reason)])
            }
        }
    }

    /// Judges the addresses that an allowed name resolved to. One allowed
    /// address is enough; the denied ones are not dialled.
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
        let mut passes = Vec::new();
        let mut denied = Reason::Fixed("default:no-address");
        for address in addresses.iter().take(limits::CANDIDATES) {
            let flow = Flow {
                destination: Destination::Resolved(name.clone(), *address),
                ..intent.flow.clone()
            };
            let verdict = decide(&self.policy, &flow);
            if verdict.is_allow() {
                passes.push(pass(*address, flow.port, &verdict.reason));
            } else {
                denied = verdict.reason;
            }
        }
        if passes.is_empty() {
            Decision::Deny(denied)
        } else {
            Decision::Dial(passes)
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
        self.policy.host_addresses = host_addresses()?;
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

fn pass(address: IpAddr, port: u16, reason: &Reason) -> Pass {
    Pass {
        address: SocketAddr::new(address.to_canonical(), port),
        reason: reason.clone(),
    }
}
