//! What a sandbox may reach.
//!
//! Owns: rules and where they came from ([`Rule`]), presets, and the one
//! decision ([`decide`]). Never: packets, lookups, files, time.

mod decide;
mod destination;
mod file;
mod http;
mod preset;
mod resource;
mod rule;

pub use decide::{
    Answer, Destination, Flow, Policy, Protocol, Verdict, decide, decide_name, decide_request,
};
pub use destination::{
    Foreseen, GATEWAY_V4, GATEWAY_V6, HOST_V4, HOST_V6, HTTP_PROXY, NO_ADDRESS, RESERVED_NAME,
    Resolved as ResolvedName, SOCKS_PROXY, Trial, foresee, foresee_resolved, judge_resolved,
    name_address, name_address_v6,
};
pub use file::{MAX_POLICY_FILE, MAX_POLICY_RULES, PolicyEdit, PolicyFile};
pub use http::{
    CanonicalPath, HttpCondition, HttpError, HttpRequest, Method, NOT_CANONICAL, PathGlob,
};
pub use preset::{GROUPS, Group, rules as preset_rules};
pub use resource::{Ports, Resource, ResourceError, Target};
pub use rule::{Action, Origin, Reason, Rule, RuleError, RuleId, Transport};
