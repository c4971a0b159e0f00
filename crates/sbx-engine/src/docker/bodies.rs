//! What an engine is asked to make: the two containers, as its interface has
//! them. Pure.
//!
//! Whatever is not said here an engine decides by its own defaults, so what
//! guards is said: no network of the engine's, no capability but those that
//! root inside keeps, no new privileges, our filter of system calls, and no
//! log, through which everything of a session would be written to its disk.

use std::collections::BTreeMap;

use sbx_spec::SandboxName;
use sbx_sys::jail::{PAYLOAD_CAPABILITIES, engine_profile};
use serde_json::{Map, Value, json};

use super::config::DockConfig;
use super::{FROM, MADE, OWNER, SANDBOX};
use crate::container::kernel_files::{COVERED_DIRECTORIES, COVERED_FILES};
use crate::plan::DockerEngine;

/// The device that makes tap devices.
pub(super) const TAP: &str = "/dev/net/tun";
/// Where a container finds our program.
pub(super) const GUEST_PROGRAM: &str = "/run/sbx/bin/sbx-guest";
/// What the keeper of the network may take.
const KEEPER_MEMORY: u64 = 64 << 20;
const KEEPER_TASKS: u32 = 16;
/// Open files of a process and processes of a user, where an engine is told.
const FILES: u32 = 16_384;
const OF_USER: u32 = 16_384;
/// What of `/sys` a container does not see: all that programs do not count
/// processors by, as far as its names are the same everywhere.
const COVERED_SYSTEM: [&str; 10] = [
    "block",
    "bus",
    "class",
    "dev",
    "firmware",
    "fs",
    "hypervisor",
    "kernel",
    "module",
    "power",
];
/// Bits of capabilities by number; see capabilities(7).
const CAPABILITIES: [(u8, &str); 11] = [
    (0, "CHOWN"),
    (1, "DAC_OVERRIDE"),
    (3, "FOWNER"),
    (4, "FSETID"),
    (5, "KILL"),
    (6, "SETGID"),
    (7, "SETUID"),
    (8, "SETPCAP"),
    (10, "NET_BIND_SERVICE"),
    (18, "SYS_CHROOT"),
    (31, "SETFCAP"),
];

/// Where the network of a container is.
pub(super) enum Network<'a> {
    /// It has none.
    None,
    /// That of the container with this id.
    Of(&'a str),
}

/// The names of both containers.
pub(super) fn names(config: &DockConfig) -> (String, String) {
    let name = name_of(&config.docker.engine.owner, &config.name);
    (format!("{name}-net"), name)
}

/// The name of the agent's.
pub(super) fn name_of(owner: &str, sandbox: &SandboxName) -> String {
    let mark: String = owner.chars().take(8).collect();
    format!("sbx-{sandbox}-{mark}")
}

/// The labels of everything of a sandbox.
pub(super) fn labels(config: &DockConfig) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        (OWNER, config.docker.engine.owner.clone()),
        (SANDBOX, config.name.to_string()),
    ])
}

/// The container that keeps the network. `filter` is the filter of system
/// calls, as the engine takes it.
pub(super) fn keeper(config: &DockConfig, filter: Option<&str>) -> Value {
    let binds = config
        .binds
        .iter()
        .take(usize::from(config.docker.engine.local));
    let mounts: Vec<_> = binds.map(bind).collect();
    let engine = &config.docker.engine;
    let (added, devices) = match engine.tap {
        true => (
            vec!["NET_ADMIN"],
            json!([{
                "PathOnHost": TAP,
                "PathInContainer": TAP,
                "CgroupPermissions": "rw",
            }]),
        ),
        // Frames are read from a packet socket instead.
        false => (vec!["NET_ADMIN", "NET_RAW"], json!([])),
    };
    let mut host = host(engine, filter, &added, mounts);
    host["NetworkMode"] = json!("none");
    host["ReadonlyRootfs"] = json!(true);
    host["Memory"] = json!(KEEPER_MEMORY);
    host["MemorySwap"] = json!(KEEPER_MEMORY);
    host["PidsLimit"] = json!(KEEPER_TASKS);
    host["Devices"] = devices;
    host["Sysctls"] = sysctls(engine.rootless);
    let mut body = body(config, &config.docker.network_image, "wire");
    body["Hostname"] = json!(config.name.as_str());
    body["HostConfig"] = host;
    marked(body)
}

/// What both containers are: our program, first and alone, with its streams
/// for us. `role` is which of its parts it plays.
fn body(config: &DockConfig, image: &str, role: &str) -> Value {
    json!({
        "Image": image,
        "Entrypoint": [GUEST_PROGRAM, role],
        "Cmd": [],
        "Env": [],
        "User": "0:0",
        "WorkingDir": "/",
        "AttachStdin": true, "AttachStdout": true, "AttachStderr": true,
        "OpenStdin": true, "StdinOnce": true, "Tty": false,
        "StopSignal": "SIGKILL",
        "Healthcheck": { "Test": ["NONE"] },
        "Labels": labels(config),
    })
}

