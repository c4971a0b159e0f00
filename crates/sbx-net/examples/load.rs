//! A server and its clients that ask as much of it as they can, for benches.
//!
//! ```text
//! load serve ADDRESS [CERTIFICATE KEY]    says `up`
//! load stream ADDRESS COUNT               MB/s of COUNT streams together
//! load idle ADDRESS COUNT                 holds COUNT connections that say
//!                                         nothing, says `up`, and lets go
//!                                         when its input ends
//! load connect ADDRESS                    connections a second
//! load request ADDRESS                    µs of a request of 1 KB, in the median
//! load paced ADDRESS                      the same for one request after each
//!                                         millisecond, and the µs that 99 of
//!                                         100 do not exceed
//! load web ADDRESS NAME ROOT PROXY each|kept
//!                                         requests a second, each on a
//!                                         connection of its own or not; PROXY
//!                                         is an address, or `-` for none
//! ```

#![allow(clippy::print_stdout, reason = "says what it measured")]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, getrlimit, setrlimit};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// How long a rate is measured.
const TIME: Duration = Duration::from_secs(2);
/// Connections that are made, by so many threads: fewer than there are ports.
const CONNECTIONS: u32 = 4_000;
const THREADS: u32 = 8;
/// Requests whose median counts.
const REQUESTS: usize = 4_000;
const REQUEST: usize = 1_024;
/// How long paced requests are measured, and what is between two of them.
const PACED: Duration = Duration::from_secs(4);
const PAUSE: Duration = Duration::from_millis(1);
/// What ends the head of a connection's last request.
const LAST: &str = "\r\nConnection: close\r\n\r\n";
const BLOCK: usize = 1 << 18;

fn main() -> Result<(), Failed> {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let figure = match *words {
        ["serve", address] => return serve(address, None),
        ["serve", address, certificate, key] => {
            return serve(address, Some(server_tls(certificate, key)?));
        }
        ["stream", address, count] => streams(address, count.parse()?)?,
        ["idle", address, count] => return idle(address, count.parse()?),
        ["connect", address] => connections(address)?,
        ["request", address] => requests(address)?,
        ["paced", address] => {
            let [median, most] = paced(address)?;
            println!("{median} {most}");
            return Ok(());
        }
        ["web", address, name, root, proxy, how] => {
            let proxy = (proxy != "-").then_some(proxy);
            // Once, so that no name server is measured.
            let server = proxy.unwrap_or(address).to_socket_addrs()?.next();
            let client = Client {
                server: server.ok_or("that resolves to nothing")?,
                name,
                through: proxy.is_some(),
                tls: client_tls(root)?,
            };
            client.rate(how == "each")?
        }
        _ => return Err("see the head of this program's source".into()),
    };
    println!("{figure}");
    Ok(())
}

fn serve(address: &str, tls: Option<Arc<ServerConfig>>) -> Result<(), Failed> {
    let listener = TcpListener::bind(address)?;
    println!("up");
    for stream in listener.incoming() {
        let (stream, tls) = (stream?, tls.clone());
        thread::spawn(move || {
            // Its client has gone, or says so itself.
            let _gone = match tls {
                Some(tls) => answer_web(stream, tls),
                None => answer(stream),
            };
        });
    }
    Ok(())
}

/// What comes first says what is wanted: bytes, nothing, or the same again.
fn answer(mut stream: TcpStream) -> Result<(), Failed> {
    stream.set_nodelay(true)?;
    let mut wanted = [0];
    stream.read_exact(&mut wanted)?;
    match wanted {
        [b'S'] => {
            let block = vec![0; BLOCK];
            loop {
                stream.write_all(&block)?;
            }
        }
        [b'R'] => {
            let mut request = [0; REQUEST];
            loop {
                stream.read_exact(&mut request)?;
                stream.write_all(&request)?;
            }
        }
        _ => Ok(stream.write_all(&wanted)?),
    }
}

fn answer_web(stream: TcpStream, tls: Arc<ServerConfig>) -> Result<(), Failed> {
    stream.set_nodelay(true)?;
    let mut stream = rustls::StreamOwned::new(ServerConnection::new(tls)?, stream);
    let body = "x".repeat(REQUEST);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {REQUEST}\r\n\r\n{body}");
    while let Some(request) = read_to(&mut stream, b"\r\n\r\n", 0)? {
        stream.write_all(answer.as_bytes())?;
        if request.ends_with(LAST.as_bytes()) {
            break;
        }
    }
    Ok(())
}

/// Reads a message whose head ends so, with as much behind it.
fn read_to(stream: &mut impl Read, end: &[u8], body: usize) -> io::Result<Option<Vec<u8>>> {
    let mut heard = Vec::new();
    let mut room = [0; 4096];
    loop {
        let head = heard.windows(end.len()).position(|part| part == end);
        if head.is_some_and(|at| heard.len() >= at + end.len() + body) {
            return Ok(Some(heard));
        }
        match stream.read(&mut room)? {
            0 => return Ok(None),
            count => heard.extend_from_slice(room.get(..count).unwrap_or_default()),
        }
    }
}

fn open(address: &str, wanted: u8) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.write_all(&[wanted])?;
    Ok(stream)
}

