//! Id-mapped mounts: a directory that shows its owner as somebody else.
//!
//! Owns: the detached mount. Never: who is mapped onto whom, which is the
//! caller's to say. Needs `CAP_SYS_ADMIN` over the mount and a file system that knows
//! id-mapped mounts (ext4, xfs, btrfs, tmpfs since Linux 6.3). See
//! `mount_setattr(2)`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::mount::OpenTreeFlags;

use crate::error::{Attempt, Result};
use crate::userns::{self, Maps, Range};

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
    mapped_root(path, &map.into())
}

/// The same with maps of any size: of owners on disk (inside) onto those that
/// they are shown and used as (outside).
///
/// # Errors
/// As [`idmapped_root`].
pub fn mapped_root(path: BorrowedFd<'_>, maps: &Maps) -> Result<OwnedFd> {
    let namespace = userns::create(maps)?;
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

impl From<IdMap> for Maps {
    fn from(map: IdMap) -> Self {
        let range = |inside, outside| {
            vec![Range {
                inside,
                outside,
                count: 1,
            }]
        };
        Self {
            uids: range(map.disk_uid, map.run_uid),
            gids: range(map.disk_gid, map.run_gid),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
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
}
