//! What is recorded of the network of sandboxes, and how it is asked for.
//!
//! Owns: the schema of the audit file, documented in `docs/json.md`. It is
//! written by a supervisor and read by commands of this and later versions.

use std::net::IpAddr;

use sbx_spec::SandboxName;
use serde::{Deserialize, Serialize};

/// Version of the records.
pub const AUDIT_VERSION: u32 = 1;

/// `sbx policy log`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuditRequest {
    /// Of which sandbox; `None` for all.
    pub sandbox: Option<SandboxName>,
    /// Go on until interrupted or the sandbox is gone; records go to
    /// [`super::Ui::audit`] and the reply is [`super::Reply::Done`].
    pub follow: bool,
    /// Only from then on: milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Only denials, and floods with denials among them.
    pub denied: bool,
    /// Only the last so many of what is left.
    pub limit: usize,
}

/// Records, oldest first.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct AuditReply {
    /// The records.
    pub records: Vec<AuditRecord>,
    /// How many before them the limit left out.
    pub earlier: u64,
    /// Lines of the files that are no records.
    pub unreadable: u64,
}

/// One line of an audit file. Names in it were chosen by a guest: escape them
/// before they are shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditRecord {
    /// [`AUDIT_VERSION`].
    pub version: u32,
    /// When it was heard of: milliseconds since 1970.
    pub time_ms: u64,
    /// Of which sandbox.
    pub sandbox: SandboxName,
    /// What happened.
    #[serde(flatten)]
    pub event: AuditEvent,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum AuditEvent {
    /// A flow was judged.
    Flow(AuditFlow),
    /// A request of HTTP on an allowed flow was judged.
    Request(AuditAsked),
    /// An allowed flow is over.
    End(AuditEnd),
    /// Records that were only counted.
    Flood(AuditFlood),
}

/// A verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Judged {
    /// It went on.
    Allow,
    /// It was refused.
    Deny,
}

/// The verdict on one flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditFlow {
    /// Its name: `RUN.ENGINE.NUMBER`, never given twice in a sandbox's life.
    /// An allowed flow that a new rule ends has a second verdict.
    pub flow: String,
    /// The verdict.
    pub verdict: Judged,
    /// What it was about.
    #[serde(flatten)]
    pub target: AuditTarget,
    /// Why an allowed flow came to nothing, if it did; it has no end then.
    pub failed: Option<String>,
}

/// The verdict on one request of HTTP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditAsked {
    /// The flow that it was made on.
    pub flow: String,
    /// The verdict.
    pub verdict: Judged,
    /// The server's name, if it has one.
    pub host: Option<String>,
    /// Its port.
    pub port: u16,
    /// The method; left out where the request could not be read.
    pub method: Option<String>,
    /// The path without its query, likewise.
    pub path: Option<String>,
    /// The deciding line: a rule, or one of the engine's own.
    pub rule: String,
    /// Its name, if it is a rule.
    pub rule_id: Option<String>,
    /// Where it was written, if it is a rule.
    pub origin: Option<String>,
}

/// What a flow is about, and what decided.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditTarget {
    /// `tcp`, `udp`, `icmp`, or `dns` for a question that other name servers
    /// are asked.
    pub protocol: String,
    /// The name that was asked for, if it was one.
    pub host: Option<String>,
    /// The address: the guest's, or the one that was dialled on the host.
    pub address: Option<IpAddr>,
    /// Destination port; 0 for ICMP.
    pub port: u16,
    /// The deciding line: a rule, or one of the engine's own.
    pub rule: String,
    /// Its name, if it is a rule.
    pub rule_id: Option<String>,
    /// Where it was written, if it is a rule.
    pub origin: Option<String>,
}

/// The end of an allowed flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditEnd {
    /// Its name.
    pub flow: String,
    /// What it was about; left out where its verdict was only counted.
    #[serde(flatten)]
    pub target: Option<AuditTarget>,
    /// Bytes from the guest, if they are known.
    pub sent: Option<u64>,
    /// Bytes to the guest, if they are known.
    pub received: Option<u64>,
    /// How it ended: `closed`, `reset`, `policy`, `engine ended`, …
    pub how: String,
}

/// Records that were only counted, since the last such record.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct AuditFlood {
    /// Allowed flows and requests.
    pub allowed: u64,
    /// Denied ones.
    pub denied: u64,
    /// Ends of allowed flows.
    pub ended: u64,
    /// Bytes that those which ended carried from the guest.
    #[serde(default)]
    pub sent: u64,
    /// The same to the guest.
    #[serde(default)]
    pub received: u64,
    /// Lines of the network engine that were no records.
    pub unreadable: u64,
}

impl AuditFlood {
    /// Counts one verdict.
    pub(crate) fn count(&mut self, verdict: Judged) {
        let count = match verdict {
            Judged::Allow => &mut self.allowed,
            Judged::Deny => &mut self.denied,
        };
        *count = count.saturating_add(1);
    }

    /// Counts `more` too.
    pub(crate) fn add(&mut self, more: Self) {
        self.allowed = self.allowed.saturating_add(more.allowed);
        self.denied = self.denied.saturating_add(more.denied);
        self.ended = self.ended.saturating_add(more.ended);
        self.sent = self.sent.saturating_add(more.sent);
        self.received = self.received.saturating_add(more.received);
        self.unreadable = self.unreadable.saturating_add(more.unreadable);
    }
}

impl AuditEvent {
    /// Whether it is a denial, or a flood with denials in it.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        match self {
            Self::Flow(flow) => flow.verdict == Judged::Deny,
            Self::Request(asked) => asked.verdict == Judged::Deny,
            Self::End(_) => false,
            Self::Flood(flood) => flood.denied > 0,
        }
    }
}
