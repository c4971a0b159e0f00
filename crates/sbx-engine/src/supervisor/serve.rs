//! The tasks that move frames: one reader and one writer for the guest, one
//! task for each client.
//!
//! Nothing here waits for one peer on behalf of another. The guest's reader
//! hands frames to queues that credit bounds; a client that stops reading
//! stops only itself, and a guest that stops reading stops only those who
//! want to send to it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use sbx_proto::client::{Progress, Reply, Request};
use sbx_proto::frame::{Frame, Kind, LINK, Side};
use sbx_proto::link::{Event, StatusReply};
use sbx_proto::message::Message;
use sbx_spec::{Publication, Rule};
use serde::Deserialize;
use tokio::io::{AsyncWrite, Interest};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, watch};

use super::doors::Doors;
use super::log::log;
use super::machine::Machine;
use super::network::Network;
use super::policy::Rules;
use super::router::{MAX_SESSIONS, Router};
use super::wire::{FrameReader, write};

/// Frames that may wait for the guest to read.
const GUEST_QUEUE: usize = 64;

/// How long a client may take to say what it wants.
const PATIENCE: Duration = Duration::from_secs(10);

/// Most connections at a time: sessions, and short questions beside them.
const MAX_CLIENTS: usize = 3 * MAX_SESSIONS;

/// How far the sandbox is, as its clients see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// Still starting; the text says at what.
    Starting(String),
    /// Takes sessions.
    Ready,
    /// Ending; the text says why.
    Stopping(String),
    /// Everything of it is gone; the text says why.
    Down(String),
}

/// Why the link to the guest ended.
#[derive(Debug)]
pub(crate) enum LinkEnd {
    /// The guest, or its machine, closed it.
    Closed,
    /// The guest broke a rule; the text says which.
    Violation(String),
}

/// What all tasks of a supervisor share.
pub(crate) struct Shared {
    router: RefCell<Router>,
    to_guest: mpsc::Sender<Frame>,
    stage: watch::Sender<Stage>,
    /// A session opened or ended.
    pub(crate) traffic: Notify,
    /// A client asked to stop, with this grace.
    pub(crate) stop: watch::Sender<Option<Duration>>,
    status: watch::Sender<Option<StatusReply>>,
    clients: watch::Sender<usize>,
    /// Whether the sandbox stays up without a session.
    pub(crate) stay: Cell<bool>,
    machine: tokio::sync::Mutex<Option<Machine>>,
    rules: Option<Rc<Rules>>,
    doors: Option<Rc<Doors>>,
    inspect: Box<dyn Fn() -> serde_json::Value>,
}

impl Shared {
    /// The shared state, and what the writer to the guest reads from.
    /// `network` is its network engine, if it has one; `inspect` tells what
    /// the supervisor knows of itself.
    pub(crate) fn new(
        machine: Option<Machine>,
        network: Option<&Network>,
        inspect: Box<dyn Fn() -> serde_json::Value>,
    ) -> (Rc<Self>, mpsc::Receiver<Frame>) {
        let (to_guest, from_tasks) = mpsc::channel(GUEST_QUEUE);
        let shared = Self {
            router: RefCell::default(),
            to_guest,
            stage: watch::Sender::new(Stage::Starting("starting".to_owned())),
            traffic: Notify::new(),
            stop: watch::Sender::new(None),
            status: watch::Sender::new(None),
            clients: watch::Sender::new(0),
            stay: Cell::new(false),
            machine: tokio::sync::Mutex::new(machine),
            rules: network.map(Network::rules),
            doors: network.map(Network::doors),
            inspect,
        };
        (Rc::new(shared), from_tasks)
    }

    /// Open sessions.
    pub(crate) fn sessions(&self) -> usize {
        self.router.borrow().len()
    }

    /// Tells all clients how far the sandbox is.
    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Ends every session and lets clients hear why, for `patience` at most.
    pub(crate) async fn part(&self, patience: Duration) {
        self.router.borrow_mut().close();
        let mut clients = self.clients.subscribe();
        let gone = clients.wait_for(|clients| *clients == 0);
        // Who does not listen by then hears it from the closed socket.
        let _ = tokio::time::timeout(patience, gone).await;
    }

    /// Sends a link-level message unless the guest has not read for so long
    /// that the queue is full; it is then as good as gone.
    pub(crate) fn tell_guest(&self, message: &impl Message) {
        if let Ok(frame) = message.to_frame(LINK) {
            let _ = self.to_guest.try_send(frame);
        }
    }
}

/// Writes queued frames to the guest until the link closes.
pub(crate) async fn write_link(mut queue: mpsc::Receiver<Frame>, mut link: OwnedWriteHalf) {
    while let Some(frame) = queue.recv().await {
        if write(&mut link, &frame).await.is_err() {
            return;
        }
    }
}

