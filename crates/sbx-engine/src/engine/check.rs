//! `sbx policy check`: what the network engine would say, by the same
//! decision and in the same order.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sbx_spec::{
    Answer, CanonicalPath, Destination, Flow, Host, HttpRequest, NetworkPreset, Policy, Protocol,
    Transport, Verdict, decide, decide_request,
};

use super::Engine;
use crate::command::{CheckedReply, CheckedRequest, Code, Error, PolicyCheck, Reply};

/// How long the host's resolver may take.
const RESOLVE: Duration = Duration::from_secs(5);

impl Engine {
    /// Says what would come of a connection, or of a request on one.
    ///
    /// # Errors
    /// If a policy cannot be read.
    pub(super) async fn check_policy(&self, check: PolicyCheck) -> Result<Reply, Error> {
        let effective = match &check.sandbox {
            Some(name) => {
                let sandbox = self.find(name)?;
                let spec = sandbox.record()?.spec;
                self.effective(Some((&sandbox, &spec)))?
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
        let (verdict, addresses) = judge(&policy, &check).await;
        Ok(Reply::Checked(CheckedReply::of(
            &check, &verdict, addresses,
        )))
    }
}

/// What the network engine would say, in the same order: by name, and then
/// for each address that it resolves to.
async fn judge(policy: &Policy, check: &PolicyCheck) -> (Verdict, Vec<IpAddr>) {
    let decide = |destination| {
        let flow = Flow {
            protocol: match check.transport {
                Transport::Tcp => Protocol::Tcp,
                Transport::Udp => Protocol::Udp,
            },
            destination,
            port: check.port,
        };
        of_request(policy, &flow, check.request.as_ref())
    };
    let name = match &check.host {
        Host::Address(address) => {
            return (decide(Destination::Address(*address)), Vec::new());
        }
        Host::Name(name) if is_host_service(name.as_str()) => {
            return (decide(Destination::HostService), Vec::new());
        }
        Host::Name(name) => name,
    };
    let verdict = decide(Destination::Name(name.clone()));
    if verdict.answer == Answer::Deny {
        return (verdict, Vec::new());
    }
    let asked = tokio::time::timeout(
        RESOLVE,
        tokio::net::lookup_host((name.as_str(), check.port)),
    );
    let Ok(Ok(found)) = asked.await else {
        // Here as there, only who may connect learns that there is nothing.
        return (verdict, Vec::new());
    };
    let addresses: Vec<IpAddr> = found
        .map(|address| address.ip().to_canonical())
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let judged = |address: &IpAddr| decide(Destination::Resolved(name.clone(), *address));
    let verdicts: Vec<Verdict> = addresses.iter().map(judged).collect();
    // One allowed address is enough, as for the engine, and one that the user
    // would be asked about better than none.
    let goes_on = |verdict: &&Verdict| matches!(verdict.answer, Answer::Allow | Answer::Inspect);
    let decisive = verdicts
        .iter()
        .find(goes_on)
        .or(verdicts.iter().find(|one| one.answer == Answer::Ask))
        .or(verdicts.last())
        .cloned();
    (decisive.unwrap_or(verdict), addresses)
}

/// The verdict on a flow, or on a request where that is what matters there.
fn of_request(policy: &Policy, flow: &Flow, request: Option<&CheckedRequest>) -> Verdict {
    let verdict = decide(policy, flow);
    let Some(request) = request.filter(|_| verdict.answer == Answer::Inspect) else {
        return verdict;
    };
    let path = request.target.parse::<CanonicalPath>().ok();
    let request = HttpRequest {
        method: &request.method,
        path: path.as_ref(),
    };
    decide_request(policy, flow, &request)
}

fn is_host_service(name: &str) -> bool {
    matches!(
        name,
        "localhost" | "host.sbx.internal" | "host.docker.internal"
    )
}

fn host_addresses() -> Result<BTreeSet<IpAddr>, Error> {
    sbx_net::host_addresses().map_err(|source| {
        Error::new(Code::Io, "cannot read the addresses of this host").because(source)
    })
}
