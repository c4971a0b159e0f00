//! The standard descriptors of a session: a pseudo terminal or three pipes.

use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;
use rustix::process::Pid;
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use sbx_proto::session::Tty;

use super::link::nonblocking;
use crate::error::{Attempt as _, Result};
use crate::program::StandardFds;

/// Our ends; non-blocking.
pub(crate) struct Ends {
    /// What the program reads.
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    /// Absent with a terminal.
    pub(crate) stderr: Option<OwnedFd>,
    /// The terminal's master, for its size and its foreground group.
    pub(crate) master: Option<OwnedFd>,
    /// Held so that the master does not end while the program has closed
    /// the terminal for a moment.
    pub(crate) _slave: Option<OwnedFd>,
}

/// A pseudo terminal of the given size.
pub(crate) fn terminal(tty: &Tty) -> Result<(StandardFds, Ends)> {
    const FLAGS: OpenptFlags = OpenptFlags::RDWR
        .union(OpenptFlags::NOCTTY)
        .union(OpenptFlags::CLOEXEC);
    let master = rustix::pty::openpt(FLAGS).attempt("open a terminal")?;
    rustix::pty::unlockpt(&master).attempt("unlock a terminal")?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, FLAGS).attempt("open a terminal")?;
    resize(&master, tty.rows, tty.cols)?;
    nonblocking(&master).attempt("open a terminal")?;
    let copy = |fd: &OwnedFd| fd.try_clone().attempt("share a terminal");
    let stdio = StandardFds {
        stdin: copy(&slave)?,
        stdout: copy(&slave)?,
        stderr: copy(&slave)?,
    };
    let ends = Ends {
        stdin: copy(&master)?,
        stdout: copy(&master)?,
        stderr: None,
        master: Some(master),
        _slave: Some(slave),
    };
    Ok((stdio, ends))
}

/// Three pipes.
pub(crate) fn pipes() -> Result<(StandardFds, Ends)> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).attempt("create a pipe");
    let (child_in, our_in) = pipe()?;
    let (our_out, child_out) = pipe()?;
    let (our_err, child_err) = pipe()?;
    for fd in [&our_in, &our_out, &our_err] {
        nonblocking(fd).attempt("create a pipe")?;
    }
    let stdio = StandardFds {
        stdin: child_in,
        stdout: child_out,
        stderr: child_err,
    };
    let ends = Ends {
        stdin: our_in,
        stdout: our_out,
        stderr: Some(our_err),
        master: None,
        _slave: None,
    };
    Ok((stdio, ends))
}

/// Sets the size; the foreground group hears of it.
pub(crate) fn resize(master: &OwnedFd, rows: u16, cols: u16) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(master, size).attempt("set the terminal's size")
}

/// The group that signals of the keyboard go to.
pub(crate) fn foreground(master: &OwnedFd) -> Option<Pid> {
    rustix::termios::tcgetpgrp(master).ok()
}
