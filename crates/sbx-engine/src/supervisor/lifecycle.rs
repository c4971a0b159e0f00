//! From the first process to the last: start, serve, stop.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::time::Duration;

use sbx_proto::frame::{Frame, Kind, LINK, Side};
use sbx_proto::link::{Clock, Hello, Ready, SetupFailed, Shutdown};
use sbx_proto::message::Message;
use sbx_spec::Publication;
use sbx_sys::memory;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_local;

use super::ends::{Ends, PartEnd, part_ended};
use super::launch::{self, Helper, Launched};
use super::network::Network;
use super::serve::{self, LinkEnd, Shared, Stage};
use super::wire::{FrameReader, write};
use super::{SOCKET, StartStatus, Status, SuperviseConfig, log, machine};
use crate::command::{Code, Error, Wall};
use crate::plan::Boundary;
use crate::setup;
use crate::shares;
use crate::spawner::Spawner;
use crate::store::{Phase, RunRecord, SandboxDir, Supervising};

/// How long a guest may take from its first instruction to its first
/// session. It takes one second, and ten emulated on a busy host; the rest is
/// for mounts that nobody answers, which the guest reports after 30.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// How long a file server or network engine may take to raise its walls.
const HELPER_LIMIT: Duration = Duration::from_secs(20);
/// How long an engine may take to make and start its containers: it unpacks
/// images and, where it is elsewhere, is sent programs.
const ENGINE_LIMIT: Duration = Duration::from_secs(180);
/// How long after the guest's own grace the machine may take to be gone.
const OFF_LIMIT: Duration = Duration::from_secs(10);
/// How long clients may take to hear that it is over.
const PARTING: Duration = Duration::from_millis(500);
/// Grace of a stop nobody gave a grace for.
const GRACE: Duration = Duration::from_secs(10);
/// How often the guest is told the time; after the host slept this is how
/// long its clock may stay wrong without a session.
const CLOCK: Duration = Duration::from_secs(10);
/// Longest line on a helper's control socket, in bytes.
const MAX_LINE: usize = 64 * 1024;

/// What a sandbox is brought up with: made in this order before a runtime is.
pub(super) struct Beginning<'a> {
    pub(super) config: &'a SuperviseConfig,
    pub(super) sandbox: &'a SandboxDir,
    pub(super) proof: &'a Supervising,
    /// The wall that its control group is.
    pub(super) held: Wall,
    pub(super) spawner: &'a Spawner,
    /// Where the spawner reports ends.
    pub(super) reports: StdStream,
    pub(super) record: RunRecord,
    /// Published ports, each with a socket that listens.
    pub(super) listening: Vec<(Publication, OwnedFd)>,
    pub(super) status: &'a mut Status,
}

/// Lives as the supervisor of one sandbox. Leaves in `wire` an end of its frames.
///
/// # Errors
/// If it could not be started, was told to end before it was, or a part of it
/// ended before its time.
pub(super) async fn live(
    beginning: Beginning<'_>,
    wire: &mut Option<OwnedFd>,
) -> Result<Ended, Error> {
    let Beginning {
        config,
        sandbox,
        proof,
        spawner,
        ..
    } = beginning;
    let mut terminate = signal(SignalKind::terminate())
        .map_err(|source| Error::new(Code::Io, "cannot watch for signals").because(source))?;
    let Running {
        shared,
        mut ends,
        link,
        mut network,
        boundary,
        mut record,
    } = tokio::select! {
        running = start(beginning) => running?,
        _ = terminate.recv() => {
            let what = format!("`{}` was told to stop while it started", config.plan.name);
            return Err(Error::new(Code::Boot, what));
        }
    };
    spawn_local(async {
        tokio::time::sleep(memory::SETTLED).await;
        memory::give_back();
    });

    let end = until_end(config, &shared, &mut ends, link, network.as_mut(), spawner).await;
    *wire = network.map(Network::into_link);
    let why = end.to_string();
    shared.enter(Stage::Stopping(why.clone()));
    record.phase = Phase::Stopping;
    let _ = sandbox.write_run(&record, proof);
    log::log(&format!("stopping: {end}"));
    let outcome = match end {
        End::Asked(grace) => {
            stop(&shared, &mut ends, boundary, grace).await;
            Ok(Ended::ForClient)
        }
        End::Idle | End::Terminated => {
            stop(&shared, &mut ends, boundary, GRACE).await;
            Ok(Ended::ByItself)
        }
        End::PoweredOff => Ok(Ended::ByItself),
        End::Lost(error) => Err(error),
    };
    shared.enter(Stage::Down(why));
    shared.part(PARTING).await;
    outcome
}

