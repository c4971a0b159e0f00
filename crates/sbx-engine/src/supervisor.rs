//! The process that owns one running sandbox.
//!
//! Owns: the sandbox's lock, its processes, the link to its guest, and the
//! socket that clients come to. Ends when nobody has needed the sandbox for
//! the stop grace, when it is told to, or when a part of it is gone. Trusts
//! the plan it was given and nobody else.

mod audit;
mod coming;
mod doors;
mod ends;
mod launch;
mod lifecycle;
mod log;
mod machine;
mod names;
mod network;
mod policy;
mod questions;
mod rolling;
mod router;
mod serve;
mod walls;
mod wire;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use sbx_spec::{Publication, SandboxName};
use sbx_sys::process::ProcessId;
use serde::{Deserialize, Serialize};

use crate::command::{Code, Error};
use crate::plan::Plan;
use crate::role::Role;
use crate::spawner::{Spawner, SpawnerConfig};
use crate::store::{RunRecord, Store};
use lifecycle::Ended;

pub(crate) use audit::{MAX_FILE as MAX_AUDIT_FILE, NAME as AUDIT_NAME, OLDER as AUDIT_OLDER};
pub(crate) use log::{MAX_FILE as MAX_LOG_FILE, NAME as LOG_NAME, OLDER as LOG_OLDER};
pub(crate) use names::named;
pub(crate) use wire::{FrameReader, write as write_frame};

/// Where the starter is told how it goes.
pub(crate) const STATUS: i32 = 4;
/// The `sbx` program.
pub(crate) const PROGRAM: i32 = 5;
/// The `sbx-vmm` program.
pub(crate) const VMM: i32 = 6;
/// The first of the sockets that listen for published ports.
pub(crate) const PUBLISHED: i32 = 7;

/// What a supervisor is started with.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SuperviseConfig {
    /// The directory that holds all sandboxes.
    pub(crate) sandboxes: PathBuf,
    /// The directory of this sandbox's sockets.
    pub(crate) runtime: PathBuf,
    /// What to start.
    pub(crate) plan: Plan,
    /// Published ports, each with a socket that listens, from [`PUBLISHED`] on.
    pub(crate) published: Vec<Publication>,
    /// Whether it stays up without a session until it is told to stop.
    pub(crate) stay: bool,
    /// Seconds without a session after which it stops.
    pub(crate) idle_s: u32,
}

/// What the starter reads, one JSON line each.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StartStatus {
    /// It is at this step.
    At(String),
    /// The user should know this; it goes on.
    Warn(String),
    /// Sessions can be opened.
    Ready,
    /// It has failed, and nothing of it is left.
    Failed(Error),
}

/// The socket of a sandbox below the runtime directory.
pub(crate) fn socket_directory(runtime: &std::path::Path, name: &SandboxName) -> PathBuf {
    runtime.join(name.as_str())
}

/// Name of the socket in its directory.
pub(crate) const SOCKET: &str = "supervisor.sock";

/// The role `sbx supervise`.
///
/// # Errors
/// If the sandbox could not be started, which the starter was told as well,
/// or could not be cleaned up after.
pub(crate) fn run(role: Role) -> Result<(), Error> {
    let config: SuperviseConfig = role.config()?;
    let mut status = Status(Some(UnixStream::from(role.fd(STATUS)?)));
    let program = role.fd(PROGRAM)?;
    let vmm = role.fd(VMM)?;
    let listening = (PUBLISHED..)
        .zip(&config.published)
        .map(|(number, publication)| Ok((*publication, role.fd(number)?)))
        .collect::<Result<Vec<_>, Error>>()?;
    let done = supervise(config, program, vmm, listening, &mut status);
    if let Err(error) = &done {
        status.tell(&StartStatus::Failed(error.clone()));
    }
    done
}

fn supervise(
    config: SuperviseConfig,
    program: OwnedFd,
    vmm: OwnedFd,
    listening: Vec<(Publication, OwnedFd)>,
    status: &mut Status,
) -> Result<(), Error> {
    let io = |source: std::io::Error| {
        Error::new(Code::Io, "cannot start the supervisor").because(source)
    };
    let store = Store::new(config.sandboxes.clone());
    let name = config.plan.name.clone();
    let sandbox = store
        .find(&name)
        .ok_or_else(|| Error::new(Code::SandboxNotFound, format!("no sandbox `{name}`")))?;
    let proof = sandbox.supervise()?;
    log::open(&sandbox.run_directory()).map_err(|source| {
        Error::new(Code::State, format!("cannot open the log of `{name}`")).because(source)
    })?;
    let (group, held) = crate::group::enter(&sandbox, &config.plan.ceiling)?;
    let spawner_config = SpawnerConfig::new(&config.plan, &config.sandboxes, group);
    let spawner_log = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(sandbox.join("supervisor.err"))
        .map_err(io)?;
    let (spawner, reports) = Spawner::start(&spawner_config, program, vmm, spawner_log.into())?;
    let mut record = RunRecord::starting();
    record.spawner = ProcessId::of(spawner.pid()).ok();
    sandbox.write_run(&record, &proof)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(io)?;
    if let Err(error) = spawner.ready() {
        spawner.end();
        sandbox.clear_run();
        return Err(error);
    }
    let local = tokio::task::LocalSet::new();
    let beginning = lifecycle::Beginning {
        config: &config,
        sandbox: &sandbox,
        proof: &proof,
        held,
        spawner: &spawner,
        reports,
        record,
        listening,
        status,
    };
    let mut wire = None;
    let lived = local.block_on(&runtime, lifecycle::live(beginning, &mut wire));
    if matches!(lived, Ok(Ended::ForClient)) {
        spawner.leave_group();
    }
    // Whatever is left of it goes now, however it ended.
    let ended = spawner.end();
    // By here nobody else has the wire, and nobody waits for its close.
    if let Some(wire) = wire {
        sbx_sys::unix::let_go(wire);
    }
    if ended {
        sandbox.clear_run();
    } else {
        // By the record, which this process may write and not act on.
        log::log("the spawner does not end; the next command kills it");
    }
    let _ = std::fs::remove_dir_all(&config.runtime);
    if let Err(error) = &lived {
        log::log(&format!("ended: {error}: {}", error.causes.join(": ")));
    }
    lived.map(drop)
}

/// The starter's end of things; silent once it has heard the outcome.
pub(crate) struct Status(Option<UnixStream>);

impl Status {
    /// Tells the starter; one that is gone is not missed.
    pub(crate) fn tell(&mut self, what: &StartStatus) {
        let Some(stream) = &mut self.0 else { return };
        if let Ok(mut line) = serde_json::to_vec(what) {
            line.push(b'\n');
            let _ = stream.set_write_timeout(Some(Duration::from_secs(5)));
            let gone = stream.write_all(&line).is_err();
            if gone || !matches!(what, StartStatus::At(_) | StartStatus::Warn(_)) {
                self.0 = None;
            }
        }
    }
}
