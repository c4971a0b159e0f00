//! Namespaces of its own for a process that needs nothing of the host's: a
//! second wall where the kernel grants it.
//!
//! Never maps host uid 0: a task without capabilities that is host uid 0 may
//! still write root's files. Root therefore makes its namespaces with its
//! privilege and changes its ids afterwards; others get a user namespace that
//! maps their one id onto itself.

use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

use crate::error::{Attempt, Error, Result};
use crate::jail::Wall;

/// Moves this process into new network, mount, IPC and UTS namespaces (and,
/// unless it is root, a user namespace that maps its own ids onto
/// themselves). What the kernel refuses is an answer, not an error: some
/// distributions do not grant this to ordinary users. The process is as
/// privileged in its user namespace as that allows: drop capabilities next.
///
/// A process namespace is not among them: it would begin at a child, and the
/// monitor is executed, not forked; Landlock keeps signals and `/proc` away.
///
/// # Errors
/// When the kernel granted the namespaces and then refused to set them up.
pub fn isolate() -> Result<Wall> {
    let uid = rustix::process::geteuid();
    let gid = rustix::process::getegid();
    let mut flags =
        UnshareFlags::NEWNET | UnshareFlags::NEWNS | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    let mut kinds = vec!["net", "mnt", "ipc", "uts"];
    if !uid.is_root() {
        flags |= UnshareFlags::NEWUSER;
        kinds.push("user");
    }
    if let Err(error) = unshare(flags) {
        return Ok(Wall::NamespacesRefused {
            why: error.to_string(),
        });
    }
    if !uid.is_root() {
        let (uid, gid) = (uid.as_raw(), gid.as_raw());
        write("/proc/self/setgroups", "deny")?;
        write("/proc/self/uid_map", &format!("{uid} {uid} 1\n"))?;
        write("/proc/self/gid_map", &format!("{gid} {gid} 1\n"))?;
    }
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )
    .attempt("make the mounts private")?;
    Ok(Wall::Namespaces {
        kinds: kinds.into_iter().map(str::to_owned).collect(),
    })
}

/// Namespaces that a container has of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Users and groups; comes with every capability inside.
    User,
    /// Mounts.
    Mount,
    /// Network devices, addresses, ports.
    Net,
    /// System V and POSIX message queues, shared memory.
    Ipc,
    /// Host name.
    Uts,
    /// Control groups as they are seen.
    Cgroup,
    /// Process numbers, from the next child on.
    ChildPid,
    /// Clocks since boot, from the next child or exec on.
    ChildTime,
}

impl Kind {
    fn flag(self) -> UnshareFlags {
        match self {
            Self::User => UnshareFlags::NEWUSER,
            Self::Mount => UnshareFlags::NEWNS,
            Self::Net => UnshareFlags::NEWNET,
            Self::Ipc => UnshareFlags::NEWIPC,
            Self::Uts => UnshareFlags::NEWUTS,
            Self::Cgroup => UnshareFlags::NEWCGROUP,
            Self::ChildPid => UnshareFlags::NEWPID,
            Self::ChildTime => UnshareFlags::NEWTIME,
        }
    }
}

/// Leaves this process's namespaces of `kinds` for new ones, all at once: with
/// a user namespace among them, that owns the others.
///
/// # Errors
/// When the kernel refuses, which some do to ordinary users.
pub fn leave(kinds: &[Kind]) -> Result<()> {
    let flags = (kinds.iter()).fold(UnshareFlags::empty(), |all, kind| all | kind.flag());
    unshare(flags).attempt_with(|| format!("make namespaces ({kinds:?})"))
}

/// Has the clocks that count from the start of the machine count from now for
/// the next children, who then tell nothing of it. `proc` is a `/proc` in which
/// this process finds itself. Returns why not, where the kernel has no
/// namespaces for that; see `time_namespaces(7)`.
///
/// # Errors
/// When the kernel granted the namespace and then refused to set it up.
pub fn leave_clocks(proc: BorrowedFd<'_>) -> Result<Option<Error>> {
    use rustix::time::{ClockId, clock_gettime};
    if let Err(refused) = leave(&[Kind::ChildTime]) {
        return Ok(Some(refused));
    }
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(proc, "self/timens_offsets", flags, Mode::empty())
        .attempt("set the clocks of a time namespace")?;
    // Whole seconds, and none more than have passed: no clock is before zero.
    let passed = |clock| clock_gettime(clock).tv_sec;
    let (monotonic, boot) = (passed(ClockId::Monotonic), passed(ClockId::Boottime));
    let offsets = format!("monotonic -{monotonic} 0\nboottime -{boot} 0\n");
    rustix::io::write(file, offsets.as_bytes())
        .map(|_| None)
        .attempt("set the clocks of a time namespace")
}

/// Becomes root of the user namespace that this process has just entered,
/// with no groups but root's. The process is one that others of its user may
/// look at in `/proc`, as it was before.
///
/// # Errors
/// When the namespace has no such user, or the kernel refuses.
pub fn become_inner_root() -> Result<()> {
    use rustix::thread::{Gid, Uid};
    rustix::thread::set_thread_groups(&[]).attempt("give up the supplementary groups")?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)
        .attempt("become the namespace's group 0")?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
        .attempt("become the namespace's root")?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
        .attempt("stay visible to the own user")
}

fn unshare(flags: UnshareFlags) -> rustix::io::Result<()> {
    // SAFETY: none of these flags splits the table of descriptors, which is
    // what could make a value here name another's descriptor.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

fn write(path: &str, text: &str) -> Result<()> {
    std::fs::write(path, text).attempt_with(|| format!("write `{path}`"))
}

/// Becomes `uid` and `gid` for good, with no supplementary groups but
/// `groups`. Needs privilege and a process of one thread.
///
/// # Errors
/// When the kernel refuses, or when asked to become root.
pub fn become_ids(uid: u32, gid: u32, groups: &[u32]) -> Result<Wall> {
    use rustix::thread::{Gid, Uid};
    if uid == 0 || gid == 0 {
        return Err(Error::refused("drop to root's own id"));
    }
    let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::thread::set_thread_groups(&groups).attempt("set the supplementary groups")?;
    rustix::thread::set_thread_res_gid(group, group, group)
        .attempt_with(|| format!("become group {gid}"))?;
    rustix::thread::set_thread_res_uid(user, user, user)
        .attempt_with(|| format!("become user {uid}"))?;
    Ok(Wall::Unprivileged { uid, gid })
}