/// Reads the guest until the link ends; every session ends with it.
pub(crate) async fn read_link(shared: Rc<Shared>, mut link: FrameReader<OwnedReadHalf>) -> LinkEnd {
    let end = loop {
        match link.next().await {
            Ok(None) => break LinkEnd::Closed,
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => {
                break LinkEnd::Violation(error.to_string());
            }
            Err(_) => break LinkEnd::Closed,
            Ok(Some(frame)) => {
                if let Err(what) = take(&shared, frame) {
                    break LinkEnd::Violation(what);
                }
            }
        }
    };
    shared.router.borrow_mut().close();
    shared.traffic.notify_waiters();
    end
}

fn take(shared: &Shared, frame: Frame) -> Result<(), String> {
    match frame.kind {
        Kind::Event => {
            match Event::from_frame(&frame).map_err(|error| error.to_string())? {
                Event::OutOfMemory { kills } => {
                    log(&format!("guest: {kills} processes killed for memory"));
                }
                Event::PidsLimit { hits } => log(&format!("guest: {hits} forks over the limit")),
                Event::Warning { what } => log(&format!("guest: {what}")),
            }
            Ok(())
        }
        Kind::StatusReply => {
            let status = StatusReply::from_frame(&frame).map_err(|error| error.to_string())?;
            shared.status.send_replace(Some(status));
            Ok(())
        }
        kind if kind.is_session() => {
            let ends = matches!(kind, Kind::Exit | Kind::Refused);
            shared
                .router
                .borrow_mut()
                .guest_sent(frame)
                .map_err(|violation| violation.to_string())?;
            if ends {
                shared.traffic.notify_waiters();
            }
            Ok(())
        }
        kind => Err(format!("a {kind:?} frame after the start")),
    }
}

/// Takes clients for as long as the supervisor lives.
pub(crate) async fn accept(shared: Rc<Shared>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if !is_ours(&stream) || *shared.clients.borrow() >= MAX_CLIENTS {
                    continue;
                }
                shared.clients.send_modify(|clients| *clients += 1);
                let shared = Rc::clone(&shared);
                tokio::task::spawn_local(async move {
                    client(&shared, stream).await;
                    shared.clients.send_modify(|clients| *clients -= 1);
                });
            }
            // Out of descriptors: those who are here will give some back.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn is_ours(stream: &UnixStream) -> bool {
    stream
        .peer_cred()
        .is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

async fn client(shared: &Rc<Shared>, stream: UnixStream) {
    let (reader, mut writer) = stream.into_split();
    let mut reader = FrameReader::new(reader, Side::Client);
    let Ok(Ok(Some(first))) = tokio::time::timeout(PATIENCE, reader.next()).await else {
        return;
    };
    match Request::from_frame(&first) {
        Ok(Request::Attach) => attach(shared, reader, writer).await,
        Ok(Request::Ping) => {
            let pong = Reply::Pong {
                generation: sbx_proto::GENERATION,
                pid: std::process::id(),
            };
            reply(&mut writer, &pong).await;
        }
        Ok(Request::Inspect) => {
            let inspected = inspect(shared).await;
            reply(
                &mut writer,
                &Reply::Inspected {
                    json: inspected.into(),
                },
            )
            .await;
        }
        Ok(Request::Stop { grace_ms }) => {
            shared
                .stop
                .send_replace(Some(Duration::from_millis(grace_ms.into())));
            let mut stage = shared.stage.subscribe();
            // An error means that the supervisor is past telling: down.
            let _ = stage
                .wait_for(|stage| matches!(stage, Stage::Down(_)))
                .await;
            reply(&mut writer, &Reply::Stopped).await;
        }
        Ok(Request::Call { json }) => call(shared, &json, reader, writer).await,
        Err(error) => fail(&mut writer, &error.to_string(), None).await,
    }
}

/// Requests that are newer than the generation of the link.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Call {
    /// Stops or continues the machine's processors.
    Pause(bool),
    /// Whether the sandbox stays up without a session.
    Stay(bool),
    /// The next frame opens a session that nobody attends.
    Detach,
    /// What the sandbox may reach from now on.
    Policy { rules: Vec<Rule> },
    /// What the network engine asks, once that is not what was `seen`.
    Questions { seen: Option<u64> },
    /// Publishes a port; its socket comes when it is asked for.
    Publish(Publication),
    /// Publishes a port no longer.
    Unpublish(Publication),
    /// What the user says to a question.
    Answer { number: u64, approve: bool },
}

