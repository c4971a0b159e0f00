//! Removing a tree that somebody hostile made.
//!
//! No link in it is followed. Something may be mounted below, by whatever way was planted there:
//! only the kernel knows, and what it says is the root of a mount is not entered.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, StatxFlags, openat, statx, unlinkat};
use rustix::io::Errno;

/// Names that are removed by one call, and directories one in the other that
/// are entered.
const NAMES: usize = 200_000;
const DEPTH: usize = 64;
/// `STATX_ATTR_MOUNT_ROOT`.
const MOUNT_ROOT: u64 = 0x2000;

/// Removes what lies in `directory`, which is no link, and is not mounted
/// there. Stays: what the kernel does not let go, and what is more or deeper
/// than one call removes. Whoever needs to know looks.
pub fn clear(directory: &Path) {
    let mut names = NAMES;
    if let Ok(directory) = open(rustix::fs::CWD, directory) {
        clear_open(&directory, DEPTH, &mut names);
    }
}

fn open(at: BorrowedFd<'_>, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, name, flags, Mode::empty())
}

fn clear_open(directory: &OwnedFd, depth: usize, names: &mut usize) {
    let Ok(entries) = Dir::read_from(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let Some(left) = names.checked_sub(1) else {
            return;
        };
        *names = left;
        if unlinkat(directory, name, AtFlags::empty()) != Err(Errno::ISDIR) {
            continue;
        }
        let Ok(inner) = open(directory.as_fd(), name) else {
            continue;
        };
        if depth == 0 || may_be_mounted(&inner) {
            continue;
        }
        clear_open(&inner, depth - 1, names);
        // Where something stays, so does the way to it.
        let _ = unlinkat(directory, name, AtFlags::REMOVEDIR);
    }
}

/// Whether the kernel says that it is the root of a mount, or does not say
/// that it is none.
fn may_be_mounted(directory: &OwnedFd) -> bool {
    let found = statx(directory, c"", AtFlags::EMPTY_PATH, StatxFlags::empty());
    found.map_or(true, |found| {
        found.stx_attributes_mask.bits() & MOUNT_ROOT == 0
            || found.stx_attributes.bits() & MOUNT_ROOT != 0
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn everything_goes_and_no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (full, other) = (dir.path().join("full"), dir.path().join("other"));
        fs::create_dir_all(full.join("a/b")).unwrap();
        fs::create_dir(&other).unwrap();
        fs::write(other.join("file"), "kept").unwrap();
        fs::write(full.join("a/b/file"), "").unwrap();
        symlink(&other, full.join("a/link")).unwrap();
        symlink(&full, dir.path().join("way")).unwrap();
        clear(&dir.path().join("way"));
        assert!(full.join("a").exists(), "by a link it is not entered");
        clear(&full);
        assert_eq!(fs::read_dir(&full).unwrap().count(), 0);
        assert_eq!(fs::read_to_string(other.join("file")).unwrap(), "kept");
    }

    #[test]
    fn what_is_mounted_is_told_from_what_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let directory = |path: &Path| open(rustix::fs::CWD, path).unwrap();
        assert!(!may_be_mounted(&directory(dir.path())));
        assert!(may_be_mounted(&directory(Path::new("/proc"))));
    }
}
