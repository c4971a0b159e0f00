//! `inspect` and `version`: everything that is known.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use sbx_spec::{ByteSize, Isolation, Promise, SandboxName, SandboxSpec};
use serde_json::Value;

use super::Engine;
use crate::command::{
    Enforced, Error, HeldName, InspectReply, PromiseKept, Reply, VersionReply, Wall,
};
use crate::plan::Accelerator;
use crate::store::{SandboxDir, State};

/// Most held names that are listed of one sandbox.
const MAX_HELD: usize = 1000;

impl Engine {
    pub(super) async fn inspect(&self, name: &SandboxName) -> Result<Reply, Error> {
        let sandbox = self.find(name)?;
        let mut spec = sandbox.record()?.spec;
        let state = sandbox.state()?;
        let known = match &state {
            State::Live(_) => crate::client::inspect(&self.runtime(name)).await.ok(),
            State::Stopped | State::Crashed(_) => None,
        };
        let number = |key: &str| known.as_ref()?.get(key)?.as_u64();
        let text = |key: &str| known.as_ref()?.get(key)?.as_str().map(str::to_owned);
        let problem = match &state {
            State::Crashed(record) => Some(format!(
                "its supervisor (process {}) was killed; the next command that uses it repairs it",
                record.pid
            )),
            State::Live(_) | State::Stopped => None,
        };
        let up_s = match &state {
            State::Live(Some(run)) => Some(crate::store::now().saturating_sub(run.started)),
            _ => None,
        };
        let held = self.held(&sandbox, &spec);
        let walls = known.as_ref().map(walls).unwrap_or_default();
        for variable in &mut spec.env {
            variable.value.clear();
        }
        Ok(Reply::Inspect(Box::new(InspectReply {
            sandbox: self.brief(&sandbox),
            problem,
            supervisor: number("pid").and_then(|pid| u32::try_from(pid).ok()),
            up_s,
            sessions: number("sessions").and_then(|count| u32::try_from(count).ok()),
            driver: known
                .as_ref()
                .filter(|_| spec.isolation == Isolation::MicroVm)
                .map(|_| "qemu".to_owned()),
            accel: text("accel"),
            kernel: text("kernel"),
            disk_used: sandbox
                .join("scratch.img")
                .metadata()
                .ok()
                .map(|found| ByteSize::bytes(found.blocks().saturating_mul(512))),
            limits: enforced(&spec, &walls),
            promises: promises(&spec),
            walls,
            held,
            directory: sandbox.join(""),
            spec,
        })))
    }

    pub(super) fn version(&self) -> Reply {
        let (kernel, template) = self.in_place();
        Reply::Version(VersionReply {
            sbx: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: sbx_proto::GENERATION,
            kernel,
            template,
            qemu: super::doctor::qemu_version(),
        })
    }

    /// What of the workspace is held back from the host.
    pub(super) fn held(&self, sandbox: &SandboxDir, spec: &SandboxSpec) -> Vec<HeldName> {
        let mut held = Vec::new();
        for (number, share) in spec.shares.iter().enumerate() {
            let path = sandbox.join("shadow").join(format!("s{number}"));
            let Ok(shadow) = sbx_sys::file::open_dir(&path) else {
                continue;
            };
            let entries = sbx_share::held::list(shadow.as_fd()).unwrap_or_default();
            for entry in entries.into_iter().take(MAX_HELD) {
                held.push(HeldName {
                    share: share.host.clone(),
                    path: entry.path,
                });
            }
        }
        held
    }

    /// What executes a running sandbox's instructions, from its own record.
    pub(super) fn running_accelerator(&self, sandbox: &SandboxDir) -> Option<Accelerator> {
        match sandbox.state() {
            Ok(State::Live(Some(run))) => run.accelerator,
            _ => None,
        }
    }
}

