//! The one process of a running sandbox that may start programs.
//!
//! Owns: the list of what can be started ([`Verb`]) and as whom. The
//! supervisor forks it before it has read anything that others wrote, then
//! gives up exec itself; what is left to an attacker who takes the
//! supervisor over is to start another net, share or vmm.
//!
//! Requests are single messages with descriptors on one socket; how children
//! ended is told as JSON lines on another. When the supervisor goes, its end
//! of the socket closes, this process ends, and its children with it.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags};
use sbx_sys::process::Ended;
use sbx_sys::spawn::{Child, Ids, Resource, Signal, Spawn};
use sbx_sys::{memfd, unix};
use serde::{Deserialize, Serialize};

use crate::command::{Code, Error};

/// First descriptor of the role: what it is asked through.
const REQUESTS: i32 = 4;
/// What it tells the ends of children through.
const REPORTS: i32 = 5;
/// The `sbx` program.
const PROGRAM: i32 = 6;
/// The `sbx-vmm` program.
const VMM: i32 = 7;

/// Largest request or answer, in bytes.
const MAX_MESSAGE: usize = 16 * 1024;
/// Most descriptors of a child beside its first four.
const MAX_FDS: usize = 40;
/// Most children at a time.
const MAX_CHILDREN: usize = 64;
/// Largest sealed configuration of a role, in bytes.
pub(crate) const MAX_CONFIG: usize = 4 << 20;

/// What can be started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verb {
    /// `sbx net`.
    Net,
    /// `sbx share`.
    Share,
    /// `sbx-vmm`.
    Vmm,
}

/// Whom the children run as. `None` where the user is not root: as the user.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SpawnerConfig {
    /// Ids of the network engine.
    pub(crate) service: Option<(u32, u32)>,
    /// Ids of the file servers.
    pub(crate) share: Option<(u32, u32)>,
}

#[derive(Serialize, Deserialize)]
struct Request {
    verb: Verb,
}

#[derive(Serialize, Deserialize)]
enum Answer {
    Started { pid: u32 },
    Failed { what: String, why: Vec<String> },
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
    /// Forks the spawner. Returns it and where the ends of its children are
    /// read.
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
        Ok((
            Self {
                requests: near,
                child,
            },
            reports,
        ))
    }

    /// Starts a role with its configuration, its log as descriptor 2 and
    /// `fds` from 4 on.
    ///
    /// # Errors
    /// If the spawner is gone or the program cannot be started.
    pub(crate) fn run(
        &self,
        verb: Verb,
        config: &[u8],
        log: OwnedFd,
        fds: Vec<OwnedFd>,
    ) -> Result<Started, Error> {
        let failed = |source: sbx_sys::Error| {
            Error::new(Code::Jail, format!("cannot start {verb:?}").to_lowercase()).because(source)
        };
        let internal = |source: serde_json::Error| {
            Error::new(Code::Internal, "cannot speak with the spawner").because(source)
        };
        let request = serde_json::to_vec(&Request { verb }).map_err(internal)?;
        let config = memfd::sealed("sbx-config", config).map_err(failed)?;
        let mut passed = vec![log.as_fd(), config.as_fd()];
        passed.extend(fds.iter().map(AsFd::as_fd));
        unix::send(&self.requests, &request, &passed).map_err(failed)?;
        let mut answer = vec![0; MAX_MESSAGE];
        let (count, _) = unix::receive(&self.requests, &mut answer, 0).map_err(failed)?;
        match serde_json::from_slice(answer.get(..count).unwrap_or_default()).map_err(internal)? {
            Answer::Started { pid } => Ok(Started { pid }),
            Answer::Failed { what, why } => {
                let mut error = Error::new(Code::Jail, what);
                error.causes = why;
                Err(error)
            }
        }
    }

    /// Ends it and all its children. It goes by itself once nobody can ask it
    /// any more; the supervisor, locked down, may not even signal it.
    pub(crate) fn end(self) {
        let Self { requests, child } = self;
        drop(requests);
        let _ = child.wait();
    }
}

