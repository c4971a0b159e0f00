//! Value types and the resolved description of a sandbox.
//!
//! Owns: what a name, a size, a guest path may look like, and the shape of a
//! [`SandboxSpec`]. Never: I/O, the environment, defaults that grant. Text
//! becomes a value of one of these types once, at the door; past it nothing
//! is parsed again.

mod choice;
mod config;
mod difference;
pub mod guard;
mod host;
mod mount;
mod name;
mod naming;
mod path;
mod policy;
mod promise;
mod publish;
mod request;
mod resolve;
mod sensitive;
mod size;
mod spec;
mod variables;

pub use choice::ChoiceError;
pub use config::{Config, ConfigError, KEYS as CONFIG_KEYS, STOP_GRACE_S};
pub use difference::{Difference, differences};
pub use host::{Denial, DnsName, Host, HostError, HostPort, ascii_name};
pub use mount::{MountError, MountText};
pub use name::{KitName, NameError, SandboxName};
pub use naming::{
    DefaultName, NoDefaultName, Owner, Subject, UnknownAgent, default_name, nearest, subject,
};
pub use path::{GuestPath, GuestPathError};
pub use policy::{
    Action, Answer, CanonicalPath, Destination, Flow, Foreseen, GATEWAY_V4, GATEWAY_V6, GROUPS,
    Group, HOST_V4, HOST_V6, HTTP_PROXY, HttpCondition, HttpError, HttpRequest, MAX_POLICY_FILE,
    MAX_POLICY_RULES, Method, NO_ADDRESS, NOT_CANONICAL, Origin, PathGlob, Policy, PolicyEdit,
    PolicyFile, Ports, Protocol, RESERVED_NAME, Reason, ResolvedName, Resource, ResourceError,
    Rule, RuleError, RuleId, SOCKS_PROXY, Target, Transport, Trial, Verdict, decide, decide_name,
    decide_request, foresee, foresee_resolved, judge_resolved, name_address, name_address_v6,
    preset_rules,
};
pub use promise::{Kept, Promise};
pub use publish::{MAX_PUBLISHED, Publication, PublicationError};
pub use request::{
    HostKind, HostPath, MountRequest, SandboxRequest, WorkspacePath, WorkspaceRequest,
};
pub use resolve::{
    DEFAULT_DISK, DEFAULT_PIDS, HostLimits, Layers, MAX_MOUNTS, MIN_DISK, MIN_MEMORY, PIDS,
    Refusal, ResolveError, Resolved, resolve,
};
pub use sensitive::{Sensitive, SensitivePlaces, Why};
pub use size::{ByteSize, ByteSizeError, Cpus, CpusError};
pub use spec::{
    Accel, Access, Driver, EngineImage, EnvVar, Isolation, Limit, Limits, Network, NetworkPreset,
    Pull, SandboxSpec, Share, ShareRole, TmpfsMount, VolumeMount, WorkspaceGuard,
};
pub use variables::{SessionVariables, is_credential, is_variable_name};
