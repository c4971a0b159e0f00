//! Connections whose contents are looked at: requests that rules look into,
//! requests in clear, and refusals that are explained.
//!
//! Owns: one thread that ends TLS, reads HTTP and judges each request at the
//! gate. Never: dials (it is handed connections that were judged), touches
//! the link. Trusts neither side of a connection.

mod agree;
mod authority;
mod body;
mod case;
#[cfg(feature = "unguarded")]
mod credulous;
mod head;
mod http1;
mod http2;
mod page;
pub(crate) mod replay;
mod reports;
mod sessions;
mod trust;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::{Acceptor, ClientHello};
use sbx_spec::{Destination, Flow};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, TlsConnector};

pub(crate) use agree::server_name;
pub use authority::{Authority, AuthorityError};
use authority::{Leaves, Offer};
use case::{Case, Page, Scheme};
use http1::Ended;
pub(crate) use reports::{Report, Reports};
use sessions::Sessions;
pub(crate) use trust::Roots;

use crate::gate::{Intent, Judge};
use crate::limits;
use crate::table::Key;
use crate::upstream::{Proxy, Target};

/// The thread, seen from the loop. It ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Inspector {
    orders: mpsc::UnboundedSender<Order>,
    reports: Arc<Reports>,
}

#[derive(Debug)]
enum Order {
    Authority(Authority),
    Job(Box<Job>),
    Forget(Key),
    Tunnel(Key, Proxy, Target),
}

/// A connection for the inspector.
#[derive(Debug)]
pub(crate) struct Job {
    /// The loop's connection that it belongs to.
    pub(crate) key: Key,
    /// Its number in the records.
    pub(crate) id: u64,
    /// What the guest asked for.
    pub(crate) intent: Intent,
    /// The guest's bytes: the other end of a pair of Unix sockets.
    pub(crate) guest: OwnedFd,
    pub(crate) carries: Carries,
    pub(crate) task: Task,
}

/// What the guest's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carries {
    /// TLS, and HTTP in it.
    Tls,
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// What is to be done with it.
#[derive(Debug)]
pub(crate) enum Task {
    /// Answer what it asks with this text and nothing else.
    Tell(String),
    /// Carry what is allowed to this connection, which was dialled for `flow`.
    Relay { upstream: OwnedFd, flow: Flow },
}

impl Inspector {
    /// Starts the thread.
    pub(crate) fn start(judge: Judge, roots: Roots) -> io::Result<Self> {
        let (orders, jobs) = mpsc::unbounded_channel();
        let reports = Arc::new(Reports::new()?);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let provider = Arc::new(trust::provider());
        let client = roots
            .client(Arc::clone(&provider))
            .map_err(io::Error::other)?;
        let room = Arc::new(Room {
            judge,
            reports: Arc::clone(&reports),
            provider,
            client,
            sessions: Sessions::new(Instant::now()),
            leaves: Mutex::new(None),
        });
        std::thread::Builder::new()
            .name("inspector".to_owned())
            .spawn(move || runtime.block_on(work(room, jobs)))?;
        Ok(Self { orders, reports })
    }

    /// From now on the guest trusts this authority.
    pub(crate) fn use_authority(&self, authority: Authority) {
        // Fails only where the thread is gone, and every job with it.
        let _gone = self.orders.send(Order::Authority(authority));
    }

    /// Takes a connection over.
    pub(crate) fn take(&self, job: Job) {
        let _gone = self.orders.send(Order::Job(Box::new(job)));
    }

    /// Ends what is still done for a connection that is gone: its server could
    /// keep silent for ever, and hold what the guest asked for and two
    /// descriptors.
    pub(crate) fn forget(&self, key: Key) {
        let _gone = self.orders.send(Order::Forget(key));
    }

    /// Asks a proxy for a connection; the answer is a report.
    pub(crate) fn tunnel(&self, key: Key, proxy: Proxy, target: Target) {
        let _gone = self.orders.send(Order::Tunnel(key, proxy, target));
    }

    pub(crate) fn reports(&self) -> &Reports {
        &self.reports
    }
}

