//! Talking to a supervisor: short questions, and the way into a session.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use sbx_proto::client::{Reply, Request};
use sbx_proto::frame::{Frame, Kind, LINK, Side};
use sbx_proto::message::Message;
use sbx_spec::{Publication, Rule};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::command::{Code, Error, Question};
use crate::supervisor::{FrameReader, SOCKET, write_frame};

/// How long a supervisor may take to answer a question.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A connection to a supervisor, for one request.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) reader: FrameReader<OwnedReadHalf>,
    pub(crate) writer: OwnedWriteHalf,
}

impl Client {
    /// Connects to the supervisor whose socket is in `runtime`.
    ///
    /// # Errors
    /// If none listens there.
    pub(crate) fn connect(runtime: &Path) -> Result<Self, Error> {
        let failed = |source: std::io::Error| {
            Error::new(Code::Link, "cannot reach the sandbox's supervisor").because(source)
        };
        let unreachable = |source: sbx_sys::Error| {
            Error::new(Code::Link, "cannot reach the sandbox's supervisor").because(source)
        };
        let dir = sbx_sys::file::open_dir(runtime).map_err(unreachable)?;
        let stream = sbx_sys::unix::connect_at(&dir, SOCKET).map_err(unreachable)?;
        let peer = sbx_sys::unix::peer(&stream).map_err(unreachable)?;
        if peer.uid != rustix::process::geteuid().as_raw() {
            return Err(Error::new(
                Code::Link,
                "another user listens on the supervisor's socket",
            ));
        }
        stream.set_nonblocking(true).map_err(failed)?;
        let stream = UnixStream::from_std(stream).map_err(failed)?;
        let (reader, writer) = stream.into_split();
        Ok(Self {
            reader: FrameReader::new(reader, Side::Supervisor),
            writer,
        })
    }

    /// Sends the request of this connection.
    ///
    /// # Errors
    /// If the supervisor is gone.
    pub(crate) async fn send(&mut self, request: &Request) -> Result<(), Error> {
        let frame = request.to_frame(LINK).map_err(|source| {
            Error::new(Code::Internal, "cannot write a request").because(source)
        })?;
        self.send_frame(&frame).await
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// If the supervisor is gone.
    pub(crate) async fn send_frame(&mut self, frame: &Frame) -> Result<(), Error> {
        write_frame(&mut self.writer, frame)
            .await
            .map_err(|source| {
                Error::new(Code::Link, "the sandbox's supervisor is gone").because(source)
            })
    }

    /// The next frame that is not progress.
    ///
    /// # Errors
    /// If the supervisor is gone or refuses what was asked.
    pub(crate) async fn next(&mut self) -> Result<Frame, Error> {
        loop {
            let frame = self.reader.next().await.map_err(|source| {
                Error::new(Code::Link, "cannot read from the supervisor").because(source)
            })?;
            match frame {
                None => {
                    return Err(Error::new(Code::Link, "the sandbox's supervisor is gone")
                        .hint("see why with `sbx logs`"));
                }
                Some(frame) if frame.kind == Kind::Progress => {}
                Some(frame) => return Ok(frame),
            }
        }
    }

    /// The answer to a request.
    ///
    /// # Errors
    /// If the supervisor is gone or refuses.
    pub(crate) async fn answer(&mut self) -> Result<Reply, Error> {
        let frame = self.next().await?;
        let reply = Reply::from_frame(&frame).map_err(|source| {
            Error::new(Code::Link, "cannot read the supervisor's answer").because(source)
        })?;
        refused(reply)
    }
}

/// The refusal in a reply as an error.
///
/// # Errors
/// If it is one.
pub(crate) fn refused(reply: Reply) -> Result<Reply, Error> {
    match reply {
        Reply::Failed { message, hint, .. } => {
            let mut error = Error::new(Code::Link, message);
            error.hint = hint;
            Err(error)
        }
        reply => Ok(reply),
    }
}

/// What the supervisor knows of its sandbox.
///
/// # Errors
/// If it does not answer in time.
pub(crate) async fn inspect(runtime: &Path) -> Result<Value, Error> {
    match ask(runtime, &Request::Inspect, PATIENCE).await? {
        Reply::Inspected { json } => serde_json::from_slice(&json).map_err(|source| {
            Error::new(Code::Link, "cannot read the supervisor's answer").because(source)
        }),
        _ => Err(Error::new(
            Code::Link,
            "the supervisor answered something else",
        )),
    }
}

/// Tells the sandbox to stay up without a session.
///
/// # Errors
/// If the supervisor does not answer in time.
pub(crate) async fn stay(runtime: &Path) -> Result<(), Error> {
    let json = br#"{"stay":true}"#.to_vec().into();
    ask(runtime, &Request::Call { json }, PATIENCE)
        .await
        .map(drop)
}

/// Whether the supervisor does anything at all.
///
/// # Errors
/// If it does not answer in time.
pub(crate) async fn ping(runtime: &Path) -> Result<(), Error> {
    ask(runtime, &Request::Ping, PATIENCE).await.map(drop)
}

/// Has the sandbox judge by these rules, and waits until it does. Returns
/// how many open connections they ended.
///
/// # Errors
/// If the supervisor does not get there in time.
pub(crate) async fn policy(runtime: &Path, rules: &[Rule]) -> Result<u64, Error> {
    #[derive(Deserialize)]
    struct Done {
        cut: u64,
    }
    let call = serde_json::json!({ "policy": { "rules": rules } });
    let done: Done = answered(ask(runtime, &called(&call), PATIENCE).await?)?;
    Ok(done.cut)
}

/// What waits for the user in a sandbox.
#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    /// Another one once something changes.
    pub(crate) revision: u64,
    pub(crate) questions: Vec<Question>,
}

