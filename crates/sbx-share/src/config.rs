//! What the engine tells a file server process.

use sbx_spec::Access;
use serde::{Deserialize, Serialize};

use crate::guard::GuardPatterns;

/// The configuration of one `sbx share` process: one share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ShareConfig {
    /// Through what it is served.
    pub channel: Channel,
    /// Whether the guest may write.
    pub access: Access,
    /// For a share of one file: its name (bytes, one component) in the root directory. Nothing
    /// else of that directory is served.
    #[serde(default)]
    pub file: Option<Vec<u8>>,
    /// Whether the root itself lies inside a `.git` directory (the common directory of a linked
    /// work tree).
    #[serde(default)]
    pub inside_git: bool,
    /// How one host owner is shown inside, where that is not done by an id-mapped mount.
    #[serde(default)]
    pub squash: Option<Squash>,
    /// The names that are held.
    #[serde(default)]
    pub guard: GuardPatterns,
    /// Bounds on what the guest can make this process keep.
    #[serde(default)]
    pub limits: ShareLimits,
}

impl ShareConfig {
    /// A writable share of a whole directory with the default guard, for a virtual machine.
    #[must_use]
    pub fn writable() -> Self {
        Self {
            channel: Channel::VhostUser,
            access: Access::ReadWrite,
            file: None,
            inside_git: false,
            squash: None,
            guard: GuardPatterns::default(),
            limits: ShareLimits::default(),
        }
    }
}

/// Through what a share is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// A socket on which one virtual machine monitor connects.
    VhostUser,
    /// `/dev/fuse`, opened and mounted with by a container.
    Fuse,
}

/// One host owner shown as one guest owner, and back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Squash {
    /// The user that owns the files on the host.
    pub host_uid: u32,
    /// The group that owns the files on the host.
    pub host_gid: u32,
    /// The user shown inside for that owner.
    pub guest_uid: u32,
    /// The group shown inside for that owner.
    pub guest_gid: u32,
}

/// Bounds on what one guest can make its file server keep.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ShareLimits {
    /// Files the guest kernel may know at a time; each costs a descriptor. Lowered to what the
    /// descriptor limit of the process allows.
    pub inodes: usize,
    /// Files and directories open at a time.
    pub handles: usize,
    /// Memory for directory listings of open directories, in bytes.
    pub listings: usize,
    /// Size of one extended attribute, in bytes.
    pub xattr: usize,
    /// Size of one host file that is copied into the shadow when written, in bytes.
    pub held_file: u64,
    /// Lengths of all files that are held, in bytes.
    pub held_bytes: u64,
    /// Files, links and directories that are held, and the directories above them.
    pub held_entries: u64,
    /// Entries hidden from the guest because it deleted them.
    pub whiteouts: usize,
    /// Files with an owner that the guest set.
    pub owners: usize,
}

impl Default for ShareLimits {
    fn default() -> Self {
        Self {
            inodes: 1 << 20,
            handles: 1 << 16,
            listings: 64 << 20,
            xattr: 64 << 10,
            held_file: 256 << 20,
            held_bytes: 1 << 30,
            held_entries: 1 << 16,
            whiteouts: 1 << 14,
            owners: 1 << 16,
        }
    }
}
