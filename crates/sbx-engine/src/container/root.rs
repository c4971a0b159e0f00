//! The root of a container: the template below, the sandbox's own writes
//! above, and around them what of the kernel and the host it sees.
//!
//! Everything is taken as a detached mount while the host's root is there.
//! Then the container's own root takes its place, and only then paths that an
//! earlier run could have planted links in are followed: inside.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use sbx_spec::ByteSize;
use sbx_sys::mounts::{self, Attributes};
use sbx_sys::{Error, Result, file};

use super::config::{BoxConfig, Way};
use super::kernel_files::{COVERED_DIRECTORIES, COVERED_FILES, DEVICES, LINKS, READ_ONLY, SYSTEM};
use super::sources::Sources;
use super::{GUEST_PROGRAM, copy, failed, refused};

/// Where the layers stand for a moment; every Linux has it.
const STAGING: &str = "/tmp";
const HOME: &str = "/home/agent";
const TREE: &str = "/run/sbx/base";
/// Group of terminals.
const TTY_GROUP: &CStr = c"5";

const PLAIN: Attributes = Attributes {
    read_only: false,
    no_devices: true,
    no_exec: true,
};
const SAFE: Attributes = Attributes {
    no_exec: false,
    ..PLAIN
};
const DEVICE: Attributes = Attributes {
    no_devices: false,
    ..PLAIN
};
const FIXED: Attributes = Attributes {
    read_only: true,
    ..SAFE
};
const SHOWN: Attributes = Attributes {
    read_only: true,
    ..PLAIN
};

/// A root that stands.
pub(super) struct Built {
    /// A `/proc` that no path leads to, for what is still to be set.
    pub(super) proc: OwnedFd,
    /// What is to be said where it is a copy.
    pub(super) copied: Option<String>,
    /// The root itself. The last close of it waits for the disk.
    pub(super) root: OwnedFd,
}

