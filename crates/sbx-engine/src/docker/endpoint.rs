//! Where the user's engine listens.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::ssh::Destination;
use crate::command::{Caller, Code, Error};

/// Largest configuration of a client that is read, in bytes.
const MAX_FILE: usize = 1 << 20;
/// Most contexts that are looked through.
const MAX_CONTEXTS: usize = 1000;
/// Where engines of the whole machine listen.
const OF_MACHINE: [&str; 2] = ["/var/run/docker.sock", "/run/podman/podman.sock"];
/// Where those of one user do, below their runtime directory.
const OF_USER: [&str; 2] = ["docker.sock", "podman/podman.sock"];
/// The file with an engine's authority.
const CA: &str = "ca.pem";

/// What an engine listens on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Endpoint {
    /// A socket of this machine.
    Unix(PathBuf),
    /// A host and port, without encryption.
    Tcp(String),
    /// A host and port, with TLS.
    Tls(Tls),
    /// A host where the program `docker` reaches it, by the caller's `ssh`.
    Ssh(Destination),
}

/// An engine that is spoken with over TLS, and always verified.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Its host and port.
    pub host: String,
    /// The authority that vouches for it, in PEM; without one those that the
    /// host believes.
    pub ca: Option<PathBuf>,
    /// What it knows the caller by, in PEM: certificate and key.
    pub own: Option<(PathBuf, PathBuf)>,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host) | Self::Tls(Tls { host, .. }) => write!(f, "tcp://{host}"),
            Self::Ssh(destination) => destination.fmt(f),
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
    let directory = value("DOCKER_CONFIG").map_or_else(|| caller.home.join(".docker"), Into::into);
    if let Some(host) = value("DOCKER_HOST") {
        let tls = value("DOCKER_TLS_VERIFY").or_else(|| value("DOCKER_TLS"));
        let material = tls.map(|_| {
            let at = value("DOCKER_CERT_PATH").map_or(directory, Into::into);
            // Whom the caller's own client would believe by this is its authority alone.
            (Some(at.join(CA)), own_certificate(&at))
        });
        return parse(host, "DOCKER_HOST", material);
    }
    let named = match value("DOCKER_CONTEXT") {
        Some(name) => Some(name.to_owned()),
        None => current(&directory),
    };
    if let Some(name) = named.filter(|name| name != "default") {
        return of_context(&directory, &name).ok_or_else(|| {
            let what = format!("there is no Docker context `{name}`");
            Error::new(Code::HostUnfit, what).hint("see which there are with `docker context ls`")
        })?;
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

/// What is used with TLS: an authority, and the caller's certificate with its
/// key.
type Material = (Option<PathBuf>, Option<(PathBuf, PathBuf)>);

fn parse(text: &str, by: &str, material: Option<Material>) -> Result<Endpoint, Error> {
    let refused = |why: &str, hint: &str| {
        let what = format!("cannot use the engine that {by} names: {why}");
        Error::new(Code::HostUnfit, what).hint(hint)
    };
    match text.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Endpoint::Unix(path.into())),
        Some(("tcp" | "http", host)) => {
            let host = host.trim_end_matches('/').to_owned();
            let port = host.rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            match (port, material) {
                (Some(Ok(_)), None) if !host.contains('/') => Ok(Endpoint::Tcp(host)),
                (Some(Ok(_)), Some((ca, own))) if !host.contains('/') => {
                    Ok(Endpoint::Tls(Tls { host, ca, own }))
                }
                _ => Err(refused("it has no port", "write it as tcp://HOST:PORT")),
            }
        }
        Some(("ssh", destination)) => match Destination::parse(destination) {
            Some(destination) => Ok(Endpoint::Ssh(destination)),
            None => Err(refused(
                "it is no destination of ssh",
                "write it as ssh://USER@HOST:PORT, and what more it takes into ~/.ssh/config",
            )),
        },
        _ => Err(refused(
            "it is none of unix://, tcp:// and ssh://",
            "write it as unix:///path/of/its.sock",
        )),
    }
}

