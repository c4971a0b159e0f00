//! `ports` and `--publish`: which ports of a sandbox this host has, kept with
//! the sandbox and bound by whoever starts it or publishes one.
//!
//! Never: accepts a connection (the supervisor does, on sockets that listen
//! when it gets them).

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;

use sbx_spec::{MAX_PUBLISHED, NetworkPreset, Publication, SandboxName, Transport};
use sbx_sys::file;
use serde::{Deserialize, Serialize};

use super::start::settled;
use super::{Engine, PATIENCE};
use crate::client;
use crate::command::{Code, Error, PortsReply, PortsRequest, Published, Reply};
use crate::store::{Phase, SandboxDir, State};

/// What a sandbox publishes, in its directory.
const FILE: &str = "ports.json";
/// Most bytes of it.
const MAX_FILE: usize = 64 * 1024;
const VERSION: u32 = 1;

#[derive(Default, Serialize, Deserialize)]
struct File {
    version: u32,
    ports: Vec<Publication>,
}

/// A port that is bound and, of TCP, listens.
pub(super) type Bound = (Publication, OwnedFd);

impl Engine {
    /// Lists the published ports of a sandbox, after changing them.
    ///
    /// # Errors
    /// If one cannot be published, or is not: then nothing is changed.
    pub(super) async fn ports(&self, request: PortsRequest) -> Result<Reply, Error> {
        let sandbox = self.find(&request.sandbox)?;
        if !(request.publish.is_empty() && request.unpublish.is_empty()) {
            let leave = sandbox.change(PATIENCE)?;
            self.edit_ports(&sandbox, &request.publish, &request.unpublish)
                .await?;
            drop(leave);
        }
        let ports = published(&sandbox)?;
        Ok(Reply::Ports(PortsReply {
            sandbox: request.sandbox,
            open: is_running(&sandbox),
            ports: ports.iter().map(Published::of).collect(),
        }))
    }

    /// Publishes what `run` was given, unless it is.
    ///
    /// # Errors
    /// If a port cannot be published; none is then.
    pub(super) async fn publish(
        &self,
        sandbox: &SandboxDir,
        wanted: &[Publication],
    ) -> Result<(), Error> {
        if wanted.is_empty() {
            return Ok(());
        }
        let _leave = sandbox.change(PATIENCE)?;
        let new = additional(&published(sandbox)?, wanted);
        self.edit_ports(sandbox, &new, &[]).await
    }

