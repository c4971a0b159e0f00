//! What the kernel counts for whoever made a user namespace, wherever in it
//! something is made: a container takes half of it and leaves its caller the
//! rest.
//!
//! Where `/proc/sys` cannot be written, as in containers of others, the kernel
//! goes on to count and does not bound.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Watches of files: a user's editors live on them.
const WATCHES: [&str; 2] = ["max_inotify_instances", "max_inotify_watches"];
/// Limits that a namespace inherits as bounds of all that is in it.
const LIMITS: [Resource; 3] = [Resource::Memlock, Resource::Sigpending, Resource::Msgqueue];
/// Namespaces, of which a container that stands has all.
const NAMESPACES: [&str; 8] = [
    "max_user_namespaces",
    "max_mnt_namespaces",
    "max_pid_namespaces",
    "max_net_namespaces",
    "max_ipc_namespaces",
    "max_uts_namespaces",
    "max_cgroup_namespaces",
    "max_time_namespaces",
];
/// Part of what the caller has that a container may take.
const SHARE: u64 = 2;

/// What the caller may have.
pub(super) struct Counts(Vec<(&'static str, u64)>);

impl Counts {
    /// Reads what the caller may have, and halves the limits of this process,
    /// which is about to make a user namespace.
    pub(super) fn of_caller() -> Self {
        for limit in LIMITS {
            let halved = |bound: Option<u64>| bound.map(|bound| bound / SHARE);
            let Rlimit { current, maximum } = getrlimit(limit);
            let (current, maximum) = (halved(current), halved(maximum));
            // Lower is never refused.
            let _ = setrlimit(limit, Rlimit { current, maximum });
        }
        let of = |name: &&'static str| {
            let text = std::fs::read_to_string(format!("/proc/sys/user/{name}")).ok()?;
            Some((*name, text.trim().parse().ok()?))
        };
        Self(WATCHES.iter().filter_map(of).collect())
    }

    /// Lets this process's user namespace have half of it. `proc` is a `/proc`;
    /// this process is root of the namespace.
    pub(super) fn share(&self, proc: BorrowedFd<'_>) {
        for (name, most) in &self.0 {
            bound(proc, name, most / SHARE);
        }
    }
}

/// Lets nothing below this process's user namespace make a namespace any more:
/// a second wall behind the filter of system calls.
pub(super) fn no_more_namespaces(proc: BorrowedFd<'_>) {
    for name in NAMESPACES {
        bound(proc, name, 0);
    }
}

fn bound(proc: BorrowedFd<'_>, name: &str, most: u64) {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let path = format!("sys/user/{name}");
    let opened: Result<OwnedFd, _> = rustix::fs::openat(proc, path, flags, Mode::empty());
    if let Ok(file) = opened {
        let _ = rustix::io::write(file, most.to_string().as_bytes());
    }
}
