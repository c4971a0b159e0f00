//! Bringing a sandbox up, and telling how it goes.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use sbx_spec::SandboxName;
use sbx_sys::spawn::Spawn;
use sbx_sys::{memfd, unix};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;

use super::docker::unless_cancelled;
use super::ports::Bound;
use super::{Engine, PATIENCE, Pauses, break_off};
use crate::command::{Code, Entered, Error, Ui};
use crate::facts::HostFacts;
use crate::plan::{Plan, plan};
use crate::store::{Phase, SandboxDir, State};
use crate::supervisor::{PROGRAM, PUBLISHED, STATUS, StartStatus, SuperviseConfig, VMM};

/// How long a start may take altogether: a supervisor gives up before.
const START_LIMIT: Duration = Duration::from_secs(240);
/// How long an engine may take to end what a start that was broken off made.
const DOWN_LIMIT: Duration = Duration::from_secs(5);

/// Whether a sandbox that is started now goes down again by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stay {
    /// Once nobody has used it for the configured grace.
    WhileUsed,
    /// Not until it is told to.
    UntilStopped,
}

impl Engine {
    /// Makes sure that `sandbox` runs. Returns whether it was found running,
    /// and the plan if it was started now.
    pub(super) async fn bring_up(
        &self,
        sandbox: &SandboxDir,
        stay: Stay,
        ui: &mut dyn Ui,
    ) -> Result<(Entered, Option<Plan>), Error> {
        // One command starts it; the others find it running.
        let _leave = sandbox.change(PATIENCE)?;
        if settled(sandbox).await? {
            // Whoever started it may have been killed before it told.
            self.refresh_policy(sandbox, None).await?;
            if stay == Stay::UntilStopped {
                crate::client::stay(&self.runtime(sandbox.name())).await?;
            }
            return Ok((Entered::Joined, None));
        }
        if let Some(crashed) = self.tidy(sandbox)? {
            ui.warn(&format!(
                "the last supervisor of `{}` (process {}) was killed; starting anew",
                sandbox.name(),
                crashed.pid
            ));
        }
        let record = sandbox.record()?;
        let facts = HostFacts::gather_for(&self.caller, record.spec.isolation);
        // What this host cannot do is said before many minutes of building.
        self.keep_registries(sandbox)?;
        let network = self.effective(Some((sandbox, &record.spec)))?.network();
        let foreseen = unless_cancelled(ui, self.foreseen(&record.spec)).await?.0;
        plan(&record.spec, &facts, &foreseen, network.clone())?;
        let files = self.prepare(&record.spec, sandbox, ui).await?;
        let plan = plan(&record.spec, &facts, &files, network)?;
        for warning in &plan.warnings {
            ui.warn(warning);
        }
        let bound = self.bind_published(sandbox)?;
        let mut started = self.supervise(sandbox, &plan, &bound, stay, ui).await;
        // An emulated machine on a busy host sometimes stands still before
        // its first instruction. Nothing of the sandbox has run then.
        if matches!(&started, Err(error) if error.code == Code::Timeout) {
            ui.warn("the machine did not come up in time and is started once more");
            settled(sandbox).await?;
            self.tidy(sandbox)?;
            started = self.supervise(sandbox, &plan, &bound, stay, ui).await;
        }
        started?;
        if let Err(error) = self.refresh_policy(sandbox, Some(&plan)).await {
            // It would go on by rules that are not those that are written.
            self.bring_down(sandbox, Duration::ZERO).await?;
            return Err(error);
        }
        Ok((Entered::Started, Some(plan)))
    }

