//! Waiting for children: those that somebody asks about, and as PID 1 for
//! every orphan.

use std::collections::HashMap;
use std::future::Future;
use std::rc::Rc;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use sbx_proto::session::Exit;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::World;
use crate::error::{Attempt as _, Result};

/// The children that are waited for.
pub(crate) struct Reaper {
    waiting: HashMap<i32, oneshot::Sender<Exit>>,
    is_init: bool,
}

impl Reaper {
    /// `is_init`: children that nobody asks about are reaped too.
    pub(crate) fn new(is_init: bool) -> Self {
        Self {
            waiting: HashMap::new(),
            is_init,
        }
    }

    /// The exit of the child `pid`; to be asked for before anything is
    /// awaited after it was started.
    pub(crate) fn exit_of(&mut self, pid: Pid) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        self.waiting.insert(pid.as_raw_nonzero().get(), sender);
        receiver
    }

    /// Whether no child is waited for.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Signals every process (as PID 1), else every child and its group.
    pub(crate) fn signal_all(&self, kill: bool) {
        let signals: &[Signal] = if kill {
            &[Signal::KILL]
        } else {
            &[Signal::TERM, Signal::CONT]
        };
        for &signal in signals {
            if self.is_init {
                // The group of 1 is spelt -1: every process but this one.
                if let Some(all) = Pid::from_raw(1) {
                    let _ = rustix::process::kill_process_group(all, signal);
                }
            }
            for pid in self.waiting.keys().filter_map(|pid| Pid::from_raw(*pid)) {
                let _ = rustix::process::kill_process_group(pid, signal);
            }
        }
    }

    fn reap(&mut self) {
        if self.is_init {
            loop {
                match rustix::process::wait(WaitOptions::NOHANG) {
                    Ok(Some((pid, status))) => self.ended(pid.as_raw_nonzero().get(), status),
                    Err(Errno::INTR) => {}
                    Ok(None) | Err(_) => return,
                }
            }
        }
        let pids: Vec<i32> = self.waiting.keys().copied().collect();
        for pid in pids {
            let child = Pid::from_raw(pid);
            if let Ok(Some((_, status))) = rustix::process::waitpid(child, WaitOptions::NOHANG) {
                self.ended(pid, status);
            }
        }
    }

    fn ended(&mut self, pid: i32, status: WaitStatus) {
        if let Some(sender) = self.waiting.remove(&pid) {
            let byte = |number: i32| u8::try_from(number & 0xff).ok();
            let _ = sender.send(Exit {
                code: status.exit_status().and_then(byte),
                signal: status.terminating_signal().and_then(byte),
            });
        }
    }
}

/// Reaps whenever a child has ended.
pub(crate) fn watch(world: Rc<World>) -> Result<impl Future<Output = ()>> {
    let mut ended = signal(SignalKind::child()).attempt("watch for ended children")?;
    Ok(async move {
        loop {
            world.reaper.borrow_mut().reap();
            if ended.recv().await.is_none() {
                return;
            }
        }
    })
}
