//! `sudo` as it is called inside: asks, lends its descriptors, waits.

use std::ffi::{OsStr, OsString};
use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::Signal;
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Termios};

use super::arguments::{Invocation, Preserve, Run, parse};
use super::server::open_here;
use super::{Answer, DESCRIPTORS, Request, SOCKET};
use crate::error::{Attempt as _, Error, Result};
use crate::launch::child::bytes;
use crate::program;

/// What of the caller's environment is kept without asking.
const KEPT: &[&str] = &[
    "TERM",
    "COLORTERM",
    "LANG",
    "LANGUAGE",
    "TZ",
    "DEBIAN_FRONTEND",
];
const USAGE: &str =
    "usage: sudo [-EHinsS] [-u USER] [-g GID] [-D DIR] [NAME=VALUE ...] [--] COMMAND [ARG ...]\n";
/// Signals that are passed on; the terminal's size comes as SIGWINCH.
const SIGNALS: &[u8] = &[1, 2, 3, 15, 10, 12, 28];
const WINDOW_CHANGED: u8 = 28;

/// Runs `sudo` with the words after its name.
pub(crate) fn run(words: Vec<OsString>) -> ExitCode {
    let invocation = match parse(words) {
        Ok(invocation) => invocation,
        Err(message) => return fail(&message),
    };
    let say = |text: &str| {
        let _ = std::io::stdout().write_all(text.as_bytes());
        ExitCode::SUCCESS
    };
    match invocation {
        Invocation::Nothing => ExitCode::SUCCESS,
        Invocation::Version => say(concat!(
            "Sudo (sbx-guest) ",
            env!("CARGO_PKG_VERSION"),
            "\n"
        )),
        Invocation::List => say(
            "Every user may run the following commands in this sandbox:\n    (ALL : ALL) NOPASSWD: ALL\n",
        ),
        Invocation::Usage => {
            let _ = std::io::stderr().write_all(USAGE.as_bytes());
            ExitCode::FAILURE
        }
        Invocation::Run(run) => match ask(*run) {
            Ok(Answer::Exited { code }) => ExitCode::from(code),
            Ok(Answer::Killed { signal }) => die_by(signal),
            Ok(Answer::Refused { code, message }) => {
                let _ = fail(&message);
                // 125 is what a sandbox says of itself; sudo says 1.
                ExitCode::from(if code == 125 { 1 } else { code })
            }
            Err(error) => fail(&error.line()),
        },
    }
}

fn fail(message: &str) -> ExitCode {
    let _ = std::io::stderr().write_all(format!("sudo: {message}\n").as_bytes());
    ExitCode::FAILURE
}

/// Ends as the program did, so that a calling shell sees the signal.
fn die_by(signal: u8) -> ExitCode {
    if let Some(named) = Signal::from_named_raw(signal.into()) {
        let _ = signal_hook::low_level::emulate_default_handler(signal.into());
        let _ = rustix::process::kill_process(rustix::process::getpid(), named);
    }
    ExitCode::from(signal.saturating_add(128))
}

fn ask(run: Run) -> Result<Answer> {
    let what = "reach the sandbox's init";
    let connection = UnixStream::connect(SOCKET).attempt(what)?;
    let signals: Vec<(u8, UnixStream)> = SIGNALS
        .iter()
        .map(|&signal| Ok((signal, watch(signal)?)))
        .collect::<Result<_>>()?;
    let terminal = Relay::open()?;
    let request = Request {
        user: run.user.clone(),
        argv: run.command.iter().map(bytes).collect(),
        env: environment(&run),
        shell: run.shell,
        terminal: terminal.is_some(),
        gid: run.gid,
        cwd: run.cwd.as_ref().map(bytes),
    };
    send(&connection, &request, terminal.as_ref())?;
    let raw = terminal.as_ref().map(Relay::raw).transpose()?;
    let answer = wait(&connection, &signals, terminal.as_ref());
    drop(raw);
    answer
}

/// A stream that gets a byte with each `signal`.
fn watch(signal: u8) -> Result<UnixStream> {
    let what = "watch for signals";
    let (read, write) = UnixStream::pair().attempt(what)?;
    read.set_nonblocking(true).attempt(what)?;
    signal_hook::low_level::pipe::register(signal.into(), write).attempt(what)?;
    Ok(read)
}

fn environment(run: &Run) -> Vec<(sbx_proto::Bytes, sbx_proto::Bytes)> {
    let kept = |name: &OsStr| match (&run.preserve, name.to_str()) {
        (Preserve::All, _) => !["HOME", "USER", "LOGNAME", "SHELL"]
            .iter()
            .any(|own| name == *own),
        (_, None) => false,
        (Preserve::Names(names), Some(name)) if names.iter().any(|kept| kept == name) => true,
        (_, Some(name)) => KEPT.contains(&name) || name.starts_with("LC_"),
    };
    let own = program::environment()
        .into_iter()
        .filter(|(name, _)| kept(name));
    own.chain(run.set.iter().cloned())
        .map(|(name, value)| (bytes(name), bytes(value)))
        .collect()
}

/// A terminal for the program, between it and the caller's.
struct Relay {
    master: OwnedFd,
    slave: OwnedFd,
}

/// The caller's terminal in raw mode, until dropped.
struct Raw(Termios);

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.0);
    }
}

