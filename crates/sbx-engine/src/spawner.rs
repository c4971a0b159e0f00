//! The one process of a running sandbox that may start programs.
//!
//! Owns: the list of what can be started ([`Verb`]), as whom and with what.
//! The supervisor forks it before it has read anything that others wrote,
//! then gives up exec itself. Everything that a part is opened, told or run
//! as is fixed here by then, from the plan; a request names a part and brings
//! the ends of its links. What is left to an attacker who takes the
//! supervisor over is to start a part that does not run, as it was planned.
//!
//! Requests are single messages with descriptors on one socket; how children
//! ended is told as JSON lines on another. When the supervisor goes, its end
//! of the socket closes, this process ends, and its children with it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::sockopt::{self, Timeout};
use sbx_sys::process::Ended;
use sbx_sys::spawn::{Child, Signal, Spawn};
use sbx_sys::{memfd, memory, unix};
use serde::{Deserialize, Serialize};

use crate::command::{Code, Error};

mod parts;

use parts::Parts;
pub(crate) use parts::SpawnerConfig;

/// First descriptor of the role: what it is asked through.
const REQUESTS: i32 = 4;
/// What it tells the ends of children through.
const REPORTS: i32 = 5;
/// The `sbx` program.
const PROGRAM: i32 = 6;
/// The `sbx-vmm` program.
const VMM: i32 = 7;

/// What is said instead of a request where somebody else removes the control
/// group after the end of all processes.
const GROUP_IS_REMOVED: &[u8] = b"group";

/// Largest answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// Largest request, in bytes.
const MAX_REQUEST: usize = 256;
/// Most descriptors of a request: a log, and the links of a machine with
/// every share.
const MAX_FDS: usize = 40;
/// Largest sealed configuration of a role, in bytes.
pub(crate) const MAX_CONFIG: usize = 4 << 20;

/// How long it may take to answer, and how long to end what it started.
/// It does either at once unless it stands still, or a file system does.
const PATIENCE: Duration = Duration::from_secs(20);

/// What can be started. Each once at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    /// `sbx net`, with the far ends of the machine's frames and its control.
    Net,
    /// `sbx share` of the plan's share of this number, with its listener, or
    /// what a container has mounted with, and the far end of its control.
    Share(usize),
    /// `sbx-vmm`, with the far ends of control link, machine protocol,
    /// console, the network if there is one, each share, and its report.
    Vmm,
    /// `sbx box`, with the far ends of control link and report, where the
    /// outer end of its wire goes if there is a network, and where that which
    /// it has mounted with goes if file servers serve it.
    Box,
    /// `sbx dock`, with the far ends of control link and report, and frames if
    /// there is a network.
    Dock,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net => f.write_str("net"),
            Self::Share(number) => write!(f, "share s{number}"),
            Self::Vmm => f.write_str("vmm"),
            Self::Box => f.write_str("box"),
            Self::Dock => f.write_str("dock"),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    verb: Verb,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    /// Everything is opened, and requests are read.
    Ready,
    Started {
        pid: u32,
    },
    Failed(Error),
}

/// How a child ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Its process id.
    pub(crate) pid: u32,
    /// Its exit code, if it returned one.
    pub(crate) code: Option<i32>,
    /// The signal that ended it, if one did.
    pub(crate) signal: Option<i32>,
}

/// The supervisor's end.
#[derive(Debug)]
pub(crate) struct Spawner {
    requests: OwnedFd,
    child: Child,
}

/// A child of the spawner.
#[derive(Debug)]
pub(crate) struct Started {
    /// Its process id.
    pub(crate) pid: u32,
}

