//! `ls`, `start`, `stop`, `rm`.

use std::time::Duration;

use super::start::Stay;
use super::{Engine, PATIENCE};
use crate::command::{
    ActedReply, Code, Error, Failed, ListReply, LsRequest, Reply, RmRequest, StartRequest, Status,
    StopRequest, Ui,
};
use crate::store::{SandboxDir, State};

/// Seconds a sandbox gets to end by itself when nobody said how many.
const GRACE_S: u32 = 10;

impl Engine {
    pub(super) fn ls(&self, request: LsRequest) -> Result<Reply, Error> {
        let mut sandboxes: Vec<_> = self
            .store()
            .list()?
            .iter()
            .map(|sandbox| self.brief(sandbox))
            .collect();
        if !request.all {
            sandboxes.retain(|sandbox| sandbox.status != Status::Broken);
        }
        Ok(Reply::List(ListReply { sandboxes }))
    }

    pub(super) async fn start_all(
        &self,
        request: &StartRequest,
        ui: &mut dyn Ui,
    ) -> Result<Reply, Error> {
        let mut acted = acted("started");
        for name in &request.names {
            let started = match self.find(name) {
                Ok(sandbox) => self
                    .bring_up(&sandbox, Stay::UntilStopped, ui)
                    .await
                    .map(drop),
                Err(error) => Err(error),
            };
            note(&mut acted, name, started);
        }
        Ok(Reply::Acted(acted))
    }

    pub(super) async fn stop_all(&self, request: &StopRequest) -> Result<Reply, Error> {
        let grace = Duration::from_secs(request.grace_s.unwrap_or(GRACE_S).into());
        let mut acted = acted("stopped");
        for name in &request.names {
            let stopped = match self.find(name) {
                Ok(sandbox) => self.bring_down(&sandbox, grace).await,
                Err(error) => Err(error),
            };
            note(&mut acted, name, stopped);
        }
        Ok(Reply::Acted(acted))
    }

    pub(super) async fn remove(
        &self,
        request: &RmRequest,
        ui: &mut dyn Ui,
    ) -> Result<Reply, Error> {
        let names = if request.all {
            self.store()
                .list()?
                .iter()
                .map(|sandbox| sandbox.name().clone())
                .collect()
        } else {
            request.names.clone()
        };
        let mut acted = acted("removed");
        let found: Vec<_> = names
            .iter()
            .filter_map(|name| match self.find(name) {
                Ok(sandbox) => Some(sandbox),
                Err(error) => {
                    note(&mut acted, name, Err(error));
                    None
                }
            })
            .collect();
        if !found.is_empty() && !request.force {
            let question = self.question(&found);
            if !ui.confirm(&question, "--force")? {
                return Err(Error::new(Code::Declined, "nothing was removed"));
            }
        }
        for sandbox in &found {
            let removed = self.remove_one(sandbox).await;
            note(&mut acted, sandbox.name(), removed);
        }
        Ok(Reply::Acted(acted))
    }

    async fn remove_one(&self, sandbox: &SandboxDir) -> Result<(), Error> {
        self.bring_down(sandbox, Duration::from_secs(2)).await?;
        let leave = sandbox.change(PATIENCE)?;
        // Somebody may have started it while we waited.
        if matches!(sandbox.state()?, State::Live(_)) {
            return Err(Error::new(
                Code::Busy,
                format!("sandbox `{}` was started again", sandbox.name()),
            ));
        }
        self.remove_containers(sandbox).await?;
        self.store().remove(sandbox, &leave)
    }

    fn question(&self, found: &[SandboxDir]) -> String {
        let mut lines = Vec::new();
        for sandbox in found {
            let mut notes = Vec::new();
            if matches!(sandbox.state(), Ok(State::Live(_))) {
                notes.push("running".to_owned());
            }
            if let Ok(record) = sandbox.record() {
                let held = self.held(sandbox, &record.spec).len();
                if held > 0 {
                    notes.push(format!("{held} held changes are lost"));
                }
            }
            let notes = if notes.is_empty() {
                String::new()
            } else {
                format!(" ({})", notes.join(", "))
            };
            lines.push(format!("{}{notes}", sandbox.name()));
        }
        format!("remove {}? workspace files stay", lines.join(", "))
    }
}

fn acted(act: &'static str) -> ActedReply {
    ActedReply {
        act,
        done: Vec::new(),
        failed: Vec::new(),
    }
}

fn note(acted: &mut ActedReply, name: &sbx_spec::SandboxName, outcome: Result<(), Error>) {
    match outcome {
        Ok(()) => acted.done.push(name.clone()),
        Err(error) => acted.failed.push(Failed {
            name: name.clone(),
            error,
        }),
    }
}
