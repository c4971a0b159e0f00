//! The role `sbx trial`: makes on this host, one after the other, what a
//! container is made of, says of each step whether the kernel grants it, and
//! ends. `doctor` asks it.
//!
//! Runs nothing of a sandbox, and keeps nothing: what it made ends with it.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use sbx_sys::mounts::{self, Attributes};
use sbx_sys::namespaces::{Kind, become_inner_root, leave, leave_clocks};
use sbx_sys::spawn::{Fork, fork};
use sbx_sys::userns::{self, Maps};
use sbx_sys::{Result, unix};
use serde::{Deserialize, Serialize};

use super::{failed, network, refused};
use crate::command::{Code, Error};
use crate::role::Role;

/// Where each step is told, a JSON line.
const REPORT: i32 = 4;
/// Where the layers stand for a moment; every Linux has it.
const STAGING: &str = "/tmp";
const PLAIN: Attributes = Attributes {
    read_only: false,
    no_devices: true,
    no_exec: true,
};

/// What is to be tried.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrialConfig {
    /// The ids of a container.
    pub(crate) maps: Maps,
    /// A directory of those ids where sandboxes have theirs.
    pub(crate) directory: PathBuf,
}

/// A part of a container.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Step {
    /// A user namespace with its ids.
    Ids,
    /// The other namespaces.
    Namespaces,
    /// Clocks of its own.
    Clocks,
    /// A wire out of it.
    Wire,
    /// A root of layers.
    Layers,
}

/// What came of one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Which.
    pub(crate) step: Step,
    /// Why not, if it was refused.
    pub(crate) refused: Option<String>,
}

/// Tries them.
///
/// # Errors
/// If nobody hears of it.
pub(crate) fn run(role: Role) -> std::result::Result<(), Error> {
    let config: TrialConfig = role.config()?;
    let report = UnixStream::from(role.fd(REPORT)?);
    drop(role);
    // Of the last step that was begun: whatever was not told of failed there.
    attempt(&config, &report).or_else(|(step, error)| {
        let cause = std::error::Error::source(&error).map(|source| format!(": {source}"));
        tell(
            &report,
            step,
            Some(format!("cannot {error}{}", cause.unwrap_or_default())),
        )
    })
}

fn tell(
    mut report: &UnixStream,
    step: Step,
    refused: Option<String>,
) -> std::result::Result<(), Error> {
    let line = serde_json::to_string(&Outcome { step, refused })
        .map_err(|source| Error::new(Code::Internal, "cannot write").because(source))?;
    report
        .write_all(format!("{line}\n").as_bytes())
        .map_err(|source| Error::new(Code::Io, "cannot tell what came of it").because(source))
}

type Told = std::result::Result<(), (Step, sbx_sys::Error)>;

fn attempt(config: &TrialConfig, report: &UnixStream) -> Told {
    let at = |step| move |error| (step, error);
    let unheard = |_| (Step::Ids, sbx_sys::Error::refused("go on: nobody hears"));
    // As in a start: root takes what is its own before it is another.
    let as_root = rustix::process::geteuid().is_root();
    let taken = as_root.then(|| take(&config.directory)).transpose();
    let taken = taken.map_err(at(Step::Layers))?;
    let (mut to_child, mut to_parent) = unix::stream_pair().map_err(at(Step::Ids))?;
    match fork().map_err(at(Step::Ids))? {
        Fork::Parent(child) => {
            drop((to_parent, taken));
            let mut word = [0];
            // A child that has failed has told of it.
            if to_child.read_exact(&mut word).is_ok() {
                userns::write_maps(child.pid(), &config.maps).map_err(at(Step::Ids))?;
                to_child.write_all(&word).ok();
            }
            child.wait().map(drop).map_err(at(Step::Ids))
        }
        Fork::Child => {
            drop(to_child);
            leave(&[Kind::User]).map_err(at(Step::Ids))?;
            let let_on = to_parent
                .write_all(&[1])
                .and_then(|()| to_parent.read_exact(&mut [0]));
            if let_on.is_err() {
                // The other one says why.
                return Ok(());
            }
            become_inner_root().map_err(at(Step::Ids))?;
            tell(report, Step::Ids, None).map_err(unheard)?;
            inside(config, taken, report)
        }
    }
}

/// The rest, as root of the user namespace.
fn inside(config: &TrialConfig, taken: Option<OwnedFd>, report: &UnixStream) -> Told {
    let at = |step| move |error| (step, error);
    let told = |step, refused| {
        tell(report, step, refused).map_err(|_| (step, sbx_sys::Error::refused("tell")))
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty())
        .map_err(refused("open `/proc`"))
        .map_err(at(Step::Namespaces))?;
    leave(&[Kind::Mount, Kind::Net, Kind::Ipc, Kind::Uts, Kind::Cgroup])
        .map_err(at(Step::Namespaces))?;
    told(Step::Namespaces, None)?;
    let clocks = leave_clocks(proc.as_fd()).map_err(at(Step::Clocks))?;
    told(
        Step::Clocks,
        clocks.map(|_| "this kernel has no time namespaces".to_owned()),
    )?;
    // Both ends in one namespace: the kernel makes the pair or does not.
    let namespace = rustix::fs::openat(&proc, "self/ns/net", OFlags::CLOEXEC, Mode::empty())
        .map_err(refused("open the network namespace"))
        .map_err(at(Step::Wire))?;
    match network::wire(namespace.as_fd()) {
        Ok(_) => told(Step::Wire, None)?,
        Err(error) => return Err((Step::Wire, error)),
    }
    layers(config, taken).map_err(at(Step::Layers))?;
    told(Step::Layers, None)
}

/// A root of layers in the directory, and nothing of it afterwards.
fn layers(config: &TrialConfig, taken: Option<OwnedFd>) -> Result<()> {
    let apart = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", apart).map_err(refused("make the mounts private"))?;
    let mount = taken.map_or_else(|| take(&config.directory), Ok)?;
    mounts::put(mount.as_fd(), Path::new(STAGING))?;
    let paths = ["lower", "upper", "work"].map(|name| Path::new(STAGING).join(name));
    for path in &paths {
        std::fs::create_dir(path).map_err(failed("make the layers"))?;
    }
    let options = [
        (c"lowerdir", Some(c"/tmp/lower")),
        (c"upperdir", Some(c"/tmp/upper")),
        (c"workdir", Some(c"/tmp/work")),
        (c"userxattr", None),
    ];
    let laid = mounts::fresh(c"overlay", &options, PLAIN).map(drop);
    for path in &paths {
        std::fs::remove_dir_all(path).map_err(failed("remove the layers"))?;
    }
    rustix::mount::unmount(STAGING, UnmountFlags::DETACH).map_err(refused("let go of them"))?;
    laid
}

fn take(directory: &Path) -> Result<OwnedFd> {
    let what = format!("open `{}`", directory.display());
    let place = rustix::fs::open(directory, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(refused(what))?;
    mounts::copy_at(place.as_fd())
}
