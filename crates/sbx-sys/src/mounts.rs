//! Detached mounts: taken from a place, given attributes, put at another.
//!
//! Owns: one system call that rustix lacks, `mount_setattr(2)`. Never: what is
//! mounted where. A descriptor here stands for a mount that no path leads to
//! until it is put somewhere; it goes with its descriptor.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::error::{Attempt, Error, Result};

/// What a mount does not let through, beside what its file system says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Attributes {
    /// Nothing is written.
    pub read_only: bool,
    /// Device nodes are dead.
    pub no_devices: bool,
    /// Nothing is executed.
    pub no_exec: bool,
}

impl Attributes {
    fn flags(self) -> u64 {
        let mut flags = libc::MOUNT_ATTR_NOSUID;
        for (asked, flag) in [
            (self.read_only, libc::MOUNT_ATTR_RDONLY),
            (self.no_devices, libc::MOUNT_ATTR_NODEV),
            (self.no_exec, libc::MOUNT_ATTR_NOEXEC),
        ] {
            if asked {
                flags |= flag;
            }
        }
        flags
    }
}

/// A copy of what is mounted at `path` from there down; without what is
/// mounted further below where the kernel lets that be left out, which it does
/// not where those mounts are another namespace's.
///
/// # Errors
/// When there is nothing, or the caller may not mount.
pub fn copy_of(path: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let flags = flags | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    let copied = match open_tree(CWD, path, flags) {
        Err(Errno::INVAL) => open_tree(CWD, path, flags | OpenTreeFlags::AT_RECURSIVE),
        copied => copied,
    };
    copied.attempt_with(|| format!("take the mount at `{}`", path.display()))
}

/// The same of the file or directory behind a descriptor, for which a mere
/// place will do.
///
/// # Errors
/// When the caller may not mount, or the descriptor is of another mount
/// namespace than the caller's.
pub fn copy_at(place: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let flags = flags | OpenTreeFlags::AT_EMPTY_PATH;
    let copied = match open_tree(place, c"", flags) {
        Err(Errno::INVAL) => open_tree(place, c"", flags | OpenTreeFlags::AT_RECURSIVE),
        copied => copied,
    };
    copied.attempt("take a mount")
}

/// Restricts a detached mount and all below it. No file on it gives
/// privileges by being executed, in any case.
///
/// # Errors
/// When the kernel refuses.
pub fn restrict(mount: BorrowedFd<'_>, attributes: Attributes) -> Result<()> {
    let set = libc::mount_attr {
        attr_set: attributes.flags(),
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    set_attributes(mount, &set, libc::AT_RECURSIVE).attempt("restrict a mount")
}

/// `mount_setattr(2)` on a detached mount.
pub(crate) fn set_attributes(
    mount: BorrowedFd<'_>,
    attributes: &libc::mount_attr,
    flags: i32,
) -> std::io::Result<()> {
    // SAFETY: the path is an empty C string, the structure lives through the
    // call and its size is given; the descriptors are open.
    let status = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// A new file system of this kind with these options (a value that is `None`
/// is a mere flag), mounted nowhere.
///
/// # Errors
/// When the kernel refuses the kind, an option or the caller.
pub fn fresh(
    kind: &CStr,
    options: &[(&CStr, Option<&CStr>)],
    attributes: Attributes,
) -> Result<OwnedFd> {
    let what = || format!("make a file system of kind `{}`", kind.to_string_lossy());
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).attempt_with(what)?;
    for (name, value) in options {
        match value {
            Some(value) => fsconfig_set_string(context.as_fd(), *name, *value),
            None => fsconfig_set_flag(context.as_fd(), *name),
        }
        .attempt_with(|| format!("{}: option `{}`", what(), name.to_string_lossy()))?;
    }
    fsconfig_create(context.as_fd()).attempt_with(what)?;
    let flags = u32::try_from(attributes.flags()).map_err(|_| Error::refused(what()))?;
    fsmount(
        context.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(flags),
    )
    .attempt_with(what)
}

/// Puts a detached mount at `path`.
///
/// # Errors
/// When there is nothing at `path`, or another kind of file than the mount's.
pub fn put(mount: BorrowedFd<'_>, path: &Path) -> Result<()> {
    move_mount(
        mount,
        c"",
        CWD,
        path,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .attempt_with(|| format!("mount at `{}`", path.display()))
}
