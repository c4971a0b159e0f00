//! One line of a policy, where it came from, and the name it is known by.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::decide::Protocol;
use super::http::{HttpCondition, HttpError, HttpRequest};
use super::resource::{Resource, ResourceError, Target};
use crate::guard::{self, Guard};
use crate::host::Denial;
use crate::name::KitName;

/// What a rule does with the flows it is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Lets them pass, unless something else denies them.
    Allow,
    /// Refuses them, whatever else allows them.
    Deny,
    /// Has the user decide each time, whatever else allows them.
    Ask,
    /// Lets them pass although something else asks: the user said "always".
    Approve,
}

/// Where a rule was written.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A preset; its group.
    Preset(String),
    /// The agent's kit.
    Kit(KitName),
    /// The configuration of one of the host's own tools; its name.
    Tool(String),
    /// The user's policy, for all sandboxes.
    User,
    /// The policy of this sandbox alone.
    Sandbox,
}

/// One rule. Compared and named by what it says and where it was written.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
pub struct Rule {
    action: Action,
    resource: Resource,
    #[serde(skip_serializing_if = "Option::is_none")]
    http: Option<HttpCondition>,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<Transport>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    inspect: bool,
    origin: Origin,
}

/// The transport that a rule is about, where that was said. Where it was not,
/// a denial is about all, and anything else about TCP and echoes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Its name in rules.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// The mark, at the end of a rule. No method has small letters, and no path a
/// blank.
const INSPECT: &str = " inspect";

/// The name of a rule for `policy rm`: eight hexadecimal digits, the same
/// wherever and whenever the same rule is read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleId(u32);

/// Why there can be no such rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RuleError {
    /// Not a resource.
    Resource(ResourceError),
    /// Not a condition on requests.
    Http(HttpError),
    /// Addresses that no rule can open; holds why.
    NeverAllowed(Denial),
    /// A mark that a rule of this kind cannot have.
    Inspect,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(error) => error.fmt(f),
            Self::Http(error) => error.fmt(f),
            Self::NeverAllowed(Denial::Loopback) => f.write_str(
                "a sandbox has a loopback of its own: `localhost:PORT` is a port of this host",
            ),
            Self::NeverAllowed(denial) => {
                write!(f, "no rule can allow these addresses ({})", denial.rule())
            }
            Self::Inspect => {
                f.write_str("`inspect` is about HTTP: what marks it allows, and names no transport")
            }
        }
    }
}

impl std::error::Error for RuleError {}

impl From<ResourceError> for RuleError {
    fn from(error: ResourceError) -> Self {
        Self::Resource(error)
    }
}

impl From<HttpError> for RuleError {
    fn from(error: HttpError) -> Self {
        Self::Http(error)
    }
}

impl Rule {
    /// A rule.
    ///
    /// # Errors
    /// [`RuleError::NeverAllowed`] where it would open what nothing can, so
    /// that no rule stands in a list without effect.
    pub fn new(action: Action, resource: Resource, origin: Origin) -> Result<Self, RuleError> {
        if action != Action::Deny
            && let Some(denial) = within(&resource)
            && !denial.may_be_lifted()
        {
            return Err(RuleError::NeverAllowed(denial));
        }
        Ok(Self {
            action,
            resource,
            http: None,
            transport: None,
            inspect: false,
            origin,
        })
    }

    /// The same, about one transport only.
    #[must_use]
    pub fn with_transport(self, transport: Option<Transport>) -> Self {
        Self { transport, ..self }
    }

    /// Which transport it is about, where that was said.
    #[must_use]
    pub fn transport(&self) -> Option<Transport> {
        self.transport
    }

