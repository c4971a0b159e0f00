//! `sbx policy check`: what the network engine would say. The pieces that say
//! it are the engine's own ([`sbx_spec::foresee`]); here they are only given
//! what they need to know.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use sbx_net::{Proxies, look_up, resolved_elsewhere};
use sbx_spec::{
    Answer, CanonicalPath, DnsName, Foreseen, HttpRequest, NetworkPreset, Policy, Protocol, Reason,
    Transport, Trial, Verdict, foresee, foresee_resolved,
};

use super::Engine;
use crate::command::{CheckedReply, Code, Error, PolicyCheck, Reply};
use crate::facts;
use crate::supervisor::named;

/// How long the host's resolver may take.
const RESOLVE: Duration = sbx_net::limits::RESOLVE_TIME;

impl Engine {
    /// Says what would come of a connection, or of a request on one.
    ///
    /// # Errors
    /// If a policy cannot be read.
    pub(super) async fn check_policy(&self, check: PolicyCheck) -> Result<Reply, Error> {
        let sandbox = match &check.sandbox {
            Some(name) => Some(self.find(name)?),
            None => None,
        };
        let effective = match &sandbox {
            Some(sandbox) => {
                let spec = sandbox.record()?.spec;
                self.effective(Some((sandbox, &spec)))?
            }
            None => self.effective(None)?,
        };
        let policy = Policy {
            rules: match effective.preset {
                NetworkPreset::None => Vec::new(),
                _ => effective.rules.into_iter().map(Arc::new).collect(),
            },
            host_addresses: host_addresses()?,
        };
        // Without a sandbox no name has an address yet.
        let named = |address| named(&sandbox.as_ref()?.join("."), address);
        let proxies = facts::proxies(&self.caller);
        let (verdict, addresses) = judge(&policy, &check, named, &proxies).await;
        Ok(Reply::Checked(CheckedReply::of(
            &check, &verdict, addresses,
        )))
    }
}

/// What the network engine would say, and what the name resolves to where it
/// would ask.
async fn judge(
    policy: &Policy,
    check: &PolicyCheck,
    named: impl FnOnce(Ipv4Addr) -> Option<DnsName>,
    proxies: &Proxies,
) -> (Verdict, Vec<IpAddr>) {
    let path =
        (check.request.as_ref()).and_then(|request| request.target.parse::<CanonicalPath>().ok());
    let request = check.request.as_ref().map(|request| HttpRequest {
        method: &request.method,
        path: path.as_ref(),
    });
    let trial = Trial {
        host: &check.host,
        port: check.port,
        protocol: match check.transport {
            Transport::Tcp => Protocol::Tcp,
            Transport::Udp => Protocol::Udp,
        },
        request: request.as_ref(),
    };
    let (name, flow) = match foresee(policy, &trial, named) {
        Foreseen::Settled(verdict) => return (verdict, Vec::new()),
        Foreseen::Resolve(name, flow) => (name, flow),
    };
    let asked = name.clone();
    let asked = tokio::task::spawn_blocking(move || look_up(&asked));
    let Ok(found) = tokio::time::timeout(RESOLVE, asked).await else {
        let late = Verdict {
            answer: Answer::Deny,
            reason: Reason::Fixed("limit:resolve-time"),
        };
        return (late, Vec::new());
    };
    let addresses = found.unwrap_or_default();
    // Datagrams go by no proxy.
    let elsewhere =
        flow.protocol == Protocol::Tcp && resolved_elsewhere(proxies, &name, check.port);
    let verdict = foresee_resolved(policy, &trial, (&name, &flow), &addresses, elsewhere);
    (verdict, addresses)
}

fn host_addresses() -> Result<BTreeSet<IpAddr>, Error> {
    sbx_net::host_addresses().map_err(|source| {
        Error::new(Code::Io, "cannot read the addresses of this host").because(source)
    })
}