/// The role `sbx spawner`.
///
/// # Errors
/// If its configuration cannot be read or a socket fails.
pub(crate) fn run(role: crate::role::Role) -> Result<(), Error> {
    let config: SpawnerConfig = role.config()?;
    let requests = role.fd(REQUESTS)?;
    let mut reports = UnixStream::from(role.fd(REPORTS)?);
    let program = role.fd(PROGRAM)?;
    let vmm = role.fd(VMM)?;
    let mut children: BTreeMap<u32, Child> = BTreeMap::new();
    loop {
        let ended = wait(&requests, &children)?;
        for pid in ended.children {
            let Some(child) = children.get(&pid) else {
                continue;
            };
            if let Ok(Some(how)) = child.try_wait() {
                children.remove(&pid);
                if report(&mut reports, pid, how).is_err() {
                    return Ok(());
                }
            }
        }
        if !ended.asked {
            continue;
        }
        let mut text = vec![0; MAX_MESSAGE];
        let Ok((count, fds)) = unix::receive(&requests, &mut text, MAX_FDS) else {
            return Ok(());
        };
        if count == 0 {
            return Ok(());
        }
        let started = match serde_json::from_slice::<Request>(text.get(..count).unwrap_or_default())
        {
            Ok(request) if children.len() < MAX_CHILDREN => {
                start(&config, &program, &vmm, request.verb, fds)
            }
            Ok(_) => Err(sbx_sys::Error::refused("start one more process")),
            Err(_) => Err(sbx_sys::Error::refused("read a request to start a process")),
        };
        let (answer, child) = match started {
            Ok(child) => (Answer::Started { pid: child.pid() }, Some(child)),
            Err(error) => (refusal(&error), None),
        };
        let text = serde_json::to_vec(&answer).unwrap_or_default();
        if unix::send(&requests, &text, &[]).is_err() {
            return Ok(());
        }
        if let Some(child) = child {
            children.insert(child.pid(), child);
        }
    }
}

struct Woken {
    asked: bool,
    children: Vec<u32>,
}

fn wait(requests: &OwnedFd, children: &BTreeMap<u32, Child>) -> Result<Woken, Error> {
    let pidfds: Vec<_> = children.values().map(Child::pidfd).collect();
    let mut polled = vec![PollFd::new(requests, PollFlags::IN)];
    polled.extend(pidfds.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)));
    loop {
        match rustix::event::poll(&mut polled, None) {
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

fn start(
    config: &SpawnerConfig,
    program: &OwnedFd,
    vmm: &OwnedFd,
    verb: Verb,
    fds: Vec<OwnedFd>,
) -> Result<Child, sbx_sys::Error> {
    let (file, name, arg, ids) = match verb {
        Verb::Net => (program, "sbx", Some("net"), config.service),
        Verb::Share => (program, "sbx", Some("share"), config.share),
        // It gives up root itself, after the namespaces that only root can
        // make everywhere.
        Verb::Vmm => (vmm, "sbx-vmm", None, None),
    };
    let file = file
        .try_clone()
        .map_err(|source| sbx_sys::Error::new("copy a descriptor", source))?;
    let mut spawn = Spawn::fd(file, name);
    spawn.argv.extend(arg.map(Into::into));
    // 2 is the log, 3 the configuration, then what the role is given.
    spawn.fds = fds.into_iter().zip(2..).collect();
    spawn.parent_death_signal = Some(Signal::KILL);
    spawn.ids = ids.map(|(uid, gid)| Ids {
        uid,
        gid,
        groups: Vec::new(),
    });
    spawn.limits = vec![(Resource::Core, 0)];
    spawn.no_new_privs = true;
    spawn.spawn()
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

fn refusal(error: &sbx_sys::Error) -> Answer {
    let mut why = Vec::new();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        why.push(source.to_string());
        next = source.source();
    }
    Answer::Failed {
        what: format!("cannot {error}"),
        why,
    }
}