    /// Whether it is about flows of this protocol.
    pub(super) fn covers_protocol(&self, protocol: Protocol) -> bool {
        match (self.transport, protocol) {
            (Some(Transport::Tcp), protocol) => protocol == Protocol::Tcp,
            // An echo cannot be looked into.
            (None, protocol) if self.inspect => protocol == Protocol::Tcp,
            (Some(Transport::Udp), protocol) => protocol == Protocol::Udp,
            (None, Protocol::Udp) => self.action == Action::Deny || guard::out(Guard::NoDatagrams),
            (None, Protocol::Tcp | Protocol::Icmp) => true,
        }
    }

    /// The same, about some requests of HTTP only.
    #[must_use]
    pub fn with_http(self, http: Option<HttpCondition>) -> Self {
        Self { http, ..self }
    }

    /// The same, and every connection that its resource covers is looked into
    /// whatever else allows it: only requests pass, each of them judged.
    ///
    /// # Errors
    /// [`RuleError::Inspect`] if it does not allow, or names a transport.
    pub fn with_inspect(self, inspect: bool) -> Result<Self, RuleError> {
        if inspect && (self.action != Action::Allow || self.transport.is_some()) {
            return Err(RuleError::Inspect);
        }
        Ok(Self { inspect, ..self })
    }

    /// Whether it has the mark.
    #[must_use]
    pub fn inspects(&self) -> bool {
        self.inspect
    }

    /// A rule from [`Self::written`].
    ///
    /// # Errors
    /// Where it is none.
    pub fn read(action: Action, written: &str, origin: Origin) -> Result<Self, RuleError> {
        let (written, inspect) = match written.strip_suffix(INSPECT) {
            Some(rest) => (rest, true),
            None => (written, false),
        };
        let (resource, http, transport) = match written.split_once(' ') {
            // Methods have no small letters, and paths begin with a slash.
            Some((resource, "tcp")) => (resource, None, Some(Transport::Tcp)),
            Some((resource, "udp")) => (resource, None, Some(Transport::Udp)),
            Some((resource, http)) => (resource, Some(http.parse()?), None),
            None => (written, None, None),
        };
        let rule = Self::new(action, resource.parse()?, origin)?;
        let rule = rule.with_http(http).with_transport(transport);
        rule.with_inspect(inspect)
    }

    /// What it is about in one line, as a policy file has it:
    /// `a.example:443`, `a.example:443 GET,HEAD /path/**`,
    /// `a.example:123 udp` or `a.example:443 inspect`.
    #[must_use]
    pub fn written(&self) -> String {
        let mut written = match (&self.http, self.transport) {
            (Some(http), _) => format!("{} {http}", self.resource),
            (None, Some(transport)) => format!("{} {}", self.resource, transport.name()),
            (None, None) => self.resource.to_string(),
        };
        if self.inspect {
            written.push_str(INSPECT);
        }
        written
    }

    /// Which requests it is about, where it is not about all.
    #[must_use]
    pub fn http(&self) -> Option<&HttpCondition> {
        self.http.as_ref()
    }

    /// Whether it is about all that its resource covers, and not about some
    /// requests only.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.http.is_none()
    }

    /// Whether it is about a request to what its resource covers; `None`
    /// where that depends on a path that has another spelling.
    pub(super) fn covers_request(&self, request: &HttpRequest<'_>) -> Option<bool> {
        match &self.http {
            Some(http) => http.matches(request),
            None => Some(true),
        }
    }

    /// What it does.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action
    }

    /// What it is about.
    #[must_use]
    pub fn resource(&self) -> &Resource {
        &self.resource
    }

    /// Where it was written.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> RuleId {
        // FNV-1a: names must stay the same from one build to the next.
        let hash = self
            .to_string()
            .bytes()
            .fold(0x811c_9dc5_u32, |hash, byte| {
                (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
            });
        RuleId(hash)
    }

    /// Whether it names `address` closely enough to open it although a
    /// default denial covers it. A range that reaches beyond the denial, such
    /// as `0.0.0.0/0`, does not.
    pub(super) fn lifts(&self, denial: Denial, address: IpAddr) -> bool {
        self.action != Action::Deny
            && self.resource.covers_address(address)
            && denial.may_be_lifted()
            && match denial {
                Denial::HostInterface => is_single(&self.resource),
                _ => within(&self.resource) == Some(denial) || guard::out(Guard::RuleWithinRange),
            }
    }
}

