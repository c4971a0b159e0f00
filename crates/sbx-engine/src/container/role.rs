//! The role `sbx box`: three processes for a moment, two for as long as the
//! container lives.
//!
//! The launcher keeps the caller's ids, writes the maps and ends with the
//! container. The second makes the outer user namespace, which owns mounts,
//! process numbers and the outer end of the wire, makes the third and goes.
//! The third builds the root as root of that namespace, enters an inner one,
//! in which it has no power over any of this, confines itself and becomes the
//! guest program. A step that fails ends all three: each waits for a word of
//! the next one, and an end that closes is such a word.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::MountPropagationFlags;
use rustix::process::WaitOptions;
use sbx_sys::namespaces::{Kind, become_inner_root, leave, leave_clocks};
use sbx_sys::spawn::{Fork, Signal, Spawn, fork};
use sbx_sys::{Error as SysError, Result, jail, unix, userns};

use super::config::BoxConfig;
use super::counts::Counts;
use super::sources::Sources;
use super::{counts, failed, network, refused, root, served};
use crate::command::{Code, Error};
use crate::role::Role;

/// The link to the guest program.
const LINK: i32 = 4;
/// Where it is told how the start goes, a JSON line.
const REPORT: i32 = 5;
/// Where the outer end of the wire is sent, if there is one; else, and after
/// it, where the ends of served shares are, if there are any.
const ENDS: i32 = 6;

/// A process whose start failed says so on the report.
struct Report(UnixStream);

impl Report {
    fn tell(&self, line: &serde_json::Value) -> Result<()> {
        (&self.0)
            .write_all(format!("{line}\n").as_bytes())
            .map_err(failed("say how the start goes"))
    }
}

/// What all of the processes start with.
struct Start {
    config: BoxConfig,
    link: OwnedFd,
    report: Report,
    wire: Option<OwnedFd>,
    served: Option<OwnedFd>,
}

/// Runs the container to its end.
///
/// # Errors
/// If it could not be made, or ended otherwise than by powering off.
pub(crate) fn run(role: Role) -> std::result::Result<(), Error> {
    let config: BoxConfig = role.config()?;
    let wire = config.network.then(|| role.fd(ENDS)).transpose()?;
    let served = ENDS + i32::from(wire.is_some());
    let served = (config.is_served().then(|| role.fd(served))).transpose()?;
    let start = Start {
        link: role.fd(LINK)?,
        report: Report(role.fd(REPORT)?.into()),
        wire,
        served,
        config,
    };
    drop(role);
    let report = start.report.0.try_clone().map(Report);
    launch(start).map_err(|error| {
        let error = explained(&error);
        let line = serde_json::json!({ "failed": error.message, "causes": error.causes });
        // Whose start this was may be gone, and its log has it as well.
        if let Ok(report) = report {
            let _ = report.tell(&line);
        }
        error
    })
}

/// What is refused without anybody here to blame: the process before or
/// after this one has ended, and said why itself.
fn gone() -> SysError {
    SysError::refused("go on: another part of the start has failed")
}

fn explained(error: &SysError) -> Error {
    let ours = Error::new(Code::HostUnfit, format!("cannot {error}"));
    match std::error::Error::source(error) {
        Some(source) => ours.because(source),
        None => ours,
    }
}

/// The launcher.
fn launch(start: Start) -> Result<()> {
    let as_root = rustix::process::geteuid().is_root();
    let sources = as_root
        .then(|| Sources::take(&start.config, true))
        .transpose()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(refused("take over orphans"))?;
    let (mut to_outer, outer) = unix::stream_pair()?;
    let (mut to_inner, inner) = unix::stream_pair()?;
    let child = match fork()? {
        Fork::Child => {
            drop((to_outer, to_inner));
            return outer_half(start, sources, outer, inner);
        }
        Fork::Parent(child) => child,
    };
    drop((outer, inner, sources));
    hear(&mut to_outer)?;
    userns::write_maps(child.pid(), &start.config.container.maps)?;
    rustix::thread::set_no_new_privs(true).map_err(refused("give up new privileges"))?;
    say(&mut to_outer)?;
    // Its end makes the third process a child of this one.
    if child.wait()? != sbx_sys::process::Ended::Exit(0) {
        return Err(gone());
    }
    say(&mut to_inner)?;
    let (_, root) = unix::receive(&to_inner, &mut [0], 1)?;
    let root = root.into_iter().next().ok_or_else(gone)?;
    say(&mut to_inner)?;
    drop((start, to_outer, to_inner));
    jail::drop_capabilities()?;
    sbx_sys::memory::give_back();
    let ended = wait_for_the_last();
    // The end of the container is told before all that was written in it is on
    // the disk: the kernel goes on with that by itself.
    unix::let_go(root);
    ended
}

/// Waits for the container, which is the only process left below this one.
fn wait_for_the_last() -> Result<()> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((_, status))) if status.exit_status() == Some(0) => return Ok(()),
            Ok(Some((_, status))) => {
                return Err(SysError::refused(match status.terminating_signal() {
                    Some(signal) => format!("keep the container up: signal {signal} ended it"),
                    None => "keep the container up: its first process failed".to_owned(),
                }));
            }
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(SysError::new("wait for the container", error)),
        }
    }
}