/// A sandbox that takes sessions.
struct Running {
    shared: Rc<Shared>,
    ends: Ends,
    link: tokio::task::JoinHandle<LinkEnd>,
    network: Option<Network>,
    /// The process that is the machine or the container.
    boundary: u32,
    record: RunRecord,
}

/// Brings the sandbox up. Given up at any step, it leaves its processes to the
/// end of the spawner.
async fn start(beginning: Beginning<'_>) -> Result<Running, Error> {
    let Beginning {
        config,
        sandbox,
        proof,
        held,
        spawner,
        reports,
        mut record,
        listening,
        status,
    } = beginning;
    let plan = &config.plan;
    let contained = !matches!(plan.boundary, Boundary::MicroVm(_));
    let (starting, booting) = match plan.boundary {
        Boundary::MicroVm(_) => ("starting the machine", "booting the guest"),
        Boundary::Container(_) => ("making the container", "setting the container up"),
        Boundary::Docker(_) => ("asking the engine", "setting the container up"),
    };
    status.tell(&StartStatus::At(starting.to_owned()));
    std::fs::create_dir_all(&config.runtime).map_err(|source| {
        Error::new(Code::Io, "cannot make the runtime directory").because(source)
    })?;
    let mut parts = launch::launch(plan, spawner, &config.runtime, sandbox).await?;
    let mut ends = Ends::watch(reports, &parts)?;

    let limit = match plan.boundary {
        Boundary::Container(_) => super::coming::COMING_LIMIT,
        Boundary::Docker(_) => ENGINE_LIMIT,
        Boundary::MicroVm(_) => HELPER_LIMIT,
    };
    let listener = listen(config)?;
    let mut walls = vec![held];
    walls.extend(super::walls::raise(
        &sandbox.run_directory(),
        &config.runtime,
    )?);
    walls.extend(tokio::select! {
        biased;
        stand = walls_of(&mut parts.boundary, limit) => stand?,
        end = ends.telling() => return Err(hint_logs(part_ended(&end), config)),
    });
    parts.is_whole(plan)?;
    for copied in walls
        .iter()
        .filter(|wall| wall.wall == "layers" && !wall.up)
    {
        let why = copied.note.clone().unwrap_or_default();
        log::log(&why);
        status.tell(&StartStatus::Warn(why));
    }
    let Launched {
        link,
        qmp,
        boundary,
        helpers,
        mut network,
    } = parts;
    let (reader, mut writer) = link.into_split();
    let mut reader = FrameReader::new(reader, Side::Guest);
    status.tell(&StartStatus::At(booting.to_owned()));
    let authority = network
        .as_ref()
        .map(|network| network.certificate().to_owned());
    // Side by side: no session begins before both are done.
    let both = async {
        tokio::try_join!(
            boot_in_time(config, authority.as_deref(), &mut reader, &mut writer),
            helped(helpers, network.as_mut()),
        )
    };
    let booted = tokio::select! {
        booted = both => booted,
        end = ends.telling() => Err(part_ended(&end)),
    };
    let ((hello, ready), stand) = booted.map_err(|error| hint_logs(error, config))?;
    walls.extend(stand);
    walls.extend(ready.walls.iter().map(|wall| super::walls::of_guest(wall)));
    for warning in &ready.warnings {
        log::line("guest", warning);
    }
    let since = if contained { "start" } else { "kernel" };
    log::log(&format!(
        "the guest is up, {} ms after its {since}",
        ready.boot_ms
    ));
    record.phase = Phase::Running;
    record.accelerator = plan.boundary.accelerator();
    sandbox.write_run(&record, proof)?;

    let known = serde_json::json!({
        "pid": std::process::id(),
        "accel": plan.boundary.accelerator(),
        "kernel": hello.kernel.chars().take(100).collect::<String>(),
        "walls": walls,
        "warnings": ready.warnings,
        "boot_ms": ready.boot_ms,
    });
    let processes = Rc::clone(&ends.names);
    let known = move || {
        let mut known = known.clone();
        let processes = processes.borrow();
        known["processes"] = processes
            .iter()
            .map(|(pid, name)| (name.clone(), serde_json::json!(pid)))
            .collect();
        known
    };
    let machine = qmp.map(machine::Machine::connect);
    let (shared, queue) = Shared::new(machine, network.as_ref(), Box::new(known));
    shared.stay.set(config.stay);
    spawn_local(serve::write_link(queue, writer));
    let link = spawn_local(serve::read_link(Rc::clone(&shared), reader));
    spawn_local(serve::accept(Rc::clone(&shared), listener));
    if let Some(network) = &network {
        for (publication, listener) in listening {
            network.doors().open(publication, listener)?;
        }
    }
    shared.enter(Stage::Ready);
    status.tell(&StartStatus::Ready);
    Ok(Running {
        shared,
        ends,
        link,
        network,
        boundary: boundary.process.pid,
        record,
    })
}

