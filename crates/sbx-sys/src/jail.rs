//! Walls that a process puts around itself, none of which needs privilege.
//!
//! Owns: their order and that all of them stand: a wall that cannot be set is
//! an error, and the caller must then exit. Never: which files a role may
//! touch, which is the role's to say. A process that was jailed cannot be
//! un-jailed, and its children and the program it executes inherit all of it
//! except `dumpable`, which an exec resets.

use std::fmt;

use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use crate::error::{Attempt, Error, Result};

mod landlock;
mod payload;
mod profile;
mod seccomp;

pub use landlock::{Access, MIN_ABI, Place, Tcp, abi};
pub use payload::{PAYLOAD_CAPABILITIES, confine, engine_profile};
pub use profile::Profile;

/// The walls to put up. All files are denied but those listed.
#[derive(Debug)]
#[must_use]
pub struct Jail {
    /// The files and directories that stay reachable by name, and how.
    /// Descriptors that are open already are not affected.
    pub files: Vec<(Place, Access)>,
    /// Whether TCP ports may be bound and connected to.
    pub tcp: Tcp,
    /// Whether processes outside the jail may be signalled.
    pub signals: Signals,
    /// The system calls that stay.
    pub profile: Profile,
    /// System calls of this role beyond its profile, by number. Those that
    /// no role may use are refused.
    pub also: Vec<i64>,
    /// Limits, soft and hard, in the unit of each resource.
    pub limits: Vec<(Resource, u64)>,
    /// What becomes of capabilities (root has them, others have none).
    pub capabilities: Capabilities,
}

/// Whether processes outside the jail may be signalled. Enforced from
/// Landlock ABI 6 on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signals {
    /// Only processes inside the jail.
    Inside,
    /// All that the user may signal: for those that end children.
    Anyone,
}

/// What becomes of a process's capabilities.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capabilities {
    /// All are given up, for good.
    DropAll,
    /// They stay as they are.
    Keep,
}

/// A wall that stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "wall", rename_all = "kebab-case")]
pub enum Wall {
    /// The process cannot be traced or dumped by others of its user.
    NotDumpable,
    /// Hard limits on resources.
    Limits {
        /// How many.
        count: usize,
    },
    /// No capability is held or can be regained.
    NoCapabilities,
    /// Only these capabilities are held or can be regained, over what is
    /// inside a user namespace.
    FewCapabilities {
        /// How many.
        kept: u32,
    },
    /// No exec gives privileges.
    NoNewPrivs,
    /// Landlock.
    Landlock {
        /// The version of its interface that is used.
        abi: u32,
        /// How many files and directories stay reachable.
        places: usize,
        /// Whether TCP bind and connect are denied.
        tcp_denied: bool,
        /// Whether abstract sockets outside are out of reach.
        abstract_sockets_denied: bool,
        /// Whether processes outside cannot be signalled.
        signals_denied: bool,
    },
    /// A seccomp filter.
    Seccomp {
        /// Its profile.
        profile: String,
        /// How many system calls it lets through.
        calls: usize,
    },
    /// Namespaces of its own.
    Namespaces {
        /// Which, by their names in `/proc/self/ns`.
        kinds: Vec<String>,
    },
    /// A namespace that the kernel did not grant: a second wall that is missing.
    NamespacesRefused {
        /// What the kernel said.
        why: String,
    },
    /// The process runs under an id that owns nothing.
    Unprivileged {
        /// Its user id.
        uid: u32,
        /// Its group id.
        gid: u32,
    },
}

/// The walls that stand, in the order in which they were set.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InForce {
    /// One entry per wall.
    pub walls: Vec<Wall>,
}

impl Jail {
    /// A jail for `profile` in which nothing but open descriptors is left:
    /// no file, no TCP, no capability, no signal to the outside.
    pub fn new(profile: Profile) -> Self {
        Self {
            files: Vec::new(),
            tcp: Tcp::Deny,
            signals: Signals::Inside,
            profile,
            also: Vec::new(),
            limits: Vec::new(),
            capabilities: Capabilities::DropAll,
        }
    }

    /// Leaves a file or directory reachable.
    pub fn file(mut self, place: Place, access: Access) -> Self {
        self.files.push((place, access));
        self
    }

