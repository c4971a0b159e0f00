//! Published ports while a sandbox runs: sockets that listen on the host, and
//! the way by which what they accept gets to the network engine.
//!
//! Never: binds, reads a byte of a connection. An engine that takes none, or
//! is gone, costs connections and nothing else.

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use sbx_spec::{MAX_PUBLISHED, Publication};
use sbx_sys::unix;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, spawn_local};

use super::log;
use crate::command::{Code, Error};

/// How long nothing is accepted after that failed: out of descriptors, and
/// those who have some will give them back.
const PAUSE: Duration = Duration::from_millis(50);

/// The published ports.
#[derive(Default, Debug)]
pub(super) struct Doors {
    open: RefCell<Vec<(Publication, JoinHandle<()>)>>,
    /// Our end of the engine's link.
    engine: RefCell<Option<OwnedFd>>,
}

impl Drop for Doors {
    fn drop(&mut self) {
        for (_, task) in self.open.get_mut().drain(..) {
            task.abort();
        }
    }
}

impl Doors {
    /// The end of the link for an engine that starts; one before it gets
    /// nothing any more.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn connect(&self) -> Result<OwnedFd, Error> {
        let failed = |source: sbx_sys::Error| {
            Error::new(Code::Jail, "cannot make the links between processes").because(source)
        };
        let (near, far) = unix::message_pair().map_err(failed)?;
        // Nobody here waits for an engine.
        rustix::io::ioctl_fionbio(&near, true).map_err(|source| {
            Error::new(Code::Jail, "cannot make the links between processes").because(source)
        })?;
        self.engine.replace(Some(near));
        Ok(far)
    }

    /// Publishes a port from now on.
    ///
    /// # Errors
    /// If the socket does not listen, or there are too many.
    pub(super) fn open(
        self: &Rc<Self>,
        publication: Publication,
        listener: OwnedFd,
    ) -> Result<(), Error> {
        let failed = |source: std::io::Error| {
            let what = format!("cannot listen on {}", publication.shown());
            Error::new(Code::Io, what).because(source)
        };
        if self.open.borrow().len() >= MAX_PUBLISHED {
            let what = format!("a sandbox publishes at most {MAX_PUBLISHED} ports");
            return Err(Error::new(Code::Limit, what));
        }
        let listener = std::net::TcpListener::from(listener);
        listener.set_nonblocking(true).map_err(failed)?;
        let listener = TcpListener::from_std(listener).map_err(failed)?;
        let doors = Rc::downgrade(self);
        let task = spawn_local(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                };
                let Some(doors) = doors.upgrade() else {
                    return;
                };
                if let Ok(stream) = stream.into_std() {
                    doors.hand_over(publication.guest, &stream);
                }
            }
        });
        self.open.borrow_mut().push((publication, task));
        Ok(())
    }

    /// Publishes a port no longer. Connections that stand go on.
    pub(super) fn close(&self, publication: &Publication) {
        for (_, task) in self
            .open
            .borrow_mut()
            .extract_if(.., |(open, _)| open == publication)
        {
            task.abort();
        }
    }

    fn hand_over(&self, port: u16, stream: impl AsFd) {
        let said = serde_json::json!({ "port": port }).to_string();
        let engine = self.engine.borrow();
        let handed = engine
            .as_ref()
            .map(|engine| unix::send(engine, said.as_bytes(), &[stream.as_fd()]));
        if !matches!(handed, Some(Ok(_))) {
            // The client is told as by a host where nobody listens.
            let _orderly = rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
            log::log(&format!(
                "no connection to port {port}: the network engine takes none"
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpStream;

    use super::*;

    fn run(work: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, work);
    }

    fn bound() -> (Publication, std::net::TcpListener) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        (format!("{port}:80").parse().unwrap(), listener)
    }

    fn client(publication: &Publication) -> TcpStream {
        TcpStream::connect(("127.0.0.1", publication.host.unwrap())).unwrap()
    }

    #[test]
    fn what_is_accepted_goes_to_the_engine_of_the_moment_with_its_port() {
        run(async {
            let doors = Rc::new(Doors::default());
            let (publication, listener) = bound();
            let _dead = doors.connect().unwrap();
            let engine = doors.connect().unwrap();
            doors.open(publication, listener.into()).unwrap();
            let client = client(&publication);
            let taken = tokio::task::spawn_blocking(move || {
                let mut said = [0; 64];
                let (count, fds) = unix::receive(&engine, &mut said, 1).unwrap();
                (said[..count].to_vec(), fds.len())
            });
            assert_eq!(taken.await.unwrap(), (br#"{"port":80}"#.to_vec(), 1));
            drop(client);
        });
    }

    #[test]
    fn without_an_engine_a_client_is_told_at_once_and_a_closed_port_takes_none() {
        run(async {
            let doors = Rc::new(Doors::default());
            let (publication, listener) = bound();
            doors.open(publication, listener.into()).unwrap();
            let mut client = client(&publication);
            let read = tokio::task::spawn_blocking(move || client.read(&mut [0]));
            assert!(read.await.unwrap().is_err());
            doors.close(&publication);
            // The task and its socket end at its next turn.
            tokio::task::yield_now().await;
            let port = publication.host.unwrap();
            assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        });
    }
}
