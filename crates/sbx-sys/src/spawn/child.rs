//! The child's side of a start: from fork to exec.
//!
//! Runs in a copy of a process that may have had other threads, so nothing
//! here allocates, locks or panics; `rustix` makes its system calls directly.

use std::ffi::{CString, c_char, c_int};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::{Gid, Resource, Rlimit, Signal, Uid};

use super::Ids;
use crate::error::{Attempt, Error, Result};

/// What to execute, ready for the system call.
pub(super) enum Exec {
    Path(CString),
    Fd(OwnedFd),
}

/// Strings and the null-terminated array of pointers to them.
pub(super) struct Strings {
    pointers: Vec<*const c_char>,
    // Owns what the pointers point to; a CString's bytes do not move with it.
    _strings: Vec<CString>,
}

/// Whom the child becomes.
pub(super) struct Identity {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

/// Everything the child needs, allocated before the fork.
pub(super) struct Ready {
    pub(super) program: Exec,
    pub(super) argv: Strings,
    pub(super) env: Strings,
    /// Sorted by number; each source is above all numbers.
    pub(super) fds: Vec<(OwnedFd, RawFd)>,
    pub(super) first_free: RawFd,
    pub(super) new_session: bool,
    pub(super) controlling_terminal: bool,
    pub(super) parent: u32,
    pub(super) parent_death_signal: Option<Signal>,
    pub(super) ids: Option<Identity>,
    pub(super) limits: Vec<(Resource, u64)>,
    pub(super) no_new_privs: bool,
    pub(super) cwd: CString,
}

impl Strings {
    pub(super) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings
            .iter()
            .map(|string| string.as_ptr())
            .chain([ptr::null()])
            .collect();
        Self {
            pointers,
            _strings: strings,
        }
    }
}

impl From<Ids> for Identity {
    fn from(ids: Ids) -> Self {
        Self {
            uid: Uid::from_raw(ids.uid),
            gid: Gid::from_raw(ids.gid),
            groups: ids.groups.into_iter().map(Gid::from_raw).collect(),
        }
    }
}

/// The steps that can fail in the child, by the number that the pipe carries.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Step {
    Signals = 1,
    Session,
    Terminal,
    Descriptors,
    Limits,
    Ids,
    ParentDeath,
    ParentGone,
    NoNewPrivs,
    Directory,
    Exec,
}

const STEPS: [(Step, &str); 11] = [
    (Step::Signals, "reset its signals"),
    (Step::Session, "lead a session"),
    (Step::Terminal, "take the controlling terminal"),
    (Step::Descriptors, "arrange its descriptors"),
    (Step::Limits, "set its limits"),
    (Step::Ids, "change its user"),
    (Step::ParentDeath, "ask for the signal of its parent's end"),
    (Step::ParentGone, "find its parent alive"),
    (Step::NoNewPrivs, "give up new privileges"),
    (Step::Directory, "enter its directory"),
    (Step::Exec, "execute it"),
];

/// What the child reported: its step and error number; nothing after an exec.
pub(super) fn failure(report: &OwnedFd) -> Result<Option<(&'static str, i32)>> {
    let mut message = [0_u8; 5];
    let mut filled = 0;
    while let Some(rest) = message.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::io::read(report, rest) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).attempt("read a child's report"),
        }
    }
    if filled < message.len() {
        return Ok(None);
    }
    let [step, errno @ ..] = message;
    let name = STEPS
        .iter()
        .find(|(known, _)| *known as u8 == step)
        .map_or("an unknown step", |(_, name)| name);
    Ok(Some((name, i32::from_ne_bytes(errno))))
}

/// Forks; the child never returns from here.
pub(super) fn fork(ready: &Ready, failed: BorrowedFd<'_>) -> io::Result<u32> {
    let before = block_all_signals()?;
    // SAFETY: the child runs only `run`, which neither allocates nor locks
    // and ends in exec or _exit; the parent is not affected.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let (step, errno) = run(ready);
        let [a, b, c, d] = errno.to_ne_bytes();
        let _ = rustix::io::write(failed, &[step as u8, a, b, c, d]);
        // SAFETY: ends this process without running anything of the parent's.
        unsafe { libc::_exit(127) }
    }
    let error = io::Error::last_os_error();
    set_signal_mask(&before)?;
    u32::try_from(pid).map_err(|_| error)
}

/// The same in this process; returns only on failure.
pub(super) fn replace(ready: &Ready) -> Error {
    let (step, errno) = run(ready);
    let name = STEPS
        .iter()
        .find(|(known, _)| *known as u8 == step as u8)
        .map_or("an unknown step", |(_, name)| name);
    Error::new(
        format!("become a program: {name}"),
        io::Error::from_raw_os_error(errno),
    )
}

/// Every step in order; returns only the one that failed.
fn run(ready: &Ready) -> (Step, i32) {
    match steps(ready) {
        Ok(()) => (Step::Exec, exec(ready)),
        Err((step, errno)) => (step, errno.raw_os_error()),
    }
}

