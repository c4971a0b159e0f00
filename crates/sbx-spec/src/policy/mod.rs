//! What a sandbox may reach.
//!
//! Owns: rules and where they came from ([`Rule`]), presets, and the one
//! decision ([`decide`]). Never: packets, lookups, files, time.

mod decide;
mod file;
mod http;
mod preset;
mod resource;
mod rule;

pub use decide::{
    Answer, Destination, Flow, Policy, Protocol, Verdict, decide, decide_name, decide_request,
};
pub use file::{MAX_POLICY_FILE, MAX_POLICY_RULES, PolicyEdit, PolicyFile};
pub use http::{
    CanonicalPath, HttpCondition, HttpError, HttpRequest, Method, NOT_CANONICAL, PathGlob,
};
pub use preset::{GROUPS, Group, rules as preset_rules};
pub use resource::{Ports, Resource, ResourceError, Target};
pub use rule::{Action, Origin, Reason, Rule, RuleError, RuleId, Transport};