/// What stands around both. `added` are the capabilities that they have.
fn host(engine: &DockerEngine, filter: Option<&str>, added: &[&str], mounts: Vec<Value>) -> Value {
    json!({
        "CapDrop": ["ALL"],
        "CapAdd": added,
        "SecurityOpt": security(filter),
        "LogConfig": { "Type": "none" },
        "RestartPolicy": { "Name": "no" },
        "IpcMode": "private",
        "Mounts": mounts,
        "Ulimits": rlimits(engine),
    })
}

/// Limits of each process. One byte of a core dump is none too, and the kernel
/// then starts no program of the host for what crashes inside. Podman as root
/// gives more of the others than its own host may have, unless it is told.
fn rlimits(engine: &DockerEngine) -> Vec<Value> {
    let limit = |name: &str, most: u32| json!({ "Name": name, "Soft": most, "Hard": most });
    let mut limits = vec![limit("core", 1)];
    if engine.podman && !engine.rootless {
        limits.push(limit("nofile", FILES));
        limits.push(limit("nproc", OF_USER));
    }
    limits
}

/// What is set of the network, none of which root inside can change. Ping
/// without privileges: nothing inside is setuid. Nobody else is on the wire:
/// no address is in doubt, no router to hear.
fn sysctls(few_ids: bool) -> Value {
    // With an engine of an ordinary user the agent is root of its container,
    // and the kernel refuses a range with a group in it that is nobody's.
    let groups = if few_ids { "0 0" } else { "0 2147483647" };
    json!({
        "net.ipv4.ping_group_range": groups,
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv6.conf.all.disable_ipv6": "0",
        "net.ipv6.conf.default.disable_ipv6": "0",
        "net.ipv6.conf.default.accept_dad": "0",
        "net.ipv6.conf.default.accept_ra": "0",
        "net.ipv6.conf.default.dad_transmits": "0",
    })
}

/// The agent's container.
pub(super) fn agent(config: &DockConfig, network: &Network<'_>, filter: Option<&str>) -> Value {
    let docker = &config.docker;
    let added: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| PAYLOAD_CAPABILITIES.bits() & (1 << bit) != 0)
        .map(|(_, name)| *name)
        .collect();
    let mut mounts: Vec<_> = config.binds.iter().map(bind).collect();
    for volume in &docker.volumes {
        mounts.push(json!({
            "Type": "volume",
            "Source": format!("{}-{}", names(config).1, volume.name),
            "Target": volume.guest.as_path(),
            "VolumeOptions": { "Labels": labels(config) },
        }));
    }
    for tmpfs in &docker.tmpfs {
        let mut options = Map::new();
        options.insert("Mode".to_owned(), json!(0o1777));
        if let Some(size) = tmpfs.size {
            options.insert("SizeBytes".to_owned(), json!(size.as_bytes()));
        }
        mounts.push(json!({
            "Type": "tmpfs",
            "Target": tmpfs.guest.as_path(),
            "TmpfsOptions": options,
        }));
    }
    let memory = docker.memory.as_bytes();
    let mut host = host(&docker.engine, filter, &added, mounts);
    host["Memory"] = json!(memory);
    host["MemorySwap"] = json!(memory);
    host["NanoCpus"] = json!(u64::from(docker.cpu_millis) * 1_000_000);
    host["PidsLimit"] = json!(docker.pids);
    let mut body = body(config, &docker.image, "docked");
    if docker.engine.local {
        // Empty at each start, as on a machine. Where programs are copied in
        // they lie there before it starts.
        host["Tmpfs"] = json!({ "/run": "rw,nosuid,nodev,exec,mode=755,size=64m" });
    }
    host["NetworkMode"] = match network {
        Network::None => json!("none"),
        Network::Of(id) => json!(format!("container:{id}")),
    };
    // With Docker the host name is that of whose network it is, and may not be
    // said; with Podman it is said.
    if docker.engine.podman || matches!(network, Network::None) {
        body["Hostname"] = json!(config.name.as_str());
    }
    // In the place of what an engine covers by itself, or with Podman beside it.
    let covered = covered();
    match (docker.engine.podman, host["SecurityOpt"].as_array_mut()) {
        (true, Some(options)) => options.push(json!(format!("mask={}", covered.join(":")))),
        _ => host["MaskedPaths"] = json!(covered),
    }
    body["HostConfig"] = host;
    body["Labels"][FROM] = json!(docker.image);
    marked(body)
}

/// What a container does not see of the kernel.
fn covered() -> Vec<String> {
    let of_proc = COVERED_FILES.iter().chain(&COVERED_DIRECTORIES);
    let of_proc = of_proc.map(|name| format!("/proc/{name}"));
    let of_sys = COVERED_SYSTEM.iter().map(|name| format!("/sys/{name}"));
    of_proc.chain(of_sys).collect()
}