/// What all connections share.
struct Room {
    judge: Judge,
    reports: Arc<Reports>,
    provider: Arc<CryptoProvider>,
    client: ClientConfig,
    sessions: Sessions,
    leaves: Mutex<Option<Leaves>>,
}

async fn work(room: Arc<Room>, mut orders: mpsc::UnboundedReceiver<Order>) {
    // One for each connection of the loop's that is the inspector's.
    let mut tasks: HashMap<Key, AbortHandle> = HashMap::new();
    while let Some(order) = orders.recv().await {
        match order {
            Order::Authority(authority) => {
                // Without one, TLS is broken off wherever it had to be ended.
                let leaves = Leaves::of(&authority, Arc::clone(&room.provider));
                *room.leaves.lock() = leaves.ok();
            }
            Order::Tunnel(key, proxy, target) => {
                let reports = Arc::clone(&room.reports);
                tokio::spawn(async move {
                    let asked = timeout(limits::DIAL_TIME, proxy.connect(&target)).await;
                    let tunnel = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                    reports.add(Report::Tunnelled(key, tunnel));
                });
            }
            Order::Job(job) => {
                let key = job.key;
                let broken = Broken(key, Arc::clone(&room.reports));
                let room = Arc::clone(&room);
                let task = tokio::spawn(async move {
                    if room.serve(*job).await == Ended::Orderly {
                        broken.disarm();
                    }
                });
                tasks.insert(key, task.abort_handle());
            }
            Order::Forget(key) => {
                if let Some(task) = tasks.remove(&key) {
                    task.abort();
                }
            }
        }
    }
}

/// Breaks a connection off unless it is said to have ended well: also where
/// the task that served it did not come to its end.
struct Broken(Key, Arc<Reports>);

impl Broken {
    fn disarm(self) {
        std::mem::forget(self);
    }
}

impl Drop for Broken {
    fn drop(&mut self) {
        self.1.add(Report::Broken(self.0));
    }
}

impl Room {
    async fn serve(&self, job: Job) -> Ended {
        let Job {
            id,
            intent,
            guest,
            carries,
            task,
            ..
        } = job;
        let Ok(guest) = UnixStream::from_std(guest.into()) else {
            return Ended::Broken;
        };
        match task {
            Task::Tell(text) => {
                let page = Page::denied(text);
                let told = self.tell(&intent, guest, carries, &page);
                match timeout(limits::REFUSAL_TIME, told).await {
                    Ok(true) => Ended::Orderly,
                    Ok(false) | Err(_) => Ended::Broken,
                }
            }
            Task::Relay { upstream, flow } => {
                let Ok(server) = TcpStream::from_std(upstream.into()) else {
                    return Ended::Broken;
                };
                let case = Arc::new(Case {
                    judge: self.judge.clone(),
                    intent,
                    approved: Mutex::default(),
                    flow,
                    scheme: if carries == Carries::Tls {
                        Scheme::Https
                    } else {
                        Scheme::Http
                    },
                    id,
                    reports: Arc::clone(&self.reports),
                });
                match carries {
                    Carries::Tls => self.relay_tls(case, guest, server).await,
                    Carries::Http1 => http1::Relay::new(&case, guest, server).run().await,
                    Carries::Http2 => http2::relay(case, guest, server).await,
                }
            }
        }
    }

    async fn tell(
        &self,
        intent: &Intent,
        guest: UnixStream,
        carries: Carries,
        page: &Page,
    ) -> bool {
        match carries {
            Carries::Http1 => page::answer(page, guest, Offer::Http1).await,
            Carries::Http2 => page::answer(page, guest, Offer::Http2).await,
            Carries::Tls => {
                let Ok(hello) = LazyConfigAcceptor::new(Acceptor::default(), guest).await else {
                    return false;
                };
                let server = case::server(intent);
                self.tell_in_tls(hello, &server, page).await
            }
        }
    }

    async fn tell_in_tls(
        &self,
        hello: StartHandshake<UnixStream>,
        server: &str,
        page: &Page,
    ) -> bool {
        let Some(offers) = Offers::of(&hello.client_hello()) else {
            return false;
        };
        let offer = offers.preferred();
        match self.accept(hello, server, offer).await {
            Some(guest) => page::answer(page, guest, offer).await,
            None => false,
        }
    }