/// The walls that a part says it has. One that ends instead is heard of by its
/// end, which tells why: whoever waits for this waits for that as well.
async fn walls_of(part: &mut Helper, limit: Duration) -> Result<Vec<Wall>, Error> {
    match tokio::time::timeout(limit, first_line(&mut part.control)).await {
        Ok(Ok(line)) => return super::walls::read(&part.name, &line),
        Ok(Err(_)) => tokio::time::sleep(OFF_LIMIT).await,
        Err(_) => {}
    }
    let what = format!("{} did not start", part.name);
    Err(Error::new(Code::Timeout, what))
}

/// Waits until file servers and network engine have their walls, and the
/// engine judges by its rules. Returns the walls.
async fn helped(
    helpers: Vec<Helper>,
    mut network: Option<&mut Network>,
) -> Result<Vec<Wall>, Error> {
    let mut walls = Vec::new();
    for mut helper in helpers {
        walls.extend(walls_of(&mut helper, HELPER_LIMIT).await?);
        match &mut network {
            Some(network) if helper.name == "net" => network.hear(helper.control),
            _ => drop(spawn_local(log::copy(helper.name, helper.control))),
        }
    }
    if let Some(network) = network {
        network.rules().obeyed().await?;
    }
    Ok(walls)
}

/// How a sandbox ended that ended well.
pub(super) enum Ended {
    /// A client asked for it, and waits until it has.
    ForClient,
    /// Nobody waits for it.
    ByItself,
}

/// Why a sandbox stops.
enum End {
    Asked(Duration),
    Terminated,
    Idle,
    PoweredOff,
    Lost(Error),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Asked(_) | Self::Terminated => f.write_str("the sandbox was told to stop"),
            Self::Idle => f.write_str("nobody uses the sandbox"),
            Self::PoweredOff => f.write_str("the sandbox powered itself off"),
            Self::Lost(error) => error.fmt(f),
        }
    }
}

async fn until_end(
    config: &SuperviseConfig,
    shared: &Rc<Shared>,
    ends: &mut Ends,
    mut link: tokio::task::JoinHandle<LinkEnd>,
    mut network: Option<&mut Network>,
    spawner: &Spawner,
) -> End {
    let mut asked = shared.stop.subscribe();
    let (Ok(mut terminate), Ok(mut hangup)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::hangup()),
    ) else {
        return End::Lost(Error::new(Code::Io, "cannot watch for signals"));
    };
    let idle_limit = Duration::from_secs(config.idle_s.into());
    let mut idle_since = tokio::time::Instant::now();
    let mut clock = tokio::time::interval(CLOCK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        let idle = !shared.stay.get() && shared.sessions() == 0;
        tokio::select! {
            end = ends.telling() => if let Some(end) = survive(end, ends, network.as_deref_mut(), spawner).await {
                return end;
            },
            end = &mut link => return match end {
                Ok(LinkEnd::Violation(what)) => {
                    End::Lost(Error::new(Code::Link, format!("the guest broke the link's rules: {what}")))
                }
                // The machine's own end follows, and tells more.
                _ => match tokio::time::timeout(OFF_LIMIT, ends.telling()).await {
                    Ok(end) => ended(&end),
                    Err(_) => End::Lost(Error::new(Code::Link, "the link to the guest closed")),
                },
            },
            () = shared.traffic.notified() => {
                if shared.sessions() == 0 {
                    idle_since = tokio::time::Instant::now();
                }
            }
            _ = asked.changed() => {
                let grace = asked.borrow_and_update().unwrap_or(GRACE);
                return End::Asked(grace);
            }
            _ = terminate.recv() => return End::Terminated,
            _ = hangup.recv() => {}
            _ = clock.tick() => shared.tell_guest(&Clock { ns: setup::clock_ns() }),
            () = tokio::time::sleep_until(idle_since + idle_limit), if idle => return End::Idle,
        }
    }
}

/// Goes on after the end of a part, where that can be.
async fn survive(
    end: PartEnd,
    ends: &mut Ends,
    network: Option<&mut Network>,
    spawner: &Spawner,
) -> Option<End> {
    let network = match network {
        Some(network) if end.name == "net" => network,
        _ => return Some(ended(&end)),
    };
    ends.names.borrow_mut().remove(&end.report.pid);
    match network.start_again(spawner).await {
        Ok(pid) => {
            ends.names.borrow_mut().insert(pid, end.name.clone());
            log::log(&format!(
                "{}; another one is started: connections end, names keep their addresses",
                part_ended(&end)
            ));
            None
        }
        Err(error) => Some(End::Lost(error.because(part_ended(&end)))),
    }
}