/// The second process: root of the outer namespaces.
fn outer_half(
    start: Start,
    sources: Option<Sources>,
    mut launcher: UnixStream,
    inner: UnixStream,
) -> Result<()> {
    let counts = Counts::of_caller();
    leave(&[Kind::User])?;
    let devices = served::open(&start.config)?;
    say(&mut launcher)?;
    hear(&mut launcher)?;
    become_inner_root()?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let proc = rustix::fs::open("/proc", flags, Mode::empty()).map_err(refused("open `/proc`"))?;
    counts.share(proc.as_fd());
    leave(&[Kind::Mount, Kind::Net, Kind::Ipc, Kind::Uts, Kind::ChildPid])?;
    let clocks = leave_clocks(proc.as_fd())?;
    let apart = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", apart).map_err(refused("make the mounts private"))?;
    rustix::system::sethostname(start.config.hostname.as_bytes())
        .map_err(refused("set the host name"))?;
    let (mut to_inner, outer) = unix::stream_pair()?;
    let child = match fork()? {
        Fork::Child => {
            drop((to_inner, launcher, proc));
            return inner_half(start, sources, (clocks, devices), outer, inner);
        }
        Fork::Parent(child) => child,
    };
    drop((outer, inner, sources, devices));
    hear(&mut to_inner)?;
    counts::no_more_namespaces(proc.as_fd());
    userns::keep_maps(proc.as_fd(), child.pid(), &start.config.container.maps)?;
    if let Some(wire) = &start.wire {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let namespace = format!("{}/ns/net", child.pid());
        let namespace = rustix::fs::openat(&proc, namespace, flags, Mode::empty())
            .map_err(refused("open the container's network"))?;
        let frames = network::wire(namespace.as_fd())?;
        unix::send(wire, b"wire", &[frames.as_fd()])?;
    }
    say(&mut to_inner)
}

/// The third process, 1 of its namespace: becomes the guest program.
fn inner_half(
    mut start: Start,
    sources: Option<Sources>,
    (clocks, devices): (Option<SysError>, Vec<OwnedFd>),
    mut outer: UnixStream,
    mut launcher: UnixStream,
) -> Result<()> {
    let config = &start.config;
    let mut sources = sources.map_or_else(|| Sources::take(config, false), Ok)?;
    sources.add(served::mount(config, devices, start.served.take())?);
    let root::Built { proc, copied, root } = root::build(config, sources)?;
    leave(&[Kind::User, Kind::Mount, Kind::Net, Kind::Cgroup])?;
    say(&mut outer)?;
    hear(&mut outer)?;
    drop(outer);
    network::bring_up(proc.as_fd(), &config.container.maps.gids, config.network)?;
    drop(proc);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open("/", flags, Mode::empty()).map_err(refused("open the root"))?;
    let program = Spawn::path(Path::new(super::GUEST_PROGRAM)).arg("contained");
    let stderr = rustix::io::dup(rustix::stdio::stderr()).map_err(refused("keep the log"))?;
    let mut standing = jail::confine(top)?.walls;
    // While the second process ends, which takes the kernel as long. The
    // launcher is the parent from here on; what it says after the signal was
    // asked for says that it lives.
    hear(&mut launcher)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(refused("end with the launcher"))?;
    unix::send(&launcher, &[1], &[root.as_fd()])?;
    hear(&mut launcher)?;
    drop((launcher, root));
    standing.splice(0..0, namespaces(clocks));
    let mut walls: Vec<_> = standing
        .iter()
        .map(|wall| serde_json::json!(wall))
        .collect();
    walls.extend(copied.map(|why| serde_json::json!({ "wall": "layers-refused", "why": why })));
    start
        .report
        .tell(&serde_json::json!({ "ready": { "walls": walls } }))?;
    let program = program.with_fd(stderr, 2).with_fd(start.link, 3);
    Err(program.exec())
}

/// The namespaces that stand, and the one that this kernel may not have.
fn namespaces(clocks: Option<SysError>) -> Vec<jail::Wall> {
    let mut kinds = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"]
        .map(str::to_owned)
        .to_vec();
    match clocks {
        None => {
            kinds.push("time".to_owned());
            vec![jail::Wall::Namespaces { kinds }]
        }
        Some(refused) => {
            let why = format!("time: {}", explained(&refused).causes.join(": "));
            let stands = jail::Wall::Namespaces { kinds };
            vec![stands, jail::Wall::NamespacesRefused { why }]
        }
    }
}

/// Lets the other one go on.
fn say(to: &mut UnixStream) -> Result<()> {
    to.write_all(&[1]).map_err(|_| gone())
}

/// Waits until the other one lets this one go on.
fn hear(from: &mut UnixStream) -> Result<()> {
    from.read_exact(&mut [0]).map_err(|_| gone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_time_namespaces_is_told_and_starts_a_container_all_the_same() {
        let refused = std::io::Error::from_raw_os_error(22);
        let told = namespaces(Some(SysError::new(
            "make namespaces ([ChildTime])",
            refused,
        )));
        let [stands, missing] = told.as_slice() else {
            unreachable!("two lines: {told:?}");
        };
        assert!(!stands.to_string().contains("time"), "{stands}");
        assert!(missing.to_string().contains("time: Invalid"), "{missing}");
        let told = namespaces(None);
        assert!(told.len() == 1 && told[0].to_string().contains("time"));
    }
}