impl<'de> Deserialize<'de> for Rule {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Plain {
            action: Action,
            resource: Resource,
            http: Option<HttpCondition>,
            transport: Option<Transport>,
            #[serde(default)]
            inspect: bool,
            origin: Origin,
        }
        let plain = Plain::deserialize(deserializer)?;
        if plain.http.is_some() && plain.transport.is_some() {
            return Err(serde::de::Error::custom("requests are of HTTP over TCP"));
        }
        Self::new(plain.action, plain.resource, plain.origin)
            .map(|rule| rule.with_http(plain.http).with_transport(plain.transport))
            .and_then(|rule| rule.with_inspect(plain.inspect))
            .map_err(serde::de::Error::custom)
    }
}

/// The default denial that covers a whole range, if one does.
fn within(resource: &Resource) -> Option<Denial> {
    let Target::Network(net) = resource.target() else {
        return None;
    };
    let of = |address| Denial::of(address);
    // Denials are ranges themselves, so both ends decide; a range of 128 bits
    // with an embedded IPv4 form differs between its ends.
    of(net.network()).filter(|denial| of(net.broadcast()) == Some(*denial))
}

fn is_single(resource: &Resource) -> bool {
    matches!(resource.target(), Target::Network(net) if net.prefix_len() == max(net))
}

fn max(net: &IpNet) -> u8 {
    net.max_prefix_len()
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Ask => "ask",
            Self::Approve => "approve",
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preset(group) => write!(f, "preset:{group}"),
            Self::Kit(kit) => write!(f, "kit:{kit}"),
            Self::Tool(tool) => write!(f, "tool:{tool}"),
            Self::User => f.write_str("user"),
            Self::Sandbox => f.write_str("sandbox"),
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.origin, self.action, self.written())
    }
}

impl fmt::Display for RuleId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl FromStr for RuleId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u32::from_str_radix(text, 16).map(Self)
    }
}

/// Why a verdict is what it is: a rule that somebody wrote, or a line of the
/// engine's own such as `default:loopback`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Reason {
    /// A line of the engine's own.
    Fixed(&'static str),
    /// A rule.
    Rule(Arc<Rule>),
}

impl Reason {
    /// The rule, if it is one that somebody wrote.
    #[must_use]
    pub fn rule(&self) -> Option<&Rule> {
        match self {
            Self::Rule(rule) => Some(rule),
            Self::Fixed(_) => None,
        }
    }
}