async fn call(
    shared: &Shared,
    json: &[u8],
    mut reader: FrameReader<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
) {
    let nothing = |()| serde_json::json!({});
    let done = match serde_json::from_slice(json) {
        Ok(Call::Pause(pause)) => {
            let paused = async {
                match shared.machine.lock().await.as_mut() {
                    Some(machine) => machine.pause(pause).await,
                    None => Err(std::io::Error::other("a container cannot be paused")),
                }
            };
            match tokio::time::timeout(PATIENCE, paused).await {
                Ok(paused) => paused.map(nothing).map_err(|error| error.to_string()),
                Err(_) => Err("the machine monitor does not answer".to_owned()),
            }
        }
        Ok(Call::Stay(stay)) => {
            shared.stay.set(stay);
            shared.traffic.notify_waiters();
            Ok(nothing(()))
        }
        Ok(Call::Detach) => detach(shared, &mut reader).await.map(nothing),
        Ok(Call::Policy { rules }) => match &shared.rules {
            None => Ok(serde_json::json!({ "cut": 0 })),
            Some(engine) => match engine.replace(&rules).await {
                Ok(cut) => Ok(serde_json::json!({ "cut": cut })),
                Err(error) => Err(error.to_string()),
            },
        },
        Ok(Call::Questions { seen }) => match &shared.rules {
            None => Ok(serde_json::json!({ "revision": 0, "questions": [] })),
            Some(engine) => tokio::select! {
                listed = engine.questions().list(seen) => {
                    serde_json::to_value(listed).map_err(|error| error.to_string())
                }
                // Nobody waits for the answer any more.
                _ = reader.next() => return,
            },
        },
        Ok(Call::Publish(publication)) => publish(shared, publication, &reader, &mut writer)
            .await
            .map(nothing),
        Ok(Call::Unpublish(publication)) => {
            let closed = match &shared.doors {
                Some(doors) => doors.close(&publication),
                None => Ok(()),
            };
            closed.map(nothing).map_err(|error| error.to_string())
        }
        Ok(Call::Answer { number, approve }) => {
            let answered = match &shared.rules {
                None => false,
                Some(engine) => engine.questions().answer(number, approve).await,
            };
            Ok(serde_json::json!({ "answered": answered }))
        }
        Err(_) => Err("this supervisor knows no such request".to_owned()),
    };
    match done {
        Ok(answer) => {
            let json = answer.to_string().into_bytes().into();
            reply(&mut writer, &Reply::Answered { json }).await;
        }
        Err(what) => fail(&mut writer, &what, None).await,
    }
}

