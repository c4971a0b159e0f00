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
use super::log;
use super::network::Network;
use crate::command::{Code, Error};
use crate::plan::Plan;
use crate::spawner::{Spawner, Started, Verb};
use crate::store::SandboxDir;

/// The running parts of a sandbox.
pub(crate) struct Launched {
    /// The control link to PID 1.
    pub(crate) link: UnixStream,
    /// The machine protocol.
    pub(crate) qmp: UnixStream,
    /// The machine monitor; its control says only which walls it has.
    pub(crate) vmm: Helper,
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
    let failed = |source: sbx_sys::Error| {
        Error::new(Code::Jail, "cannot make the links between processes").because(source)
    };
    let mut helpers = Vec::new();
    let mut share_sockets = Vec::new();
    let runtime_dir = file::open_dir(runtime).map_err(failed)?;
    for (number, share) in plan.shares.iter().enumerate() {
        let name = format!("share {}", share.tag);
        let (near, far) = unix::stream_pair().map_err(failed)?;
        let socket = format!("{}.fs", share.tag);
        let _ = std::fs::remove_file(runtime.join(&socket));
        let listener = unix::listen_at(&runtime_dir, &socket).map_err(failed)?;
        let connected = unix::connect_at(&runtime_dir, &socket).map_err(failed)?;
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
        let run = sandbox.run_directory();
        let audit = Audit::open(&run, sandbox.name().clone()).map_err(|source| {
            let what = format!("cannot open the audit file of `{}`", sandbox.name());
            Error::new(Code::State, what).because(source)
        })?;
        let names = sandbox.join(super::names::FILE);
        let (prepared, machine) = Network::prepare(&names, &plan.rules, audit)?;
        helpers.push(prepared.start(spawner)?);
        network = Some(prepared);
        frames = Some(machine);
    }
    let (link, control) = unix::stream_pair().map_err(failed)?;
    let (qmp, monitor) = unix::stream_pair().map_err(failed)?;
    let (console, serial) = unix::stream_pair().map_err(failed)?;
    tokio::task::spawn_local(log::copy("boot".to_owned(), tokio_stream(console)?));
    let mut links: Vec<OwnedFd> = vec![control.into(), monitor.into(), serial.into()];
    links.extend(frames);
    links.extend(share_sockets);
    let (near, report) = unix::stream_pair().map_err(failed)?;
    links.push(report.into());
    let vmm = spawner.run(Verb::Vmm, log_pipe("vmm")?, links)?;
    let vmm = Helper {
        name: "vmm".to_owned(),
        process: vmm,
        control: tokio_stream(near)?,
    };
    Ok(Launched {
        link: tokio_stream(link)?,
        qmp: tokio_stream(qmp)?,
        vmm,
        helpers,
        network,
    })
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
