//! How this program was started, and how it starts programs: the one place
//! that reads arguments and environment and makes processes.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::io::FdFlags;
use rustix::process::Pid;

use crate::error::{Attempt as _, Error, Result};

/// Path of this program inside the sandbox.
pub(crate) const GUEST_PROGRAM: &str = "/run/sbx/bin/sbx-guest";

/// Role of the first moments of a session's process.
pub(crate) const LAUNCH: &str = "launch";
/// Role of the root half of `sudo`.
pub(crate) const SUDO_SERVER: &str = "sudo-server";

/// What this process is for.
pub(crate) enum Role {
    Init,
    Contained,
    Docked,
    Wire,
    Serve,
    Launch {
        request: OwnedFd,
        status: OwnedFd,
    },
    SudoServer {
        connection: OwnedFd,
        context: OwnedFd,
    },
    Sudo {
        arguments: Vec<OsString>,
    },
    Unknown,
}

/// Reads the role from the arguments.
pub(crate) fn role() -> Role {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_default();
    if Path::new(&name)
        .file_name()
        .is_some_and(|name| name == "sudo")
    {
        return Role::Sudo {
            arguments: arguments.collect(),
        };
    }
    let first = rustix::process::getpid().as_raw_nonzero().get() == 1;
    let words: Vec<OsString> = arguments.take(4).collect();
    let words: Vec<&str> = words.iter().filter_map(|word| word.to_str()).collect();
    match words[..] {
        ["contained"] if first => Role::Contained,
        ["docked"] if first => Role::Docked,
        ["wire"] if first => Role::Wire,
        _ if first => Role::Init,
        ["serve"] => Role::Serve,
        [LAUNCH, first, second] => match inherited(first, second) {
            Some((request, status)) => Role::Launch { request, status },
            None => Role::Unknown,
        },
        [SUDO_SERVER, first, second] => match inherited(first, second) {
            Some((connection, context)) => Role::SudoServer {
                connection,
                context,
            },
            None => Role::Unknown,
        },
        _ => Role::Unknown,
    }
}

/// Takes over the two descriptors that [`spawn_role`] passed.
fn inherited(first: &str, second: &str) -> Option<(OwnedFd, OwnedFd)> {
    let (first, second) = (first.parse::<RawFd>().ok()?, second.parse::<RawFd>().ok()?);
    let mut taken = sbx_sys::fd::take_inherited(3).ok()?;
    let mut pick = |number| {
        let at = taken.iter().position(|(taken, _)| *taken == number)?;
        Some(taken.swap_remove(at).1)
    };
    Some((pick(first)?, pick(second)?))
}

/// This process's whole environment; only `sudo` has one.
#[expect(
    clippy::disallowed_methods,
    reason = "the one reader of the environment"
)]
pub(crate) fn environment() -> Vec<(OsString, OsString)> {
    std::env::vars_os().collect()
}

/// Writes one line to the console (descriptor 2), best effort.
pub(crate) fn log(line: &str) {
    let mut text = String::with_capacity(line.len() + 12);
    text.push_str("sbx-guest: ");
    text.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
    text.push('\n');
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Standard input, output and error of a child.
pub(crate) struct StandardFds {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// Starts this program in another role: `words` on its command line, then the
/// numbers of `fds`, which it inherits; an empty environment.
///
/// The caller must be single-threaded: between the two changes of the
/// close-on-exec flag any other child would inherit `fds` too.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that starts processes"
)]
pub(crate) fn spawn_role(
    role: &str,
    stdio: Option<StandardFds>,
    fds: [BorrowedFd<'_>; 2],
) -> Result<Pid> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("sbx-guest").arg(role).env_clear();
    for fd in fds {
        command.arg(fd.as_raw_fd().to_string());
    }
    match stdio {
        Some(stdio) => {
            command
                .stdin(Stdio::from(stdio.stdin))
                .stdout(Stdio::from(stdio.stdout))
                .stderr(Stdio::from(stdio.stderr));
        }
        None => {
            command.stdin(Stdio::null()).stdout(Stdio::null());
        }
    }
    for fd in fds {
        rustix::io::fcntl_setfd(fd, FdFlags::empty()).attempt("share a descriptor")?;
    }
    let child = command.spawn();
    for fd in fds {
        rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC).attempt("close a descriptor on exec")?;
    }
    let child = child.attempt("start a process")?;
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| Error::new("start a process: no process id"))
}

/// What an exec shall run.
pub(crate) struct Image<'a> {
    /// Path, or a name for PATH of `env`.
    pub(crate) program: OsString,
    /// First argument; the program's own word if absent.
    pub(crate) arg0: Option<OsString>,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) env: &'a [(OsString, OsString)],
}

/// Replaces this process; returns only on failure.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place that starts processes"
)]
pub(crate) fn exec(image: Image<'_>) -> std::io::Error {
    let mut command = Command::new(image.program);
    if let Some(arg0) = image.arg0 {
        command.arg0(arg0);
    }
    command
        .args(image.arguments)
        .env_clear()
        .envs(image.env.iter().map(|(name, value)| (name, value)))
        .exec()
}