fn streams(address: &str, count: u32) -> Result<f64, Failed> {
    let begun = Instant::now();
    let stream = || -> io::Result<u64> {
        let mut stream = open(address, b'S')?;
        let mut room = vec![0; BLOCK];
        let mut bytes = 0;
        while begun.elapsed() < TIME {
            bytes += stream.read(&mut room)? as u64;
        }
        Ok(bytes)
    };
    let bytes: u64 = together(count, stream)?.into_iter().sum();
    Ok(bytes as f64 / 1e6 / begun.elapsed().as_secs_f64())
}

fn idle(address: &str, count: usize) -> Result<(), Failed> {
    let held = (0..count)
        .map(|_| open(address, b'R'))
        .collect::<io::Result<Vec<_>>>()?;
    println!("up");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    for mut stream in held {
        stream.shutdown(std::net::Shutdown::Write)?;
        // Until the other side is through too, it is still there.
        let _gone = stream.read(&mut [0]);
    }
    Ok(())
}

fn connections(address: &str) -> Result<f64, Failed> {
    let begun = Instant::now();
    let some = || -> io::Result<()> {
        for _ in 0..CONNECTIONS / THREADS {
            let mut said = Vec::new();
            open(address, b'C')?.read_to_end(&mut said)?;
            assert_eq!(said, b"C");
        }
        Ok(())
    };
    together(THREADS, some)?;
    Ok(f64::from(CONNECTIONS) / begun.elapsed().as_secs_f64())
}

fn requests(address: &str) -> Result<f64, Failed> {
    let mut stream = open(address, b'R')?;
    let mut request = [0; REQUEST];
    let mut times = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let begun = Instant::now();
        stream.write_all(&request)?;
        stream.read_exact(&mut request)?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let median = times.get(REQUESTS / 2).copied().unwrap_or_default();
    Ok(median.as_secs_f64() * 1e6)
}

/// As somebody has it who does other things as well.
fn paced(address: &str) -> Result<[f64; 2], Failed> {
    let mut stream = open(address, b'R')?;
    let mut request = [0; REQUEST];
    let mut times = Vec::new();
    let all = Instant::now();
    while all.elapsed() < PACED {
        thread::sleep(PAUSE);
        let begun = Instant::now();
        stream.write_all(&request)?;
        stream.read_exact(&mut request)?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    let at = |percent: usize| {
        let time = times.get(times.len() * percent / 100);
        time.map_or(0.0, |time| time.as_secs_f64() * 1e6)
    };
    Ok([at(50), at(99)])
}

/// What so many threads find, all of which have to succeed.
fn together<T: Send>(
    count: u32,
    work: impl Fn() -> io::Result<T> + Sync,
) -> Result<Vec<T>, Failed> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(&work)).collect();
        let found = threads.into_iter().map(|thread| match thread.join() {
            Ok(found) => Ok(found?),
            Err(_) => Err("a thread panicked".into()),
        });
        found.collect()
    })
}

/// A client of HTTPS.
struct Client<'a> {
    server: SocketAddr,
    name: &'a str,
    /// The server is a proxy.
    through: bool,
    tls: Arc<ClientConfig>,
}

impl Client<'_> {
    fn rate(&self, each: bool) -> Result<f64, Failed> {
        let begun = Instant::now();
        let client = || -> io::Result<u32> {
            let mut count = 0;
            let mut kept = None;
            while begun.elapsed() < TIME {
                let stream = match &mut kept {
                    Some(stream) if !each => stream,
                    kept => kept.insert(self.open().map_err(io::Error::other)?),
                };
                let end = if each { LAST } else { "\r\n\r\n" };
                let request = format!("GET / HTTP/1.1\r\nHost: {}{end}", self.name);
                stream.write_all(request.as_bytes())?;
                if read_to(stream, b"\r\n\r\n", REQUEST)?.is_none() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if each {
                    // Whoever closes first keeps the port for a minute, and
                    // the client has only so many.
                    let _closed = stream.read(&mut [0]);
                }
                count += 1;
            }
            Ok(count)
        };
        let count: u32 = together(THREADS, client)?.into_iter().sum();
        Ok(f64::from(count) / begun.elapsed().as_secs_f64())
    }

    fn open(&self) -> Result<rustls::StreamOwned<ClientConnection, TcpStream>, Failed> {
        let mut stream = TcpStream::connect(self.server)?;
        stream.set_nodelay(true)?;
        if self.through {
            let name = self.name;
            let asked = format!("CONNECT {name}:443 HTTP/1.1\r\nHost: {name}:443\r\n\r\n");
            stream.write_all(asked.as_bytes())?;
            if read_to(&mut stream, b"\r\n\r\n", 0)?.is_none() {
                return Err("the proxy closed the connection".into());
            }
        }
        let name = ServerName::try_from(self.name.to_owned())?;
        let tls = ClientConnection::new(Arc::clone(&self.tls), name)?;
        Ok(rustls::StreamOwned::new(tls, stream))
    }
}

fn server_tls(certificate: &str, key: &str) -> Result<Arc<ServerConfig>, Failed> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let config = ServerConfig::builder().with_no_client_auth();
    Ok(Arc::new(config.with_single_cert(chain, key)?))
}

fn client_tls(root: &str) -> Result<Arc<ClientConfig>, Failed> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(root)? {
        roots.add(root?)?;
    }
    let config = ClientConfig::builder().with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    // Every connection pays for its whole handshake.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}
