//! The containers of an engine in a plan.

use std::path::PathBuf;

use sbx_spec::{ByteSize, EnvVar, SandboxSpec, TmpfsMount, VolumeMount};
use serde::{Deserialize, Serialize};

use super::KitProgram;
use crate::docker::Endpoint;

/// A container of the user's engine, and the one that keeps its network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Docker {
    /// The engine, and whose the containers are.
    pub engine: DockerEngine,
    /// The image, by its id.
    pub image: String,
    /// The image of the network's keeper, by its id.
    pub network_image: String,
    /// The agent's programs, if it has any.
    pub kit: Option<KitProgram>,
    /// Our program inside.
    pub guest: PathBuf,
    /// Most memory.
    pub memory: ByteSize,
    /// Most processor time, in thousandths of a processor.
    pub cpu_millis: u32,
    /// Most processes and threads.
    pub pids: u32,
    /// Volumes of the engine.
    pub volumes: Vec<VolumeMount>,
    /// Directories in memory.
    pub tmpfs: Vec<TmpfsMount>,
}

/// An engine, as far as what is asked of it depends on that.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DockerEngine {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// What `ssh` gets of the caller's environment, if it leads there.
    pub ssh: Vec<(String, String)>,
    /// What it calls itself.
    pub name: String,
    /// What its containers of ours are labelled with.
    pub owner: String,
    /// Whether it mounts files of this host; if not, programs are copied.
    pub local: bool,
    /// Whether it is Podman, which says some things in other words.
    pub podman: bool,
    /// Whether it runs as an ordinary user.
    pub rootless: bool,
    /// Whether its containers can have tap devices.
    pub tap: bool,
    /// A file with the filter of system calls, for an engine that takes no
    /// other form of it.
    pub filter: Option<PathBuf>,
    /// The same for the keeper of a network without a tap device.
    pub keeper_filter: Option<PathBuf>,
}

/// What a container of an engine is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DockerFiles {
    /// The engine, and whose the containers are.
    pub engine: DockerEngine,
    /// The image, by its id.
    pub image: String,
    /// Variables that the image gives to its programs.
    pub env: Vec<(String, String)>,
    /// The image of the network's keeper, by its id.
    pub network_image: String,
    /// The agent's programs, if it has any.
    pub kit: Option<PathBuf>,
    /// Our program inside.
    pub guest: PathBuf,
    /// Uid and gid of the agent.
    pub agent: (u32, u32),
    /// What the user is warned of.
    pub warnings: Vec<String>,
}

pub(super) fn docker(spec: &SandboxSpec, files: &DockerFiles) -> Docker {
    Docker {
        engine: files.engine.clone(),
        image: files.image.clone(),
        network_image: files.network_image.clone(),
        kit: files.kit.clone().map(|path| KitProgram {
            name: spec.kit.clone(),
            path,
        }),
        guest: files.guest.clone(),
        memory: spec.limits.memory,
        cpu_millis: spec.limits.cpus.milli(),
        pids: spec.limits.pids,
        volumes: spec.volumes.clone(),
        tmpfs: spec.tmpfs.clone(),
    }
}

/// What the image gives to its programs; the agent's own come first in its
/// path.
pub(super) fn env(spec: &SandboxSpec, files: &DockerFiles) -> Vec<EnvVar> {
    let known = |name: &String| sbx_spec::is_variable_name(name);
    let taken = files
        .env
        .iter()
        .filter(|(name, _)| known(name) && name != "HOME");
    let variable = |(name, value): &(String, String)| {
        let value = match (name.as_str(), &files.kit) {
            ("PATH", Some(_)) => format!("/opt/sbx/kits/{}/bin:{value}", spec.kit),
            _ => value.clone(),
        };
        EnvVar {
            name: name.clone(),
            value,
        }
    };
    taken.map(variable).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use sbx_spec::{EngineImage, Isolation, Pull};
    use serde_json::json;

    use super::super::tests::{facts, network, spec};
    use super::super::{Artifacts, plan};
    use super::*;

    /// A Docker of this host.
    pub(crate) fn engine() -> DockerEngine {
        DockerEngine {
            endpoint: Endpoint::Unix("/run/e.sock".into()),
            ssh: Vec::new(),
            name: "Docker 28".to_owned(),
            owner: "a1".to_owned(),
            local: true,
            podman: false,
            rootless: false,
            tap: true,
            filter: None,
            keeper_filter: None,
        }
    }

    #[test]
    fn the_plan_of_an_engine_s_container_is_this() {
        let spec = SandboxSpec {
            isolation: Isolation::Docker,
            image: Some(EngineImage {
                reference: Some("node:20".to_owned()),
                pull: Pull::Missing,
            }),
            ..spec()
        };
        let files = DockerFiles {
            engine: engine(),
            image: "sha256:1".to_owned(),
            env: vec![
                ("PATH".to_owned(), "/opt/node/bin:/bin".to_owned()),
                ("HOME".to_owned(), "/x".to_owned()),
            ],
            network_image: "sha256:2".to_owned(),
            kit: Some("/cache/kit".into()),
            guest: "/lib/sbx-guest".into(),
            agent: (0, 0),
            warnings: vec!["as root".to_owned()],
        };
        let planned = plan(
            &spec,
            &facts(),
            &Artifacts::Docker(Box::new(files)),
            network(),
        )
        .unwrap();
        assert_eq!(
            serde_json::to_value(&planned.boundary).unwrap(),
            json!({ "docker": {
                "engine": {
                    "endpoint": { "unix": "/run/e.sock" }, "ssh": [],
                    "name": "Docker 28", "owner": "a1", "local": true,
                    "podman": false, "rootless": false, "tap": true,
                    "filter": null, "keeper_filter": null,
                },
                "image": "sha256:1",
                "network_image": "sha256:2",
                "kit": { "name": "claude", "path": "/cache/kit" },
                "guest": "/lib/sbx-guest",
                "memory": 1_073_741_824_u64,
                "cpu_millis": 2000,
                "pids": 4096,
                "volumes": [],
                "tmpfs": [],
            }})
        );
        assert_eq!(planned.identity.agent, (0, 0));
        assert_eq!(planned.warnings, ["as root"]);
        let first = &planned.guest.env[0];
        let path = "/opt/sbx/kits/claude/bin:/opt/node/bin:/bin";
        assert_eq!((first.name.as_str(), first.value.as_str()), ("PATH", path));
        assert!(
            planned
                .guest
                .env
                .iter()
                .all(|variable| variable.name != "HOME")
        );
        assert_eq!(planned.ceiling.memory, super::super::HEADROOM);
    }
}
