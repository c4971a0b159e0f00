//! A web server in TLS on the host's loopback, and the root that it is
//! believed by. Its files are those of a directory, if it has one.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// A server of `localhost` that ends with the test. It answers each request
/// with its first line.
pub struct WebServer {
    port: u16,
    root: PathBuf,
    heard: Arc<Mutex<Vec<String>>>,
}

impl WebServer {
    /// Starts it on a free port; its root certificate is written below
    /// `directory`.
    pub fn start(directory: &Path) -> Self {
        Self::answering(directory, None)
    }

    /// The same, answering with the files below `files`.
    pub fn of_files(directory: &Path, files: &Path) -> Self {
        Self::answering(directory, Some(files))
    }

    fn answering(directory: &Path, files: Option<&Path>) -> Self {
        let files = files.map(Path::to_owned);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "root of a test");
        let certificate = params.self_signed(&key).unwrap();
        let root = directory.join("root.pem");
        std::fs::write(&root, certificate.pem()).unwrap();
        let issuer = Issuer::new(params, key);
        let own = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let leaf = leaf.signed_by(&own, &issuer).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivatePkcs8KeyDer::from(own.serialize_der()).into(),
            )
            .unwrap();
        let config = Arc::new(config);
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let port = socket.local_addr().expect("it is bound").port();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        thread::spawn(move || {
            for visitor in socket.incoming().flatten() {
                let (config, log, files) = (Arc::clone(&config), Arc::clone(&log), files.clone());
                thread::spawn(move || serve(config, visitor, &log, files.as_deref()));
            }
        });
        Self { port, root, heard }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file of its root certificate.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The first lines of the requests that reached it.
    pub fn heard(&self) -> Vec<String> {
        self.heard.lock().clone()
    }
}

/// Serves one visitor; one that leaves is no failure.
fn serve(
    config: Arc<ServerConfig>,
    visitor: TcpStream,
    log: &Mutex<Vec<String>>,
    files: Option<&Path>,
) -> Option<()> {
    let connection = ServerConnection::new(config).ok()?;
    let mut stream = BufReader::new(StreamOwned::new(connection, visitor));
    loop {
        let mut first = String::new();
        if stream.read_line(&mut first).ok()? == 0 {
            return None;
        }
        let first = first.trim_end().to_owned();
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line).ok()? == 0 {
                return None;
            }
        }
        log.lock().push(first.clone());
        let body = match files {
            None => Some(format!("{first}\n").into_bytes()),
            Some(files) => file(files, &first),
        };
        let status = if body.is_some() {
            "200 OK"
        } else {
            "404 Not Found"
        };
        let body = body.unwrap_or_default();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        stream.get_mut().write_all(head.as_bytes()).ok()?;
        stream.get_mut().write_all(&body).ok()?;
        stream.get_mut().flush().ok()?;
    }
}

/// The file that a request is for.
fn file(files: &Path, first: &str) -> Option<Vec<u8>> {
    let target = first.split(' ').nth(1)?;
    let path = target.split('?').next()?.strip_prefix('/')?;
    let plain = path.split('/').all(|name| name != "..");
    std::fs::read(files.join(path)).ok().filter(|_| plain)
}
