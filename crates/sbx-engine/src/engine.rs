//! Does what a command asks, for one user on one host.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sbx_spec::{Config, SandboxName};
use sbx_sys::process::ProcessId;
use tokio::io::unix::AsyncFd;

use crate::client;
use crate::command::{Caller, Code, Command, Error, Reply, SandboxBrief, Status, Ui};
use crate::directories::Directories;
use crate::store::{Phase, RunRecord, SandboxDir, State, Store};
use crate::supervisor::socket_directory;

mod around;
mod ask;
mod audit;
mod check;
mod docker;
mod doctor;
#[cfg(test)]
mod fake;
#[cfg(test)]
pub(crate) use fake::caller as fake_caller;
mod gc;
mod inspect;
mod life;
mod logs;
mod policy;
mod ports;
mod prepare;
mod registries;
mod run;
mod start;
mod tail;
mod target;

/// How long a command waits for another one that changes the same sandbox.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a start that is broken off may take to end its processes itself.
const IN_GOOD_ORDER: Duration = Duration::from_secs(2);

/// How long the spawner of a supervisor that is gone may take to end its parts.
const LAST_ACTS: Duration = Duration::from_secs(2);

/// The engine of one user.
#[derive(Clone, Debug)]
pub struct Engine {
    /// Where our files are.
    pub directories: Directories,
    /// The user's configuration.
    pub config: Config,
    /// Who asks.
    pub caller: Caller,
}

impl Engine {
    /// Does what `command` asks.
    ///
    /// # Errors
    /// Each says what was attempted on what, and its code which kind it is.
    pub async fn execute(&self, command: Command, ui: &mut dyn Ui) -> Result<Reply, Error> {
        match command {
            Command::Run(request) => self.run(request, ui).await,
            Command::Create(request) if request.dry_run => self.plan(&request, ui).await,
            Command::Create(request) => self.create(&request, ui).await,
            Command::Exec(request) => self.exec(request, ui).await,
            Command::Ls(request) => self.ls(request),
            Command::Inspect(request) => self.inspect(&request.name).await,
            Command::Start(request) => self.start_all(&request, ui).await,
            Command::Stop(request) => self.stop_all(&request).await,
            Command::Rm(request) => self.remove(&request, ui).await,
            Command::Logs(request) => self.logs(&request, ui).await,
            Command::Plan(request) => self.plan(&request, ui).await,
            Command::Doctor(request) => self.doctor(request, ui).await,
            Command::Gc(request) => self.gc(request).await,
            Command::Policy(request) => self.policy(request, ui).await,
            Command::Ports(request) => self.ports(request).await,
            Command::Version => Ok(self.version()),
        }
    }

    fn store(&self) -> Store {
        Store::new(self.directories.sandboxes())
    }

    fn runtime(&self, name: &SandboxName) -> PathBuf {
        socket_directory(&self.directories.runtime, name)
    }

    fn find(&self, name: &SandboxName) -> Result<SandboxDir, Error> {
        self.store().find(name).ok_or_else(|| {
            let hint = self
                .store()
                .list()
                .ok()
                .and_then(|all| {
                    let names = all.iter().map(|sandbox| sandbox.name().as_str());
                    sbx_spec::nearest(name.as_str(), names)
                        .map(|near| format!("did you mean `{near}`?"))
                })
                .unwrap_or_else(|| "see which there are with `sbx ls`".to_owned());
            Error::new(Code::SandboxNotFound, format!("no sandbox `{name}`")).hint(hint)
        })
    }

    fn brief(&self, sandbox: &SandboxDir) -> SandboxBrief {
        let record = sandbox.record().ok();
        let spec = record.as_ref().map(|record| &record.spec);
        SandboxBrief {
            name: sandbox.name().clone(),
            agent: spec.map(|spec| spec.kit.clone()),
            isolation: spec.map(|spec| spec.isolation),
            status: match (&record, sandbox.state()) {
                (None, _) | (_, Err(_)) => Status::Broken,
                (_, Ok(state)) => status(&state),
            },
            ports: ports::published(sandbox)
                .unwrap_or_default()
                .iter()
                .map(sbx_spec::Publication::shown)
                .collect(),
            workspace: spec
                .and_then(|spec| spec.shares.first())
                .map(|share| share.host.clone()),
            created: record.as_ref().map(|record| record.created),
        }
    }

    /// Brings a sandbox whose supervisor was killed back to stopped. Its
    /// processes died with it, or stand still; what is left are its own records.
    fn tidy(&self, sandbox: &SandboxDir) -> Result<Option<RunRecord>, Error> {
        match sandbox.state()? {
            State::Crashed(record) => {
                end_spawner(&record);
                let _ = std::fs::remove_dir_all(self.runtime(sandbox.name()));
                crate::group::remove_left(sandbox);
                sandbox.clear_run();
                Ok(Some(record))
            }
            State::Stopped => {
                crate::group::remove_left(sandbox);
                Ok(None)
            }
            State::Live(_) => Ok(None),
        }
    }

    /// Stops a sandbox, forcing it where asking does not help, and removes
    /// the directory of its sockets, which its locked-down supervisor could
    /// only empty.
    async fn bring_down(&self, sandbox: &SandboxDir, grace: Duration) -> Result<(), Error> {
        let down = self.end(sandbox, grace).await;
        if !matches!(sandbox.state()?, State::Live(_)) {
            let _ = std::fs::remove_dir_all(self.runtime(sandbox.name()));
            crate::group::remove_left(sandbox);
            self.end_containers(sandbox).await?;
        }
        down
    }

