//! Starts the processes of a sandbox in their order and hands over the ends
//! they are reached by.
//!
//! Owns: the links between them, which are all that a supervisor can give
//! them. What a part opens by path the spawner has opened by then.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::sockopt::{self, Timeout};
use sbx_sys::{file, unix};
use tokio::net::UnixStream;

use super::audit::Audit;
use super::log;
use super::network::Network;
use crate::command::{Code, Error};
use crate::plan::{Boundary, NetworkPlan, Plan};
use crate::spawner::{Spawner, Started, Verb};
use crate::store::SandboxDir;

/// How long a container may take to make its wire, which is one of its first
/// steps; a file system that does not answer is what may hold it up.
const WIRE_LIMIT: Duration = Duration::from_secs(20);

/// The running parts of a sandbox.
pub(crate) struct Launched {
    /// The control link to PID 1.
    pub(crate) link: UnixStream,
    /// The machine protocol, of a machine.
    pub(crate) qmp: Option<UnixStream>,
    /// What keeps the sandbox in: the machine monitor or the container. Its
    /// control says only which walls it has.
    pub(crate) boundary: Helper,
    /// Everything else, by name; only the network engine can be replaced.
    pub(crate) helpers: Vec<Helper>,
    /// What outlives the network engine among them.
    pub(super) network: Option<Network>,
}

/// A process beside the machine.
pub(crate) struct Helper {
    /// Its name in logs: `net`, `share s0`.
    pub(crate) name: String,
    /// The process.
    pub(crate) process: Started,
    /// JSON lines both ways.
    pub(crate) control: UnixStream,
}

/// Starts everything. `runtime` is the sandbox's runtime directory; the names
/// in its network are kept beside its disk, and what the network does is
/// recorded beside its log.
///
/// # Errors
/// If a part cannot be started; those that were end with the spawner.
pub(crate) fn launch(
    plan: &Plan,
    spawner: &Spawner,
    runtime: &Path,
    sandbox: &SandboxDir,
) -> Result<Launched, Error> {
    match &plan.boundary {
        Boundary::MicroVm(_) => machine(plan, spawner, runtime, sandbox),
        Boundary::Container(_) => container(plan, spawner, sandbox),
    }
}

fn machine(
    plan: &Plan,
    spawner: &Spawner,
    runtime: &Path,
    sandbox: &SandboxDir,
) -> Result<Launched, Error> {
    let mut helpers = Vec::new();
    let mut share_sockets = Vec::new();
    let runtime_dir = file::open_dir(runtime).map_err(unlinked)?;
    for (number, share) in plan.shares.iter().enumerate() {
        let name = format!("share {}", share.tag);
        let (near, far) = unix::stream_pair().map_err(unlinked)?;
        let socket = format!("{}.fs", share.tag);
        let _ = std::fs::remove_file(runtime.join(&socket));
        let listener = unix::listen_at(&runtime_dir, &socket).map_err(unlinked)?;
        let connected = unix::connect_at(&runtime_dir, &socket).map_err(unlinked)?;
        std::fs::remove_file(runtime.join(&socket)).map_err(|source| {
            Error::new(Code::Io, "cannot make the links between processes").because(source)
        })?;
        let links = vec![listener.into(), far.into()];
        let process = spawner.run(Verb::Share(number), log_pipe(&name)?, links)?;
        share_sockets.push(OwnedFd::from(connected));
        helpers.push(Helper {
            name,
            process,
            control: tokio_stream(near)?,
        });
    }
    let mut network = None;
    let mut frames = None;
    if let Some(plan) = &plan.network {
        let (link, machine) = Network::wire()?;
        let prepared = prepared(plan, sandbox, link)?;
        helpers.push(prepared.start(spawner)?);
        network = Some(prepared);
        frames = Some(machine);
    }
    let (link, control) = unix::stream_pair().map_err(unlinked)?;
    let (qmp, monitor) = unix::stream_pair().map_err(unlinked)?;
    let (console, serial) = unix::stream_pair().map_err(unlinked)?;
    tokio::task::spawn_local(log::copy("boot".to_owned(), tokio_stream(console)?));
    let mut links: Vec<OwnedFd> = vec![control.into(), monitor.into(), serial.into()];
    links.extend(frames);
    links.extend(share_sockets);
    let (near, report) = unix::stream_pair().map_err(unlinked)?;
    links.push(report.into());
    Ok(Launched {
        link: tokio_stream(link)?,
        qmp: Some(tokio_stream(qmp)?),
        boundary: Helper {
            name: "vmm".to_owned(),
            process: spawner.run(Verb::Vmm, log_pipe("vmm")?, links)?,
            control: tokio_stream(near)?,
        },
        helpers,
        network,
    })
}