impl Spawner {
    /// Forks the spawner, which then opens what its parts need. Returns it and
    /// where the ends of its children are read.
    ///
    /// # Errors
    /// If a descriptor or the process cannot be made.
    pub(crate) fn start(
        config: &SpawnerConfig,
        program: OwnedFd,
        vmm: OwnedFd,
        log: OwnedFd,
    ) -> Result<(Self, UnixStream), Error> {
        let failed = |source: sbx_sys::Error| {
            Error::new(Code::Jail, "cannot start the spawner").because(source)
        };
        let text = serde_json::to_vec(config)
            .map_err(|source| Error::new(Code::Internal, "cannot write").because(source))?;
        let (near, far) = unix::message_pair().map_err(failed)?;
        bound(&near, PATIENCE)?;
        let (reports, told) = unix::stream_pair().map_err(failed)?;
        let own = program
            .try_clone()
            .map_err(|source| Error::new(Code::Io, "cannot start the spawner").because(source))?;
        let mut spawn = Spawn::fd(own, "sbx")
            .arg("spawner")
            .with_fd(log, 2)
            .with_fd(memfd::sealed("sbx-spawner", &text).map_err(failed)?, 3)
            .with_fd(far, REQUESTS)
            .with_fd(told, REPORTS)
            .with_fd(program, PROGRAM)
            .with_fd(vmm, VMM);
        spawn.parent_death_signal = Some(Signal::KILL);
        let child = spawn.spawn().map_err(failed)?;
        let spawner = Self {
            requests: near,
            child,
        };
        Ok((spawner, reports))
    }

    /// Waits until it has opened what its parts need. To be called once,
    /// before it is asked for any.
    ///
    /// # Errors
    /// If a share or an image cannot be opened.
    pub(crate) fn ready(&self) -> Result<(), Error> {
        match self.answer()? {
            Answer::Ready => Ok(()),
            Answer::Failed(error) => Err(error),
            Answer::Started { .. } => Err(confused()),
        }
    }

    /// Starts a part with its log, the end of a pipe, and the ends of its
    /// links in the order that [`Verb`] says.
    ///
    /// # Errors
    /// If the spawner is gone, refuses, or cannot start the program.
    pub(crate) fn run(
        &self,
        verb: Verb,
        log: OwnedFd,
        links: Vec<OwnedFd>,
    ) -> Result<Started, Error> {
        let request = serde_json::to_vec(&Request { verb }).map_err(unreadable)?;
        let mut passed = vec![log.as_fd()];
        passed.extend(links.iter().map(AsFd::as_fd));
        unix::send(&self.requests, &request, &passed).map_err(|source| {
            Error::new(Code::Jail, format!("cannot start {verb}")).because(source)
        })?;
        match self.answer()? {
            Answer::Started { pid } => Ok(Started { pid }),
            Answer::Failed(error) => Err(error),
            Answer::Ready => Err(confused()),
        }
    }

    fn answer(&self) -> Result<Answer, Error> {
        let mut answer = vec![0; MAX_ANSWER];
        let (count, _) = unix::receive(&self.requests, &mut answer, 0).map_err(|source| {
            match source.kind() {
                std::io::ErrorKind::WouldBlock => Error::new(
                    Code::Timeout,
                    format!("the spawner did not answer within {} s", PATIENCE.as_secs()),
                ),
                _ => Error::new(Code::Jail, "cannot hear the spawner").because(source),
            }
        })?;
        if count == 0 {
            return Err(Error::new(Code::Jail, "the spawner ended"));
        }
        serde_json::from_slice(answer.get(..count).unwrap_or_default()).map_err(unreadable)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Says that a command waits for the end of this sandbox, and removes its
    /// control group then.
    pub(crate) fn leave_group(&self) {
        // One that does not hear it removes the group itself.
        let _ = unix::send(&self.requests, GROUP_IS_REMOVED, &[]);
    }

    /// Ends it and all its children. It goes by itself once nobody can ask it
    /// any more; the supervisor, locked down, may not even signal it, nor may
    /// the kernel for it when it ends. False if it stands still: whoever comes
    /// next kills it, and the kernel its children.
    pub(crate) fn end(self) -> bool {
        self.end_within(PATIENCE)
    }

    fn end_within(self, patience: Duration) -> bool {
        let Self { requests, child } = self;
        drop(requests);
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok();
            let mut ended = [PollFd::from_borrowed_fd(child.pidfd(), PollFlags::IN)];
            match rustix::event::poll(&mut ended, left.as_ref()) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(1..) => return child.wait().is_ok(),
                _ => return false,
            }
        }
    }
}