impl Relay {
    /// `None` if standard input is no terminal.
    fn open() -> Result<Option<Self>> {
        const FLAGS: OpenptFlags = OpenptFlags::RDWR
            .union(OpenptFlags::NOCTTY)
            .union(OpenptFlags::CLOEXEC);
        let what = "open a terminal";
        let stdin = rustix::stdio::stdin();
        let Ok(modes) = rustix::termios::tcgetattr(stdin) else {
            return Ok(None);
        };
        let master = rustix::pty::openpt(FLAGS).attempt(what)?;
        rustix::pty::unlockpt(&master).attempt(what)?;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, FLAGS).attempt(what)?;
        rustix::termios::tcsetattr(&slave, OptionalActions::Now, &modes).attempt(what)?;
        let relay = Self { master, slave };
        relay.resize();
        Ok(Some(relay))
    }

    fn resize(&self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    fn raw(&self) -> Result<Raw> {
        let stdin = rustix::stdio::stdin();
        let what = "set the terminal's mode";
        let modes = rustix::termios::tcgetattr(stdin).attempt(what)?;
        let mut raw = modes.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(stdin, OptionalActions::Drain, &raw).attempt(what)?;
        Ok(Raw(modes))
    }

    /// What the program gets in place of `own`: the terminal where `own` is one.
    fn instead_of<'a>(&'a self, own: BorrowedFd<'a>) -> BorrowedFd<'a> {
        match rustix::termios::isatty(own) {
            true => self.slave.as_fd(),
            false => own,
        }
    }
}

fn send(connection: &UnixStream, request: &Request, relay: Option<&Relay>) -> Result<()> {
    let what = "send the request";
    let body = minicbor::to_vec(request).map_err(|_| Error::new(what))?;
    let mut wire = u32::try_from(body.len())
        .map_err(|_| Error::new(what))?
        .to_le_bytes()
        .to_vec();
    wire.extend_from_slice(&body);
    let here = open_here()?;
    let lend = |own| relay.map_or(own, |relay: &Relay| relay.instead_of(own));
    let fds: [BorrowedFd<'_>; DESCRIPTORS] = [
        lend(rustix::stdio::stdin()),
        lend(rustix::stdio::stdout()),
        lend(rustix::stdio::stderr()),
        here.as_fd(),
    ];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Error::new(what));
    }
    let sent = rustix::net::sendmsg(
        connection,
        &[IoSlice::new(&wire)],
        &mut control,
        SendFlags::NOSIGNAL,
    )
    .attempt(what)?;
    let rest = wire.get(sent..).unwrap_or_default();
    let mut connection = connection;
    connection.write_all(rest).attempt(what)
}

/// Relays until the answer comes.
fn wait(
    connection: &UnixStream,
    signals: &[(u8, UnixStream)],
    relay: Option<&Relay>,
) -> Result<Answer> {
    let mut reading = relay.is_some();
    loop {
        let mut fds = vec![PollFd::new(connection, PollFlags::IN)];
        for (_, signal) in signals {
            fds.push(PollFd::new(signal, PollFlags::IN));
        }
        if let Some(relay) = relay {
            fds.push(PollFd::new(&relay.master, PollFlags::IN));
            if reading {
                fds.push(PollFd::from_borrowed_fd(
                    rustix::stdio::stdin(),
                    PollFlags::IN,
                ));
            }
        }
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).attempt("wait for the program"),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let ready = |at: usize| ready.get(at).copied().unwrap_or(false);
        for (at, (number, signal)) in signals.iter().enumerate() {
            if ready(at + 1) {
                pass_on(connection, *number, signal, relay);
            }
        }
        if let Some(relay) = relay {
            let at = signals.len() + 1;
            if ready(at) {
                let _ = copy(relay.master.as_fd(), rustix::stdio::stdout());
            }
            if reading && ready(at + 1) {
                reading = copy(rustix::stdio::stdin(), relay.master.as_fd());
            }
        }
        if ready(0) {
            if let Some(relay) = relay {
                drain(&relay.master);
            }
            let mut answer = vec![0; 64 * 1024];
            let read = rustix::io::read(connection, &mut answer[..]).attempt("read the answer")?;
            return minicbor::decode(answer.get(..read).unwrap_or_default())
                .map_err(|_| Error::new("the sandbox's init gave no answer"));
        }
    }
}

fn pass_on(
    mut connection: &UnixStream,
    number: u8,
    mut signal: &UnixStream,
    relay: Option<&Relay>,
) {
    use std::io::Read as _;
    let _ = signal.read(&mut [0; 64]);
    match relay {
        Some(relay) if number == WINDOW_CHANGED => relay.resize(),
        _ if number == WINDOW_CHANGED => {}
        _ => {
            let _ = connection.write_all(&[number]);
        }
    }
}

/// Copies what one read gives; false at the end.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0; 16 * 1024];
    let Ok(read @ 1..) = rustix::io::read(from, &mut buffer[..]) else {
        return false;
    };
    let mut rest = buffer.get(..read).unwrap_or_default();
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Shows what the program wrote before it ended.
fn drain(master: &OwnedFd) {
    loop {
        let mut fds = [PollFd::new(master, PollFlags::IN)];
        let none = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let readable = matches!(rustix::event::poll(&mut fds, Some(&none)), Ok(1..));
        if !readable || !copy(master.as_fd(), rustix::stdio::stdout()) {
            return;
        }
    }
}