/// What is put into the new root once it is one.
struct Detached {
    root: OwnedFd,
    copied: Option<String>,
    proc: OwnedFd,
    covers: Vec<(&'static str, OwnedFd)>,
    devices: Vec<(&'static str, OwnedFd)>,
    system: Vec<(&'static str, OwnedFd)>,
    base: OwnedFd,
    guest: OwnedFd,
    own: Vec<(PathBuf, OwnedFd, Own)>,
}

/// What is mounted where the user said.
enum Own {
    Temporary,
    Kit,
    Volume,
    Memory,
    Share(usize),
}

/// Makes the root of this process, which is root of the user namespace that
/// owns its mounts, and nothing of the host's is left in it.
pub(super) fn build(config: &BoxConfig, sources: Sources) -> Result<Built> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let spare = mounts::fresh(c"proc", &[], PLAIN)?;
    let detached = detach(config, sources)?;
    enter(&detached.root)?;
    show_kernel(config, &detached)?;
    show_devices(config, &detached)?;
    show_own_program(config, &detached)?;
    let mut own = detached.own;
    own.sort_by_key(|(path, _, _)| path.components().count());
    for (path, mount, kind) in own {
        place(config, &path, &mount, kind)?;
    }
    Ok(Built {
        proc: spare,
        copied: detached.copied,
        root: detached.root,
    })
}

/// Takes all mounts while the host's root is still there.
fn detach(config: &BoxConfig, sources: Sources) -> Result<Detached> {
    let covers = COVERED_FILES
        .iter()
        .filter(|name| Path::new("/proc").join(name).exists())
        .map(|name| {
            let cover = mounts::copy_of(Path::new("/dev/null"))?;
            mounts::restrict(cover.as_fd(), DEVICE)?;
            Ok((*name, cover))
        })
        .collect::<Result<_>>()?;
    let devices = DEVICES
        .iter()
        .map(|name| {
            let mount = mounts::copy_of(&Path::new("/dev").join(name))?;
            mounts::restrict(mount.as_fd(), DEVICE)?;
            Ok((*name, mount))
        })
        .collect::<Result<_>>()?;
    let system = SYSTEM
        .iter()
        .map(|name| (*name, Path::new("/sys").join(name)))
        .filter(|(_, path)| path.exists())
        .map(|(name, path)| {
            let mount = mounts::copy_of(&path)?;
            mounts::restrict(mount.as_fd(), SHOWN)?;
            Ok((name, mount))
        })
        .collect::<Result<_>>()?;
    let proc = mounts::fresh(c"proc", &[], PLAIN)?;
    let stage = memory(c"0700", None, SAFE)?;
    mounts::put(stage.as_fd(), Path::new(STAGING))?;
    let [tree, scratch] = ["tree", "scratch"].map(|name| Path::new(STAGING).join(name));
    for (path, mount) in [(&tree, &sources.tree), (&scratch, &sources.own)] {
        make(path)?;
        mounts::put(mount.as_fd(), path)?;
    }
    for name in ["upper", "work", "volumes", "temporary"] {
        make(&scratch.join(name))?;
    }
    let open = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions(scratch.join("temporary"), open)
        .map_err(failed("open up the directory of temporary files"))?;
    let (root, copied) = layered(&tree, &scratch)?;
    Ok(Detached {
        root,
        copied,
        proc,
        covers,
        devices,
        system,
        base: mounts::copy_of(&tree)?,
        guest: sources.guest,
        own: own(config, sources.kit, sources.shares, &scratch)?,
    })
}

/// The root, and what is to be said where it is no stack of layers but a copy
/// of the template: where the kernel, or the file system of the sandboxes,
/// takes no overlay of a user namespace. A sandbox stays what it was first.
fn layered(tree: &Path, scratch: &Path) -> Result<(OwnedFd, Option<String>)> {
    const COPY: &str = "this sandbox has a copy of the template of its own";
    let upper = scratch.join("upper");
    if let Some(whole) = copy::made(scratch) {
        return Ok((alone(&whole)?, Some(COPY.to_owned())));
    }
    let refusal = match overlay(tree, &upper, &scratch.join("work")) {
        Ok(root) => return Ok((root, None)),
        Err(refusal) => refusal,
    };
    let no_layers = [Errno::INVAL, Errno::PERM, Errno::NODEV, Errno::OPNOTSUPP];
    let number = refusal.errno().unwrap_or_default();
    let written = std::fs::read_dir(&upper).map_err(failed("look at the upper layer"))?;
    if !no_layers.map(Errno::raw_os_error).contains(&number) || written.count() > 0 {
        return Err(refusal);
    }
    let begun = Instant::now();
    let (whole, bytes) = copy::make(tree, scratch)?;
    let said = format!(
        "overlayfs is refused in a user namespace here ({}): {COPY} ({} in {:.1} s)",
        std::io::Error::from_raw_os_error(number),
        ByteSize::bytes(bytes).about(),
        begun.elapsed().as_secs_f64(),
    );
    Ok((alone(&whole)?, Some(said)))
}

fn overlay(tree: &Path, upper: &Path, work: &Path) -> Result<OwnedFd> {
    let text = |path: &Path| {
        CString::new(path.as_os_str().as_bytes())
            .map_err(|_| Error::refused("name the layers of the root"))
    };
    let (lower, upper, work) = (text(tree)?, text(upper)?, text(work)?);
    let layers = [
        (c"lowerdir", Some(&*lower)),
        (c"upperdir", Some(&*upper)),
        (c"workdir", Some(&*work)),
        (c"userxattr", None),
        // Where hosts turn it on, layers that the kernel still writes down
        // after the last end are refused.
        (c"index", Some(c"off")),
    ];
    mounts::fresh(c"overlay", &layers, SAFE)
}

fn alone(whole: &Path) -> Result<OwnedFd> {
    let root = mounts::copy_of(whole)?;
    mounts::restrict(root.as_fd(), SAFE)?;
    Ok(root)
}

/// What stands where the user said.
fn own(
    config: &BoxConfig,
    kit: Option<OwnedFd>,
    shares: Vec<Option<OwnedFd>>,
    scratch: &Path,
) -> Result<Vec<(PathBuf, OwnedFd, Own)>> {
    let taken = |path: PathBuf| {
        let mount = mounts::copy_of(&path)?;
        mounts::restrict(mount.as_fd(), SAFE)?;
        Ok(mount)
    };
    let temporary = taken(scratch.join("temporary"))?;
    let mut own = vec![(PathBuf::from("/tmp"), temporary, Own::Temporary)];
    let container = &config.container;
    if let (Some(kit), Some(mount)) = (&container.kit, kit) {
        own.push((
            Path::new("/opt/sbx/kits").join(kit.name.as_str()),
            mount,
            Own::Kit,
        ));
    }
    for volume in &container.volumes {
        let mut parts = Path::new(&volume.name).components();
        if !matches!(
            (parts.next(), parts.next()),
            (Some(Component::Normal(_)), None)
        ) {
            return Err(Error::refused(format!(
                "mount the volume `{}`: it is no plain name",
                volume.name
            )));
        }
        let path = scratch.join("volumes").join(&volume.name);
        if path.symlink_metadata().is_err() {
            make(&path)?;
            give(config, &path)?;
        }
        own.push((volume.guest.as_path().to_owned(), taken(path)?, Own::Volume));
    }
    for mount in &container.tmpfs {
        let size = mount.size.unwrap_or_else(|| config.in_memory());
        let made = memory(c"1777", Some(size), SAFE)?;
        own.push((mount.guest.as_path().to_owned(), made, Own::Memory));
    }
    for (number, (share, mount)) in config.shares.iter().zip(shares).enumerate() {
        let what = || Error::refused(format!("mount `{}`", share.guest.as_path().display()));
        let mount = mount.ok_or_else(what)?;
        let mount = match &share.way {
            Way::Served { file: Some(name) } => file_of(&mount, number, name)?,
            _ => mount,
        };
        own.push((share.guest.as_path().to_owned(), mount, Own::Share(number)));
    }
    Ok(own)
}

/// The one file of a share of a file server, which serves directories.
fn file_of(mount: &OwnedFd, number: usize, name: &[u8]) -> Result<OwnedFd> {
    let place = Path::new(STAGING).join(format!("share-{number}"));
    make(&place)?;
    mounts::put(mount.as_fd(), &place)?;
    mounts::copy_of(&place.join(OsStr::from_bytes(name)))
}

/// Makes `root` the root of this process, and lets go of the host's.
fn enter(root: &OwnedFd) -> Result<()> {
    let stage = Path::new(STAGING).join("root");
    make(&stage)?;
    mounts::put(root.as_fd(), &stage)?;
    rustix::process::chdir(&stage).map_err(refused("enter the container's root"))?;
    // The old root comes to lie on the new one, and is taken away from there.
    rustix::process::pivot_root(".", ".").map_err(refused("exchange the root"))?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(refused("let go of the host"))?;
    rustix::process::chdir("/").map_err(refused("enter the container's root"))
}

/// `/proc` and `/sys`.
fn show_kernel(config: &BoxConfig, detached: &Detached) -> Result<()> {
    let proc = Path::new("/proc");
    make(proc)?;
    mounts::put(detached.proc.as_fd(), proc)?;
    for (name, cover) in &detached.covers {
        let path = proc.join(name);
        if path.exists() {
            mounts::put(cover.as_fd(), &path)?;
        }
    }
    for name in COVERED_DIRECTORIES.map(|name| proc.join(name)) {
        if name.is_dir() {
            mounts::put(memory(c"0555", None, SHOWN)?.as_fd(), &name)?;
        }
    }
    for path in READ_ONLY.map(|name| proc.join(name)) {
        if path.is_dir() {
            let mount = mounts::copy_of(&path)?;
            mounts::restrict(mount.as_fd(), SHOWN)?;
            mounts::put(mount.as_fd(), &path)?;
        }
    }
    let sys = Path::new("/sys");
    make(sys)?;
    let empty = memory(c"0755", Some(config.in_memory()), PLAIN)?;
    mounts::put(empty.as_fd(), sys)?;
    for (name, mount) in &detached.system {
        let path = sys.join(name);
        make(&path)?;
        mounts::put(mount.as_fd(), &path)?;
    }
    mounts::restrict(empty.as_fd(), SHOWN)
}

/// `/dev`.
fn show_devices(config: &BoxConfig, detached: &Detached) -> Result<()> {
    let dev = Path::new("/dev");
    make(dev)?;
    let empty = memory(c"0755", Some(config.in_memory()), DEVICE)?;
    mounts::put(empty.as_fd(), dev)?;
    for (name, mount) in &detached.devices {
        let path = dev.join(name);
        make_file(&path)?;
        mounts::put(mount.as_fd(), &path)?;
    }
    let terminals = [
        (c"newinstance", None),
        (c"ptmxmode", Some(c"0666")),
        (c"mode", Some(c"0620")),
        (c"gid", Some(TTY_GROUP)),
    ];
    for (name, mount) in [
        ("pts", mounts::fresh(c"devpts", &terminals, DEVICE)?),
        ("shm", memory(c"1777", Some(config.in_memory()), SAFE)?),
        ("mqueue", mounts::fresh(c"mqueue", &[], PLAIN)?),
    ] {
        make(&dev.join(name))?;
        mounts::put(mount.as_fd(), &dev.join(name))?;
    }
    for (name, target) in LINKS {
        std::os::unix::fs::symlink(target, dev.join(name))
            .map_err(failed(format!("make the link `/dev/{name}`")))?;
    }
    Ok(())
}

/// `/run`: our program, and the template as it was built.
fn show_own_program(config: &BoxConfig, detached: &Detached) -> Result<()> {
    let run = Path::new("/run");
    make(run)?;
    let empty = memory(c"0755", Some(config.in_memory()), SAFE)?;
    mounts::put(empty.as_fd(), run)?;
    make(Path::new("/run/lock"))?;
    let open = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions("/run/lock", open).map_err(failed("open up `/run/lock`"))?;
    make(Path::new(TREE))?;
    mounts::restrict(detached.base.as_fd(), FIXED)?;
    mounts::put(detached.base.as_fd(), Path::new(TREE))?;
    let program = Path::new(GUEST_PROGRAM);
    make(program.parent().unwrap_or(run))?;
    make_file(program)?;
    mounts::put(detached.guest.as_fd(), program)
}

/// One mount where the user said, and what is held in it.
fn place(config: &BoxConfig, path: &Path, mount: &OwnedFd, kind: Own) -> Result<()> {
    let share = match kind {
        Own::Share(number) => config.shares.get(number),
        Own::Temporary | Own::Kit | Own::Volume | Own::Memory => None,
    };
    if share.is_some_and(|share| is_file(mount) && !share.guest.as_path().exists()) {
        make_owned(config, path.parent().unwrap_or(Path::new("/")))?;
        make_file(path)?;
        if path.starts_with(HOME) {
            give(config, path)?;
        }
    } else {
        make_owned(config, path)?;
    }
    // Root's own home is private, and a workspace may lie in it.
    file::let_through(Path::new("/"), path)?;
    mounts::put(mount.as_fd(), path)?;
    match share.map(|share| &share.way) {
        Some(Way::Bound { held }) => hold(path, held),
        Some(Way::Served { .. }) | None => Ok(()),
    }
}

/// Lets nothing in the share change what is held of it: the thing itself is
/// read-only, and what leads to it cannot be moved away.
fn hold(path: &Path, names: &[PathBuf]) -> Result<()> {
    let mut bound: Vec<&Path> = Vec::new();
    for held in names {
        let above: Vec<_> = held
            .ancestors()
            .skip(1)
            .filter(|above| !above.as_os_str().is_empty())
            .collect();
        for above in above.into_iter().rev() {
            if !bound.contains(&above) {
                let mount = mounts::copy_of(&path.join(above))?;
                mounts::put(mount.as_fd(), &path.join(above))?;
                bound.push(above);
            }
        }
        let at = path.join(held);
        let mount = mounts::copy_of(&at)?;
        mounts::restrict(mount.as_fd(), FIXED)?;
        mounts::put(mount.as_fd(), &at)?;
        bound.push(held);
    }
    Ok(())
}

fn memory(mode: &CStr, size: Option<ByteSize>, attributes: Attributes) -> Result<OwnedFd> {
    let size = size.map(|size| size.as_bytes().to_string());
    let size = CString::new(size.unwrap_or_else(|| "64k".to_owned()))
        .map_err(|_| Error::refused("size a memory file system"))?;
    let options = [(c"mode", Some(mode)), (c"size", Some(&*size))];
    mounts::fresh(c"tmpfs", &options, attributes)
}

/// Makes a directory and what leads to it.
fn make(path: &Path) -> Result<()> {
    let what = format!("make the directory `{}`", path.display());
    std::fs::create_dir_all(path).map_err(failed(what))
}

/// Makes the directories that lead to a mount; below the agent's home they
/// are the agent's.
fn make_owned(config: &BoxConfig, path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|step| !step.exists()).collect();
    for step in missing.into_iter().rev() {
        match rustix::fs::mkdir(step, Mode::from_raw_mode(0o755)) {
            Ok(()) if step.starts_with(HOME) => give(config, step)?,
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => {
                let what = format!("make the directory `{}`", step.display());
                return Err(Error::new(what, error));
            }
        }
    }
    Ok(())
}

fn make_file(path: &Path) -> Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let what = format!("make `{}`", path.display());
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o644))
        .map(drop)
        .map_err(refused(what))
}

fn is_file(mount: &OwnedFd) -> bool {
    rustix::fs::fstat(mount).is_ok_and(|found| {
        rustix::fs::FileType::from_raw_mode(found.st_mode) != rustix::fs::FileType::Directory
    })
}

/// Makes `path` the agent's.
fn give(config: &BoxConfig, path: &Path) -> Result<()> {
    let (uid, gid) = config.agent;
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    let what = format!("give `{}` to the agent", path.display());
    rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(refused(what))
}