/// The filter of system calls as an engine takes it: Docker its text, Podman
/// the path of a file with it. A Podman elsewhere has only its own, and the
/// program inside the one that it puts around itself. `frames` is for the
/// keeper of the network, where that has no tap device.
pub(super) fn filter(engine: &DockerEngine, frames: bool) -> Option<String> {
    let file = match frames {
        true => &engine.keeper_filter,
        false => &engine.filter,
    };
    match (file, engine.podman) {
        (Some(path), _) => Some(format!("seccomp={}", path.display())),
        (None, true) => None,
        (None, false) => Some(format!("seccomp={}", engine_profile(frames))),
    }
}

fn security(filter: Option<&str>) -> Vec<&str> {
    let mut options = vec!["no-new-privileges"];
    options.extend(filter);
    options
}

fn bind(bind: &super::config::Bind) -> Value {
    json!({
        "Type": "bind",
        "Source": bind.host,
        "Target": bind.guest,
        "ReadOnly": bind.read_only,
        "BindOptions": { "Propagation": "rprivate" },
    })
}

/// The same with the mark of all of it, by which a later start tells whether
/// it would still be made so.
fn marked(mut body: Value) -> Value {
    let mark = sbx_images::Key::of(&[body.to_string().as_bytes()]);
    body["Labels"][MADE] = json!(mark.as_str());
    body
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::config::tests::docker;
    use super::*;

    fn config() -> DockConfig {
        DockConfig {
            docker: docker(Path::new("/kit"), Path::new("/guest")),
            name: "box".parse().unwrap(),
            network: true,
            binds: Vec::new(),
        }
    }

    #[test]
    fn the_agent_s_container_gets_what_root_inside_keeps_and_no_network_of_the_engine() {
        let body = agent(&config(), &Network::Of("abc"), Some("seccomp={}"));
        let host = &body["HostConfig"];
        assert_eq!(host["NetworkMode"], "container:abc");
        assert_eq!(host["CapDrop"], json!(["ALL"]));
        let added = host["CapAdd"].as_array().unwrap();
        assert_eq!(
            added.len(),
            PAYLOAD_CAPABILITIES.bits().count_ones() as usize
        );
        for never in ["NET_ADMIN", "NET_RAW", "SYS_ADMIN", "MKNOD"] {
            assert!(!added.contains(&json!(never)), "{never}");
        }
        assert_eq!(
            host["SecurityOpt"],
            json!(["no-new-privileges", "seccomp={}"])
        );
        assert_eq!(host["LogConfig"]["Type"], "none");
        assert_eq!(host["NanoCpus"], 1_500_000_000_u64);
        assert_eq!(
            (&host["Memory"], &host["PidsLimit"]),
            (&json!(1 << 30), &json!(99))
        );
        assert!(host.get("Privileged").is_none() && host.get("Devices").is_none());
        assert!(body.get("Hostname").is_none());
        assert_eq!(body["Labels"][OWNER], "a1");
        let covered = host["MaskedPaths"].as_array().unwrap();
        for path in ["/proc/kcore", "/proc/kallsyms", "/sys/kernel", "/sys/fs"] {
            assert!(covered.contains(&json!(path)), "{path}");
        }
        let alone = agent(&config(), &Network::None, Some("seccomp={}"));
        assert_eq!(alone["HostConfig"]["NetworkMode"], "none");
        assert_eq!(alone["Hostname"], "box");
        assert_ne!(alone["Labels"][MADE], body["Labels"][MADE]);
    }

    #[test]
    fn podman_is_told_in_its_own_words_what_to_cover() {
        let mut config = config();
        config.docker.engine.podman = true;
        let body = agent(&config, &Network::None, None);
        let host = &body["HostConfig"];
        assert!(host.get("MaskedPaths").is_none());
        let options = host["SecurityOpt"].as_array().unwrap();
        let mask = options.last().unwrap().as_str().unwrap();
        assert!(mask.starts_with("mask=/proc/kcore:"), "{mask}");
        assert!(mask.ends_with(":/sys/power"), "{mask}");
    }

    #[test]
    fn the_keeper_of_the_network_has_one_capability_and_nothing_of_the_agent_s() {
        let mut config = config();
        for name in ["guest", "kit", "w"] {
            config.binds.push(super::super::config::Bind {
                host: Path::new("/").join(name),
                guest: Path::new("/").join(name),
                read_only: name != "w",
                is: (1, 1),
            });
        }
        let mut without = config.clone();
        without.docker.engine.tap = false;
        let without = keeper(&without, Some("seccomp={}"));
        assert_eq!(
            without["HostConfig"]["CapAdd"],
            json!(["NET_ADMIN", "NET_RAW"])
        );
        assert_eq!(without["HostConfig"]["Devices"], json!([]));
        let body = keeper(&config, Some("seccomp={}"));
        let host = &body["HostConfig"];
        assert_eq!(host["CapAdd"], json!(["NET_ADMIN"]));
        assert_eq!(host["Devices"][0]["PathOnHost"], TAP);
        assert_eq!(host["NetworkMode"], "none");
        assert_eq!(host["ReadonlyRootfs"], true);
        let mounts = host["Mounts"].as_array().unwrap();
        assert_eq!((mounts.len(), &mounts[0]["Source"]), (1, &json!("/guest")));
    }
}
