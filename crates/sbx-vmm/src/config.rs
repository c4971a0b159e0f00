//! The configuration, as JSON in a sealed memory file on descriptor 3.

use serde::{Deserialize, Serialize};

/// The longest configuration that is read, in bytes.
pub const MAX_CONFIG: usize = 1 << 20;

/// Everything that `sbx-vmm` is told beside the monitor's program, which is
/// its one argument: an absolute path, executed last.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The monitor's arguments, its own name first.
    pub argv: Vec<String>,
    /// Whether it may open [`crate::KVM`], the one device there is. What else
    /// it opens by name is known here ([`crate::QEMU_FILES`]).
    pub kvm: bool,
    /// The descriptors that the monitor keeps beside 0, 1 and 2; all others
    /// are closed. Each is open, not a mere place in the file tree. Regular
    /// files among them can also be opened again as `/proc/self/fd/N`, which
    /// needs no right on the directories above.
    pub fds: Vec<i32>,
    /// The descriptor that gets one JSON line `{"ready":[…walls…]}` before
    /// the monitor starts and is then closed.
    pub report: Option<i32>,
    /// Limits on the process.
    pub limits: Limits,
    /// Whom the monitor runs as when the caller is root: never root.
    pub ids: Option<Ids>,
    /// Whether namespaces are a second wall.
    pub namespaces: Namespaces,
}

/// Limits on the process. Memory is not among them: address space says
/// little about it, the control group bounds it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Open descriptors.
    pub descriptors: u64,
    /// The largest file it may write, in bytes.
    pub file_size: u64,
    /// Processes and threads of its user, where that user is its own;
    /// `None` where the user has others, which would count too.
    pub processes: Option<u64>,
}

/// An unprivileged identity.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ids {
    /// Its user id, not 0.
    pub uid: u32,
    /// Its group id, not 0.
    pub gid: u32,
    /// Its supplementary groups: that of `/dev/kvm` when KVM is used.
    pub groups: Vec<u32>,
}

/// Whether namespaces are a second wall.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Namespaces {
    /// Where the kernel grants them; the report says whether it did.
    Try,
    /// Not asked for.
    Off,
}