    async fn end(&self, sandbox: &SandboxDir, grace: Duration) -> Result<(), Error> {
        let State::Live(record) = sandbox.state()? else {
            self.tidy(sandbox)?;
            return Ok(());
        };
        // One that still starts listens to nothing else.
        if let Some(record) = record.as_ref().filter(|run| run.phase == Phase::Starting) {
            if let Some(process) = supervisor(record)? {
                break_off(process).await?;
            }
            wait_unlocked(sandbox).await?;
            self.tidy(sandbox)?;
            return Ok(());
        }
        let runtime = self.runtime(sandbox.name());
        let process = record.as_ref().map_or(Ok(None), supervisor)?;
        let mut process = process.map(watched).transpose()?;
        // One that does nothing at all is not given the grace of its guest.
        let asked = match client::ping(&runtime).await {
            Err(error) if error.code == Code::Timeout => Err(error),
            _ => client::stop(&runtime, grace).await,
        };
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        let mut pauses = Pauses::new();
        while matches!(sandbox.state()?, State::Live(_)) {
            if tokio::time::Instant::now() > deadline {
                // Its helpers are bound to its life by the kernel.
                let record = record.or_else(|| match sandbox.state() {
                    Ok(State::Live(record)) => record,
                    _ => None,
                });
                kill(record.as_ref())?;
                break;
            }
            // The lock that is looked at tells nobody when it is free.
            match process.take() {
                Some(process) => {
                    let _ = tokio::time::timeout_at(deadline, process.readable()).await;
                }
                None => pauses.next().await,
            }
        }
        wait_unlocked(sandbox).await?;
        self.tidy(sandbox)?;
        match asked {
            Err(error) if error.code != Code::Timeout => Err(error),
            _ => Ok(()),
        }
    }
}

async fn wait_unlocked(sandbox: &SandboxDir) -> Result<(), Error> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let mut pauses = Pauses::new();
    while matches!(sandbox.state()?, State::Live(_)) {
        if tokio::time::Instant::now() > deadline {
            return Err(Error::new(
                Code::Busy,
                format!("sandbox `{}` does not go down", sandbox.name()),
            ));
        }
        pauses.next().await;
    }
    Ok(())
}

/// Pauses between two looks at what tells nobody when it changes: short ones
/// first, since most of it changes soon or not for long.
struct Pauses(Duration);

impl Pauses {
    const LONGEST: Duration = Duration::from_millis(20);

    const fn new() -> Self {
        Self(Duration::from_millis(1))
    }

    async fn next(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = Self::LONGEST.min(self.0 * 2);
    }
}

/// Ends a supervisor that does not listen any more.
fn kill(record: Option<&RunRecord>) -> Result<(), Error> {
    let Some(record) = record else { return Ok(()) };
    if let Some(process) = supervisor(record)? {
        sbx_sys::process::signal(&process, Signal::KILL).map_err(unended)?;
    }
    Ok(())
}

/// The supervisor that a record names. Its process id is believed only for
/// this boot and while its lock is held.
fn supervisor(record: &RunRecord) -> Result<Option<OwnedFd>, Error> {
    if record.boot_id != sbx_sys::process::boot_id().map_err(unended)? {
        return Ok(None);
    }
    sbx_sys::process::open(record.pid).map_err(unended)
}

/// Ends a supervisor that starts a sandbox, and what it has started. One that
/// waits for the kernel cannot end in good order.
async fn break_off(process: OwnedFd) -> Result<(), Error> {
    sbx_sys::process::signal(&process, Signal::TERM).map_err(unended)?;
    let process = watched(process)?;
    match tokio::time::timeout(IN_GOOD_ORDER, process.readable()).await {
        Ok(_) => Ok(()),
        Err(_) => sbx_sys::process::signal(process.get_ref(), Signal::KILL).map_err(unended),
    }
}

/// A process whose end the kernel tells.
fn watched(process: OwnedFd) -> Result<AsyncFd<OwnedFd>, Error> {
    crate::docker::readiness(process)
        .map_err(|source| Error::new(Code::Io, "cannot watch a supervisor").because(source))
}

fn unended(source: sbx_sys::Error) -> Error {
    Error::new(Code::Io, "cannot end a supervisor").because(source)
}

/// Waits for the spawner of a supervisor that is gone, which ends with it, and
/// kills one that stands still; its children go with it.
fn end_spawner(record: &RunRecord) {
    let running = record.spawner.as_ref().map(ProcessId::open);
    let Some(Ok(Some(spawner))) = running else {
        return;
    };
    let deadline = Instant::now() + LAST_ACTS;
    while Instant::now() < deadline {
        if sbx_sys::process::has_ended(&spawner).unwrap_or(true) {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // What cannot be killed is not ours any more.
    let _ = sbx_sys::process::signal(&spawner, rustix::process::Signal::KILL);
}

fn status(state: &State) -> Status {
    match state {
        State::Stopped => Status::Stopped,
        // What a killed supervisor left is repaired by the next command.
        State::Crashed(_) => Status::Stopped,
        State::Live(None) => Status::Starting,
        State::Live(Some(record)) => match record.phase {
            Phase::Starting => Status::Starting,
            Phase::Running => Status::Running,
            Phase::Stopping => Status::Stopping,
        },
    }
}
