//! What a test left on the host: processes, mounts, sockets, directories of
//! control groups.
//!
//! The test process adopts orphans, so that whatever `sbx` started and lost
//! is found among its descendants, by whatever name.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid,
};

use crate::call::ends_within;

/// How long processes may take to end after the command that ends them.
const END: Duration = Duration::from_secs(10);

/// Makes this process the parent of orphans below it.
pub(crate) fn adopt() {
    set_child_subreaper(Some(getpid())).expect("orphans can be adopted");
}

/// What `start` starts, and what that leaves behind, is no child of this
/// process.
pub(crate) fn apart<T>(start: impl FnOnce() -> T) -> T {
    set_child_subreaper(None).expect("orphans can be left to others");
    let started = start();
    adopt();
    started
}

/// What is left of the sandboxes of a home, in words. Empty is well.
pub(crate) fn of(root: &Path) -> Vec<String> {
    let mut left = processes();
    let root = root.to_string_lossy();
    let naming = |file: &str, what: &str| -> Vec<String> {
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .filter(|line| line.contains(&*root))
            .map(|line| format!("{what}: {line}"))
            .collect()
    };
    left.extend(naming("/proc/self/mountinfo", "mount"));
    left.extend(naming("/proc/net/unix", "socket"));
    left.extend(naming("/proc/locks", "lock"));
    left
}

/// Processes below this one, zombies reaped and late ones waited for.
pub(crate) fn processes() -> Vec<String> {
    for pid in descendants() {
        // A deadline for each; what is late shows below.
        ends_within(pid, END);
    }
    let mut found = crashed();
    let left = descendants().into_iter();
    found.extend(left.map(|pid| format!("process {pid}: {}", command_line(pid))));
    found
}

/// Reaps what has ended, and tells which of it broke a rule of its own jail
/// or fell over: no test makes that happen, so it is never well.
fn crashed() -> Vec<String> {
    let mut found = Vec::new();
    for pid in descendants() {
        let name = command_line(pid);
        let Ok(Some((_, status))) = waitpid(Some(pid), WaitOptions::NOHANG) else {
            continue;
        };
        let signal = status.terminating_signal();
        if [Signal::SYS, Signal::ABORT, Signal::SEGV, Signal::BUS]
            .iter()
            .any(|bad| signal == Some(bad.as_raw()))
        {
            found.push(format!("{name} ended by signal {}", signal.unwrap_or(0)));
        }
    }
    found
}

/// All processes below this one.
pub(crate) fn descendants() -> Vec<Pid> {
    let me = getpid();
    let mut all = with_descendants(&[me]);
    all.retain(|pid| *pid != me);
    all
}

/// These processes and all below them.
pub(crate) fn with_descendants(roots: &[Pid]) -> Vec<Pid> {
    let parents: HashMap<i32, i32> = fs::read_dir("/proc")
        .expect("/proc is there")
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: i32| Some((pid, parent(pid)?)))
        .collect();
    let roots = roots.iter().map(|root| root.as_raw_nonzero().get());
    let mut below: HashSet<i32> = roots.collect();
    loop {
        let found: Vec<i32> = parents
            .iter()
            .filter(|(pid, parent)| below.contains(parent) && !below.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if found.is_empty() {
            break;
        }
        below.extend(found);
    }
    below.into_iter().filter_map(Pid::from_raw).collect()
}

/// The arguments of a process, or its name in brackets.
pub(crate) fn command_line(pid: Pid) -> String {
    let pid = pid.as_raw_nonzero();
    let args = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if args.is_empty() {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        return format!("[{}]", name.trim());
    }
    String::from_utf8_lossy(&args).replace('\0', " ")
}

fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything, brackets and blanks included.
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(1)?
        .parse()
        .ok()
}

/// A process of a sandbox.
#[derive(Clone, Copy, Debug)]
pub struct Process(Pid);

impl Process {
    /// Its process number.
    pub fn id(&self) -> i32 {
        self.0.as_raw_nonzero().get()
    }

    /// Sends it a signal; one that is gone does not mind.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.0, signal).ok();
    }

    /// Whether it ends in time.
    pub fn ends(&self, time: Duration) -> bool {
        ends_within(self.0, time)
    }
}

/// The first of `processes` whose command line holds `text`.
pub(crate) fn find(processes: Vec<Pid>, text: &str) -> Option<Process> {
    let mut processes = processes.into_iter();
    let found = processes.find(|pid| command_line(*pid).contains(text));
    found.map(Process)
}

/// Proportional memory of `processes`, in KiB.
pub(crate) fn resident_kib(processes: Vec<Pid>) -> u64 {
    let of = |pid: Pid| {
        let path = format!("/proc/{}/smaps_rollup", pid.as_raw_nonzero());
        let text = fs::read_to_string(path).ok()?;
        let line = text.lines().find(|line| line.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    processes.into_iter().filter_map(of).sum()
}
