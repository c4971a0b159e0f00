//! Id-mapped mounts: a directory that shows its owner as somebody else.
//!
//! Owns: the detached mount and the short-lived child whose user namespace
//! carries the map. Never: who is mapped onto whom, which is the caller's to
//! say. Needs `CAP_SYS_ADMIN` over the mount and a file system that knows
//! id-mapped mounts (ext4, xfs, btrfs, tmpfs since Linux 6.3). See
//! `mount_setattr(2)`.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::OpenTreeFlags;
use rustix::process::{Pid, Signal, WaitOptions};

use crate::error::{Attempt, Error, Result};

/// One owner on disk, and the owner it is shown and used as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IdMap {
    /// The user that owns the files on disk.
    pub disk_uid: u32,
    /// The group that owns the files on disk.
    pub disk_gid: u32,
    /// The user that a process on the mount runs as.
    pub run_uid: u32,
    /// The group that a process on the mount runs as.
    pub run_gid: u32,
}

/// The directory `path` (an `O_PATH` descriptor will do) as the root of a
/// detached mount of its own, on which the owner on disk is the run owner.
/// Files of all other owners show as the overflow id and cannot be changed;
/// what the run owner makes belongs to the disk owner. Mounts beneath the
/// directory are not part of it.
///
/// # Errors
/// When the kernel or the file system refuses any of the steps.
pub fn idmapped_root(path: BorrowedFd<'_>, map: IdMap) -> Result<OwnedFd> {
    let namespace = namespace_with(map)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let root = rustix::mount::open_tree(path, c"", flags).attempt("detach a mount of a share")?;
    set_map(root.as_fd(), namespace.as_fd())?;
    Ok(root)
}

fn set_map(root: BorrowedFd<'_>, namespace: BorrowedFd<'_>) -> Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::from(namespace.as_raw_fd().unsigned_abs()),
    };
    crate::mounts::set_attributes(root, &attributes, 0).attempt("map the owner of a share")
}

/// A user namespace in which the map is written, kept alive by its descriptor alone.
fn namespace_with(map: IdMap) -> Result<OwnedFd> {
    let child = Child::start()?;
    let pid = child.0.as_raw_nonzero();
    let write = |name: &str, from: u32, to: u32| {
        fs::write(format!("/proc/{pid}/{name}"), format!("{from} {to} 1\n"))
            .attempt_with(|| format!("write the {name} of a namespace"))
    };
    write("uid_map", map.disk_uid, map.run_uid)?;
    write("gid_map", map.disk_gid, map.run_gid)?;
    let file = fs::File::open(format!("/proc/{pid}/ns/user")).attempt("open a user namespace")?;
    Ok(file.into())
}

/// A process that does nothing in a user namespace of its own; ended and reaped when dropped.
struct Child(Pid);

impl Child {
    fn start() -> Result<Self> {
        let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
        // SAFETY: without CLONE_VM and a stack this is a fork; the child runs
        // on a copy of this stack.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid == 0 {
            wait_for_the_end();
        }
        i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .filter(|_| pid > 0)
            .map(Self)
            .ok_or_else(|| Error::new("make a user namespace", std::io::Error::last_os_error()))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Neither can fail for a child of ours that nobody else waits for.
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.0), WaitOptions::empty());
    }
}

/// What the child does: only calls that are safe after a fork of a process with threads.
fn wait_for_the_end() -> ! {
    // SAFETY: plain numbers; the child dies with its parent.
    let _ = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    loop {
        // SAFETY: takes nothing and touches nothing.
        let _ = unsafe { libc::pause() };
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{Mode, OFlags};

    use super::*;

    /// The test needs a capability that an ordinary user lacks.
    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    fn shows_owner_as_another(directory: &std::path::Path) {
        let file = directory.join("by-owner");
        fs::write(&file, "x").unwrap();
        let (uid, gid) = (4242, 4243);
        std::os::unix::fs::chown(&file, Some(uid), Some(gid)).unwrap();
        fs::write(directory.join("by-other"), "x").unwrap();
        let at = fs::File::open(directory).unwrap();
        let map = IdMap {
            disk_uid: uid,
            disk_gid: gid,
            run_uid: 1000,
            run_gid: 1000,
        };

        let root = idmapped_root(at.as_fd(), map).unwrap();

        let open = |name| {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
            fs::File::from(rustix::fs::openat(&root, name, flags, Mode::empty()).unwrap())
        };
        let shown = open("by-owner").metadata().unwrap();
        assert_eq!((shown.uid(), shown.gid()), (1000, 1000));
        let other = open("by-other").metadata().unwrap();
        assert_eq!((other.uid(), other.gid()), (65534, 65534));
        let on_disk = fs::metadata(&file).unwrap();
        assert_eq!((on_disk.uid(), on_disk.gid()), (uid, gid));
        assert_eq!(on_disk.dev(), shown.dev());
    }

    #[test]
    fn maps_an_owner_on_the_disk_of_this_checkout() {
        if !is_root() {
            println!("skipped: needs CAP_SYS_ADMIN");
            return;
        }
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        shows_owner_as_another(directory.path());
    }

    #[test]
    fn maps_an_owner_on_tmpfs() {
        let shm = std::path::Path::new("/dev/shm");
        if !is_root() || !shm.is_dir() {
            println!("skipped: needs CAP_SYS_ADMIN and /dev/shm");
            return;
        }
        let directory = tempfile::tempdir_in(shm).unwrap();
        shows_owner_as_another(directory.path());
    }

    #[test]
    fn leaves_no_child_behind() {
        if !is_root() {
            println!("skipped: needs CAP_SYS_ADMIN");
            return;
        }
        let child = Child::start().unwrap();
        let pid = child.0;
        drop(child);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }
}