impl From<&'static str> for Reason {
    fn from(line: &'static str) -> Self {
        Self::Fixed(line)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(line) => f.pad(line),
            Self::Rule(rule) => rule.fmt(f),
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(action: Action, resource: &str) -> Result<Rule, RuleError> {
        Rule::new(action, resource.parse().unwrap(), Origin::User)
    }

    #[test]
    fn the_same_rule_has_the_same_name_and_another_has_another() {
        let a = rule(Action::Allow, "a.example:443").unwrap();
        assert_eq!(
            a.id(),
            rule(Action::Allow, "A.example.:443-443").unwrap().id()
        );
        assert_ne!(a.id(), rule(Action::Deny, "a.example:443").unwrap().id());
        assert_eq!(a.id().to_string().parse(), Ok(a.id()));
        assert_eq!(a.to_string(), "user allow a.example:443");
    }

    #[test]
    fn a_rule_about_requests_is_another_than_one_about_all() {
        let read = |text: &str| Rule::read(Action::Allow, text, Origin::User);
        let whole = read("a.example:443").unwrap();
        let some = read("a.example:443 GET /b/**").unwrap();
        assert_ne!(whole.id(), some.id());
        assert_eq!(some.to_string(), "user allow a.example:443 GET /b/**");
        assert_eq!(read(&some.written()), Ok(some.clone()));
        let message = serde_json::to_string(&some).unwrap();
        assert_eq!(serde_json::from_str::<Rule>(&message).unwrap(), some);
        assert!(!serde_json::to_string(&whole).unwrap().contains("http"));
        for text in ["a.example ", "a.example  GET", " GET", "a.example GET /.."] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_marked_rule_is_another_and_only_what_allows_http_has_the_mark() {
        let read = |text: &str| Rule::read(Action::Allow, text, Origin::User);
        let plain = read("a.example:443").unwrap();
        assert!(!serde_json::to_string(&plain).unwrap().contains("inspect"));
        for text in ["a.example:443 inspect", "**.example GET,PUT /a/** inspect"] {
            let marked = read(text).unwrap();
            assert!(marked.inspects() && marked.id() != plain.id());
            assert_eq!(marked.written(), text);
            let message = serde_json::to_string(&marked).unwrap();
            assert_eq!(serde_json::from_str::<Rule>(&message).unwrap(), marked);
            let forged = message.replace("allow", "ask");
            assert!(serde_json::from_str::<Rule>(&forged).is_err());
        }
        for text in [
            " inspect",
            "a.example  inspect",
            "a.example inspect inspect",
            "a.example inspect GET",
            "a.example Inspect",
            "a.example udp inspect",
            "a.example tcp inspect",
        ] {
            assert!(read(text).is_err(), "{text:?}");
        }
        for action in [Action::Deny, Action::Ask, Action::Approve] {
            let marked = Rule::read(action, "a.example inspect", Origin::User);
            assert_eq!(marked, Err(RuleError::Inspect));
        }
    }

    #[test]
    fn what_no_rule_can_open_is_no_rule() {
        for text in [
            "127.0.0.1:80",
            "127.0.0.0/8",
            "::1",
            "224.0.0.0/4",
            "0.0.0.0",
            "198.18.0.0/15",
            "255.255.255.255",
        ] {
            assert!(
                matches!(rule(Action::Allow, text), Err(RuleError::NeverAllowed(_))),
                "{text}"
            );
            assert!(rule(Action::Deny, text).is_ok(), "{text}");
        }
        for text in ["10.0.0.0/8", "169.254.169.254", "fd00::/8", "192.0.2.0/24"] {
            assert!(rule(Action::Allow, text).is_ok(), "{text}");
        }
    }

    #[test]
    fn a_range_lifts_the_denial_that_it_names_and_no_other() {
        let lifts = |text: &str, denial, address: &str| {
            rule(Action::Allow, text)
                .unwrap()
                .lifts(denial, address.parse().unwrap())
        };
        assert!(lifts("10.0.0.0/8", Denial::Private, "10.1.2.3"));
        assert!(lifts("10.1.2.3", Denial::Private, "10.1.2.3"));
        assert!(!lifts("0.0.0.0/0", Denial::Private, "10.1.2.3"));
        assert!(!lifts("8.0.0.0/5", Denial::Private, "10.1.2.3"));
        assert!(!lifts("10.0.0.0/8", Denial::Private, "192.168.0.1"));
        assert!(!lifts("10.0.0.0/8", Denial::HostInterface, "10.1.2.3"));
        assert!(lifts("10.1.2.3", Denial::HostInterface, "10.1.2.3"));
    }

    #[test]
    fn a_rule_reads_back_from_a_message_and_a_forged_one_does_not() {
        let rule = rule(Action::Allow, "10.0.0.0/8:22").unwrap();
        let text = serde_json::to_string(&rule).unwrap();
        assert_eq!(serde_json::from_str::<Rule>(&text).unwrap(), rule);
        let forged = text.replace("10.0.0.0/8", "127.0.0.0/8");
        assert!(serde_json::from_str::<Rule>(&forged).is_err());
    }
}