/// What the sandbox's network engine asks.
///
/// # Errors
/// If the supervisor does not answer in time.
pub(crate) async fn questions(runtime: &Path) -> Result<Asked, Error> {
    tokio::time::timeout(PATIENCE, next_questions(runtime, None))
        .await
        .unwrap_or_else(|_| Err(silent()))
}

/// What it asks once that is something else than at `seen`: waits for as long
/// as that takes.
///
/// # Errors
/// If the supervisor is gone.
pub(crate) async fn next_questions(runtime: &Path, seen: Option<u64>) -> Result<Asked, Error> {
    let call = serde_json::json!({ "questions": { "seen": seen } });
    let mut client = Client::connect(runtime)?;
    client.send(&called(&call)).await?;
    answered(client.answer().await?)
}

/// Hands over a port that is to be published, and its socket.
///
/// # Errors
/// If the supervisor does not take it.
pub(crate) async fn publish(
    runtime: &Path,
    publication: &Publication,
    listener: OwnedFd,
) -> Result<(), Error> {
    let call = serde_json::json!({ "publish": publication });
    let handed = async {
        let mut client = Client::connect(runtime)?;
        client.send(&called(&call)).await?;
        client.answer().await?;
        sbx_sys::unix::send(client.writer.as_ref(), b"!", &[listener.as_fd()]).map_err(
            |source| {
                Error::new(Code::Link, "cannot hand a socket to the supervisor").because(source)
            },
        )?;
        client.answer().await.map(drop)
    };
    let limited = tokio::time::timeout(PATIENCE, handed);
    limited.await.unwrap_or_else(|_| Err(silent()))
}

/// Has a port published no longer.
///
/// # Errors
/// If the supervisor does not answer in time.
pub(crate) async fn unpublish(runtime: &Path, publication: &Publication) -> Result<(), Error> {
    let call = serde_json::json!({ "unpublish": publication });
    ask(runtime, &called(&call), PATIENCE).await.map(drop)
}

/// Answers a question; false where it is not open.
///
/// # Errors
/// If the supervisor does not answer in time.
pub(crate) async fn answer(runtime: &Path, number: u64, approve: bool) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Done {
        answered: bool,
    }
    let call = serde_json::json!({ "answer": { "number": number, "approve": approve } });
    let done: Done = answered(ask(runtime, &called(&call), PATIENCE).await?)?;
    Ok(done.answered)
}

fn called(call: &Value) -> Request {
    Request::Call {
        json: call.to_string().into_bytes().into(),
    }
}

/// The answer to a call.
fn answered<T: DeserializeOwned>(reply: Reply) -> Result<T, Error> {
    match reply {
        Reply::Answered { json } => serde_json::from_slice(&json).map_err(|source| {
            Error::new(Code::Link, "cannot read the supervisor's answer").because(source)
        }),
        _ => Err(Error::new(
            Code::Link,
            "the supervisor answered something else",
        )),
    }
}

/// Stops the sandbox and waits until it is down.
///
/// # Errors
/// If the supervisor does not get there within the grace and half a minute.
pub(crate) async fn stop(runtime: &Path, grace: Duration) -> Result<(), Error> {
    let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
    let asked = ask(runtime, &Request::Stop { grace_ms }, grace + 3 * PATIENCE).await;
    match asked {
        Ok(_) => Ok(()),
        // It was on its way down already and closed before it could answer.
        Err(error) if error.code == Code::Link => Ok(()),
        Err(error) => Err(error),
    }
}

async fn ask(runtime: &Path, request: &Request, patience: Duration) -> Result<Reply, Error> {
    let asked = async {
        let mut client = Client::connect(runtime)?;
        client.send(request).await?;
        client.answer().await
    };
    tokio::time::timeout(patience, asked)
        .await
        .unwrap_or_else(|_| Err(silent()))
}

fn silent() -> Error {
    Error::new(Code::Timeout, "the sandbox's supervisor does not answer")
        .hint("end it with `sbx rm -f`, or look at it with `sbx logs`")
}