/// Takes the socket of a published port: it is asked for, so that it comes
/// with a byte that nobody has read.
async fn publish(
    shared: &Shared,
    publication: Publication,
    reader: &FrameReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> Result<(), String> {
    let doors = shared.doors.as_ref().ok_or("the sandbox has no network")?;
    let json = b"{}".to_vec().into();
    reply(writer, &Reply::Answered { json }).await;
    let stream: &UnixStream = reader.stream().as_ref();
    let received = stream.async_io(Interest::READABLE, || {
        let received = sbx_sys::unix::receive(stream, &mut [0], 1);
        received.map_err(|error| match error.errno() {
            Some(errno) => std::io::Error::from_raw_os_error(errno),
            None => std::io::Error::other(error),
        })
    });
    let listener = match tokio::time::timeout(PATIENCE, received).await {
        Ok(Ok((1, mut fds))) => fds.pop().ok_or("no socket came")?,
        Ok(Ok(_)) | Err(_) => return Err("the client left".to_owned()),
        Ok(Err(error)) => return Err(error.to_string()),
    };
    doors
        .open(publication, listener)
        .map_err(|error| error.to_string())
}

/// Opens a session whose program has no streams of its own to fill.
async fn detach(shared: &Shared, reader: &mut FrameReader<OwnedReadHalf>) -> Result<(), String> {
    let ready = |stage: &Stage| !matches!(stage, Stage::Starting(_));
    let _ = shared.stage.subscribe().wait_for(ready).await;
    let Ok(Ok(Some(open))) = tokio::time::timeout(PATIENCE, reader.next()).await else {
        return Err("the client left".to_owned());
    };
    let stream = open_session(shared, open, mpsc::unbounded_channel().0).await?;
    shared.router.borrow_mut().leave(stream);
    Ok(())
}

/// Opens a session; returns its number.
async fn open_session(
    shared: &Shared,
    mut open: Frame,
    client: mpsc::UnboundedSender<Frame>,
) -> Result<u32, String> {
    if open.kind != Kind::Open {
        return Err("a session starts with an Open frame".to_owned());
    }
    let opened = shared.router.borrow_mut().open(client);
    let Some(stream) = opened else {
        return Err(format!(
            "the sandbox has {MAX_SESSIONS} sessions, the most it takes"
        ));
    };
    shared.traffic.notify_waiters();
    open.stream = stream;
    if shared.to_guest.send(open).await.is_err() {
        shared.router.borrow_mut().forget(stream);
        return Err("the sandbox is going down".to_owned());
    }
    Ok(stream)
}

async fn inspect(shared: &Shared) -> Vec<u8> {
    let mut known = (shared.inspect)();
    let mut status = shared.status.subscribe();
    status.mark_unchanged();
    let _ = shared.to_guest.try_send(Frame::new(LINK, Kind::Status, []));
    // A guest that does not answer is not waited for.
    let answered = tokio::time::timeout(Duration::from_secs(2), status.changed()).await;
    if let (Ok(Ok(())), serde_json::Value::Object(known)) = (answered, &mut known)
        && let Some(status) = status.borrow().as_ref()
    {
        known.insert(
            "guest".to_owned(),
            serde_json::json!({
                "processes": status.processes,
                "memory_total": status.memory_total,
                "memory_available": status.memory_available,
                "disk_total": status.disk_total,
                "disk_free": status.disk_free,
                "uptime_seconds": status.uptime_s,
            }),
        );
    }
    if let serde_json::Value::Object(known) = &mut known {
        known.insert("sessions".to_owned(), shared.sessions().into());
    }
    serde_json::to_vec(&known).unwrap_or_default()
}

async fn attach(
    shared: &Rc<Shared>,
    mut reader: FrameReader<OwnedReadHalf>,
    mut writer: OwnedWriteHalf,
) {
    let mut stage = shared.stage.subscribe();
    loop {
        let now = stage.borrow_and_update().clone();
        match now {
            Stage::Ready => break,
            Stage::Starting(text) => {
                if let Ok(frame) = (Progress {
                    text,
                    percent: None,
                })
                .to_frame(LINK)
                    && write(&mut writer, &frame).await.is_err()
                {
                    return;
                }
            }
            Stage::Stopping(why) => return fail(&mut writer, &why, None).await,
            Stage::Down(why) => return fail(&mut writer, &why, None).await,
        }
        if stage.changed().await.is_err() {
            return;
        }
    }
    reply(&mut writer, &Reply::Attached).await;
    let Ok(Ok(Some(open))) = tokio::time::timeout(PATIENCE, reader.next()).await else {
        return;
    };
    let (to_client, from_guest) = mpsc::unbounded_channel();
    let stream = match open_session(shared, open, to_client).await {
        Ok(stream) => stream,
        Err(what) => return fail(&mut writer, &what, None).await,
    };
    tokio::select! {
        () = forward(shared, stream, &mut reader) => {}
        () = deliver(shared, from_guest, &mut writer) => {}
    }
    let told = shared.router.borrow_mut().client_gone(stream);
    if let Some(told) = told {
        let _ = shared.to_guest.send(told).await;
    }
}

/// From the client to the guest, until the client leaves.
async fn forward(shared: &Shared, stream: u32, reader: &mut FrameReader<OwnedReadHalf>) {
    while let Ok(Some(frame)) = reader.next().await {
        let checked = shared.router.borrow_mut().client_sent(stream, frame);
        match checked {
            Ok(Some(frame)) => {
                if shared.to_guest.send(frame).await.is_err() {
                    return;
                }
            }
            Ok(None) => {}
            Err(violation) => {
                log(&format!("session {stream}: the client sent {violation}"));
                return;
            }
        }
    }
}

/// From the guest to the client, until the session or the link ends.
async fn deliver(
    shared: &Shared,
    mut frames: mpsc::UnboundedReceiver<Frame>,
    writer: &mut OwnedWriteHalf,
) {
    while let Some(frame) = frames.recv().await {
        let last = matches!(frame.kind, Kind::Exit | Kind::Refused);
        if write(writer, &frame).await.is_err() || last {
            return;
        }
    }
    // The sandbox went down below the session. Who watches the machine knows
    // why a moment later than this task sees the channel close.
    let mut stage = shared.stage.subscribe();
    let ended = |stage: &Stage| matches!(stage, Stage::Stopping(_) | Stage::Down(_));
    let why = match tokio::time::timeout(PATIENCE, stage.wait_for(ended)).await {
        Ok(Ok(stage)) => match &*stage {
            Stage::Stopping(why) | Stage::Down(why) => why.clone(),
            _ => "the sandbox has stopped".to_owned(),
        },
        _ => "the sandbox has stopped".to_owned(),
    };
    fail(writer, &why, Some("see what it printed with `sbx logs`")).await;
}

async fn reply<W: AsyncWrite + Unpin>(writer: &mut W, reply: &Reply) {
    if let Ok(frame) = reply.to_frame(LINK) {
        // Whoever asked may have left; nobody else is to be told.
        let _ = write(writer, &frame).await;
    }
}

async fn fail<W: AsyncWrite + Unpin>(writer: &mut W, message: &str, hint: Option<&str>) {
    let failed = Reply::Failed {
        code: 125,
        message: message.chars().take(2000).collect(),
        hint: hint.map(str::to_owned),
    };
    reply(writer, &failed).await;
}
