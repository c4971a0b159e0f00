//! One request at a time to an engine, each on a connection of its own, or,
//! where a connection is dear, what is asked on one after another.
//!
//! Owns: the bounds of what is read and how long is waited. Never: decides
//! what is asked, or follows where an answer points. An engine's texts are
//! escaped before anything shows them.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::http::response::Parts;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use super::endpoint::{Endpoint, Tls};
use super::ssh;
use super::tls::Connector;
use crate::command::{Code, Error};

/// Largest answer that is read, in bytes.
const MAX_ANSWER: usize = 16 << 20;
/// Longest text of an engine that is shown.
const MAX_SHOWN: usize = 500;
/// How long an engine may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// The newest version of the interface that is spoken.
const NEWEST: (u32, u32) = (1, 47);
/// The oldest: Docker 20.10, Podman 4.
const OLDEST: (u32, u32) = (1, 41);

/// A connection.
trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}
type Stream = Box<dyn Connection>;

/// What a request carries.
pub(super) type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// An engine, and the version of its interface that is spoken with it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    endpoint: Endpoint,
    tls: Option<Connector>,
    /// What `ssh` gets of the caller's environment.
    variables: Vec<(String, String)>,
    /// A connection on which the last question was answered.
    idle: Arc<Mutex<Option<Line>>>,
    version: String,
}

/// A connection, and the task that moves its bytes.
#[derive(Debug)]
struct Line {
    sender: http1::SendRequest<Body>,
    task: JoinHandle<()>,
}

/// How an engine answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Value,
}

impl Answer {
    /// What it answered, if that was what it was asked for.
    pub(super) fn good(self, what: &str) -> Result<Value, Error> {
        if self.status.is_success() || self.status == StatusCode::NOT_MODIFIED {
            return Ok(self.body);
        }
        let said = self.body.get("message").and_then(Value::as_str);
        let said = said.map_or_else(|| self.status.to_string(), shown);
        Err(super::failed(what).because(std::io::Error::other(said)))
    }

    /// The same where what is asked about may not be there.
    pub(super) fn found(self, what: &str) -> Result<Option<Value>, Error> {
        match self.status {
            StatusCode::NOT_FOUND => Ok(None),
            _ => self.good(what).map(Some),
        }
    }
}

/// A text of the engine, as it may be shown.
pub(super) fn shown(text: &str) -> String {
    let text: String = text.trim().chars().take(MAX_SHOWN).collect();
    text.escape_debug().to_string()
}

/// `text` as a part of a path or the value of a question.
pub(super) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A body of JSON.
fn json(value: &Value) -> Body {
    full(value.to_string().into())
}