/// Lets nothing wait on `socket` for longer than `patience`.
fn bound(socket: &OwnedFd, patience: Duration) -> Result<(), Error> {
    for direction in [Timeout::Send, Timeout::Recv] {
        sockopt::set_socket_timeout(socket, direction, Some(patience))
            .map_err(|source| Error::new(Code::Io, "cannot start the spawner").because(source))?;
    }
    Ok(())
}

/// The role `sbx spawner`.
///
/// # Errors
/// If its configuration cannot be read or a socket fails.
pub(crate) fn run(role: crate::role::Role) -> Result<(), Error> {
    let config: SpawnerConfig = role.config()?;
    let requests = role.fd(REQUESTS)?;
    let mut reports = UnixStream::from(role.fd(REPORTS)?);
    let parts = match Parts::open(&config, &role.fd(PROGRAM)?, &role.fd(VMM)?) {
        Ok(parts) => parts,
        Err(error) => {
            tell(&requests, &Answer::Failed(error));
            // Its parent ends with this, and asks nothing before.
            give_back(&config);
            return Ok(());
        }
    };
    tell(&requests, &Answer::Ready);
    let mut children = Children::new();
    let served = serve(&parts, &requests, &mut reports, &mut children);
    // All at once: what is inside a container may wait for a file server.
    for (_, child) in children.values() {
        let _ = child.signal(Signal::KILL);
    }
    for (_, child) in children.values() {
        let _ = child.wait();
    }
    if !matches!(served, Ok(Group::IsRemoved)) {
        give_back(&config);
    }
    served.map(drop)
}

/// Who removes the control group.
enum Group {
    /// This process.
    IsLeft,
    /// A command that waits for the end.
    IsRemoved,
}

fn give_back(config: &SpawnerConfig) {
    let supervisor = rustix::process::getppid();
    config.give_back(supervisor.and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok()));
}

/// Answers requests until nobody can ask any more.
fn serve(
    parts: &Parts,
    requests: &OwnedFd,
    reports: &mut UnixStream,
    children: &mut Children,
) -> Result<Group, Error> {
    let mut group = Group::IsLeft;
    loop {
        let woken = wait(requests, children)?;
        for pid in woken.children {
            let Some((_, child)) = children.get(&pid) else {
                continue;
            };
            if let Ok(Some(how)) = child.try_wait() {
                children.remove(&pid);
                if report(reports, pid, how).is_err() {
                    return Ok(group);
                }
            }
        }
        if !woken.asked {
            continue;
        }
        let mut text = vec![0; MAX_REQUEST];
        let Ok((count, fds)) = unix::receive(requests, &mut text, MAX_FDS) else {
            return Ok(group);
        };
        if count == 0 {
            return Ok(group);
        }
        let request = text.get(..count).unwrap_or_default();
        if request == GROUP_IS_REMOVED {
            group = Group::IsRemoved;
            continue;
        }
        let answer = match start(parts, children, request, fds) {
            Ok((verb, child)) => {
                let pid = child.pid();
                children.insert(pid, (verb, child));
                Answer::Started { pid }
            }
            Err(error) => Answer::Failed(refusal(&error)),
        };
        if !tell(requests, &answer) {
            return Ok(group);
        }
    }
}

/// The running parts, by process id.
type Children = BTreeMap<u32, (Verb, Child)>;

