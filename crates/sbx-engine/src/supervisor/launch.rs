//! Starts the processes of a sandbox in their order and hands over the ends
//! they are reached by.
//!
//! Owns: the links between them, which are all that a supervisor can give
//! them. What a part opens by path the spawner has opened by then.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;

use sbx_sys::{file, unix};
use tokio::net::UnixStream;

use super::audit::Audit;
use super::coming::{self, Coming};
use super::log;
use super::network::Network;
use crate::command::{Code, Error};
use crate::plan::{Boundary, NetworkPlan, Plan, SharePlan};
use crate::spawner::{Spawner, Started, Verb};
use crate::store::SandboxDir;

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

/// This side's ends of the links of what keeps a sandbox in.
struct Near {
    link: StdStream,
    control: StdStream,
}

impl Near {
    /// Makes the links; with the other ends of that to PID 1 and of the report.
    fn pair() -> Result<(Self, OwnedFd, OwnedFd), Error> {
        let (link, far) = unix::stream_pair().map_err(unlinked)?;
        let (control, report) = unix::stream_pair().map_err(unlinked)?;
        Ok((Self { link, control }, far.into(), report.into()))
    }

    /// The parts of a sandbox that `process`, called `name`, keeps in.
    fn launched(
        self,
        name: &str,
        process: Started,
        helpers: Vec<Helper>,
        network: Option<Network>,
    ) -> Result<Launched, Error> {
        Ok(Launched {
            link: tokio_stream(self.link)?,
            qmp: None,
            boundary: Helper {
                name: name.to_owned(),
                process,
                control: tokio_stream(self.control)?,
            },
            helpers,
            network,
        })
    }
}

/// Starts everything. `runtime` is the sandbox's runtime directory; the names
/// in its network are kept beside its disk, and what the network does is
/// recorded beside its log.
///
/// # Errors
/// If a part cannot be started; those that were end with the spawner.
pub(crate) async fn launch(
    plan: &Plan,
    spawner: &Spawner,
    runtime: &Path,
    sandbox: &SandboxDir,
) -> Result<Launched, Error> {
    match &plan.boundary {
        Boundary::MicroVm(_) => machine(plan, spawner, runtime, sandbox),
        Boundary::Container(_) => container(plan, spawner, sandbox).await,
        Boundary::Docker(_) => docked(plan, spawner, sandbox),
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
        let socket = format!("{}.fs", share.tag);
        let _ = std::fs::remove_file(runtime.join(&socket));
        let listener = unix::listen_at(&runtime_dir, &socket).map_err(unlinked)?;
        let connected = unix::connect_at(&runtime_dir, &socket).map_err(unlinked)?;
        std::fs::remove_file(runtime.join(&socket)).map_err(|source| {
            Error::new(Code::Io, "cannot make the links between processes").because(source)
        })?;
        helpers.push(file_server(spawner, number, share, listener.into())?);
        share_sockets.push(OwnedFd::from(connected));
    }
    let mut network = None;
    let mut frames = None;
    if let Some(plan) = &plan.network {
        let (link, machine) = Network::wire()?;
        let prepared = prepared(plan, sandbox)?(link);
        helpers.push(prepared.start(spawner)?);
        network = Some(prepared);
        frames = Some(machine);
    }
    let (near, control, report) = Near::pair()?;
    let (qmp, monitor) = unix::stream_pair().map_err(unlinked)?;
    let (console, serial) = unix::stream_pair().map_err(unlinked)?;
    tokio::task::spawn_local(log::copy("boot".to_owned(), tokio_stream(console)?));
    let mut links: Vec<OwnedFd> = vec![control, monitor.into(), serial.into()];
    links.extend(frames);
    links.extend(share_sockets);
    links.push(report);
    let process = spawner.run(Verb::Vmm, log_pipe("vmm")?, links)?;
    Ok(Launched {
        qmp: Some(tokio_stream(qmp)?),
        ..near.launched("vmm", process, helpers, network)?
    })
}

