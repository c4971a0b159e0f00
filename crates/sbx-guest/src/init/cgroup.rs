//! The control group that holds every session, and its limits.
//!
//! PID 1 stays outside. The sessions see their group as the root of the tree
//! (a cgroup namespace), so that what they make in it, containers included,
//! stays below the limits.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::Pid;
use rustix::thread::UnshareFlags;

use super::early::{make_directory, mount_at};
use crate::error::{Attempt as _, Error, Result};

const MOUNT: &str = "/sys/fs/cgroup";
const FLAGS: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);
/// What PID 1 and the kernel keep for themselves: this, in bytes, and a
/// twentieth of the memory.
const RESERVE: u64 = 24 * 1024 * 1024;

/// The group of all sessions.
pub(crate) struct Cgroup {
    directory: OwnedFd,
    /// `cgroup.procs` of the group's one child that processes start in.
    entrance: OwnedFd,
}

impl Cgroup {
    /// Makes the group, and names the limits that are in force.
    pub(super) fn create(pids: Option<u32>, memory: Option<u64>) -> Result<(Self, Vec<String>)> {
        mount_at("cgroup2", Path::new(MOUNT), "cgroup2", FLAGS, None)?;
        let outer = open(MOUNT)?;
        for controller in ["pids", "memory", "cpu", "cpuset", "io"] {
            // A kernel without one of them still has the others.
            let _ = write_at(&outer, "cgroup.subtree_control", &format!("+{controller}"));
        }
        let path = format!("{MOUNT}/sandbox");
        make_directory(Path::new(&path))?;
        let directory = open(&path)?;
        let mut walls = Vec::new();
        if let Some(pids) = pids {
            write_at(&directory, "pids.max", &pids.to_string())?;
            walls.push("pids".to_owned());
        }
        let total = memory_total()?;
        let limit = memory.unwrap_or(u64::MAX).min(sessions_share(total));
        write_at(&directory, "memory.max", &limit.to_string())?;
        walls.push("memory".to_owned());
        // The namespace's root is where its maker is.
        write_at(&directory, "cgroup.procs", "0")?;
        unshare_cgroup()?;
        write_at(&outer, "cgroup.procs", "0")?;
        for controller in ["pids", "memory", "cpu", "cpuset", "io"] {
            let _ = write_at(
                &directory,
                "cgroup.subtree_control",
                &format!("+{controller}"),
            );
        }
        make_directory(Path::new(&format!("{path}/sessions")))?;
        let entrance = rustix::fs::openat(
            &directory,
            "sessions/cgroup.procs",
            OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .attempt("open the sessions' control group")?;
        rustix::mount::unmount(MOUNT, UnmountFlags::DETACH).attempt("hide the outer groups")?;
        mount_at("cgroup2", Path::new(MOUNT), "cgroup2", FLAGS, None)?;
        Ok((
            Self {
                directory,
                entrance,
            },
            walls,
        ))
    }

    /// Puts a process under the limits.
    pub(crate) fn enter(&self, pid: Pid) -> Result<()> {
        let text = pid.as_raw_nonzero().to_string();
        rustix::io::write(&self.entrance, text.as_bytes())
            .map(drop)
            .attempt("put a process under the limits")
    }

    /// Kills every process of every session.
    pub(crate) fn kill(&self) {
        let _ = write_at(&self.directory, "cgroup.kill", "1");
    }

    /// Whether a process is left.
    pub(crate) fn is_populated(&self) -> bool {
        read_at(&self.directory, "cgroup.events").is_ok_and(|text| text.contains("populated 1"))
    }

    /// How many tasks there are.
    pub(crate) fn processes(&self) -> u64 {
        let text = read_at(&self.directory, "pids.current").unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// A file of counters whose changes the kernel announces.
    pub(crate) fn events(&self, name: &str) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.directory, name, flags, Mode::empty());
        fd.ok().map(File::from)
    }
}

/// What sessions may use of `total` bytes.
fn sessions_share(total: u64) -> u64 {
    total.saturating_sub(RESERVE + total / 20).max(total / 2)
}

#[expect(
    deprecated,
    reason = "the flag that makes it unsafe, FILES, is not given"
)]
fn unshare_cgroup() -> Result<()> {
    rustix::thread::unshare(UnshareFlags::NEWCGROUP).attempt("make a cgroup namespace")
}

fn memory_total() -> Result<u64> {
    let what = "read the size of the memory";
    let text = std::fs::read_to_string("/proc/meminfo").attempt(what)?;
    text.lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .map(|kib| kib.saturating_mul(1024))
        .ok_or_else(|| Error::new(what))
}

fn open(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).attempt(format!("open `{path}`"))
}

fn write_at(directory: &OwnedFd, name: &str, value: &str) -> Result<()> {
    let what = || format!("write `{value}` to `{name}` of a control group");
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, name, flags, Mode::empty()).attempt(what())?;
    File::from(fd).write_all(value.as_bytes()).attempt(what())
}

fn read_at(directory: &OwnedFd, name: &str) -> Result<String> {
    let what = || format!("read `{name}` of a control group");
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(directory, name, flags, Mode::empty()).attempt(what())?;
    let mut text = String::new();
    File::from(fd)
        .take(4096)
        .read_to_string(&mut text)
        .attempt(what())?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_leave_something_for_init() {
        let mib = 1024 * 1024;
        assert_eq!(sessions_share(1000 * mib), 926 * mib);
        assert_eq!(sessions_share(40 * mib), 20 * mib);
    }
}
