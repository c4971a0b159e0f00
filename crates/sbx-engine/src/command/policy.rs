//! What may be asked of and answered about policies.

use std::net::IpAddr;
use std::path::PathBuf;

use sbx_spec::{
    Action, Answer, Host, HostPort, Method, NetworkPreset, Resource, Rule, RuleId, SandboxName,
    Transport, Verdict,
};
use serde::{Deserialize, Serialize};

use super::{AuditRequest, QuestionId, Saying};

/// `sbx policy …`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PolicyRequest {
    /// Start from this preset.
    Init(NetworkPreset),
    /// Add rules.
    Add(PolicyScope, Vec<Rule>),
    /// Remove rules.
    Remove(PolicyScope, RuleChoice),
    /// List what counts for a sandbox, or for new ones.
    List(Option<SandboxName>),
    /// Say what would come of a connection.
    Check(PolicyCheck),
    /// Show what was recorded.
    Log(AuditRequest),
    /// Show what waits for an answer, in one sandbox or all.
    Pending(Option<SandboxName>),
    /// Answer a question.
    Answer(QuestionId, Saying),
}

/// Whose policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PolicyScope {
    /// The user's, for all sandboxes.
    User,
    /// That of one sandbox.
    Sandbox(SandboxName),
}

/// Which rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RuleChoice {
    /// The rule of this name.
    Id(RuleId),
    /// Every rule about exactly this.
    Resource(Resource),
}

/// A connection that could be asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyCheck {
    /// Where to.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Over which transport.
    pub transport: Transport,
    /// What would be asked on it, where that matters.
    pub request: Option<CheckedRequest>,
    /// For which sandbox; `None` for a new one that says nothing itself.
    pub sandbox: Option<SandboxName>,
}

/// A request that could be made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckedRequest {
    /// Its method.
    pub method: Method,
    /// Its path and query, as a client would send them.
    pub target: String,
}

/// Who chose a preset.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PresetFrom {
    /// The sandbox, with `--network`.
    Sandbox,
    /// The user's policy.
    User,
    /// Nobody.
    Default,
}

/// A policy was edited.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PolicyEdited {
    /// Whether the file says something else than before.
    pub changed: bool,
    /// The file.
    pub file: PathBuf,
    /// Running sandboxes that judge by it now.
    pub applied: Vec<SandboxName>,
    /// Open connections that it ended.
    pub cut: u64,
}

/// The rules that count, nearest layer first.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PolicyListReply {
    /// For which sandbox; `None` for new ones.
    pub sandbox: Option<SandboxName>,
    /// What they start from.
    pub preset: NetworkPreset,
    /// Who chose it.
    pub preset_from: PresetFrom,
    /// One entry each.
    pub rules: Vec<PolicyListed>,
    /// Rules that the agent's kit would like and that are not in force:
    /// nobody accepted them, and the preset takes none over.
    pub wanted: Vec<PolicyListed>,
}

/// A rule as a line of a list.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicyListed {
    /// Its name, for `policy rm --id`.
    pub id: String,
    /// What it does.
    pub action: Action,
    /// What it is about.
    pub resource: Resource,
    /// Which requests of HTTP, such as `GET,HEAD /path/**`; `None` for all
    /// that is done there.
    pub requests: Option<String>,
    /// `tcp` or `udp`, where that was said; where not, a denial is about all
    /// and anything else about TCP and echoes.
    pub transport: Option<Transport>,
    /// Whether all that its resource covers is looked into, whatever else
    /// allows it.
    #[serde(default)]
    pub inspect: bool,
    /// Where it was written: `user`, `sandbox`, `preset:GROUP`, `kit:NAME`
    /// or `tool:NAME`.
    pub origin: String,
}

impl PolicyListed {
    /// What it is about, as a policy file has it.
    #[must_use]
    pub fn about(&self) -> String {
        let mut about = self.resource.to_string();
        let transport = self.transport.map(Transport::name);
        let mark = self.inspect.then_some("inspect");
        let words = [self.requests.as_deref().or(transport), mark];
        for word in words.into_iter().flatten() {
            about.push(' ');
            about.push_str(word);
        }
        about
    }

    /// The line of a rule.
    #[must_use]
    pub fn of(rule: &Rule) -> Self {
        Self {
            id: rule.id().to_string(),
            action: rule.action(),
            resource: rule.resource().clone(),
            requests: rule.http().map(ToString::to_string),
            transport: rule.transport(),
            inspect: rule.inspects(),
            origin: rule.origin().to_string(),
        }
    }
}

/// What would come of a connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CheckedReply {
    /// Host and port.
    pub target: HostPort,
    /// For which sandbox.
    pub sandbox: Option<SandboxName>,
    /// `allow`, `deny`, `ask` where the user would be asked, or `inspect`
    /// where each request would be judged and none was given.
    pub verdict: &'static str,
    /// The deciding line: a rule, or one of the engine's own.
    pub rule: String,
    /// Its name, if it is a rule.
    pub id: Option<String>,
    /// What the name resolves to on this host now; empty where the verdict
    /// fell before, or for an address.
    pub addresses: Vec<IpAddr>,
}

impl CheckedReply {
    /// The answer to a check.
    #[must_use]
    pub fn of(check: &PolicyCheck, verdict: &Verdict, addresses: Vec<IpAddr>) -> Self {
        Self {
            target: HostPort {
                host: check.host.clone(),
                port: check.port,
            },
            sandbox: check.sandbox.clone(),
            verdict: match verdict.answer {
                Answer::Allow => "allow",
                Answer::Inspect => "inspect",
                Answer::Ask => "ask",
                Answer::Deny => "deny",
            },
            rule: verdict.reason.to_string(),
            id: verdict.reason.rule().map(|rule| rule.id().to_string()),
            addresses,
        }
    }

    /// Whether nothing would come of it.
    #[must_use]
    pub fn is_deny(&self) -> bool {
        self.verdict == "deny"
    }
}
