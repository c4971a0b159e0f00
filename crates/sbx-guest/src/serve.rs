//! Serving the link: one reader, one writer, a task for each session.
//!
//! Everything runs on one thread, so that starting a process never races
//! another. Nothing here waits for a path, a session or the other end of a
//! pipe without the rest going on.

mod clock;
mod link;
mod pump;
mod reaper;
mod session;
mod status;
mod sudo;
mod terminal;
mod watch;

use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sbx_proto::link::{AgentUser, Clock, Hello, Ready, Setup, Shutdown};
use sbx_proto::session::Refused;
use sbx_proto::{Decoder, Frame, GENERATION, Kind, LINK, Message, Side};
use sbx_sys::memory;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use crate::error::{Attempt as _, Result};
use crate::init::cgroup::Cgroup;
use crate::launch::Context;
use crate::program;
use reaper::Reaper;
use session::Input;

pub(crate) use clock::set as set_clock;
pub(crate) use link::BlockingLink;
pub(crate) use session::signal_session;
pub(crate) use status::uptime_ms;

/// Most sessions at once: each holds up to five descriptors of PID 1, and a
/// started process looks for what it inherited below number 256.
const MAX_SESSIONS: usize = 40;
/// Frames that wait for the link's writer; more make their session wait.
const QUEUE: usize = 16;
/// Between SIGTERM and SIGHUP for those that have a terminal.
const HANGUP_DELAY: Duration = Duration::from_millis(200);

/// What serving needs.
pub(crate) struct Served {
    /// The link, non-blocking, and what was already read from it.
    pub(crate) link: OwnedFd,
    pub(crate) decoder: Decoder,
    pub(crate) context: Context,
    pub(crate) cgroup: Option<Cgroup>,
    /// Listening socket of `sudo`, non-blocking.
    pub(crate) sudo: Option<OwnedFd>,
    /// Whether the clock is this sandbox's own, to be set to the host's.
    pub(crate) keeps_time: bool,
}

/// Why serving ended.
pub(crate) enum Ended {
    /// The host asked for it; the sessions are gone.
    Shutdown,
    /// The host is gone.
    Closed,
}

/// What all tasks share.
pub(crate) struct World {
    context: Context,
    cgroup: Option<Cgroup>,
    keeps_time: bool,
    reaper: RefCell<Reaper>,
    sessions: RefCell<HashMap<u32, mpsc::UnboundedSender<Input>>>,
    out: mpsc::Sender<Frame>,
}

/// Serves until the host ends it.
pub(crate) fn run(served: Served) -> Result<Ended> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .attempt("start the event loop")?;
    let ended = LocalSet::new().block_on(&runtime, serve(served))?;
    // Tasks that still wait for a pipe must not hold up the end.
    runtime.shutdown_background();
    Ok(ended)
}

async fn serve(served: Served) -> Result<Ended> {
    let link = Rc::new(link::Link::new(served.link)?);
    let (out, queue) = mpsc::channel(QUEUE);
    let is_init = !served.context.bare;
    let world = Rc::new(World {
        context: served.context,
        cgroup: served.cgroup,
        keeps_time: served.keeps_time,
        reaper: RefCell::new(Reaper::new(is_init)),
        sessions: RefCell::new(HashMap::new()),
        out,
    });
    tokio::task::spawn_local(reaper::watch(Rc::clone(&world))?);
    if let Some(socket) = served.sudo {
        tokio::task::spawn_local(sudo::accept(Rc::clone(&world), socket)?);
    }
    watch::start(&world);
    tokio::task::spawn_local(async {
        tokio::time::sleep(memory::SETTLED).await;
        // Of the set-up, certificates above all.
        memory::give_back();
    });
    let (finish, finished) = oneshot::channel();
    let writer = tokio::task::spawn_local(link::write(Rc::clone(&link), queue, finished));
    let mut reader = link::Reader::new(link, served.decoder);
    loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(Ended::Closed),
            Err(error) => {
                program::log(&error.line());
                return Ok(Ended::Closed);
            }
        };
        if let Some(Shutdown { grace_ms }) = dispatch(&world, frame).await {
            stop(&world, Duration::from_millis(grace_ms.into())).await;
            // The last exit codes, as far as the host still reads.
            let _ = finish.send(());
            let _ = tokio::time::timeout(Duration::from_millis(300), writer).await;
            return Ok(Ended::Shutdown);
        }
        if writer.is_finished() {
            return Ok(Ended::Closed);
        }
    }
}

