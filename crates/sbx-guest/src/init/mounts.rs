//! What is mounted into the root: run, temporary files, kits, volumes, memory
//! file systems and shares.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, StatxFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount_bind, mount_bind_recursive, mount_remount};
use sbx_proto::link::{AgentUser, Setup, ShareMount, TmpfsMount, VolumeMount};

use super::Warnings;
use super::bounded::{self, Steps};
use super::early::{make_directory, mount_at};
use super::root::{Layers, device};
use crate::error::{Attempt as _, Error, Result};
use crate::launch::identity::AGENT_HOME;
use crate::program::GUEST_PROGRAM;

const SAFE: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);
/// Where the whole of a single-file share is; root's alone.
const FILES: &str = "/run/sbx/files";
/// Longest path that is accepted, in bytes.
const MAX_PATH: usize = 4095;

/// Mounts /run.
pub(super) fn mount_run() -> Result<()> {
    let options = c"mode=0755,size=20%";
    mount_at("run", Path::new("/run"), "tmpfs", SAFE, Some(options))?;
    for (path, mode) in [
        ("/run/sbx", 0o755),
        ("/run/sbx/bin", 0o755),
        (FILES, 0o700),
        ("/run/lock", 0o1777),
    ] {
        make_directory(Path::new(path))?;
        rustix::fs::chmod(path, Mode::from_raw_mode(mode)).attempt(format!("open up `{path}`"))?;
    }
    Ok(())
}

/// An empty /tmp on the sandbox's disk: in memory it would let a full /tmp
/// starve every session for good.
pub(super) fn make_temporary(layers: &Layers, warnings: &mut Warnings) -> Result<()> {
    let what = "make /tmp";
    let scratch = fd_path(&layers.scratch);
    let (fresh, old) = (scratch.join("temporary"), scratch.join("temporary.old"));
    // A left-over `old` is what an earlier removal did not finish.
    let mut stale = vec![old.join("0")];
    if fresh.exists() {
        make_directory(&old)?;
        let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
        let name = old.join(format!("{}-{}", uptime.tv_sec, uptime.tv_nsec));
        warnings.note(std::fs::rename(&fresh, &name).attempt(what));
        stale.push(name);
    }
    make_directory(&fresh)?;
    rustix::fs::chmod(&fresh, Mode::from_raw_mode(0o1777)).attempt(what)?;
    make_directory(Path::new("/tmp"))?;
    mount_bind(&fresh, "/tmp").attempt(what)?;
    if old.exists() {
        let scratch = layers.scratch.try_clone().attempt(what)?;
        // Removing may take long and nobody waits for it.
        let remove = move || {
            let _ = std::fs::remove_dir_all(fd_path(&scratch).join("temporary.old"));
        };
        let thread = std::thread::Builder::new().name("remove".to_owned());
        warnings.note(thread.spawn(remove).map(drop).attempt(what));
    }
    Ok(())
}