/// A container makes its own wire, which its engine is then given.
fn container(plan: &Plan, spawner: &Spawner, sandbox: &SandboxDir) -> Result<Launched, Error> {
    let (link, control) = unix::stream_pair().map_err(unlinked)?;
    let (near, report) = unix::stream_pair().map_err(unlinked)?;
    let mut links: Vec<OwnedFd> = vec![control.into(), report.into()];
    let mut coming = None;
    if plan.network.is_some() {
        let (here, there) = awaited_wire(WIRE_LIMIT)?;
        links.push(there);
        coming = Some(here);
    }
    let process = spawner.run(Verb::Box, log_pipe("box")?, links)?;
    let mut helpers = Vec::new();
    let mut network = None;
    if let (Some(plan), Some(coming)) = (&plan.network, coming) {
        // Without one because it has ended, its control says why.
        if let Some(wire) = received(&coming)? {
            let prepared = prepared(plan, sandbox, wire)?;
            helpers.push(prepared.start(spawner)?);
            network = Some(prepared);
        }
    }
    Ok(Launched {
        link: tokio_stream(link)?,
        qmp: None,
        boundary: Helper {
            name: "box".to_owned(),
            process,
            control: tokio_stream(near)?,
        },
        helpers,
        network,
    })
}

impl Launched {
    /// That the network of `plan` is there. A container which gets ready
    /// without its wire would run without one, unsaid.
    ///
    /// # Errors
    /// If it is not.
    pub(super) fn is_wired(&self, plan: &Plan) -> Result<(), Error> {
        wired(plan.network.is_some(), self.network.is_some())
    }
}

fn wired(planned: bool, there: bool) -> Result<(), Error> {
    if planned && !there {
        return Err(unwired("its first process got ready without one"));
    }
    Ok(())
}

/// Both ends of what a container's wire comes through: the first waits no
/// longer than `limit`.
fn awaited_wire(limit: Duration) -> Result<(OwnedFd, OwnedFd), Error> {
    let (here, there) = unix::message_pair().map_err(unlinked)?;
    sockopt::set_socket_timeout(&here, Timeout::Recv, Some(limit))
        .map_err(|source| unlinked(sbx_sys::Error::new("wait for a wire", source)))?;
    Ok((here, there))
}

/// The outer end of a container's wire, once it is made; `None` if whoever
/// was to make it is gone.
///
/// # Errors
/// If it does not come in time, or something else does.
fn received(coming: &OwnedFd) -> Result<Option<OwnedFd>, Error> {
    match unix::receive(coming, &mut [0; 16], 1) {
        Ok((0, _)) => Ok(None),
        Ok((_, mut wires)) => match wires.pop() {
            Some(wire) => Ok(Some(wire)),
            None => Err(unwired("what it sent is none")),
        },
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            let limit = WIRE_LIMIT.as_secs();
            Err(unwired(&format!("none came within {limit} s")))
        }
        Err(error) => Err(unwired("it cannot be received").because(error)),
    }
}

fn unwired(why: &str) -> Error {
    Error::new(Code::Boot, format!("the container has no network: {why}"))
        .hint("see why with `sbx logs`; without a network on purpose: `--network none`")
}

/// The network of a sandbox whose engine serves `link`.
fn prepared(plan: &NetworkPlan, sandbox: &SandboxDir, link: OwnedFd) -> Result<Network, Error> {
    let run = sandbox.run_directory();
    let audit = Audit::open(&run, sandbox.name().clone()).map_err(|source| {
        let what = format!("cannot open the audit file of `{}`", sandbox.name());
        Error::new(Code::State, what).because(source)
    })?;
    Network::prepare(link, &sandbox.join(super::names::FILE), &plan.rules, audit)
}

fn unlinked(source: sbx_sys::Error) -> Error {
    Error::new(Code::Jail, "cannot make the links between processes").because(source)
}

/// Where a child's own messages go.
pub(super) fn log_pipe(name: &str) -> Result<OwnedFd, Error> {
    let failed = |source: std::io::Error| {
        Error::new(Code::Io, "cannot make a pipe for a log").because(source)
    };
    let (reader, writer) = std::io::pipe().map_err(failed)?;
    let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into()).map_err(failed)?;
    tokio::task::spawn_local(log::copy(name.to_owned(), reader));
    Ok(writer.into())
}

pub(super) fn tokio_stream(stream: StdStream) -> Result<UnixStream, Error> {
    stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream))
        .map_err(|source| Error::new(Code::Io, "cannot watch a socket").because(source))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_container_that_lost_its_wire_does_not_start() {
        let (here, _there) = awaited_wire(Duration::from_millis(1)).unwrap();
        assert_eq!(received(&here).unwrap_err().code, Code::Boot, "none came");
        let (here, there) = awaited_wire(WIRE_LIMIT).unwrap();
        unix::send(&there, b"wire", &[]).unwrap();
        assert_eq!(received(&here).unwrap_err().code, Code::Boot, "it is none");
        drop(there);
        // Whoever was to make it says why, unless it says that it is ready.
        assert!(received(&here).unwrap().is_none());
        assert_eq!(wired(true, false).unwrap_err().code.session_exit(), 125);
    }

    #[test]
    fn a_container_with_its_wire_starts_and_so_does_one_that_asked_for_none() {
        let (here, there) = awaited_wire(WIRE_LIMIT).unwrap();
        unix::send(&there, b"wire", &[there.as_fd()]).unwrap();
        assert!(received(&here).unwrap().is_some());
        assert!(wired(true, true).is_ok());
        assert!(wired(false, false).is_ok());
    }
}
