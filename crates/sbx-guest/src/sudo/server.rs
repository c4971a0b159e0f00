//! The root half of one `sudo`: a process for each connection, which reads
//! the request, starts the program and reports its end.

use std::fs::File;
use std::io::{IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use sbx_proto::session::User;

use super::{Answer, DESCRIPTORS, MAX_REQUEST, Request, Shell};
use crate::error::{Attempt as _, Error, Result};
use crate::launch::child::bytes;
use crate::launch::identity::{Identity, login_shell, read_passwd, resolve};
use crate::launch::{Context, Cwd, FIRST_TO_GO, Failure, Launch, Privileges, Terminal, parent};
use crate::program::StandardFds;
use crate::serve::signal_session;

/// A client that has connected says what it wants within this.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between SIGHUP and SIGKILL when the client is gone.
const HANGUP_GRACE: Duration = Duration::from_secs(2);
/// Longest context that is read, in bytes.
const MAX_CONTEXT: u64 = 2 * 1024 * 1024;

/// Serves one connection.
pub(crate) fn run(connection: OwnedFd, context: OwnedFd) -> ExitCode {
    let _ = std::fs::write("/proc/self/oom_score_adj", FIRST_TO_GO);
    let _ = rustix::process::setsid();
    let answer = match serve(&connection, context) {
        Ok(answer) => answer,
        Err(Failure { code, message }) => Answer::Refused { code, message },
    };
    if let Ok(wire) = minicbor::to_vec(&answer) {
        let _ = rustix::net::send(&connection, &wire, SendFlags::NOSIGNAL);
    }
    ExitCode::SUCCESS
}

fn refuse(error: &Error) -> Failure {
    Failure {
        code: 1,
        message: error.line(),
    }
}

fn serve(connection: &OwnedFd, context: OwnedFd) -> Result<Answer, Failure> {
    let context = read_context(context).map_err(|error| refuse(&error))?;
    let (request, fds) = receive(connection).map_err(|error| refuse(&error))?;
    let caller = rustix::net::sockopt::socket_peercred(connection)
        .attempt("read who calls")
        .map_err(|error| refuse(&error))?;
    let passwd = read_passwd();
    let identity = resolve(&request.user, &context.agent, passwd.as_deref())?;
    let [stdin, stdout, stderr, cwd] = fds;
    if request.cwd.is_none() {
        // Through the client's own descriptor: its directory may be one that
        // no path leads to any more.
        let _ = rustix::process::fchdir(&cwd);
    }
    drop(cwd);
    let launch = plan(request, context, &identity, caller.uid.as_raw());
    let stdio = StandardFds {
        stdin,
        stdout,
        stderr,
    };
    let (pid, report) = parent::start(&launch, stdio).map_err(|error| refuse(&error))?;
    let watched = rustix::process::pidfd_open(pid, PidfdFlags::empty())
        .attempt("watch a program")
        .map_err(|error| refuse(&error))?;
    parent::wait_report(report)?;
    Ok(follow(connection, &watched, pid))
}

fn read_context(fd: OwnedFd) -> Result<Context> {
    let mut wire = Vec::new();
    File::from(fd)
        .take(MAX_CONTEXT)
        .read_to_end(&mut wire)
        .attempt("read the sandbox's context")?;
    minicbor::decode(&wire).map_err(|_| Error::new("read the sandbox's context"))
}

/// Reads the request and the descriptors that come with it.
fn receive(connection: &OwnedFd) -> Result<(Request, [OwnedFd; DESCRIPTORS])> {
    let deadline = Instant::now() + PATIENCE;
    let mut fds: Vec<OwnedFd> = Vec::new();
    let mut wire: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let length = wire
            .first_chunk()
            .map(|length| u32::from_le_bytes(*length) as usize);
        match length {
            Some(length) if length > MAX_REQUEST => {
                return Err(Error::new("read a request: too long"));
            }
            Some(length) if wire.len() >= length + 4 => break,
            _ => {}
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if !wait(&[(connection, PollFlags::IN)], Some(left))? {
            return Err(Error::new("read a request: nothing came"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let read = rustix::net::recvmsg(
            connection,
            &mut [IoSliceMut::new(&mut buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
        )
        .attempt("read a request")?
        .bytes;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                fds.extend(received);
            }
        }
        if read == 0 || fds.len() > DESCRIPTORS {
            return Err(Error::new("read a request: malformed"));
        }
        wire.extend_from_slice(buffer.get(..read).unwrap_or_default());
    }
    let request = minicbor::decode(wire.get(4..).unwrap_or_default())
        .map_err(|_| Error::new("read a request: malformed"))?;
    let fds = <[OwnedFd; DESCRIPTORS]>::try_from(fds)
        .map_err(|_| Error::new("read a request: descriptors are missing"))?;
    Ok((request, fds))
}

/// What `sudo` makes of a request.
fn plan(request: Request, context: Context, identity: &Identity, caller: u32) -> Launch {
    let mut argv = request.argv;
    let mut arg0 = None;
    let command: Vec<Vec<u8>> = argv.iter().map(|word| word.to_vec()).collect();
    if request.shell != Shell::None {
        let shell = match request.shell {
            Shell::Plain => std::path::Path::new(login_shell()),
            _ => std::path::Path::new(&identity.shell),
        };
        argv = vec![bytes(shell)];
        if !command.is_empty() {
            argv.push(bytes("-c"));
            argv.push(quote(&command).into());
        }
        if request.shell == Shell::Login {
            let name = shell.file_name().unwrap_or_default().to_string_lossy();
            arg0 = Some(bytes(format!("-{name}")));
        }
    }
    let mut env = request.env;
    let caller_name = match caller {
        0 => "root".to_owned(),
        uid if uid == context.agent.uid => "agent".to_owned(),
        uid => uid.to_string(),
    };
    let mut line = command.join(&b' ');
    line.truncate(4096);
    env.push((bytes("SUDO_USER"), bytes(caller_name)));
    env.push((bytes("SUDO_UID"), bytes(caller.to_string())));
    env.push((bytes("SUDO_COMMAND"), line.into()));
    let user = match request.gid {
        Some(gid) => User::Ids {
            uid: identity.uid,
            gid,
        },
        None => request.user,
    };
    Launch {
        user,
        argv,
        arg0,
        env,
        cwd: match (request.cwd, request.shell) {
            (Some(path), _) => Cwd::Path { path },
            (None, Shell::Login) => Cwd::Home,
            (None, _) => Cwd::Here,
        },
        files: Vec::new(),
        terminal: match request.terminal {
            true => Terminal::Stdin,
            false => Terminal::None,
        },
        own_stdio: false,
        privileges: Privileges::Keep,
        context,
    }
}

/// One word for a shell, as `sudo -s` does it: everything but plain
/// characters behind a backslash.
fn quote(command: &[Vec<u8>]) -> Vec<u8> {
    let mut line = Vec::new();
    for (at, word) in command.iter().enumerate() {
        if at > 0 {
            line.push(b' ');
        }
        for &byte in word {
            if byte == b'\n' {
                line.extend_from_slice(b"'\n'");
                continue;
            }
            if byte.is_ascii() && !byte.is_ascii_alphanumeric() && !b"_-$".contains(&byte) {
                line.push(b'\\');
            }
            line.push(byte);
        }
        if word.is_empty() {
            line.extend_from_slice(b"''");
        }
    }
    line
}

/// Waits for the program's end; passes on the client's signals; hangs up when
/// the client goes.
fn follow(connection: &OwnedFd, watched: &OwnedFd, pid: Pid) -> Answer {
    let mut gone: Option<Instant> = None;
    let mut killed = false;
    loop {
        let left = gone
            .filter(|_| !killed)
            .map(|gone| (gone + HANGUP_GRACE).saturating_duration_since(Instant::now()));
        let both = [(watched, PollFlags::IN), (connection, PollFlags::IN)];
        let fds = if gone.is_some() {
            both.get(..1).unwrap_or(&both)
        } else {
            &both[..]
        };
        let _ = wait(fds, left);
        if let Ok(Some((_, status))) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
            let byte = |number: i32| u8::try_from(number & 0xff).unwrap_or(1);
            return match status.terminating_signal() {
                Some(signal) => Answer::Killed {
                    signal: byte(signal),
                },
                None => Answer::Exited {
                    code: byte(status.exit_status().unwrap_or(1)),
                },
            };
        }
        match gone {
            None => match read_signal(connection) {
                Some(Some(signal)) => {
                    let _ = rustix::process::kill_process_group(pid, signal);
                }
                Some(None) => {}
                None => {
                    gone = Some(Instant::now());
                    signal_session(pid, Signal::HUP);
                    signal_session(pid, Signal::CONT);
                }
            },
            Some(gone) if !killed && gone.elapsed() >= HANGUP_GRACE => {
                killed = true;
                signal_session(pid, Signal::KILL);
            }
            Some(_) => {}
        }
    }
}

/// A signal from the client; `None` when it is gone.
#[expect(clippy::option_option, reason = "gone, nothing to do, a signal")]
fn read_signal(connection: &OwnedFd) -> Option<Option<Signal>> {
    let mut byte = [0];
    match rustix::net::recv(connection, &mut byte[..], RecvFlags::DONTWAIT) {
        Ok((0, _)) => None,
        Ok(_) => Some(
            byte.first()
                .and_then(|&byte| Signal::from_named_raw(byte.into())),
        ),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Some(None),
        Err(_) => None,
    }
}

/// Waits until one of `fds` is ready; false when `timeout` has passed.
fn wait(fds: &[(&OwnedFd, PollFlags)], timeout: Option<Duration>) -> Result<bool> {
    let mut polled: Vec<PollFd<'_>> = fds
        .iter()
        .map(|(fd, flags)| PollFd::from_borrowed_fd(fd.as_fd(), *flags))
        .collect();
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    match rustix::event::poll(&mut polled, timeout.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(error) => Err(error).attempt("wait for a client"),
    }
}

/// Opens the listening socket; everybody inside may connect.
pub(crate) fn listen() -> Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let what = "open the socket of sudo";
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .attempt(what)?;
    let address = SocketAddrUnix::new(super::SOCKET).attempt(what)?;
    rustix::net::bind(&socket, &address).attempt(what)?;
    rustix::fs::chmod(super::SOCKET, rustix::fs::Mode::from_raw_mode(0o666)).attempt(what)?;
    rustix::net::listen(&socket, 64).attempt(what)?;
    Ok(socket)
}

/// A descriptor of the working directory, for the client.
pub(crate) fn open_here() -> Result<OwnedFd> {
    rustix::fs::open(
        ".",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .attempt("open the working directory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_sees_the_words_that_were_given() {
        let words = [
            b"echo".to_vec(),
            b"a b".to_vec(),
            b"$HOME".to_vec(),
            b"it's;x".to_vec(),
            Vec::new(),
        ];
        assert_eq!(quote(&words), br"echo a\ b $HOME it\'s\;x ''");
    }
}
