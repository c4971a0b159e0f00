//! The container of a plan.

use std::path::PathBuf;

use sbx_spec::{ByteSize, KitName, SandboxSpec, TmpfsMount, VolumeMount, WorkspaceGuard};
use sbx_sys::userns::Maps;
use serde::{Deserialize, Serialize};

use crate::command::{Code, Error};

/// Namespaces and a root on the host's own kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Container {
    /// The template, as a directory.
    pub tree: PathBuf,
    /// The agent's programs, if it has any.
    pub kit: Option<KitProgram>,
    /// Our program inside.
    pub guest: PathBuf,
    /// The sandbox's own files.
    pub directory: PathBuf,
    /// Its ids, and whose they are on the host.
    pub maps: Maps,
    /// What stands between it and what of the host it sees.
    pub guard: WorkspaceGuard,
    /// The memory it was given, which its file systems in memory are sized
    /// by.
    pub memory: ByteSize,
    /// Directories among its own files.
    pub volumes: Vec<VolumeMount>,
    /// Directories in memory.
    pub tmpfs: Vec<TmpfsMount>,
}

/// The programs of an agent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KitProgram {
    /// The kit.
    pub name: KitName,
    /// Their directory.
    pub path: PathBuf,
}

/// The directories a container is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContainerFiles {
    /// The template.
    pub tree: PathBuf,
    /// The agent's programs, if it has any.
    pub kit: Option<PathBuf>,
    /// Our program inside.
    pub guest: PathBuf,
    /// The sandbox's own files.
    pub directory: PathBuf,
    /// The caller's ids for it.
    pub maps: Maps,
}

pub(super) fn container(spec: &SandboxSpec, files: &ContainerFiles) -> Container {
    Container {
        tree: files.tree.clone(),
        kit: files.kit.clone().map(|path| KitProgram {
            name: spec.kit.clone(),
            path,
        }),
        guest: files.guest.clone(),
        directory: files.directory.clone(),
        maps: files.maps.clone(),
        guard: spec.guard,
        memory: spec.limits.memory,
        volumes: spec.volumes.clone(),
        tmpfs: spec.tmpfs.clone(),
    }
}

/// Whether what of the host it sees can be guarded as it is to be.
///
/// # Errors
/// If there is no way here to serve it.
pub(crate) fn guarded(spec: &SandboxSpec, fuse: &Result<(), String>) -> Result<(), Error> {
    match fuse {
        Err(why) if spec.guard == WorkspaceGuard::Full && !spec.shares.is_empty() => {
            let what = format!("cannot guard the workspace of a container: {why}");
            Err(Error::new(Code::HostUnfit, what).hint(
                "let this user open /dev/fuse (`modprobe fuse`, mode 0666), or run a microVM; with \
                 `--workspace-guard existing` nothing new that the host would obey is held",
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use sbx_sys::cgroup::Controller;
    use serde_json::json;

    use super::super::tests::{facts, network, spec};
    use super::super::{Artifacts, Plan, plan};
    use super::*;
    use crate::facts::{HostFacts, Virtualisation};

    fn planned(facts: &HostFacts) -> Plan {
        let spec = SandboxSpec {
            isolation: sbx_spec::Isolation::Container,
            volumes: vec![VolumeMount {
                name: "data".to_owned(),
                guest: sbx_spec::GuestPath::new("/data").unwrap(),
            }],
            ..spec()
        };
        let files = ContainerFiles {
            tree: "/cache/tree".into(),
            kit: Some("/cache/kit".into()),
            guest: "/lib/sbx-guest".into(),
            directory: "/state/box".into(),
            maps: Maps::own(1000, 1001).unwrap(),
        };
        plan(&spec, facts, &Artifacts::Container(files), network()).unwrap()
    }

    #[test]
    fn the_plan_of_a_container_is_this() {
        let planned = planned(&facts());
        let range = |id: u32| json!([{ "inside": id, "outside": id, "count": 1 }]);
        assert_eq!(
            serde_json::to_value(&planned.boundary).unwrap(),
            json!({ "container": {
                "tree": "/cache/tree",
                "kit": { "name": "claude", "path": "/cache/kit" },
                "guest": "/lib/sbx-guest",
                "directory": "/state/box",
                "guard": "full",
                "maps": { "uids": range(1000), "gids": range(1001) },
                "memory": 1_073_741_824_u64,
                "volumes": [{ "name": "data", "guest": "/data" }],
                "tmpfs": [],
            }})
        );
        assert_eq!(planned.guest.kits.len(), 1);
        assert!(planned.network.is_some());
    }

    #[test]
    fn a_container_needs_no_machine_and_only_the_control_group_holds_it() {
        let bare = HostFacts {
            qemu: None,
            virtualisation: Virtualisation::Unusable {
                reason: "no flag".to_owned(),
            },
            ..facts()
        };
        let unheld = planned(&bare);
        assert_eq!(unheld.warnings.len(), 1, "{:?}", unheld.warnings);
        let ceiling = unheld.ceiling;
        assert_eq!(
            (ceiling.cpu_millis, ceiling.tasks),
            (Some(2000), 4096 + 128 + 8)
        );
        assert!(ceiling.required.is_empty());
        let all = vec![Controller::Memory, Controller::Cpu, Controller::Pids];
        let held = HostFacts {
            control_group: Ok(all),
            ..bare
        };
        assert_eq!(planned(&held).warnings, Vec::<String>::new());
    }

    #[test]
    fn a_guard_that_cannot_be_had_stops_the_start_and_one_that_was_not_asked_for_does_not() {
        let without = Err("cannot open `/dev/fuse`: No such file or directory".to_owned());
        let full = SandboxSpec {
            isolation: sbx_spec::Isolation::Container,
            ..spec()
        };
        let refused = guarded(&full, &without).unwrap_err();
        assert_eq!(refused.code, Code::HostUnfit);
        assert!(refused.message.contains("/dev/fuse"), "{refused:?}");
        let hint = refused.hint.unwrap();
        assert!(hint.contains("--workspace-guard existing"), "{hint}");
        assert!(guarded(&full, &Ok(())).is_ok());
        let existing = SandboxSpec {
            guard: WorkspaceGuard::Existing,
            ..full.clone()
        };
        assert!(guarded(&existing, &without).is_ok());
        let nothing = SandboxSpec {
            shares: Vec::new(),
            ..full
        };
        assert!(guarded(&nothing, &without).is_ok());
    }
}