    async fn edit_ports(
        &self,
        sandbox: &SandboxDir,
        publish: &[Publication],
        unpublish: &[Publication],
    ) -> Result<(), Error> {
        let name = sandbox.name();
        if sandbox.record()?.spec.network.preset == Some(NetworkPreset::None) {
            return Err(Error::new(
                Code::Usage,
                format!("`{name}` has no network, so no port of it can be published"),
            ));
        }
        let mut before = published(sandbox)?;
        let mut after = before.clone();
        let mut closed = Vec::new();
        for wanted in unpublish {
            let place = after.iter().position(|known| known.is(wanted));
            let place = place.ok_or_else(|| {
                let message = format!("`{name}` does not publish {}", wanted.shown());
                Error::new(Code::PortNotFound, message)
                    .hint(format!("`sbx ports {name}` shows what it publishes"))
            })?;
            closed.push(after.remove(place));
        }
        for wanted in publish {
            if let Some(known) = after.iter().find(|known| known.collides(wanted)) {
                let message = format!("`{name}` publishes {} already", known.shown());
                return Err(Error::new(Code::Usage, message));
            }
            after.push(*wanted);
        }
        if after.len() > MAX_PUBLISHED {
            let message = format!("a sandbox publishes at most {MAX_PUBLISHED} ports");
            return Err(Error::new(Code::Limit, message));
        }
        // A port that somebody else has is told before anything is changed,
        // whether the sandbox runs or not.
        let mut opened = Vec::new();
        for publication in after.iter_mut().filter(|known| !before.contains(known)) {
            let bound = bind(name, publication)?;
            *publication = bound.0;
            opened.push(bound);
        }
        // One whose start was broken off opens what it was started with.
        let runs = settled(sandbox).await?;
        let runtime = self.runtime(name);
        if runs {
            // First closed, then said to be: what is listed may be closed,
            // and what is open is listed and can be closed once more.
            for publication in &closed {
                match client::unpublish(&runtime, publication).await {
                    Err(error) if is_running(sandbox) => return Err(error),
                    // On its way down it closes them all.
                    Ok(()) | Err(_) => {}
                }
            }
        }
        write(sandbox, &after)?;
        if !runs {
            return Ok(());
        }
        let mut handed = Vec::new();
        for (publication, listener) in opened {
            let done = client::publish(&runtime, &publication, listener).await;
            handed.push(publication);
            if let Err(error) = done {
                for publication in &handed {
                    // One that cannot be told is on its way down.
                    let _gone = client::unpublish(&runtime, publication).await;
                }
                before.retain(|known| !closed.contains(known));
                write(sandbox, &before)?;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Binds what a sandbox publishes, for its start.
    ///
    /// # Errors
    /// If one of the ports is not to be had.
    pub(super) fn bind_published(&self, sandbox: &SandboxDir) -> Result<Vec<Bound>, Error> {
        published(sandbox)?
            .iter()
            .map(|publication| bind(sandbox.name(), publication))
            .collect()
    }
}

/// What of `wanted` is not published yet.
pub(super) fn additional(known: &[Publication], wanted: &[Publication]) -> Vec<Publication> {
    let is_new = |wanted: &&Publication| !known.iter().any(|known| known.is(wanted));
    wanted.iter().filter(is_new).copied().collect()
}

/// The published ports of a sandbox.
///
/// # Errors
/// If its list cannot be read.
pub(super) fn published(sandbox: &SandboxDir) -> Result<Vec<Publication>, Error> {
    let failed = || {
        let what = format!("cannot read the published ports of `{}`", sandbox.name());
        Error::new(Code::BrokenSandbox, what)
    };
    let bytes = match file::read_bounded(sandbox.join(FILE), MAX_FILE) {
        Ok(bytes) => bytes,
        Err(error) if error.errno() == Some(rustix::io::Errno::NOENT.raw_os_error()) => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed().because(error)),
    };
    let file: File = serde_json::from_slice(&bytes).map_err(|error| failed().because(error))?;
    if file.version != VERSION || file.ports.len() > MAX_PUBLISHED {
        return Err(failed().hint("another version of sbx wrote it"));
    }
    Ok(file.ports)
}

fn write(sandbox: &SandboxDir, ports: &[Publication]) -> Result<(), Error> {
    let failed = || {
        let what = format!("cannot write the published ports of `{}`", sandbox.name());
        Error::new(Code::State, what)
    };
    let file = File {
        version: VERSION,
        ports: ports.to_vec(),
    };
    let text = serde_json::to_vec(&file).map_err(|error| failed().because(error))?;
    file::open_dir(sandbox.join("."))
        .and_then(|directory| file::replace_at(&directory, FILE, &text))
        .map_err(|error| failed().because(error))
}

fn bind(name: &SandboxName, publication: &Publication) -> Result<Bound, Error> {
    let address = SocketAddr::new(publication.address, publication.host.unwrap_or(0));
    let bound = match publication.transport {
        Transport::Tcp => TcpListener::bind(address)
            .and_then(|listener| Ok((listener.local_addr()?, OwnedFd::from(listener)))),
        Transport::Udp => UdpSocket::bind(address)
            .and_then(|socket| Ok((socket.local_addr()?, OwnedFd::from(socket)))),
    };
    let (at, socket) = bound.map_err(|source| {
        let what = format!(
            "cannot publish port {} of `{name}` as {address}",
            publication.guest
        );
        Error::new(Code::PortTaken, what)
            .because(source)
            .hint(format!(
                "`sbx ports {name} --unpublish {publication}` gives it up"
            ))
    })?;
    let publication = Publication {
        host: Some(at.port()),
        ..*publication
    };
    Ok((publication, socket))
}

fn is_running(sandbox: &SandboxDir) -> bool {
    matches!(
        sandbox.state(),
        Ok(State::Live(Some(run))) if run.phase == Phase::Running
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::json;

    use super::super::fake::host;
    use super::*;

    #[tokio::test]
    async fn a_port_that_may_still_be_open_is_listed_and_can_be_closed_once_more() {
        let host = host();
        let sandbox = host.sandbox("box");
        let ports: Vec<Publication> = ["127.0.0.1:8080:80".parse().unwrap()].into();
        write(&sandbox, &ports).unwrap();
        let busy = AtomicBool::new(true);
        let (_proof, calls) = host.running(&sandbox, move |_| {
            match busy.swap(false, Ordering::Relaxed) {
                true => Err("busy".to_owned()),
                false => Ok(json!({})),
            }
        });
        let unpublish = || {
            host.engine.ports(PortsRequest {
                sandbox: sandbox.name().clone(),
                publish: Vec::new(),
                unpublish: ports.clone(),
            })
        };
        let error = unpublish().await.unwrap_err();
        assert!(error.message.contains("busy"), "{error}");
        assert_eq!(published(&sandbox).unwrap(), ports);
        unpublish().await.unwrap();
        assert_eq!(published(&sandbox).unwrap(), []);
        assert_eq!(calls.lock().len(), 2);
    }

    #[test]
    fn a_port_that_is_bound_is_known_by_its_number_and_bound_once() {
        let name: SandboxName = "box".parse().unwrap();
        let any: Publication = "80".parse().unwrap();
        let (bound, _listener) = bind(&name, &any).unwrap();
        assert!(bound.host.is_some() && bound.is(&any));
        let again = bind(&name, &bound).unwrap_err();
        assert_eq!(again.code, Code::PortTaken);
        assert!(again.message.contains("cannot publish port 80 of `box`"));
    }

    #[test]
    fn a_list_is_kept_and_another_versions_is_not_taken_for_one() {
        let (_root, store) = crate::store::tests::store();
        let sandbox = crate::store::tests::made(&store, "box");
        assert_eq!(published(&sandbox).unwrap(), []);
        let ports = ["127.0.0.1:8080:80".parse().unwrap()];
        write(&sandbox, &ports).unwrap();
        assert_eq!(published(&sandbox).unwrap(), ports);
        std::fs::write(sandbox.join(FILE), r#"{"version":2,"ports":[]}"#).unwrap();
        assert_eq!(published(&sandbox).unwrap_err().code, Code::BrokenSandbox);
    }
}