    /// Starts the supervisor and waits until it is ready, or has failed.
    async fn supervise(
        &self,
        sandbox: &SandboxDir,
        plan: &Plan,
        bound: &[Bound],
        stay: Stay,
        ui: &mut dyn Ui,
    ) -> Result<(), Error> {
        let name = sandbox.name();
        let failed = |source: sbx_sys::Error| {
            Error::new(Code::Io, format!("cannot start the supervisor of `{name}`")).because(source)
        };
        let io = |source: std::io::Error| {
            Error::new(Code::Io, format!("cannot start the supervisor of `{name}`")).because(source)
        };
        let config = SuperviseConfig {
            sandboxes: self.directories.sandboxes(),
            runtime: self.runtime(name),
            plan: plan.clone(),
            published: bound.iter().map(|(publication, _)| *publication).collect(),
            stay: stay == Stay::UntilStopped,
            idle_s: self.config.stop_grace_s(),
        };
        let text = serde_json::to_vec(&config)
            .map_err(|source| Error::new(Code::Internal, "cannot write").because(source))?;
        let (near, far) = unix::stream_pair().map_err(failed)?;
        let log = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(sandbox.join("supervisor.err"))
            .map_err(io)?;
        let mut spawn = Spawn::path(&self.caller.program)
            .arg("supervise")
            .with_fd(log, 2)
            .with_fd(memfd::sealed("sbx-supervise", &text).map_err(failed)?, 3)
            .with_fd(far, STATUS)
            .with_fd(open_program(&self.caller.program)?, PROGRAM)
            .with_fd(open_program(&self.companion("sbx-vmm")?)?, VMM);
        for ((_, listener), number) in bound.iter().zip(PUBLISHED..) {
            let listener = listener.try_clone().map_err(io)?;
            spawn = spawn.with_fd(listener, number);
        }
        spawn.argv = vec!["sbx".into(), "supervise".into()];
        spawn.new_session = true;
        let child = spawn.spawn().map_err(failed)?;
        near.set_nonblocking(true).map_err(io)?;
        let stream = UnixStream::from_std(near).map_err(io)?;
        let mut cancel = ui.cancel();
        tokio::select! {
            heard = tokio::time::timeout(START_LIMIT, hear(stream, ui)) => {
                heard.unwrap_or_else(|_| Err(Error::new(
                    Code::Timeout,
                    format!("sandbox `{name}` did not come up"),
                ).hint(format!("see why with `sbx logs {name}`"))))
            }
            () = cancel.cancelled() => {
                break_off(child.into_pidfd()).await?;
                let down = self.bring_down(sandbox, Duration::ZERO);
                match tokio::time::timeout(DOWN_LIMIT, down).await {
                    Ok(down) => down.and(Err(interrupted(name))),
                    // What is up ends without us, as after a crash.
                    Err(_) => Err(interrupted(name)
                        .hint(format!("its engine does not answer: `sbx rm {name}` once it does"))),
                }
            }
        }
    }

    /// A program of ours that belongs to this one: beside it, or in the
    /// library directory of the same installation. Never one from PATH.
    pub(super) fn companion(&self, name: &str) -> Result<PathBuf, Error> {
        let beside = self.caller.program.parent();
        let candidates = [
            beside.map(|directory| directory.join(name)),
            beside
                .and_then(|directory| directory.parent())
                .map(|prefix| prefix.join("lib/sbx").join(name)),
        ];
        candidates
            .into_iter()
            .flatten()
            .find(|path| path.is_file())
            .ok_or_else(|| {
                Error::new(Code::HostUnfit, format!("our program `{name}` is missing"))
                    .hint("install sbx again: its parts belong side by side")
            })
    }
}

/// A start that the user broke off.
pub(super) fn interrupted(name: &SandboxName) -> Error {
    Error::new(
        Code::Interrupted,
        format!("interrupted while starting `{name}`"),
    )
}

fn open_program(path: &std::path::Path) -> Result<std::os::fd::OwnedFd, Error> {
    std::fs::File::open(path).map(Into::into).map_err(|source| {
        Error::new(
            Code::HostUnfit,
            format!("cannot open our program `{}`", path.display()),
        )
        .because(source)
    })
}

/// Waits for a sandbox that is on its way up or down to get there. True if
/// it runs.
pub(super) async fn settled(sandbox: &SandboxDir) -> Result<bool, Error> {
    let deadline = tokio::time::Instant::now() + START_LIMIT;
    let mut pauses = Pauses::new();
    loop {
        match sandbox.state()? {
            State::Live(Some(run)) if run.phase == Phase::Running => return Ok(true),
            State::Stopped | State::Crashed(_) => return Ok(false),
            State::Live(_) if tokio::time::Instant::now() > deadline => {
                return Err(Error::new(
                    Code::Busy,
                    format!("sandbox `{}` gets neither up nor down", sandbox.name()),
                )
                .hint(format!("end it with `sbx rm -f {}`", sandbox.name())));
            }
            // Its record is a file, and files tell nobody when they change.
            State::Live(_) => pauses.next().await,
        }
    }
}

async fn hear(stream: UnixStream, ui: &mut dyn Ui) -> Result<(), Error> {
    let mut lines = BufReader::new(stream).lines();
    let mut step: Option<String> = None;
    let heard = loop {
        match lines.next_line().await {
            Ok(Some(line)) => match serde_json::from_str(&line) {
                Ok(StartStatus::At(now)) => {
                    if let Some(step) = step.replace(now.clone()) {
                        ui.progress(&step, 1, 1);
                    }
                    ui.progress(&now, 0, 0);
                }
                Ok(StartStatus::Warn(what)) => ui.warn(&what),
                Ok(StartStatus::Ready) => break Ok(()),
                Ok(StartStatus::Failed(error)) => break Err(error),
                Err(_) => {}
            },
            _ => {
                break Err(
                    Error::new(Code::Boot, "the supervisor ended while starting")
                        .hint("see why with `sbx logs`"),
                );
            }
        }
    };
    if let Some(step) = step {
        ui.progress(&step, 1, 1);
    }
    heard
}
