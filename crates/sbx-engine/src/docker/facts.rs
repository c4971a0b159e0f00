//! What an engine is and can hold.

use std::os::unix::net::UnixStream;

use hyper::Method;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sbx_spec::ByteSize;
use serde_json::Value;

use super::bodies::TAP;
use super::{Client, Endpoint};
use crate::command::Error;

/// Facts of an engine.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own that the engine tells"
)]
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct EngineFacts {
    /// What it calls itself, for the user.
    pub(crate) name: String,
    /// Whether it is Podman.
    pub(crate) podman: bool,
    /// Whether it runs as an ordinary user.
    pub(crate) rootless: bool,
    /// Whether ids of its containers are others on its host.
    pub(crate) remapped: bool,
    /// Whether its containers run on this very kernel, and see its files.
    pub(crate) local: bool,
    /// Whether its containers can have tap devices, as far as can be seen from
    /// here.
    pub(crate) tap: bool,
    /// Whether it filters system calls.
    pub(crate) seccomp: bool,
    /// Whether it can hold memory.
    pub(crate) memory_limit: bool,
    /// Whether it can hold processor time.
    pub(crate) cpu_quota: bool,
    /// Whether it can hold the number of processes.
    pub(crate) pids_limit: bool,
    /// Processors.
    pub(crate) cpus: u32,
    /// Memory.
    pub(crate) memory: ByteSize,
}

impl EngineFacts {
    /// Asks for them.
    ///
    /// # Errors
    /// If the engine does not answer.
    pub(crate) async fn ask(client: &Client) -> Result<Self, Error> {
        let what = "ask the engine what it is";
        let info = client.call(Method::GET, "/info", None).await?.good(what)?;
        let version = client
            .call(Method::GET, "/version", None)
            .await?
            .good(what)?;
        Ok(Self::read(client.endpoint(), &info, &version))
    }

    fn read(endpoint: &Endpoint, info: &Value, version: &Value) -> Self {
        let text = |value: &Value, key: &str| {
            let found = value.get(key).and_then(Value::as_str);
            super::client::shown(found.unwrap_or_default())
        };
        let flag = |key: &str| info.get(key).and_then(Value::as_bool) == Some(true);
        let number = |key: &str| info.get(key).and_then(Value::as_u64).unwrap_or(0);
        let options = info.get("SecurityOptions").and_then(Value::as_array);
        let has = |name: &str| {
            let options = options.into_iter().flatten().filter_map(Value::as_str);
            options
                .map(|option| option.split(',').next().unwrap_or_default())
                .any(|option| option == format!("name={name}"))
        };
        let components = version.get("Components").and_then(Value::as_array);
        let podman = (components.into_iter().flatten()).any(|part| {
            let name = part.get("Name").and_then(Value::as_str);
            name.is_some_and(|name| name.contains("Podman"))
        });
        let kernel = rustix::system::uname();
        let same =
            kernel.release().to_str().ok() == info.get("KernelVersion").and_then(Value::as_str);
        let local = matches!(endpoint, Endpoint::Unix(_)) && same;
        // Podman 4 does not say it.
        let rootless = has("rootless") || podman && is_users(endpoint);
        let name = if podman { "Podman" } else { "Docker" };
        Self {
            name: format!("{name} {}", text(version, "Version")),
            podman,
            rootless,
            remapped: has("userns"),
            local,
            tap: !local || has_tap(rootless),
            seccomp: has("seccomp"),
            memory_limit: flag("MemoryLimit"),
            cpu_quota: flag("CpuCfsQuota"),
            pids_limit: flag("PidsLimit"),
            cpus: u32::try_from(number("NCPU")).unwrap_or(u32::MAX),
            memory: ByteSize::bytes(number("MemTotal")),
        }
    }
}

/// Whether somebody else than root listens there, as the kernel says.
fn is_users(endpoint: &Endpoint) -> bool {
    let Endpoint::Unix(path) = endpoint else {
        return false;
    };
    let peer = UnixStream::connect(path).ok();
    let peer = peer.and_then(|stream| rustix::net::sockopt::socket_peercred(&stream).ok());
    peer.is_some_and(|peer| !peer.uid.is_root())
}

/// Whether this host has the device for it. An engine that runs as an ordinary
/// user is the caller's, and opens what the caller may.
fn has_tap(rootless: bool) -> bool {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    match rustix::fs::open(TAP, flags, Mode::empty()) {
        Ok(_) => true,
        Err(Errno::ACCESS | Errno::PERM) => !rootless,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_engine_does_not_say_it_can_do_it_cannot() {
        let unix = Endpoint::Unix("/x".into());
        let none = EngineFacts::read(&unix, &json!({}), &json!({}));
        assert!(!none.local && !none.seccomp && !none.memory_limit && !none.pids_limit);
        let release = rustix::system::uname()
            .release()
            .to_str()
            .unwrap()
            .to_owned();
        let info = json!({
            "SecurityOptions": ["name=seccomp,profile=default", "name=rootless"],
            "KernelVersion": release, "MemoryLimit": true, "NCPU": 2, "MemTotal": 1024,
        });
        let facts = EngineFacts::read(&unix, &info, &json!({ "Version": "20.10" }));
        assert!(facts.local && facts.seccomp && facts.rootless && !facts.remapped);
        assert_eq!((facts.name.as_str(), facts.cpus), ("Docker 20.10", 2));
        let far = EngineFacts::read(&Endpoint::Tcp("h:1".into()), &info, &json!({}));
        assert!(!far.local);
    }
}