    /// Becomes `server` to the guest.
    async fn accept(
        &self,
        hello: StartHandshake<UnixStream>,
        server: &str,
        offer: Offer,
    ) -> Option<impl AsyncRead + AsyncWrite + Unpin + use<>> {
        let config = {
            let mut leaves = self.leaves.lock();
            leaves
                .as_mut()?
                .server(server, offer, Instant::now())
                .ok()?
        };
        let shaken = timeout(limits::HANDSHAKE_TIME, hello.into_stream(config)).await;
        shaken.ok()?.ok()
    }

    async fn relay_tls(&self, case: Arc<Case>, guest: UnixStream, server: TcpStream) -> Ended {
        let acceptor = LazyConfigAcceptor::new(Acceptor::default(), guest);
        let Ok(Ok(hello)) = timeout(limits::HANDSHAKE_TIME, acceptor).await else {
            return Ended::Broken;
        };
        let asked = hello.client_hello();
        let destination = &case.intent.flow.destination;
        if !server_name(destination, asked.server_name()) {
            return Ended::Broken;
        }
        let name = match (destination, asked.server_name()) {
            // The host has several names, and is told apart by none of them.
            (Destination::HostService, Some(asked)) => asked.to_owned(),
            _ => case.server(),
        };
        let Some(offers) = Offers::of(&asked) else {
            return Ended::Broken;
        };
        let server = match self.connect(destination, &name, &offers, server).await {
            Ok(server) => server,
            Err(why) => {
                let page = Page::unreachable(&name, why);
                let told = self.tell_in_tls(hello, &name, &page);
                return match timeout(limits::REFUSAL_TIME, told).await {
                    Ok(true) => Ended::Orderly,
                    Ok(false) | Err(_) => Ended::Broken,
                };
            }
        };
        // Both sides speak the same, so nothing is translated.
        let offer = match server.get_ref().1.alpn_protocol() {
            Some(b"h2") => Offer::Http2,
            Some(_) => Offer::Http1,
            None if offers.names_some => Offer::Http1,
            None => Offer::Nothing,
        };
        let Some(guest) = self.accept(hello, &name, offer).await else {
            return Ended::Broken;
        };
        if offer == Offer::Http2 {
            http2::relay(case, guest, server).await
        } else {
            http1::Relay::new(&case, guest, server).run().await
        }
    }

    async fn connect(
        &self,
        destination: &Destination,
        name: &str,
        offers: &Offers,
        server: TcpStream,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut client = self.client.clone();
        client.alpn_protocols = offers.wire();
        let name = match destination {
            // Its ports are servers of their own under one name.
            Destination::HostService => "localhost".to_owned(),
            _ => {
                client.resumption = self.sessions.at(Instant::now());
                name.to_owned()
            }
        };
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        let shaken = TlsConnector::from(Arc::new(client)).connect(name, server);
        timeout(limits::HANDSHAKE_TIME, shaken)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// What a guest's hello offers to speak.
struct Offers {
    http1: bool,
    http2: bool,
    names_some: bool,
}

impl Offers {
    /// `None` where it offers only what cannot be looked into.
    fn of(hello: &ClientHello<'_>) -> Option<Self> {
        let Some(names) = hello.alpn() else {
            return Some(Self {
                http1: true,
                http2: false,
                names_some: false,
            });
        };
        let (mut http1, mut http2) = (false, false);
        for name in names {
            http1 |= name == b"http/1.1";
            http2 |= name == b"h2";
        }
        (http1 || http2).then_some(Self {
            http1,
            http2,
            names_some: true,
        })
    }

    fn preferred(&self) -> Offer {
        match self {
            Self {
                names_some: false, ..
            } => Offer::Nothing,
            Self { http1: true, .. } => Offer::Http1,
            Self { .. } => Offer::Http2,
        }
    }

    fn wire(&self) -> Vec<Vec<u8>> {
        let offers = [
            (self.http2, Offer::Http2),
            (self.names_some && self.http1, Offer::Http1),
        ];
        offers
            .into_iter()
            .filter(|(offered, _)| *offered)
            .filter_map(|(_, offer)| offer.wire())
            .map(<[u8]>::to_vec)
            .collect()
    }
}