/// A container makes its own wire and mounts, which engine and file servers
/// are then given.
async fn container(
    plan: &Plan,
    spawner: &Spawner,
    sandbox: &SandboxDir,
) -> Result<Launched, Error> {
    let (near, control, report) = Near::pair()?;
    let mut links = vec![control, report];
    let mut coming = |lack, count| {
        let (coming, there) = Coming::pair(lack, count)?;
        links.push(there);
        Ok::<_, Error>(coming)
    };
    let wire = match plan.network {
        Some(_) => Some(coming(coming::NETWORK, 1)?),
        None => None,
    };
    let served = plan.boundary.is_served() && !plan.shares.is_empty();
    let served = match served {
        true => Some(coming(coming::WORKSPACE, plan.shares.len())?),
        false => None,
    };
    let process = spawner.run(Verb::Box, log_pipe("box")?, links)?;
    let prepared = (plan.network.as_ref())
        .map(|plan| prepared(plan, sandbox))
        .transpose()?;
    // Where none comes because the container has ended, its control says why.
    let mut helpers = Vec::new();
    if let Some(served) = served {
        let devices = served.received().await?;
        for (number, (share, device)) in plan.shares.iter().zip(devices).enumerate() {
            helpers.push(file_server(spawner, number, share, device)?);
        }
    }
    let mut network = None;
    if let (Some(prepared), Some(wire)) = (prepared, wire)
        && let Some(wire) = wire.received().await?.pop()
    {
        let prepared = prepared(wire);
        helpers.push(prepared.start(spawner)?);
        network = Some(prepared);
    }
    near.launched("box", process, helpers, network)
}

impl Launched {
    /// That all is there which `plan` has.
    ///
    /// # Errors
    /// If the network is not, or a file server.
    pub(super) fn is_whole(&self, plan: &Plan) -> Result<(), Error> {
        let wires = usize::from(plan.network.is_some());
        coming::NETWORK.is_none(wires, usize::from(self.network.is_some()))?;
        let served = plan.boundary.is_served();
        let shares = if served { plan.shares.len() } else { 0 };
        let servers = self.helpers.len().saturating_sub(wires);
        coming::WORKSPACE.is_none(shares, servers)
    }
}

/// Starts a file server on its `door`.
fn file_server(
    spawner: &Spawner,
    number: usize,
    share: &SharePlan,
    door: OwnedFd,
) -> Result<Helper, Error> {
    let name = format!("share {}", share.tag);
    let (near, far) = unix::stream_pair().map_err(unlinked)?;
    let links = vec![door, far.into()];
    let process = spawner.run(Verb::Share(number), log_pipe(&name)?, links)?;
    Ok(Helper {
        name,
        process,
        control: tokio_stream(near)?,
    })
}

/// Containers of an engine are reached through the process that speaks with
/// it, their frames too.
fn docked(plan: &Plan, spawner: &Spawner, sandbox: &SandboxDir) -> Result<Launched, Error> {
    let (near, control, report) = Near::pair()?;
    let mut links = vec![control, report];
    let mut helpers = Vec::new();
    let mut network = None;
    if let Some(plan) = &plan.network {
        let (engine, frames) = Network::wire()?;
        let prepared = prepared(plan, sandbox)?(engine);
        helpers.push(prepared.start(spawner)?);
        network = Some(prepared);
        links.push(frames);
    }
    let process = spawner.run(Verb::Dock, log_pipe("dock")?, links)?;
    near.launched("dock", process, helpers, network)
}

/// The network of a sandbox, behind the link that there will be.
fn prepared(
    plan: &NetworkPlan,
    sandbox: &SandboxDir,
) -> Result<impl FnOnce(OwnedFd) -> Network + use<>, Error> {
    let run = sandbox.run_directory();
    let audit = Audit::open(&run, sandbox.name().clone()).map_err(|source| {
        let what = format!("cannot open the audit file of `{}`", sandbox.name());
        Error::new(Code::State, what).because(source)
    })?;
    Network::prepare(&sandbox.join(super::names::FILE), &plan.rules, audit)
}

pub(super) fn unlinked(source: sbx_sys::Error) -> Error {
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
