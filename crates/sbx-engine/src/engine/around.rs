//! What is said around a session: before its first byte, and after its last.

use std::time::Duration;

use sbx_spec::{Isolation, Origin, SandboxSpec, WorkspaceGuard};

use super::Engine;
use super::policy::Effective;
use super::run::Program;
use crate::command::{
    Afterwards, EndBlock, Entered, Error, PolicyListed, ShareBrief, StartBlock, Ui,
};
use crate::plan::{Accelerator, Boundary, Plan};
use crate::store::SandboxDir;

/// What is told of a workspace whose guard holds what exists.
pub(super) const LESS_HELD: &str =
    "what the host obeys there is read-only if it exists, new names are not held";

impl Engine {
    /// What the user is told before a session.
    pub(super) fn start_block(
        &self,
        sandbox: &SandboxDir,
        spec: &SandboxSpec,
        how: Entered,
        plan: Option<&Plan>,
        program: &Program,
        policy: &Effective,
    ) -> StartBlock {
        let accel = match plan {
            Some(plan) => plan.boundary.accelerator(),
            None => self.running_accelerator(sandbox),
        };
        let contained = spec.isolation != Isolation::MicroVm;
        let (enforced_by, accel_note) = match accel {
            None if spec.isolation == Isolation::Docker => (by_engine(plan), None),
            None if contained => ("user namespaces, seccomp, Landlock".to_owned(), None),
            Some(Accelerator::Kvm) => ("QEMU with KVM".to_owned(), None),
            Some(Accelerator::Tcg) => (
                "QEMU".to_owned(),
                Some("emulated, because there is no usable KVM; about 20 times slower".to_owned()),
            ),
            None => ("QEMU".to_owned(), None),
        };
        StartBlock {
            name: spec.name.clone(),
            agent: spec.kit.clone(),
            how,
            isolation: spec.isolation,
            guard: spec.guard,
            enforced_by,
            accel_note,
            shares: spec
                .shares
                .iter()
                .map(|share| ShareBrief {
                    host: share.host.clone(),
                    guest: share.guest.clone(),
                    mode: match share.access {
                        sbx_spec::Access::ReadOnly => "ro".to_owned(),
                        sbx_spec::Access::ReadWrite if spec.guard == WorkspaceGuard::Existing => {
                            format!("direct; {LESS_HELD}")
                        }
                        sbx_spec::Access::ReadWrite => "direct".to_owned(),
                    },
                })
                .collect(),
            network: policy.preset,
            rules: policy
                .rules
                .iter()
                .filter(|rule| matches!(rule.origin(), Origin::User | Origin::Sandbox))
                .map(PolicyListed::of)
                .collect(),
            ports: self.brief(sandbox).ports,
            wanted: (policy.wanted.iter())
                .map(|rule| rule.resource().to_string())
                .collect(),
            plain_credentials: program
                .credentials
                .iter()
                .chain(
                    program
                        .env
                        .iter()
                        .filter(|v| sbx_spec::is_credential(&v.name)),
                )
                .map(|variable| variable.name.clone())
                .collect(),
            held: self.held(sandbox, spec),
        }
    }

    /// After a session: what is held, and what becomes of the sandbox.
    pub(super) async fn close(
        &self,
        sandbox: &SandboxDir,
        remove: bool,
        ui: &mut dyn Ui,
    ) -> Result<(), Error> {
        let spec = sandbox.record()?.spec;
        let held = self.held(sandbox, &spec);
        let others = match crate::client::inspect(&self.runtime(sandbox.name())).await {
            Ok(known) => known.get("sessions").and_then(serde_json::Value::as_u64),
            Err(_) => None,
        };
        let then = match (remove, others) {
            (true, Some(1..)) => {
                ui.warn("other sessions use the sandbox: it is not removed");
                Afterwards::StaysUp
            }
            (true, _) => {
                self.bring_down(sandbox, Duration::from_secs(2)).await?;
                let leave = sandbox.change(super::PATIENCE)?;
                self.remove_containers(sandbox).await?;
                self.store().remove(sandbox, &leave)?;
                Afterwards::Removed
            }
            (false, None) => Afterwards::Down,
            (false, Some(0)) => Afterwards::StopsIn(self.config.stop_grace_s()),
            (false, Some(_)) => Afterwards::StaysUp,
        };
        ui.closing(&EndBlock {
            name: spec.name,
            held,
            then,
        });
        Ok(())
    }
}

/// What keeps a container of an engine in, and what of it is the engine's.
fn by_engine(plan: Option<&Plan>) -> String {
    let engine = match plan.map(|plan| &plan.boundary) {
        Some(Boundary::Docker(docker)) => Some(&docker.engine),
        _ => None,
    };
    let root = match engine {
        Some(engine) if engine.rootless => "root inside is you, with few of its powers",
        Some(_) => "root inside is the host's root with few of its powers",
        None => "root inside is root of the engine with few of its powers",
    };
    let name = engine.map_or("the engine", |engine| engine.name.as_str());
    format!("{name}, seccomp, Landlock; {root}")
}