/// The caller's certificate and key in `directory`, if they have one.
fn own_certificate(directory: &Path) -> Option<(PathBuf, PathBuf)> {
    let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
    (certificate.exists() || key.exists()).then_some((certificate, key))
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

/// The engine of a context. Each has a directory with a name that is a digest
/// of its own, and another of that name with what it uses for TLS.
fn of_context(directory: &Path, name: &str) -> Option<Result<Endpoint, Error>> {
    let contexts = std::fs::read_dir(directory.join("contexts/meta")).ok()?;
    let mut metas = contexts.flatten().take(MAX_CONTEXTS).filter_map(|entry| {
        let meta = read(&entry.path().join("meta.json"))?;
        Some((entry.file_name(), meta))
    });
    let (id, meta) =
        metas.find(|(_, meta)| meta.get("Name").and_then(Value::as_str) == Some(name))?;
    let engine = meta.pointer("/Endpoints/docker")?;
    let by = format!("the Docker context `{name}`");
    if engine.get("SkipTLSVerify").and_then(Value::as_bool) == Some(true) {
        let what = format!("cannot use the engine that {by} names: whoever answers is believed");
        return Some(Err(Error::new(Code::HostUnfit, what).hint(
            "give it the engine's authority: `docker context update --docker host=..,ca=..`",
        )));
    }
    let at = directory.join("contexts/tls").join(id).join("docker");
    let material = at.is_dir().then(|| {
        let ca = Some(at.join(CA)).filter(|ca| ca.exists());
        (ca, own_certificate(&at))
    });
    Some(parse(engine.get("Host")?.as_str()?, &by, material))
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
    fn tls_is_spoken_where_the_caller_s_own_client_would_and_never_unverified() {
        let home = tempfile::tempdir().unwrap();
        let docker = home.path().join(".docker");
        let tls = docker.join("contexts/tls/0a1b/docker");
        let meta = docker.join("contexts/meta/0a1b");
        for directory in [&tls, &meta] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let context = |skip: bool| {
            let text = serde_json::json!({ "Name": "far", "Endpoints": { "docker": {
                "Host": "tcp://h.example:2376", "SkipTLSVerify": skip,
            }}});
            std::fs::write(meta.join("meta.json"), text.to_string()).unwrap();
            discover(&caller(home.path(), &[("DOCKER_CONTEXT", "far")]))
        };
        let at = |ca: Option<&Path>, own: Option<&Path>| {
            Endpoint::Tls(Tls {
                host: "h.example:2376".to_owned(),
                ca: ca.map(|at| at.join(CA)),
                own: own.map(|at| (at.join("cert.pem"), at.join("key.pem"))),
            })
        };
        assert_eq!(context(false).unwrap(), at(None, None));
        std::fs::write(tls.join(CA), "").unwrap();
        std::fs::write(tls.join("key.pem"), "").unwrap();
        assert_eq!(context(false).unwrap(), at(Some(&tls), Some(&tls)));
        assert_eq!(context(true).unwrap_err().code, Code::HostUnfit);

        let host = ("DOCKER_HOST", "tcp://h.example:2376");
        let named = |more: &[(&str, &str)]| {
            let variables = [&[host], more].concat();
            discover(&caller(home.path(), &variables)).unwrap()
        };
        let path = ("DOCKER_CERT_PATH", tls.to_str().unwrap());
        assert_eq!(named(&[path]), Endpoint::Tcp("h.example:2376".to_owned()));
        for set in ["DOCKER_TLS_VERIFY", "DOCKER_TLS"] {
            assert_eq!(named(&[(set, "1")]), at(Some(&docker), None));
            assert_eq!(named(&[(set, "1"), path]), at(Some(&tls), Some(&tls)));
        }
    }

    #[test]
    fn an_address_that_cannot_be_used_says_why() {
        assert!(parse("tcp://h:1", "x", None).is_ok());
        assert!(parse("ssh://me@h", "x", None).is_ok());
        for (text, why) in [
            ("ssh://-oProxyCommand=x", "no destination"),
            ("tcp://h", "no port"),
            ("npipe:////./pipe", "none of"),
            ("unix://relative", "none of"),
        ] {
            let error = parse(text, "DOCKER_HOST", None).unwrap_err();
            assert!(error.message.contains(why), "{text}: {}", error.message);
            assert!(error.hint.is_some());
        }
    }
}