fn steps(ready: &Ready) -> Result<(), (Step, rustix::io::Errno)> {
    reset_signals().map_err(|e| (Step::Signals, e))?;
    if ready.new_session {
        rustix::process::setsid().map_err(|e| (Step::Session, e))?;
    }
    arrange_fds(ready).map_err(|e| (Step::Descriptors, e))?;
    if ready.controlling_terminal {
        let stdin = rustix::stdio::stdin();
        rustix::process::ioctl_tiocsctty(stdin).map_err(|e| (Step::Terminal, e))?;
    }
    for (resource, limit) in &ready.limits {
        let limit = Rlimit {
            current: Some(*limit),
            maximum: Some(*limit),
        };
        rustix::process::setrlimit(*resource, limit).map_err(|e| (Step::Limits, e))?;
    }
    if let Some(ids) = &ready.ids {
        become_ids(ids).map_err(|e| (Step::Ids, e))?;
    }
    if ready.parent_death_signal.is_some() {
        // After the change of user, which clears it.
        rustix::process::set_parent_process_death_signal(ready.parent_death_signal)
            .map_err(|e| (Step::ParentDeath, e))?;
        // The parent may have ended before the line above.
        let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_pid());
        if u32::try_from(parent) != Ok(ready.parent) {
            return Err((Step::ParentGone, rustix::io::Errno::SRCH));
        }
    }
    if ready.no_new_privs {
        rustix::thread::set_no_new_privs(true).map_err(|e| (Step::NoNewPrivs, e))?;
    }
    rustix::process::chdir(ready.cwd.as_c_str()).map_err(|e| (Step::Directory, e))
}

fn become_ids(ids: &Identity) -> rustix::io::Result<()> {
    // One thread is all that a forked child has, so the thread's ids are the
    // process's.
    rustix::thread::set_thread_groups(&ids.groups)?;
    rustix::thread::set_thread_res_gid(ids.gid, ids.gid, ids.gid)?;
    rustix::thread::set_thread_res_uid(ids.uid, ids.uid, ids.uid)
}

fn arrange_fds(ready: &Ready) -> rustix::io::Result<()> {
    let mut next = 0;
    for (source, number) in &ready.fds {
        close_up_to(next, *number)?;
        // SAFETY: both are plain numbers; the target is free for us to
        // replace, since this process owns no value that names it.
        let status = unsafe { libc::dup2(source.as_raw_fd(), *number) };
        if status < 0 {
            return Err(last_errno());
        }
        next = number.saturating_add(1);
    }
    // The report pipe and the program's file lie above; exec closes them.
    // SAFETY: sets a flag on descriptors; none is closed or reused here.
    let status = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            ready.first_free,
            c_int::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    if status != 0 {
        return Err(last_errno());
    }
    Ok(())
}

fn close_up_to(first: RawFd, end: RawFd) -> rustix::io::Result<()> {
    if first >= end {
        return Ok(());
    }
    // SAFETY: these numbers belong to values of the parent, of which this
    // copy of the process drops none before it execs or exits.
    let status = unsafe { libc::syscall(libc::SYS_close_range, first, end - 1, 0) };
    if status != 0 {
        return Err(last_errno());
    }
    Ok(())
}

fn exec(ready: &Ready) -> i32 {
    let argv = ready.argv.pointers.as_ptr();
    let env = ready.env.pointers.as_ptr();
    match &ready.program {
        Exec::Path(path) => {
            // SAFETY: all three are null-terminated and live in `ready`.
            unsafe { libc::execve(path.as_ptr(), argv, env) };
        }
        Exec::Fd(fd) => {
            // SAFETY: as above; the path is empty, so the descriptor is meant.
            unsafe {
                libc::syscall(
                    libc::SYS_execveat,
                    fd.as_raw_fd(),
                    c"".as_ptr(),
                    argv,
                    env,
                    libc::AT_EMPTY_PATH,
                )
            };
        }
    }
    last_errno().raw_os_error()
}

fn reset_signals() -> rustix::io::Result<()> {
    // The kernel's own form of an action, all zero: default, no flags. Not
    // through libc, which keeps two signals for itself and skips them.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // The two signals that cannot be changed are refused: as good as reset.
        // SAFETY: reads `default`, which is as large as the kernel's struct,
        // and writes nothing; the mask has 8 bytes.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null::<u64>(),
                8_usize,
            )
        };
    }
    // SAFETY: all zero is a valid value of this plain type.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes the set that it is given.
    unsafe { libc::sigemptyset(&raw mut none) };
    set_signal_mask(&none).map_err(|_| last_errno())
}

fn block_all_signals() -> io::Result<libc::sigset_t> {
    // SAFETY: all zero is a valid value of this plain type.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    let mut before = all;
    // SAFETY: writes the set that it is given.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: reads `all`, writes `before`; both live here.
    let status =
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
    if status == 0 {
        Ok(before)
    } else {
        Err(io::Error::from_raw_os_error(status))
    }
}

fn set_signal_mask(mask: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: reads `mask`; a null pointer asks for no old value.
    let status = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, mask, ptr::null_mut()) };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(status))
    }
}

fn last_errno() -> rustix::io::Errno {
    let raw = io::Error::last_os_error().raw_os_error();
    rustix::io::Errno::from_raw_os_error(raw.unwrap_or(libc::EIO))
}
