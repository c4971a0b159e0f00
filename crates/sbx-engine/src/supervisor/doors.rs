//! Published ports while a sandbox runs: sockets that listen on the host, and
//! the way by which what they accept gets to the network engine. It reads
//! sockets of datagrams itself, which each engine gets anew.
//!
//! Never: binds, reads a byte of a connection or a datagram. An engine that
//! takes none, or is gone, costs connections and nothing else.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use rustix::io::Errno;
use sbx_spec::{MAX_PUBLISHED, Publication, Transport};
use sbx_sys::unix;
use serde_json::Value;
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
    open: RefCell<Vec<(Publication, Door)>>,
    /// Our end of the engine's link.
    engine: RefCell<Option<OwnedFd>>,
}

#[derive(Debug)]
enum Door {
    /// Accepts connections; its socket ends with it.
    Accepting(JoinHandle<()>),
    /// Of datagrams.
    Datagrams(OwnedFd),
}

impl Drop for Door {
    fn drop(&mut self) {
        if let Self::Accepting(task) = self {
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
        for (publication, door) in &*self.open.borrow() {
            if let Door::Datagrams(socket) = door {
                self.lend(publication, socket)?;
            }
        }
        Ok(far)
    }

    /// Publishes a port from now on.
    ///
    /// # Errors
    /// If the socket does not listen, there are too many, or the engine does
    /// not take one of datagrams.
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
        if publication.transport == Transport::Udp {
            self.lend(&publication, &listener)?;
            let door = (publication, Door::Datagrams(listener));
            self.open.borrow_mut().push(door);
            return Ok(());
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
        let door = (publication, Door::Accepting(task));
        self.open.borrow_mut().push(door);
        Ok(())
    }

    /// Publishes a port no longer. Connections that stand go on.
    ///
    /// # Errors
    /// If the engine cannot be told to read no more datagrams: it does.
    pub(super) fn close(&self, publication: &Publication) -> Result<(), Error> {
        let mut open = self.open.borrow_mut();
        let at = SocketAddr::new(publication.address, publication.host.unwrap_or(0));
        let lent = open.iter().any(|(open, _)| open == publication)
            && publication.transport == Transport::Udp;
        if lent {
            self.tell(&serde_json::json!({ "shut": at }), &[])
                .map_err(|source| {
                    let what = format!("cannot close {}", publication.shown());
                    Error::new(Code::Io, what).because(source)
                })?;
        }
        open.retain(|(open, _)| open != publication);
        Ok(())
    }

    /// Gives the engine a socket of datagrams to read.
    fn lend(&self, publication: &Publication, socket: &OwnedFd) -> Result<(), Error> {
        let said = serde_json::json!({ "port": publication.guest });
        self.tell(&said, &[socket.as_fd()]).map_err(|source| {
            let what = format!("cannot publish {}", publication.shown());
            Error::new(Code::Io, what).because(source)
        })
    }

    /// Tells the engine something of sockets of datagrams. One that is gone
    /// reads none, and is followed by another, which is told all.
    fn tell(&self, said: &Value, sockets: &[BorrowedFd<'_>]) -> Result<(), sbx_sys::Error> {
        let gone = [Errno::PIPE, Errno::CONNRESET].map(|errno| Some(errno.raw_os_error()));
        match &*self.engine.borrow() {
            Some(engine) => match unix::send(engine, said.to_string().as_bytes(), sockets) {
                Err(error) if !gone.contains(&error.errno()) => Err(error),
                Ok(_) | Err(_) => Ok(()),
            },
            None => Ok(()),
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
    fn every_engine_gets_the_sockets_of_datagrams_and_is_told_when_one_is_closed() {
        run(async {
            let doors = Rc::new(Doors::default());
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let at = socket.local_addr().unwrap();
            let publication: Publication = format!("{}:53/udp", at.port()).parse().unwrap();
            let heard = |engine: &OwnedFd| {
                let mut said = [0; 64];
                let (count, fds) = unix::receive(engine, &mut said, 1).unwrap();
                let said = String::from_utf8(said[..count].to_vec()).unwrap();
                (said, fds.len())
            };
            let lent = (r#"{"port":53}"#.to_owned(), 1);
            let first = doors.connect().unwrap();
            doors.open(publication, socket.into()).unwrap();
            assert_eq!(heard(&first), lent);
            drop(first);
            let second = doors.connect().unwrap();
            assert_eq!(heard(&second), lent);
            doors.close(&publication).unwrap();
            assert_eq!(heard(&second), (format!(r#"{{"shut":"{at}"}}"#), 0));
            // One that is gone need not be told, and the next one gets nothing.
            drop(second);
            doors.close(&publication).unwrap();
            let third = doors.connect().unwrap();
            rustix::io::ioctl_fionbio(&third, true).unwrap();
            assert!(unix::receive(&third, &mut [0; 64], 1).is_err());
            std::net::UdpSocket::bind(at).unwrap();
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
            doors.close(&publication).unwrap();
            // The task and its socket end at its next turn.
            tokio::task::yield_now().await;
            let port = publication.host.unwrap();
            assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        });
    }
}
