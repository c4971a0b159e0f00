//! Starts the processes of a sandbox in their order and hands over the ends
//! they are reached by.
//!
//! Each gets the descriptors of its role and nothing else. What is opened by
//! path is opened here, by the supervisor, so that no other process needs to
//! see the path.

use std::fs::{DirBuilder, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;

use sbx_sys::{file, unix};
use tokio::net::UnixStream;

use super::log;
use crate::command::{Code, Error};
use crate::microvm::{qemu, shares, vmm};
use crate::plan::Plan;
use crate::spawner::{Spawner, Started, Verb};

/// The running parts of a sandbox.
pub(crate) struct Launched {
    /// The control link to PID 1.
    pub(crate) link: UnixStream,
    /// The machine protocol.
    pub(crate) qmp: UnixStream,
    /// The machine monitor; its control says only which walls it has.
    pub(crate) vmm: Helper,
    /// Everything else, by name; the sandbox cannot go on without any.
    pub(crate) helpers: Vec<Helper>,
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

/// Starts everything. `home` is the sandbox's state directory, `runtime` its
/// runtime directory.
///
/// # Errors
/// If a part cannot be started; those that were end with the spawner.
pub(crate) fn launch(
    plan: &Plan,
    spawner: &Spawner,
    home: &Path,
    runtime: &Path,
) -> Result<Launched, Error> {
    let failed = |source: sbx_sys::Error| {
        Error::new(Code::Jail, "cannot make the links between processes").because(source)
    };
    let mut helpers = Vec::new();
    let mut share_sockets = Vec::new();
    let runtime_dir = file::open_dir(runtime).map_err(failed)?;
    for share in &plan.shares {
        let name = format!("share {}", share.tag);
        let (near, far) = unix::stream_pair().map_err(failed)?;
        let socket = format!("{}.fs", share.tag);
        let _ = std::fs::remove_file(runtime.join(&socket));
        let listener = unix::listen_at(&runtime_dir, &socket).map_err(failed)?;
        let connected = unix::connect_at(&runtime_dir, &socket).map_err(failed)?;
        std::fs::remove_file(runtime.join(&socket)).map_err(|source| {
            Error::new(Code::Io, "cannot make the links between processes").because(source)
        })?;
        let shadow = shadow(home, &share.tag, plan.identity.share)?;
        let served = shares::open(share, plan.identity)?;
        let process = spawner.run(
            Verb::Share,
            &served.config,
            log_pipe(&name)?,
            vec![listener.into(), served.root, shadow, far.into()],
        )?;
        share_sockets.push(OwnedFd::from(connected));
        helpers.push(Helper {
            name,
            process,
            control: tokio_stream(near)?,
        });
    }
    let mut network = None;
    if let Some(net) = &plan.network {
        let (link, engine) = unix::stream_pair().map_err(failed)?;
        let (near, far) = unix::stream_pair().map_err(failed)?;
        let config = serde_json::to_vec(&crate::microvm::network::config(net))
            .map_err(|source| Error::new(Code::Internal, "cannot write").because(source))?;
        let process = spawner.run(
            Verb::Net,
            &config,
            log_pipe("net")?,
            vec![engine.into(), far.into()],
        )?;
        network = Some(OwnedFd::from(link));
        helpers.push(Helper {
            name: "net".to_owned(),
            process,
            control: tokio_stream(near)?,
        });
    }
    let (link, control) = unix::stream_pair().map_err(failed)?;
    let (qmp, monitor) = unix::stream_pair().map_err(failed)?;
    let (console, serial) = unix::stream_pair().map_err(failed)?;
    tokio::task::spawn_local(log::copy("boot".to_owned(), tokio_stream(console)?));
    let numbers = qemu::Descriptors::number(
        plan.machine.disks.len(),
        network.is_some(),
        share_sockets.len(),
    );
    let mut fds: Vec<OwnedFd> = vec![control.into(), monitor.into(), serial.into()];
    fds.push(open_image(&plan.machine.kernel, false)?);
    fds.push(open_image(&plan.machine.initrd, false)?);
    for disk in &plan.machine.disks {
        fds.push(open_image(&disk.path, disk.writable)?);
    }
    fds.extend(network);
    fds.extend(share_sockets);
    let count = i32::try_from(fds.len()).unwrap_or(i32::MAX);
    let (near, report) = unix::stream_pair().map_err(failed)?;
    fds.push(report.into());
    let tags: Vec<_> = plan.shares.iter().map(|share| share.tag.clone()).collect();
    let arguments = qemu::arguments(&plan.machine, &numbers, &tags);
    let config = vmm::config(plan, arguments, count, 4 + count)?;
    let vmm = spawner.run(Verb::Vmm, &config, log_pipe("vmm")?, fds)?;
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
    })
}

fn open_image(path: &Path, writable: bool) -> Result<OwnedFd, Error> {
    let opened = OpenOptions::new().read(true).write(writable).open(path);
    opened.map(OwnedFd::from).map_err(|source| {
        Error::new(Code::Image, format!("cannot open `{}`", path.display())).because(source)
    })
}

/// The store of what is held back from a share: kept with the sandbox, owned
/// by whom the file server runs as.
fn shadow(home: &Path, tag: &str, owner: Option<(u32, u32)>) -> Result<OwnedFd, Error> {
    let path = home.join("shadow").join(tag);
    let failed = |source: std::io::Error| {
        Error::new(Code::State, format!("cannot make `{}`", path.display())).because(source)
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)
        .map_err(failed)?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).map_err(failed)?;
    }
    file::open_dir(&path)
        .map_err(|source| Error::new(Code::State, "cannot open the shadow").because(source))
}

/// Where a child's own messages go.
fn log_pipe(name: &str) -> Result<OwnedFd, Error> {
    let failed = |source: std::io::Error| {
        Error::new(Code::Io, "cannot make a pipe for a log").because(source)
    };
    let (reader, writer) = std::io::pipe().map_err(failed)?;
    let reader = tokio::net::unix::pipe::Receiver::from_owned_fd(reader.into()).map_err(failed)?;
    tokio::task::spawn_local(log::copy(name.to_owned(), reader));
    Ok(writer.into())
}

fn tokio_stream(stream: StdStream) -> Result<UnixStream, Error> {
    stream
        .set_nonblocking(true)
        .and_then(|()| UnixStream::from_std(stream))
        .map_err(|source| Error::new(Code::Io, "cannot watch a socket").because(source))
}
