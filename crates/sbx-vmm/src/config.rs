//! The configuration, as JSON in a sealed memory file on descriptor 3.

use std::path::PathBuf;

use sbx_sys::jail::Access;
use serde::{Deserialize, Serialize};

/// The longest configuration that is read, in bytes.
pub const MAX_CONFIG: usize = 1 << 20;

/// Everything that `sbx-vmm` is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The monitor: an absolute path, executed last.
    pub program: PathBuf,
    /// Its arguments, its own name first.
    pub argv: Vec<String>,
    /// The files that this machine opens by name: `/dev/kvm` when it is used,
    /// kernel and initramfs unless they come as descriptors. What QEMU needs
    /// besides is known here ([`crate::QEMU_FILES`]).
    pub files: Vec<FileRule>,
    /// The descriptors that the monitor keeps beside 0, 1 and 2; all others
    /// are closed. Regular files among them can also be opened again as
    /// `/proc/self/fd/N`, which needs no right on the directories above.
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

/// A file that the monitor may open by name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRule {
    /// Its absolute path.
    pub path: PathBuf,
    /// How it may be used.
    pub access: Access,
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
