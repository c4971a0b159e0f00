//! Where the user's engine listens.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::command::{Caller, Code, Error};

/// Largest configuration of a client that is read, in bytes.
const MAX_FILE: usize = 1 << 20;
/// Most contexts that are looked through.
const MAX_CONTEXTS: usize = 1000;
/// Where engines of the whole machine listen.
const OF_MACHINE: [&str; 2] = ["/var/run/docker.sock", "/run/podman/podman.sock"];
/// Where those of one user do, below their runtime directory.
const OF_USER: [&str; 2] = ["docker.sock", "podman/podman.sock"];

/// What an engine listens on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// A socket of this machine.
    Unix(PathBuf),
    /// A host and port, without encryption.
    Tcp(String),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) => write!(f, "tcp://{host}"),
        }
    }
}

/// The engine that the caller's own clients would speak with.
///
/// # Errors
/// If they name one that cannot be spoken with, or there is none.
pub(crate) fn discover(caller: &Caller) -> Result<Endpoint, Error> {
    let value = |name: &str| {
        let found = caller.engines.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    };
    if let Some(host) = value("DOCKER_HOST") {
        return parse(host, "DOCKER_HOST");
    }
    let directory = value("DOCKER_CONFIG").map_or_else(|| caller.home.join(".docker"), Into::into);
    let named = match value("DOCKER_CONTEXT") {
        Some(name) => Some(name.to_owned()),
        None => current(&directory),
    };
    if let Some(name) = named.filter(|name| name != "default") {
        let host = of_context(&directory, &name).ok_or_else(|| {
            Error::new(
                Code::HostUnfit,
                format!("there is no Docker context `{name}`"),
            )
            .hint("see which there are with `docker context ls`")
        })?;
        return parse(&host, &format!("the Docker context `{name}`"));
    }
    let own = value("XDG_RUNTIME_DIR").map(Path::new);
    let own = own
        .into_iter()
        .flat_map(|dir| OF_USER.map(|name| dir.join(name)));
    OF_MACHINE
        .map(PathBuf::from)
        .into_iter()
        .take(1)
        .chain(own)
        .chain(OF_MACHINE.map(PathBuf::from).into_iter().skip(1))
        .find(|path| is_socket(path))
        .map(Endpoint::Unix)
        .ok_or_else(|| {
            Error::new(Code::HostUnfit, "there is no Docker or Podman engine here").hint(
                "start one (`systemctl start docker`, `systemctl --user start podman.socket`), \
                 name one with DOCKER_HOST, or use `--isolation microvm`",
            )
        })
}

fn parse(text: &str, by: &str) -> Result<Endpoint, Error> {
    let refused = |why: &str, hint: &str| {
        let what = format!("cannot use the engine that {by} names: {why}");
        Error::new(Code::HostUnfit, what).hint(hint)
    };
    match text.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Endpoint::Unix(path.into())),
        Some(("tcp" | "http", host)) => {
            let host = host.trim_end_matches('/');
            let port = host.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            match port {
                Some(Ok(_)) if !host.contains('/') => Ok(Endpoint::Tcp(host.to_owned())),
                _ => Err(refused("it has no port", "write it as tcp://HOST:PORT")),
            }
        }
        Some(("ssh", _)) => Err(refused(
            "ssh is not in this version",
            "forward its socket and name that: \
             `ssh -nNT -L /tmp/engine.sock:/var/run/docker.sock HOST`, \
             DOCKER_HOST=unix:///tmp/engine.sock",
        )),
        _ => Err(refused(
            "it is neither unix:// nor tcp://",
            "write it as unix:///path/of/its.sock",
        )),
    }
}

fn read(path: &Path) -> Option<Value> {
    let text = sbx_sys::file::read_bounded(path, MAX_FILE).ok()?;
    serde_json::from_slice(&text).ok()
}

fn current(directory: &Path) -> Option<String> {
    let config = read(&directory.join("config.json"))?;
    let name = config.get("currentContext")?.as_str()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The address in a context. Each has a directory with a name that is a digest
/// of its own.
fn of_context(directory: &Path, name: &str) -> Option<String> {
    let contexts = std::fs::read_dir(directory.join("contexts/meta")).ok()?;
    let mut metas = contexts
        .flatten()
        .take(MAX_CONTEXTS)
        .filter_map(|entry| read(&entry.path().join("meta.json")));
    let meta = metas.find(|meta| meta.get("Name").and_then(Value::as_str) == Some(name))?;
    let host = meta.pointer("/Endpoints/docker/Host")?.as_str()?;
    Some(host.to_owned())
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    fn caller(home: &Path, engines: &[(&str, &str)]) -> Caller {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Caller {
            home: home.to_owned(),
            engines: engines.iter().map(own).collect(),
            ..crate::engine::fake_caller()
        }
    }

    #[test]
    fn what_is_named_counts_before_what_is_found() {
        let home = tempfile::tempdir().unwrap();
        let socket = home.path().join("docker.sock");
        let _listening = UnixListener::bind(&socket).unwrap();
        let runtime = ("XDG_RUNTIME_DIR", home.path().to_str().unwrap());
        let meta = home.path().join(".docker/contexts/meta/0a1b");
        std::fs::create_dir_all(&meta).unwrap();
        let context = r#"{"Name":"far","Endpoints":{"docker":{"Host":"tcp://far.example:2375"}}}"#;
        std::fs::write(meta.join("meta.json"), context).unwrap();
        let far = Endpoint::Tcp("far.example:2375".to_owned());

        let by_context = caller(home.path(), &[runtime, ("DOCKER_CONTEXT", "far")]);
        assert_eq!(discover(&by_context).unwrap(), far);
        let current = r#"{"currentContext":"far"}"#;
        std::fs::write(home.path().join(".docker/config.json"), current).unwrap();
        assert_eq!(discover(&caller(home.path(), &[runtime])).unwrap(), far);
        let host = ("DOCKER_HOST", "unix:///x.sock");
        let by_host = caller(home.path(), &[runtime, host]);
        assert_eq!(
            discover(&by_host).unwrap(),
            Endpoint::Unix("/x.sock".into())
        );
        let other = caller(home.path(), &[("DOCKER_CONTEXT", "other")]);
        assert_eq!(discover(&other).unwrap_err().code, Code::HostUnfit);
    }

    #[test]
    fn an_address_that_cannot_be_used_says_why() {
        assert!(parse("tcp://h:1", "x").is_ok());
        for (text, why) in [
            ("ssh://me@h", "ssh is not in this version"),
            ("tcp://h", "no port"),
            ("npipe:////./pipe", "neither"),
            ("unix://relative", "neither"),
        ] {
            let error = parse(text, "DOCKER_HOST").unwrap_err();
            assert!(error.message.contains(why), "{text}: {}", error.message);
            assert!(error.hint.is_some());
        }
    }
}
