//! What the inspector tells the loop: records, and connections to break off.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use sbx_spec::Reason;
use tokio::sync::oneshot;

use crate::gate::Intent;
use crate::limits;
use crate::questions::Subject;
use crate::table::Key;

/// One thing to tell.
#[derive(Debug)]
pub(crate) enum Report {
    /// A request was judged.
    Request {
        /// The connection's number in the records.
        id: u64,
        intent: Intent,
        verdict: &'static str,
        rule: Reason,
        method: String,
        path: String,
    },
    /// A request waits for the user's word.
    Ask {
        subject: Subject,
        rule: Reason,
        answer: oneshot::Sender<bool>,
    },
    /// What came of asking a proxy.
    Tunnelled(Key, io::Result<OwnedFd>),
    /// The guest's side of this connection is to be reset: it is not whole.
    Broken(Key),
}

/// Reports that were not taken yet.
#[derive(Debug)]
pub(crate) struct Reports {
    waiting: Mutex<Waiting>,
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct Waiting {
    reports: Vec<Report>,
    /// Verdicts that were only counted: allowed, denied.
    lost: (u64, u64),
}

impl Reports {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            waiting: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Adds one. Of verdicts beyond a bound only the number is kept, and a
    /// question beyond it hears nothing; what breaks a connection is never
    /// lost, and bounded by their number.
    pub(super) fn add(&self, report: Report) {
        let mut waiting = self.waiting.lock();
        match &report {
            Report::Request { verdict, .. } if waiting.reports.len() >= limits::REPORTS => {
                let (allowed, denied) = &mut waiting.lost;
                *(if *verdict == "allow" { allowed } else { denied }) += 1;
            }
            Report::Ask { .. } if waiting.reports.len() >= limits::REPORTS => {}
            _ => waiting.reports.push(report),
        }
        drop(waiting);
        // Full is as awake as it gets.
        let _full = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Takes all of them, and how many verdicts were only counted.
    pub(crate) fn take(&self) -> (Vec<Report>, (u64, u64)) {
        let mut count = [0; 8];
        // Empty when another wake-up took the count already.
        let _spurious = rustix::io::read(&self.wake, &mut count);
        let taken = std::mem::take(&mut *self.waiting.lock());
        (taken.reports, taken.lost)
    }

    /// Readable when there are some.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