fn ended(end: &PartEnd) -> End {
    match end {
        _ if end.is_boundary() && end.report.code == Some(0) => End::PoweredOff,
        _ => End::Lost(part_ended(end)),
    }
}

/// Asks the guest to end, and ends its machine when it does not.
async fn stop(shared: &Shared, ends: &mut Ends, boundary: u32, grace: Duration) {
    let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
    shared.tell_guest(&Shutdown { grace_ms });
    let gone = async {
        loop {
            if ends.next().await.report.pid == boundary {
                return;
            }
        }
    };
    if tokio::time::timeout(grace + OFF_LIMIT, gone).await.is_err() {
        log::log("the guest did not power off in time and is ended");
    }
}

async fn boot_in_time(
    config: &SuperviseConfig,
    authority: Option<&str>,
    reader: &mut FrameReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> Result<(Hello, Ready), Error> {
    let booted = tokio::time::timeout(BOOT_LIMIT, boot(config, authority, reader, writer)).await;
    booted.unwrap_or_else(|_| {
        let limit = BOOT_LIMIT.as_secs();
        let what = format!("the guest did not come up within {limit} s");
        Err(Error::new(Code::Timeout, what))
    })
}

/// The first exchange with the guest.
async fn boot(
    config: &SuperviseConfig,
    authority: Option<&str>,
    reader: &mut FrameReader<OwnedReadHalf>,
    writer: &mut OwnedWriteHalf,
) -> Result<(Hello, Ready), Error> {
    let broken = |source: &dyn std::fmt::Display| {
        Error::new(Code::Link, format!("cannot speak with the guest: {source}"))
    };
    let hello = next(reader).await?;
    let hello = Hello::from_frame(&hello).map_err(|error| broken(&error))?;
    if hello.generation != sbx_proto::GENERATION {
        return Err(broken(&format!(
            "it speaks generation {}",
            hello.generation
        )));
    }
    let files: Vec<_> = config.plan.shares.iter().map(shares::single_file).collect();
    let message = setup::message(&config.plan, &files, authority)
        .to_frame(LINK)
        .map_err(|error| broken(&error))?;
    write(writer, &message)
        .await
        .map_err(|error| broken(&error))?;
    loop {
        let answer: Frame = next(reader).await?;
        match answer.kind {
            Kind::Ready => {
                let ready = Ready::from_frame(&answer).map_err(|error| broken(&error))?;
                return Ok((hello, ready));
            }
            Kind::SetupFailed => {
                let failed = SetupFailed::from_frame(&answer).map_err(|error| broken(&error))?;
                let what: String = failed.what.chars().take(1000).collect();
                return Err(Error::new(
                    Code::Boot,
                    format!("the guest could not set itself up: {}", what.escape_debug()),
                ));
            }
            Kind::Event => {}
            kind => return Err(broken(&format!("a {kind:?} frame before it was ready"))),
        }
    }
}

async fn next(reader: &mut FrameReader<OwnedReadHalf>) -> Result<Frame, Error> {
    match reader.next().await {
        Ok(Some(frame)) => Ok(frame),
        Ok(None) => Err(Error::new(
            Code::Link,
            "the guest closed the link while starting",
        )),
        Err(source) => Err(Error::new(Code::Link, "cannot read from the guest").because(source)),
    }
}

fn listen(config: &SuperviseConfig) -> Result<tokio::net::UnixListener, Error> {
    let failed = |source: std::io::Error| {
        Error::new(Code::Io, "cannot open the supervisor's socket").because(source)
    };
    let dir = sbx_sys::file::open_dir(&config.runtime).map_err(|source| {
        Error::new(Code::Io, "cannot open the runtime directory").because(source)
    })?;
    let _ = std::fs::remove_file(config.runtime.join(SOCKET));
    let listener = sbx_sys::unix::listen_at(&dir, SOCKET).map_err(|source| {
        Error::new(Code::Io, "cannot open the supervisor's socket").because(source)
    })?;
    listener.set_nonblocking(true).map_err(failed)?;
    tokio::net::UnixListener::from_std(listener).map_err(failed)
}

fn hint_logs(error: Error, config: &SuperviseConfig) -> Error {
    match error.hint {
        Some(_) => error,
        None => error.hint(format!(
            "see what it printed with `sbx logs {}`",
            config.plan.name
        )),
    }
}

async fn first_line(control: &mut UnixStream) -> std::io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        if tokio::io::AsyncReadExt::read(control, &mut byte).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match byte {
            [b'\n'] => return Ok(String::from_utf8_lossy(&line).into_owned()),
            _ if line.len() >= MAX_LINE => return Err(std::io::ErrorKind::InvalidData.into()),
            [byte] => line.push(byte),
        }
    }
}