/// Acts on one frame; `Some` when it asks for the end.
async fn dispatch(world: &Rc<World>, frame: Frame) -> Option<Shutdown> {
    match frame.kind {
        Kind::Shutdown => return Shutdown::from_frame(&frame).ok(),
        Kind::Clock => {
            if let Ok(clock) = Clock::from_frame(&frame) {
                world.set_clock(clock.ns);
            }
        }
        Kind::Status => {
            let reply = status::read(world);
            if let Ok(frame) = reply.to_frame(LINK) {
                let _ = world.out.send(frame).await;
            }
        }
        Kind::Open => open(world, frame).await,
        _ if frame.kind.is_session() => {
            let stream = frame.stream;
            // A session that has just ended is no error.
            let inbox = world.sessions.borrow().get(&stream).cloned()?;
            match Input::from_frame(frame) {
                Ok(input) => drop(inbox.send(input)),
                Err(error) => {
                    program::log(&format!("stream {stream}: {error}"));
                    let _ = inbox.send(Input::Close);
                }
            }
        }
        _ => program::log(&format!("unexpected {:?} frame", frame.kind)),
    }
    None
}

async fn open(world: &Rc<World>, frame: Frame) {
    let stream = frame.stream;
    let refusal = {
        let sessions = world.sessions.borrow();
        if sessions.contains_key(&stream) {
            program::log(&format!("stream {stream} is opened twice"));
            return;
        }
        (sessions.len() >= MAX_SESSIONS)
            .then(|| format!("more than {MAX_SESSIONS} sessions at once"))
    };
    if let Some(message) = refusal {
        let refused = Refused { code: 125, message };
        if let Ok(frame) = refused.to_frame(stream) {
            let _ = world.out.send(frame).await;
        }
        return;
    }
    let (sender, inbox) = mpsc::unbounded_channel();
    world.sessions.borrow_mut().insert(stream, sender);
    let world = Rc::clone(world);
    tokio::task::spawn_local(async move {
        session::run(&world, frame, inbox).await;
        world.sessions.borrow_mut().remove(&stream);
    });
}

/// Ends all sessions: SIGTERM, the grace, SIGKILL; then waits a moment for
/// their exit codes to be queued.
async fn stop(world: &Rc<World>, grace: Duration) {
    world.signal_all(false);
    let ended = async {
        // Interactive shells take SIGTERM for nothing and end on SIGHUP.
        let polite = Instant::now() + HANGUP_DELAY;
        while !world.is_empty() && Instant::now() < polite {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for inbox in world.sessions.borrow().values() {
            let _ = inbox.send(Input::TerminalGone);
        }
        while !world.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(grace, ended).await.is_err() {
        world.signal_all(true);
    }
    let reported = async {
        while !world.sessions.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(500), reported).await;
}

impl World {
    fn set_clock(&self, ns: u64) {
        if self.keeps_time
            && let Err(error) = clock::set(ns)
        {
            program::log(&error.line());
        }
    }

    /// SIGTERM, or SIGKILL, to all.
    fn signal_all(&self, kill: bool) {
        match &self.cgroup {
            Some(cgroup) if kill => cgroup.kill(),
            _ => {}
        }
        self.reaper.borrow().signal_all(kill);
    }

    /// Whether no process of any session is left.
    fn is_empty(&self) -> bool {
        match &self.cgroup {
            Some(cgroup) => !cgroup.is_populated(),
            None => self.reaper.borrow().is_empty(),
        }
    }
}

/// Serves the link on descriptor 0 as the calling user, without any set-up:
/// no identity is taken, no mount is made.
pub(crate) fn bare() -> ExitCode {
    match try_bare() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            program::log(&error.line());
            ExitCode::FAILURE
        }
    }
}

fn try_bare() -> Result<()> {
    let fd = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).attempt("take the link")?;
    let mut link = BlockingLink::new(fd)?;
    link.send(&hello())?;
    let setup: Setup = link.receive()?;
    link.send(&Ready {
        boot_ms: 0,
        walls: Vec::new(),
        warnings: vec!["bare: nothing is set up".to_owned()],
    })?;
    let (link, decoder) = link.into_parts();
    let mut context = context(&setup);
    context.bare = true;
    run(Served {
        link,
        decoder,
        context,
        cgroup: None,
        sudo: None,
        keeps_time: false,
    })
    .map(drop)
}

/// The guest's first message.
pub(crate) fn hello() -> Hello {
    Hello {
        generation: GENERATION,
        guest_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned(),
    }
}

/// What sessions need of `setup`.
pub(crate) fn context(setup: &Setup) -> Context {
    Context {
        agent: AgentUser {
            uid: setup.agent.uid,
            gid: setup.agent.gid,
            groups: setup.agent.groups.clone(),
        },
        env: setup.env.clone(),
        kit_paths: setup
            .kits
            .iter()
            .map(|kit| format!("{}/bin", kit.mount_point).into_bytes().into())
            .collect(),
        workdir: setup.workdir.clone(),
        bare: false,
    }
}

/// The side whose bytes this program reads.
pub(crate) const PEER: Side = Side::Host;