fn start(
    parts: &Parts,
    children: &Children,
    request: &[u8],
    fds: Vec<OwnedFd>,
) -> sbx_sys::Result<(Verb, Child)> {
    let Ok(Request { verb }) = serde_json::from_slice(request) else {
        return Err(sbx_sys::Error::refused("read a request to start a process"));
    };
    if children.values().any(|(running, _)| *running == verb) {
        return Err(sbx_sys::Error::refused(format!(
            "start {verb}, which is running"
        )));
    }
    Ok((verb, parts.start(verb, fds)?))
}

/// Whether it could be told.
fn tell(requests: &OwnedFd, answer: &Answer) -> bool {
    let text = serde_json::to_vec(answer).unwrap_or_default();
    unix::send(requests, &text, &[]).is_ok()
}

struct Woken {
    asked: bool,
    children: Vec<u32>,
}

fn wait(requests: &OwnedFd, children: &Children) -> Result<Woken, Error> {
    let pidfds: Vec<_> = children.values().map(|(_, child)| child.pidfd()).collect();
    let mut polled = vec![PollFd::new(requests, PollFlags::IN)];
    polled.extend(pidfds.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
    let mut patience = Timespec::try_from(memory::SETTLED).ok();
    loop {
        match rustix::event::poll(&mut polled, patience.as_ref()) {
            // Usually that was the last for hours.
            Ok(0) => {
                memory::give_back();
                patience = None;
            }
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) => {}
            Err(source) => {
                return Err(Error::new(Code::Io, "cannot wait for requests").because(source));
            }
        }
    }
    let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
    let asked = ready.next().unwrap_or(false);
    let children = children
        .keys()
        .zip(ready)
        .filter(|(_, ready)| *ready)
        .map(|(pid, _)| *pid)
        .collect();
    Ok(Woken { asked, children })
}

fn report(reports: &mut UnixStream, pid: u32, how: Ended) -> std::io::Result<()> {
    let report = match how {
        Ended::Exit(code) => Report {
            pid,
            code: Some(code),
            signal: None,
        },
        Ended::Signal(signal) => Report {
            pid,
            code: None,
            signal: Some(signal),
        },
    };
    let mut line = serde_json::to_vec(&report)?;
    line.push(b'\n');
    reports.write_all(&line)
}

fn refusal(error: &sbx_sys::Error) -> Error {
    let mut refusal = Error::new(Code::Jail, format!("cannot {error}"));
    if let Some(source) = std::error::Error::source(error) {
        refusal = refusal.because(source);
    }
    refusal
}

fn unreadable(source: serde_json::Error) -> Error {
    Error::new(Code::Internal, "cannot speak with the spawner").because(source)
}

fn confused() -> Error {
    Error::new(Code::Internal, "the spawner is confused")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A spawner that runs `program`, which never answers.
    fn mute(program: &str, argument: &str) -> Spawner {
        let (requests, _far) = unix::message_pair().unwrap();
        let mut spawn = Spawn::path(program).arg(argument);
        spawn.parent_death_signal = Some(Signal::KILL);
        let child = spawn.spawn().unwrap();
        Spawner { requests, child }
    }

    #[test]
    fn a_spawner_that_stands_still_is_given_up_and_one_that_ends_is_not() {
        let still = mute("/bin/sleep", "60");
        let pid = still.child.pid();
        assert!(!still.end_within(Duration::from_millis(50)));
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        assert!(mute("/bin/sleep", "0").end_within(PATIENCE));
    }

    #[test]
    fn no_answer_is_waited_for_without_end() {
        let (requests, far) = unix::message_pair().unwrap();
        bound(&requests, Duration::from_millis(50)).unwrap();
        let child = Spawn::path("/bin/true").spawn().unwrap();
        let spawner = Spawner { requests, child };
        assert_eq!(spawner.answer().map(drop).unwrap_err().code, Code::Timeout);
        assert!(tell(&far, &Answer::Ready));
        assert!(matches!(spawner.answer(), Ok(Answer::Ready)));
        assert!(spawner.end());
    }
}
