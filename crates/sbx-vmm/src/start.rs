//! From the configuration to the exec, one wall after the other.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::error::Error as _;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::FdFlags;
use rustix::process::{Pid, Resource, Signal};
use sbx_sys::jail::{Access, InForce, Jail, Place, Profile};
use sbx_sys::{Error, fd, memfd, namespaces};
use sbx_vmm::{Config, FileRule, Ids, MAX_CONFIG, Namespaces};

const CONFIG_FD: RawFd = 3;

/// Descriptors by the number they had when this program started.
type Descriptors = Vec<(RawFd, OwnedFd)>;

/// Puts up the walls and becomes the monitor; returns only an error.
pub(crate) fn run() -> Result<Infallible, Error> {
    let program = std::env::args_os().nth(1).map(PathBuf::from);
    let program = program.ok_or_else(|| Error::refused("find the monitor's program"))?;
    let parent = rustix::process::getppid();
    let mut fds = fd::take_inherited(CONFIG_FD)?;
    let config = read_config(&mut fds)?;
    let (kept, report) = sort_out(fds, &config)?;
    let mut command = command(&program, &config)?;
    // While the caller's own rights still open them.
    let places = places(&program, &config, &kept)?;
    let walls = put_up(&config, places, parent)?;
    if let Some(report) = report {
        tell(report, &walls)?;
    }
    for (number, fd) in &kept {
        rustix::io::fcntl_setfd(fd, FdFlags::empty())
            .map_err(|error| Error::new(format!("keep descriptor {number}"), error))?;
    }
    let error = command.exec();
    Err(Error::new(
        format!("execute `{}`", program.display()),
        error,
    ))
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place where this program executes another: absolute path, empty environment"
)]
fn command(program: &Path, config: &Config) -> Result<Command, Error> {
    if !program.is_absolute() {
        return Err(Error::refused(format!(
            "execute `{}`, which is not an absolute path",
            program.display()
        )));
    }
    let mut arguments = config.argv.iter();
    let mut command = Command::new(program);
    command
        .arg0(arguments.next().map_or("qemu", String::as_str))
        .args(arguments)
        .env_clear();
    Ok(command)
}

fn read_config(fds: &mut Descriptors) -> Result<Config, Error> {
    let at = fds
        .iter()
        .position(|(number, _)| *number == CONFIG_FD)
        .ok_or_else(|| Error::refused("find the configuration on descriptor 3"))?;
    let (_, fd) = fds.swap_remove(at);
    let bytes = memfd::read_sealed(fd, MAX_CONFIG)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::new("understand the configuration", std::io::Error::from(error)))
}

/// The descriptors to keep and the one to report on; all others are closed.
fn sort_out(fds: Descriptors, config: &Config) -> Result<(Descriptors, Option<OwnedFd>), Error> {
    let mut missing: BTreeSet<RawFd> = config.fds.iter().copied().collect();
    missing.extend(config.report);
    let mut kept = Vec::new();
    let mut report = None;
    for (number, fd) in fds {
        if Some(number) == config.report {
            report = Some(fd);
        } else if missing.contains(&number) {
            kept.push((number, fd));
        } else {
            continue;
        }
        missing.remove(&number);
    }
    match missing.first() {
        None => Ok((kept, report)),
        Some(number) => Err(Error::refused(format!(
            "find descriptor {number}, which the configuration names"
        ))),
    }
}

/// What stays reachable by name: the listed files, and the regular files
/// behind kept descriptors, so that `/proc/self/fd/N` opens them in the mode
/// that they have already.
fn places(
    program: &Path,
    config: &Config,
    kept: &Descriptors,
) -> Result<Vec<(Place, Access)>, Error> {
    let mut places = Vec::new();
    for FileRule { path, access } in sbx_vmm::rules(program, config.kvm) {
        let fd = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| Error::new(format!("open `{}`", path.display()), error))?;
        places.push((Place::Fd(fd), access));
    }
    for (number, fd) in kept {
        let attempt = |error| Error::new(format!("look at descriptor {number}"), error);
        let flags = rustix::fs::fcntl_getfl(fd).map_err(attempt)?;
        // It would open here what whoever brought it could not.
        if flags.contains(OFlags::PATH) {
            return Err(Error::refused(format!(
                "keep descriptor {number}, which is a place and not an open file"
            )));
        }
        let stat = rustix::fs::fstat(fd).map_err(attempt)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            continue;
        }
        let mode = flags & OFlags::ACCMODE;
        let access = if mode == OFlags::RDONLY {
            Access::Read
        } else {
            Access::Write
        };
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(attempt)?;
        places.push((Place::Fd(copy), access));
    }
    Ok(places)
}

fn put_up(
    config: &Config,
    places: Vec<(Place, Access)>,
    parent: Option<Pid>,
) -> Result<InForce, Error> {
    let mut first = Vec::new();
    let ids = config.ids.as_ref();
    if ids.is_none() && rustix::process::geteuid().is_root() {
        return Err(Error::refused("run the monitor as root"));
    }
    if config.namespaces == Namespaces::Try {
        first.push(namespaces::isolate()?);
    }
    if let Some(Ids { uid, gid, groups }) = ids {
        first.push(namespaces::become_ids(*uid, *gid, groups)?);
    }
    // A change of ids or capabilities clears it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Error::new("ask for the signal of the parent's end", error))?;
    if rustix::process::getppid() != parent {
        return Err(Error::refused("find the parent alive"));
    }
    let mut jail = Jail::new(Profile::Vmm)
        .limit(Resource::Core, 0)
        .limit(Resource::Nofile, config.limits.descriptors)
        .limit(Resource::Fsize, config.limits.file_size);
    if let Some(processes) = config.limits.processes {
        jail = jail.limit(Resource::Nproc, processes);
    }
    jail.files = places;
    let mut walls = jail.apply()?;
    first.append(&mut walls.walls);
    Ok(InForce { walls: first })
}

fn tell(report: OwnedFd, walls: &InForce) -> Result<(), Error> {
    let number = report.as_raw_fd();
    let line = serde_json::json!({ "ready": walls }).to_string() + "\n";
    File::from(report)
        .write_all(line.as_bytes())
        .map_err(|error| Error::new(format!("report on descriptor {number}"), error))
}

/// An error and its causes in one line.
pub(crate) fn explain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
