//! Value types and the resolved description of a sandbox.
//!
//! Owns: what a name, a size, a guest path may look like, and the shape of a
//! [`SandboxSpec`]. Never: I/O, the environment, defaults that grant. Text
//! becomes a value of one of these types once, at the door; past it nothing
//! is parsed again.

mod host;
mod name;
mod path;
mod policy;
mod request;
mod size;
mod spec;

pub use host::{Denial, DnsName, Host, HostError, HostPort};
pub use name::{KitName, NameError, SandboxName};
pub use path::{GuestPath, GuestPathError};
pub use request::{
    HostKind, HostPath, MountRequest, SandboxRequest, WorkspacePath, WorkspaceRequest,
};
pub use policy::{Answer, Destination, Flow, Policy, Protocol, Verdict, decide};
pub use size::{ByteSize, ByteSizeError, Cpus, CpusError};
pub use spec::{
    Accel, Access, Driver, EnvVar, Isolation, Limits, Network, NetworkPreset, SandboxSpec, Share,
    ShareRole, TmpfsMount, VolumeMount,
};
