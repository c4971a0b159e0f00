//! The isolation `container`: one process that makes the namespaces and the
//! root of a sandbox on the host's own kernel, confines itself and becomes
//! the guest program.
//!
//! Owns: which namespaces, mounts, devices and walls a container has. Never:
//! runs as part of the guest before all of them stand; maps the host's root.
//! Trusts the plan; of what an earlier run of the sandbox left, nothing: its
//! links are only followed inside its own root.

mod config;
mod copy;
mod counts;
pub(crate) mod held;
pub(crate) mod kernel_files;
mod network;
mod role;
mod root;
mod served;
mod sources;
mod trial;

pub(crate) use config::BoxConfig;
pub(crate) use role::run;
pub(crate) use trial::{Outcome, Step, TrialConfig, run as try_out};

/// Where a container finds its own program.
const GUEST_PROGRAM: &str = "/run/sbx/bin/sbx-guest";

/// `what` is what was attempted with `source` as its reason.
fn failed(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> sbx_sys::Error {
    move |source| sbx_sys::Error::new(what, source)
}

/// The same for a refusal by number.
fn refused(what: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> sbx_sys::Error {
    move |source| sbx_sys::Error::new(what, source)
}
