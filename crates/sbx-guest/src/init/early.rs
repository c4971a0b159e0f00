//! File systems of the kernel, and its knobs.

use std::ffi::CStr;
use std::path::Path;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{Resource, Rlimit, setrlimit};

use super::Warnings;
use crate::error::{Attempt as _, Result};

const PLAIN: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NOEXEC)
    .union(MountFlags::NODEV);

/// Mounts a file system at a directory that is made if it is missing.
pub(super) fn mount_at(
    source: &str,
    target: &Path,
    kind: &str,
    flags: MountFlags,
    options: Option<&CStr>,
) -> Result<()> {
    make_directory(target)?;
    mount(source, target, kind, flags, options)
        .attempt(format!("mount {kind} `{source}` at `{}`", target.display()))
}

/// Makes a directory and what leads to it.
pub(super) fn make_directory(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).attempt(format!("create the directory `{}`", path.display()))
}

/// What set-up itself needs: /proc, /sys, /dev of the initramfs, which move
/// to the root later.
pub(super) fn mount_kernel_file_systems() -> Result<()> {
    mount_at("proc", Path::new("/proc"), "proc", PLAIN, None)?;
    mount_at("sysfs", Path::new("/sys"), "sysfs", PLAIN, None)?;
    let dev = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_at(
        "devtmpfs",
        Path::new("/dev"),
        "devtmpfs",
        dev,
        Some(c"mode=0755"),
    )
}

/// What programs inside expect below /dev.
pub(super) fn mount_inner_file_systems() -> Result<()> {
    let noexec = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount_at(
        "devpts",
        Path::new("/dev/pts"),
        "devpts",
        noexec,
        Some(c"gid=5,mode=0620,ptmxmode=0666"),
    )?;
    mount_at(
        "shm",
        Path::new("/dev/shm"),
        "tmpfs",
        MountFlags::NOSUID | MountFlags::NODEV,
        Some(c"mode=1777,size=50%"),
    )?;
    mount_at("mqueue", Path::new("/dev/mqueue"), "mqueue", PLAIN, None)?;
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        match rustix::fs::symlink(target, link) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).attempt(format!("create the link `{link}`")),
        }
    }
    Ok(())
}

/// Kernel settings that programs inside rely on, and limits that every
/// process starts with.
pub(super) fn tune(warnings: &mut Warnings) {
    for (name, value) in [
        // ping without privileges: nothing in here is setuid.
        ("net/ipv4/ping_group_range", "0 2147483647"),
        ("net/ipv4/ip_unprivileged_port_start", "0"),
        ("fs/inotify/max_user_watches", "524288"),
        ("fs/inotify/max_user_instances", "1024"),
        ("kernel/core_pattern", "core"),
        ("kernel/dmesg_restrict", "1"),
        ("vm/max_map_count", "262144"),
    ] {
        let path = format!("/proc/sys/{name}");
        warnings.note(std::fs::write(&path, value).attempt(format!("set `{name}`")));
    }
    for (device, mode) in [
        ("/dev/fuse", 0o666),
        ("/dev/net/tun", 0o666),
        ("/dev/kvm", 0o666),
    ] {
        // As common distributions have them; a kernel may lack one.
        let _ = rustix::fs::chmod(device, Mode::from_raw_mode(mode));
    }
    let files = Rlimit {
        current: Some(65_536),
        maximum: Some(1_048_576),
    };
    warnings.note(setrlimit(Resource::Nofile, files).attempt("raise the limit of open files"));
    // Last to be killed for memory; what is started sets itself back.
    warnings.note(std::fs::write("/proc/self/oom_score_adj", "-1000").attempt("set the own score"));
}