fn full(bytes: Bytes) -> Body {
    Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

impl Client {
    /// The engine at `endpoint`; `variables` are those that
    /// [`super::variables`] names.
    ///
    /// # Errors
    /// If nothing answers there, or what does is too old or not whom the
    /// caller believes.
    pub(crate) async fn connect(
        endpoint: &Endpoint,
        variables: &[(String, String)],
    ) -> Result<Self, Error> {
        let tls = match endpoint {
            Endpoint::Tls(tls) => Some(Connector::new(tls)?),
            _ => None,
        };
        let bare = Self {
            endpoint: endpoint.clone(),
            tls,
            variables: variables.to_vec(),
            idle: Arc::default(),
            version: String::new(),
        };
        let (head, _) = bare.ask(Method::GET, "/_ping", full(Bytes::new())).await?;
        let told = head.headers.get("api-version");
        let newest = told.and_then(|told| version(told.to_str().ok()?));
        let Some((major, minor)) = newest.filter(|newest| *newest >= OLDEST) else {
            let told = told.and_then(|told| told.to_str().ok()).unwrap_or("none");
            let what = format!(
                "the engine at {endpoint} speaks version {} of its interface, not {}.{} or later",
                shown(told),
                OLDEST.0,
                OLDEST.1
            );
            let error = Error::new(Code::HostUnfit, what);
            return Err(match endpoint {
                Endpoint::Tcp(_) if head.status == StatusCode::BAD_REQUEST => {
                    error.hint("if it speaks TLS, set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH")
                }
                _ => error.hint("Docker from 20.10 on and Podman from 4.0 on can be used"),
            });
        };
        let (major, minor) = (major, minor).min(NEWEST);
        Ok(bare.speaking(&format!("{major}.{minor}")))
    }

    /// The same engine in this version of its interface.
    fn speaking(self, version: &str) -> Self {
        Self {
            version: format!("/v{version}"),
            ..self
        }
    }

    /// Where it is.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Asks for `path` with a JSON body, and reads the JSON that comes back.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Answer, Error> {
        let body = body.map_or_else(|| full(Bytes::new()), json);
        let (head, bytes) = self.ask(method, path, body).await?;
        Ok(Answer {
            status: head.status,
            body: serde_json::from_slice(&bytes).unwrap_or_default(),
        })
    }

    async fn ask(&self, method: Method, path: &str, body: Body) -> Result<(Parts, Bytes), Error> {
        let request = self.request(method, path, body, false)?;
        let asked = async {
            let mut line = self.line().await?;
            let sent = line.sender.send_request(request).await;
            let (head, body) = sent.map_err(|error| self.broken(error))?.into_parts();
            let read = Limited::new(body, MAX_ANSWER).collect().await;
            let bytes = read.map_err(|error| self.broken(error))?.to_bytes();
            if matches!(self.endpoint, Endpoint::Tls(_) | Endpoint::Ssh(_)) {
                *self.idle.lock() = Some(line);
            }
            Ok((head, bytes))
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .map_err(|_| self.silent())?
    }

    /// The connection of the last question, or a new one.
    async fn line(&self) -> Result<Line, Error> {
        let idle = self.idle.lock().take();
        if let Some(mut line) = idle
            && line.sender.ready().await.is_ok()
        {
            return Ok(line);
        }
        self.over(self.stream().await?).await
    }

    /// Closes what was kept for the next question: from here on there is
    /// nothing by which the engine could be told to do anything.
    pub(super) async fn hang_up(&self) {
        let idle = self.idle.lock().take();
        if let Some(Line { sender, task }) = idle {
            drop(sender);
            task.abort();
            let _aborted = task.await;
        }
    }

    /// Sends `body` to `path` and hands each line of what comes back to
    /// `heard`; for as long as it takes.
    pub(super) async fn transfer(
        &self,
        method: Method,
        path: &str,
        body: Option<Body>,
        heard: &mut dyn FnMut(&Value) -> Result<(), Error>,
    ) -> Result<StatusCode, Error> {
        let body = body.unwrap_or_else(|| full(Bytes::new()));
        let response = self.send(method, path, body, false).await?;
        let status = response.status();
        let mut body = response.into_body();
        let mut line = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(error))?;
            for byte in frame.into_data().unwrap_or_default() {
                match byte {
                    b'\n' => heard(
                        &serde_json::from_slice(&std::mem::take(&mut line)).unwrap_or_default(),
                    )?,
                    _ if line.len() >= MAX_ANSWER => return Err(self.broken("a line without end")),
                    byte => line.push(byte),
                }
            }
        }
        if !line.is_empty() {
            heard(&serde_json::from_slice(&line).unwrap_or_default())?;
        }
        Ok(status)
    }

    /// Asks for `path` on a connection that stands when this returns; the
    /// answer is whoever's who waits for it.
    pub(super) async fn open(
        &self,
        path: &str,
    ) -> Result<JoinHandle<Result<Response<Incoming>, Error>>, Error> {
        let request = self.request(Method::POST, path, full(Bytes::new()), false)?;
        let mut line = self.over(self.stream().await?).await?;
        let client = self.clone();
        Ok(tokio::spawn(async move {
            let sent = line.sender.send_request(request).await;
            sent.map_err(|error| client.broken(error))
        }))
    }

    /// The standard streams of the container `id`, from its next start on.
    pub(super) async fn attach(&self, id: &str) -> Result<TokioIo<Upgraded>, Error> {
        let what = "attach to a container";
        let path = format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1");
        let asked = self.send(Method::POST, &path, full(Bytes::new()), true);
        let response = tokio::time::timeout(PATIENCE, asked)
            .await
            .map_err(|_| self.silent())??;
        // Some engines have no word for the upgrade and say just 200.
        let status = response.status();
        if !matches!(status, StatusCode::SWITCHING_PROTOCOLS | StatusCode::OK) {
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await;
            let body = body.map_err(|error| self.broken(error))?.to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            return Err(match (Answer { status, body }).good(what) {
                Err(error) => error,
                Ok(_) => super::failed(what),
            });
        }
        let upgraded = hyper::upgrade::on(response).await;
        Ok(TokioIo::new(upgraded.map_err(|error| self.broken(error))?))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Body,
        upgrade: bool,
    ) -> Result<Response<Incoming>, Error> {
        let request = self.request(method, path, body, upgrade)?;
        let mut line = self.over(self.stream().await?).await?;
        let sent = line.sender.send_request(request).await;
        sent.map_err(|error| self.broken(error))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Body,
        upgrade: bool,
    ) -> Result<Request<Body>, Error> {
        let archive = path.contains("fromSrc=") || path.contains("/archive?");
        let kind = if archive {
            "application/x-tar"
        } else {
            "application/json"
        };
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.version))
            .header(header::HOST, "engine")
            .header(header::CONTENT_TYPE, kind);
        if upgrade {
            request = request
                .header(header::CONNECTION, "Upgrade")
                .header(header::UPGRADE, "tcp");
        }
        request.body(body).map_err(|error| self.broken(error))
    }

    async fn stream(&self) -> Result<Stream, Error> {
        match &self.endpoint {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                Ok(Box::new(stream.map_err(|error| self.absent(error))?))
            }
            Endpoint::Ssh(destination) => {
                let stream = ssh::Connection::open(destination, &self.variables);
                Ok(Box::new(stream.map_err(|error| self.absent(error))?))
            }
            Endpoint::Tcp(host) | Endpoint::Tls(Tls { host, .. }) => {
                let stream = tokio::time::timeout(CONNECT, self.connected(host));
                stream.await.map_err(|_| self.silent())?
            }
        }
    }

    async fn connected(&self, host: &str) -> Result<Stream, Error> {
        // The library's own way asks for names on another thread, which a
        // process that is about to be jailed may not have.
        let addresses = std::net::ToSocketAddrs::to_socket_addrs(host);
        let addresses: Vec<_> = addresses.map_err(|error| self.absent(error))?.collect();
        let stream = TcpStream::connect(&addresses[..]).await;
        let stream = stream.map_err(|error| self.absent(error))?;
        let _slower = stream.set_nodelay(true);
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some(tls) => {
                let stream = tls.over(stream).await;
                Ok(Box::new(stream.map_err(|error| self.broken(error))?))
            }
        }
    }

    async fn over(&self, stream: Stream) -> Result<Line, Error> {
        let shaken = http1::handshake(TokioIo::new(stream)).await;
        let (sender, connection) = shaken.map_err(|error| self.broken(error))?;
        // It ends with the answer, or with what it was upgraded to, and whoever
        // asked hears of an error.
        let task = tokio::spawn(async { drop(connection.with_upgrades().await) });
        Ok(Line { sender, task })
    }

    fn absent(&self, source: std::io::Error) -> Error {
        let denied = source.kind() == std::io::ErrorKind::PermissionDenied;
        let error = Error::new(
            Code::HostUnfit,
            format!("cannot reach the engine at {}", self.endpoint),
        )
        .because(source);
        error.hint(if denied {
            "let this user speak with it (for Docker: `usermod -aG docker USER`, then log in again), \
             or use `--isolation container`"
        } else {
            "start it (`systemctl start docker`), or name another with DOCKER_HOST"
        })
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        let what = format!("cannot speak with the engine at {}", self.endpoint);
        let error = Error::new(Code::Engine, what).because(std::io::Error::other(source));
        match &self.endpoint {
            Endpoint::Tls(_) => error.hint(
                "DOCKER_CERT_PATH names a directory: ca.pem there has to be the engine's authority, \
                 cert.pem and key.pem what it knows you by",
            ),
            Endpoint::Ssh(_) => {
                error.hint("`ssh` has to log in without a question, and find `docker` there")
            }
            _ => error,
        }
    }

    fn silent(&self) -> Error {
        let what = format!("the engine at {} does not answer", self.endpoint);
        Error::new(Code::Timeout, what)
    }
}

fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// A client of an engine that answers every request with `answer`.
    fn engine(answer: &'static str) -> (tempfile::TempDir, Endpoint) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("engine.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (root, Endpoint::Unix(path))
    }

    /// One that says so of its version, and answers with `status` and `body`.
    fn speaking(version: &str, status: &str, body: &str) -> (tempfile::TempDir, Endpoint) {
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status}\r\nApi-Version: {version}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        engine(Box::leak(text.into_boxed_str()))
    }

    #[tokio::test]
    async fn an_engine_of_another_age_is_refused_and_a_fitting_one_is_not() {
        let (_root, good) = speaking("1.52", "200 OK", "");
        assert_eq!(Client::connect(&good, &[]).await.unwrap().version, "/v1.47");
        let (_root, older) = speaking("1.41", "200 OK", "");
        assert_eq!(
            Client::connect(&older, &[]).await.unwrap().version,
            "/v1.41"
        );
        for told in ["1.24", "", "x"] {
            let (_root, other) = speaking(told, "200 OK", "");
            let error = Client::connect(&other, &[]).await.unwrap_err();
            assert_eq!(error.code, Code::HostUnfit, "{}", error.message);
        }
    }

    #[tokio::test]
    async fn what_an_engine_says_is_shown_without_what_a_terminal_obeys() {
        let body = r#"{"message":"no \u001b[2J such"}"#;
        let (_root, endpoint) = speaking("1.47", "500 X", body);
        let client = Client::connect(&endpoint, &[]).await.unwrap();
        let answer = client.call(Method::GET, "/info", None).await.unwrap();
        let error = answer.good("ask").unwrap_err();
        assert_eq!(error.causes, ["no \\u{1b}[2J such"]);
    }

    #[tokio::test]
    async fn no_engine_is_an_error_with_a_cure() {
        let error = Client::connect(&Endpoint::Unix("/nowhere/x.sock".into()), &[]).await;
        let error = error.unwrap_err();
        assert_eq!(error.code, Code::HostUnfit);
        assert!(error.hint.unwrap().contains("DOCKER_HOST"));
    }

    #[test]
    fn parts_of_paths_stay_parts() {
        assert_eq!(encoded("a/b:c d"), "a%2Fb%3Ac%20d");
        assert_eq!(encoded("node_1.2-x"), "node_1.2-x");
    }
}