    /// Adds a limit.
    pub fn limit(mut self, resource: Resource, value: u64) -> Self {
        self.limits.push((resource, value));
        self
    }

    /// Puts up every wall. Must run while the process has one thread, since
    /// Landlock and capabilities are per thread; needs no `/proc`.
    ///
    /// # Errors
    /// Names the wall that could not be set. Earlier ones stand by then: the
    /// process must exit.
    pub fn apply(self) -> Result<InForce> {
        single_thread()?;
        let filter = seccomp::compile(self.profile, &self.also)?;
        let mut walls = Vec::new();
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
            .attempt("make the process not dumpable")?;
        walls.push(Wall::NotDumpable);
        for (resource, value) in &self.limits {
            set_limit(*resource, *value)?;
        }
        if !self.limits.is_empty() {
            walls.push(Wall::Limits {
                count: self.limits.len(),
            });
        }
        if self.capabilities == Capabilities::DropAll {
            drop_capabilities()?;
            walls.push(Wall::NoCapabilities);
        }
        rustix::thread::set_no_new_privs(true).attempt("give up new privileges")?;
        walls.push(Wall::NoNewPrivs);
        walls.push(landlock::apply(self.files, self.tcp, self.signals)?);
        let calls = filter.calls;
        filter.install()?;
        walls.push(Wall::Seccomp {
            profile: self.profile.to_string(),
            calls,
        });
        Ok(InForce { walls })
    }
}

/// Fails unless this process has one thread.
pub(crate) fn single_thread() -> Result<()> {
    // A process of several threads may not leave its own thread group, one of
    // a single thread is already alone; asking changes nothing.
    // SAFETY: without other threads this is a no-op, with them it is refused.
    let status = unsafe { libc::unshare(libc::CLONE_THREAD) };
    if status != 0 {
        return Err(Error::new(
            "jail a process that has several threads",
            std::io::Error::last_os_error(),
        ));
    }
    Ok(())
}

/// Lowers a limit of this process, soft and hard; a hard limit that is lower
/// already stays.
///
/// # Errors
/// When the kernel refuses.
pub fn set_limit(resource: Resource, value: u64) -> Result<()> {
    let now = rustix::process::getrlimit(resource);
    let value = now.maximum.map_or(value, |maximum| maximum.min(value));
    let limit = Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    rustix::process::setrlimit(resource, limit)
        .attempt_with(|| format!("set limit {resource:?} to {value}"))
}

/// Gives up every capability, bounding and ambient sets included.
///
/// # Errors
/// When the kernel refuses.
pub fn drop_capabilities() -> Result<()> {
    rustix::thread::clear_ambient_capability_set().attempt("clear the ambient capabilities")?;
    // The bounding set takes CAP_SETPCAP to change; whoever lacks it cannot
    // gain anything from the set once no_new_privs is on.
    let held = rustix::thread::capabilities(None).attempt("read the capabilities")?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..63_u32 {
            // SAFETY: plain numbers; drops one capability or says there is none.
            let status = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
            if status != 0 {
                break;
            }
        }
    }
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).attempt("give up the capabilities")
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDumpable => f.write_str("not dumpable"),
            Self::Limits { count } => write!(f, "{count} limits"),
            Self::NoCapabilities => f.write_str("no capabilities"),
            Self::FewCapabilities { kept } => write!(f, "{kept} capabilities of its namespace"),
            Self::NoNewPrivs => f.write_str("no_new_privs"),
            Self::Landlock { abi, places, .. } => {
                write!(f, "landlock (abi {abi}, {places} places)")
            }
            Self::Seccomp { profile, calls } => {
                write!(f, "seccomp ({profile}, {calls} system calls)")
            }
            Self::Namespaces { kinds } => write!(f, "namespaces ({})", kinds.join(", ")),
            Self::NamespacesRefused { why } => write!(f, "no namespaces ({why})"),
            Self::Unprivileged { uid, gid } => write!(f, "unprivileged id ({uid}:{gid})"),
        }
    }
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, wall) in self.walls.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{wall}")?;
        }
        Ok(())
    }
}
