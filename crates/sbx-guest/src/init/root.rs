//! The root file system: the template below, this sandbox's writes above.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount_move};
use sbx_proto::link::Disks;

use super::early::{make_directory, mount_at};
use crate::error::{Attempt as _, Error, Result};

/// How long a disk may take to appear.
const PATIENCE: Duration = Duration::from_secs(10);
const BASE: &str = "/base";
const SCRATCH: &str = "/scratch";
const ROOT: &str = "/root";

/// The layers of the root, which no path inside leads to.
pub(super) struct Layers {
    /// The template as it was built.
    pub(super) base: OwnedFd,
    /// The disk of this sandbox: `volumes`, `temporary`.
    pub(super) scratch: OwnedFd,
}

impl Layers {
    pub(super) fn try_clone(&self) -> Result<Self> {
        let copy = |fd: &OwnedFd| fd.try_clone().attempt("hold on to the layers");
        Ok(Self {
            base: copy(&self.base)?,
            scratch: copy(&self.scratch)?,
        })
    }
}

/// Mounts the layers and makes their union the root of PID 1.
pub(super) fn assemble(disks: &Disks) -> Result<Layers> {
    let base = device(&disks.base)?;
    let read_only = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOATIME;
    mount_at(&base, Path::new(BASE), "erofs", read_only, None)?;
    let flags = MountFlags::NOATIME | MountFlags::NODEV;
    match &disks.scratch {
        Some(serial) => {
            let scratch = device(serial)?;
            // The tables were never used, and discarded blocks go back to the host.
            let options = c"noinit_itable,discard";
            mount_at(&scratch, Path::new(SCRATCH), "ext4", flags, Some(options))?;
        }
        None => mount_at(
            "scratch",
            Path::new(SCRATCH),
            "tmpfs",
            flags,
            Some(c"mode=0755"),
        )?,
    }
    for name in ["upper", "work", "volumes"] {
        make_directory(&Path::new(SCRATCH).join(name))?;
    }
    let layers = Layers {
        base: open_directory(BASE)?,
        scratch: open_directory(SCRATCH)?,
    };
    let options = c"lowerdir=/base,upperdir=/scratch/upper,workdir=/scratch/work";
    mount_at(
        "root",
        Path::new(ROOT),
        "overlay",
        MountFlags::NOATIME,
        Some(options),
    )?;
    for name in ["proc", "sys", "dev"] {
        let (from, to) = (format!("/{name}"), format!("{ROOT}/{name}"));
        make_directory(Path::new(&to))?;
        mount_move(&*from, &*to).attempt(format!("move `{from}` into the root"))?;
    }
    rustix::process::chdir(ROOT).attempt("enter the root")?;
    mount_move(".", "/").attempt("make it the root")?;
    rustix::process::chroot(".").attempt("make it the root")?;
    rustix::process::chdir("/").attempt("enter the root")?;
    Ok(layers)
}

fn open_directory(path: &str) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).attempt(format!("open `{path}`"))
}

/// The device file of the disk with this serial.
pub(super) fn device(serial: &str) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(path) = find(serial) {
            return Ok(path);
        }
        if Instant::now() > deadline {
            return Err(Error::new(format!("find the disk `{serial}`")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn find(serial: &str) -> Option<String> {
    let disks = std::fs::read_dir("/sys/block").ok()?;
    disks.flatten().find_map(|disk| {
        let found = std::fs::read_to_string(disk.path().join("serial")).ok()?;
        (found.trim_end() == serial).then(|| format!("/dev/{}", disk.file_name().to_string_lossy()))
    })
}