/// The directory that `fd` holds, for calls that take a path.
fn fd_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// One thing to mount.
enum Item<'a> {
    Kit(&'a str),
    Volume(&'a VolumeMount),
    Tmpfs(&'a TmpfsMount),
    Share(&'a ShareMount),
}

/// Mounts all that `setup` names; a share that nobody serves fails it.
pub(super) fn mount_all(setup: &Setup, layers: &Layers) -> Result<()> {
    let (setup, layers) = (setup.clone(), layers.try_clone()?);
    bounded::run(bounded::PATIENCE, move |steps| {
        mount_each(&setup, &layers, steps)
    })
}

/// Outer directories before inner ones.
fn mount_each(setup: &Setup, layers: &Layers, steps: &Steps<()>) -> Result<()> {
    let mut items: Vec<(PathBuf, Item<'_>)> = Vec::new();
    for kit in &setup.kits {
        items.push((clean(kit.mount_point.as_bytes())?, Item::Kit(&kit.serial)));
    }
    for tmpfs in &setup.tmpfs {
        items.push((clean(&tmpfs.guest_path)?, Item::Tmpfs(tmpfs)));
    }
    for volume in &setup.volumes {
        items.push((clean(&volume.guest_path)?, Item::Volume(volume)));
    }
    for share in &setup.shares {
        items.push((clean(&share.guest_path)?, Item::Share(share)));
    }
    items.sort_by_key(|(path, _)| path.components().count());
    for (path, item) in items {
        steps.begin(format!("mount at `{}`", path.display()));
        let parent = path.parent().unwrap_or(Path::new("/"));
        make_owned(parent, &setup.agent)?;
        // Root's own home is private, and a workspace may lie in it.
        sbx_sys::file::let_through(Path::new("/"), &path)?;
        match item {
            Item::Kit(serial) => {
                let flags = SAFE | MountFlags::RDONLY | MountFlags::NOATIME;
                mount_at(&device(serial)?, &path, "erofs", flags, None)?;
            }
            Item::Tmpfs(tmpfs) => mount_tmpfs(tmpfs, &path)?,
            Item::Volume(volume) => mount_volume(volume, &path, layers, &setup.agent)?,
            Item::Share(share) => mount_share(share, &path, &setup.agent)?,
        }
    }
    Ok(())
}

/// `bytes` as an absolute path without `..`; the host has checked it too.
fn clean(bytes: &[u8]) -> Result<PathBuf> {
    let path = Path::new(OsStr::from_bytes(bytes));
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !path.is_absolute() || !plain || bytes.len() > MAX_PATH || path.parent().is_none() {
        return Err(Error::new(format!(
            "mount at `{}`: not an absolute path",
            path.display()
        )));
    }
    Ok(path.components().collect())
}

/// Makes the directories that lead to a mount; below the agent's home they
/// are the agent's.
fn make_owned(path: &Path, agent: &AgentUser) -> Result<()> {
    let what = || format!("create the directory `{}`", path.display());
    let mut missing: Vec<&Path> = Vec::new();
    for step in path.ancestors() {
        if step.exists() {
            break;
        }
        missing.push(step);
    }
    for step in missing.into_iter().rev() {
        match rustix::fs::mkdir(step, Mode::from_raw_mode(0o755)) {
            Ok(()) if step.starts_with(AGENT_HOME) => give(step, agent)?,
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).attempt(what()),
        }
    }
    Ok(())
}

/// Makes `path` the agent's.
pub(super) fn give(path: &Path, agent: &AgentUser) -> Result<()> {
    rustix::fs::chownat(
        rustix::fs::CWD,
        path,
        Some(Uid::from_raw(agent.uid)),
        Some(Gid::from_raw(agent.gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .attempt(format!("give `{}` to the agent", path.display()))
}

fn mount_tmpfs(tmpfs: &TmpfsMount, path: &Path) -> Result<()> {
    let options = match tmpfs.size {
        Some(size) => format!("mode=1777,size={size}"),
        None => "mode=1777".to_owned(),
    };
    let options = CString::new(options).map_err(|_| Error::new("mount a memory file system"))?;
    mount_at("tmpfs", path, "tmpfs", SAFE, Some(&options))
}

fn mount_volume(
    volume: &VolumeMount,
    path: &Path,
    layers: &Layers,
    agent: &AgentUser,
) -> Result<()> {
    let name = &volume.name;
    let mut parts = Path::new(name).components();
    if !matches!(
        (parts.next(), parts.next()),
        (Some(Component::Normal(_)), None)
    ) {
        return Err(Error::new(format!(
            "mount the volume `{name}`: not a plain name"
        )));
    }
    let source = fd_path(&layers.scratch).join("volumes").join(name);
    if !source.exists() {
        make_directory(&source)?;
        give(&source, agent)?;
    }
    make_directory(path)?;
    mount_bind(&source, path).attempt(format!("mount the volume `{name}` at `{}`", path.display()))
}

fn mount_share(share: &ShareMount, path: &Path, agent: &AgentUser) -> Result<()> {
    let mut flags = SAFE;
    if share.read_only {
        flags |= MountFlags::RDONLY;
    }
    let Some(file) = &share.file else {
        make_owned(path, agent)?;
        mount_at(&share.tag, path, "virtiofs", flags, None)?;
        return reach(path);
    };
    let whole = clean(format!("{FILES}/{}", share.tag).as_bytes())?;
    mount_at(&share.tag, &whole, "virtiofs", flags, None)?;
    let what = format!(
        "mount the file share `{}` at `{}`",
        share.tag,
        path.display()
    );
    let root = rustix::fs::open(
        &whole,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .attempt(&*what)?;
    let source = rustix::fs::openat2(
        &root,
        OsStr::from_bytes(file),
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
    .attempt(&*what)?;
    if !path.exists() {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::from_raw_mode(0o644)).attempt(&*what)?;
        if path.starts_with(AGENT_HOME) {
            give(path, agent)?;
        }
    }
    mount_bind(fd_path(&source), path).attempt(what)
}

/// Asks the server of a share for something: the mount alone asks nothing,
/// and every session in a share that nobody serves would hang.
fn reach(path: &Path) -> Result<()> {
    rustix::fs::statx(
        rustix::fs::CWD,
        path,
        AtFlags::STATX_FORCE_SYNC,
        StatxFlags::BASIC_STATS,
    )
    .map(drop)
    .attempt(format!("reach the share at `{}`", path.display()))
}

/// Puts this program where sessions find it, and `sudo` beside the others.
pub(super) fn place_program() -> Result<()> {
    let what = format!("place `{GUEST_PROGRAM}`");
    std::fs::write(GUEST_PROGRAM, "").attempt(&*what)?;
    // The very file that runs: a copy would cost its size in memory.
    mount_bind_recursive("/proc/self/exe", GUEST_PROGRAM).attempt(&*what)?;
    mount_remount(
        GUEST_PROGRAM,
        MountFlags::BIND | MountFlags::RDONLY | SAFE,
        c"",
    )
    .attempt(&*what)?;
    link_sudo()
}

/// Puts `sudo` beside the other programs.
pub(super) fn link_sudo() -> Result<()> {
    let sudo = Path::new("/usr/local/bin/sudo");
    if std::fs::read_link(sudo).is_ok_and(|target| target == Path::new(GUEST_PROGRAM)) {
        return Ok(());
    }
    make_directory(Path::new("/usr/local/bin"))?;
    let _ = std::fs::remove_file(sudo);
    std::os::unix::fs::symlink(GUEST_PROGRAM, sudo).attempt("place `sudo`")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where a file system stays mounted that nobody serves.
    struct Unserved(tempfile::TempDir, Option<OwnedFd>);

    impl Unserved {
        /// `None` where the kernel lets nobody but root mount.
        fn mount() -> Option<Self> {
            let flags = OFlags::RDWR | OFlags::CLOEXEC;
            let device = rustix::fs::open("/dev/fuse", flags, Mode::empty()).ok()?;
            let options = format!(
                "fd={},rootmode=40000,user_id=0,group_id=0",
                device.as_raw_fd()
            );
            let (dir, options) = (tempfile::tempdir().unwrap(), CString::new(options).unwrap());
            mount_at("none", dir.path(), "fuse", SAFE, Some(&options)).ok()?;
            Some(Self(dir, Some(device)))
        }
    }

    impl Drop for Unserved {
        fn drop(&mut self) {
            // Whoever still waits is told that there is no server.
            self.1 = None;
            let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
        }
    }

    #[test]
    fn a_share_that_nobody_serves_fails_the_start_and_is_named() {
        let Some(share) = Unserved::mount() else {
            eprintln!("not tried: mounting takes root");
            return;
        };
        let path = share.0.path().to_owned();
        let error = bounded::run(std::time::Duration::from_millis(300), move |steps| {
            steps.begin("mount at `/w`".to_owned());
            reach(&path)
        });
        let line = error.unwrap_err().line();
        assert_eq!(line, "mount at `/w`: no answer for 0 s");
    }

    #[test]
    fn a_directory_that_answers_is_reached() {
        let dir = tempfile::tempdir().unwrap();
        reach(dir.path()).unwrap();
        assert!(reach(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn mounts_only_at_plain_absolute_paths() {
        assert_eq!(clean(b"/a//b/").unwrap(), Path::new("/a/b"));
        for bad in [&b"a"[..], b"/", b"/a/../b", b"", b"../a"] {
            assert!(clean(bad).is_err(), "{bad:?}");
        }
        assert!(clean(&[b"/".to_vec(), vec![b'a'; 5000]].concat()).is_err());
    }
}