/// How far its isolation and its guard keep what is promised.
fn promises(spec: &SandboxSpec) -> Vec<PromiseKept> {
    let told = |promise: &Promise| {
        let kept = promise.kept(spec.isolation, spec.guard);
        PromiseKept {
            promise: *promise,
            says: promise.says().to_owned(),
            kept: kept.word().to_owned(),
            caveat: kept.caveat().map(str::to_owned),
        }
    };
    Promise::ALL.iter().map(told).collect()
}

/// Who enforces each limit. `walls` are those of the running sandbox.
fn enforced(spec: &SandboxSpec, walls: &[Wall]) -> Vec<Enforced> {
    if spec.isolation == Isolation::Docker {
        return enforced_by_engine(spec);
    }
    if spec.isolation == Isolation::Container {
        return enforced_on_container(spec, walls);
    }
    let group = walls.iter().find(|wall| wall.wall == "control group");
    let note = group.and_then(|wall| wall.note.as_deref()).unwrap_or("");
    let beside = match group {
        Some(wall) if wall.up => format!("; the host's control group of all processes: {note}"),
        Some(_) => format!("; no control group of the host: {note}"),
        None => String::new(),
    };
    let cpus = if spec.limits.cpus.is_fraction() {
        "processor time of the host's control group; virtual processors of the machine"
    } else {
        "virtual processors of the machine"
    };
    let limit = |limit: &str, value: String, by: &str| Enforced {
        limit: limit.to_owned(),
        value,
        by: by.to_owned(),
    };
    vec![
        limit("cpus", spec.limits.cpus.to_string(), cpus),
        limit(
            "memory",
            spec.limits.memory.to_string(),
            &format!("size of the virtual machine{beside}"),
        ),
        limit(
            "disk",
            spec.limits.disk.to_string(),
            "size of the sandbox's disk",
        ),
        limit(
            "pids",
            spec.limits.pids.to_string(),
            "guest kernel (cgroup of all sessions)",
        ),
    ]
}

/// The same of a container of an engine, which refuses what it cannot hold.
fn enforced_by_engine(spec: &SandboxSpec) -> Vec<Enforced> {
    let limits = &spec.limits;
    let limit = |limit: &str, value: String| Enforced {
        limit: limit.to_owned(),
        value,
        by: "the engine's control group of the agent's container".to_owned(),
    };
    vec![
        limit("cpus", limits.cpus.to_string()),
        limit("memory", limits.memory.to_string()),
        Enforced {
            by: "nothing: what the storage of the engine has".to_owned(),
            ..limit("disk", "none".to_owned())
        },
        limit("pids", limits.pids.to_string()),
    ]
}

/// The same of a container, which only the host's control group holds.
fn enforced_on_container(spec: &SandboxSpec, walls: &[Wall]) -> Vec<Enforced> {
    let group = walls.iter().find(|wall| wall.wall == "control group");
    let note = group.and_then(|wall| wall.note.as_deref()).unwrap_or("");
    let holds = |word: &str| match group {
        Some(wall) if wall.up && note.contains(word) => {
            format!("the host's control group of all processes: {note}")
        }
        Some(wall) if wall.up => format!("nothing: the host's control group holds {note}"),
        Some(_) => format!("nothing: no control group of the host: {note}"),
        None => "the host's control group of all processes, where there is one".to_owned(),
    };
    let limit = |limit: &str, value: String, by: String| Enforced {
        limit: limit.to_owned(),
        value,
        by,
    };
    let limits = &spec.limits;
    vec![
        limit("cpus", limits.cpus.to_string(), holds("processors")),
        limit("memory", limits.memory.to_string(), holds("memory")),
        limit(
            "disk",
            "none".to_owned(),
            "nothing: what the file system of the sandboxes has".to_owned(),
        ),
        limit("pids", limits.pids.to_string(), holds("tasks")),
    ]
}

/// The walls that each process said are in force.
fn walls(known: &Value) -> Vec<Wall> {
    let walls = known.get("walls").cloned().unwrap_or_default();
    serde_json::from_value(walls).unwrap_or_default()
}
