//! Processes by descriptor, and what identifies one beyond its number.
//!
//! A number is reused after its process is gone; a pidfd is not, and a number
//! together with start time and boot id is not either. Records on disk hold
//! the latter, everything in memory the former.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

use crate::error::{Attempt, Error, Result};
use crate::file;

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// By itself, with this exit code.
    Exit(i32),
    /// By this signal number.
    Signal(i32),
}

/// A process that can be written down and recognised later.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot.
    pub start: u64,
    /// The boot it belongs to.
    pub boot: String,
}

impl ProcessId {
    /// This process.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn own() -> Result<Self> {
        Self::of(std::process::id())
    }

    /// The process that has number `pid` now.
    ///
    /// # Errors
    /// [`std::io::ErrorKind::NotFound`] when there is none.
    pub fn of(pid: u32) -> Result<Self> {
        Ok(Self {
            pid,
            start: start_time(pid)?,
            boot: boot_id()?,
        })
    }

    /// A descriptor of exactly this process, or `None` when it is gone, its
    /// number belongs to another, or the machine was rebooted since.
    ///
    /// # Errors
    /// When `/proc` or the kernel refuses for another reason.
    pub fn open(&self) -> Result<Option<OwnedFd>> {
        if boot_id()? != self.boot {
            return Ok(None);
        }
        let Some(pidfd) = open(self.pid)? else {
            return Ok(None);
        };
        // Read after the descriptor is held: if the start time still fits,
        // the descriptor is of the process that was written down.
        match start_time(self.pid) {
            Ok(start) if start == self.start => Ok((!has_ended(&pidfd)?).then_some(pidfd)),
            Ok(_) => Ok(None),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether exactly this process still runs (a zombie does not).
    ///
    /// # Errors
    /// As [`ProcessId::open`].
    pub fn is_alive(&self) -> Result<bool> {
        Ok(self.open()?.is_some())
    }
}

fn is_gone(error: &Error) -> bool {
    matches!(error.errno(), Some(libc::ENOENT | libc::ESRCH))
}

/// A descriptor of process `pid`, or `None` when there is none of that number.
///
/// # Errors
/// When the kernel refuses for another reason.
pub fn open(pid: u32) -> Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(None);
    };
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(Error::new(format!("open process {pid}"), error)),
    }
}

/// Sends `signal` to the process behind a pidfd; a process that is gone
/// counts as done.
///
/// # Errors
/// When the kernel refuses, for example for want of permission.
pub fn signal(pidfd: impl AsFd, signal: Signal) -> Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(Error::new(
            format!("send signal {}", signal.as_raw()),
            error,
        )),
    }
}

/// Whether the process behind a pidfd has ended, without waiting.
///
/// # Errors
/// When the descriptor cannot be polled.
pub fn has_ended(pidfd: impl AsFd) -> Result<bool> {
    let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
    let none = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let ready = rustix::event::poll(&mut polled, Some(&none)).attempt("poll a process")?;
    Ok(ready > 0)
}

/// Waits for the child behind a pidfd, reaps it and says how it ended.
///
/// # Errors
/// When it is not a child of this process, or was reaped already.
pub fn wait(pidfd: impl AsFd) -> Result<Ended> {
    loop {
        let waited = rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED);
        match waited {
            Ok(Some(status)) => return Ok(ended(&status)),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::new("wait for a child", error)),
        }
    }
}

/// Reaps the child behind a pidfd if it has ended, without waiting.
///
/// # Errors
/// As [`wait`].
pub fn try_wait(pidfd: impl AsFd) -> Result<Option<Ended>> {
    let waited = rustix::process::waitid(
        WaitId::PidFd(pidfd.as_fd()),
        WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
    )
    .attempt("look at a child")?;
    Ok(waited.map(|status| ended(&status)))
}

fn ended(status: &rustix::process::WaitIdStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Exit(code),
        (None, Some(signal)) => Ended::Signal(signal),
        (None, None) => Ended::Signal(libc::SIGKILL),
    }
}

/// The start time of process `pid`, in clock ticks since boot.
///
/// # Errors
/// [`std::io::ErrorKind::NotFound`] when there is no such process.
pub fn start_time(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/stat");
    let stat = file::read_bounded(&path, 4096)?;
    let stat = String::from_utf8_lossy(&stat);
    // The second field is the program's name in brackets and may hold
    // anything, brackets included; the fields after the last one are numbers.
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.split_ascii_whitespace().nth(19))
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| Error::refused(format!("understand `{path}`")))
}

/// The id of this boot.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn boot_id() -> Result<String> {
    let bytes = file::read_bounded("/proc/sys/kernel/random/boot_id", 64)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_recognised() {
        let own = ProcessId::own().unwrap();
        assert!(own.is_alive().unwrap());
    }

    #[test]
    fn another_start_time_is_another_process() {
        let mut other = ProcessId::own().unwrap();
        other.start += 1;
        assert!(!other.is_alive().unwrap());
    }

    #[test]
    fn another_boot_is_another_process() {
        let mut other = ProcessId::own().unwrap();
        other.boot.push('x');
        assert!(!other.is_alive().unwrap());
    }

    #[test]
    fn no_process_has_the_number_zero() {
        assert!(open(0).unwrap().is_none());
    }

    #[test]
    fn a_missing_process_is_not_found() {
        let error = start_time(u32::MAX).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }
}
