//! Version 2 of control groups where no other is in use: what this process's
//! group is and holds.

use std::path::{Path, PathBuf};

use super::hierarchy::{Hierarchies, listed};
use super::{Controller, Limits};
use crate::file;

/// The longest file of limits that is read, in bytes.
const MAX: usize = 4096;

/// A host with version 2 alone, and this process's group there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unified {
    top: PathBuf,
    own: PathBuf,
}

impl Unified {
    /// `None` where controllers are elsewhere, or nothing is mounted.
    #[must_use]
    pub fn of_this_process() -> Option<Self> {
        let (top, own) = Hierarchies::read().ok()?.only_unified()?;
        Some(Self { top, own })
    }

    /// Whether the group of this process is called so.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        self.own.file_name().is_some_and(|found| found == name)
    }

    /// The controllers that group `path` of the hierarchy may hand down.
    #[must_use]
    pub fn available_in(&self, path: &str) -> Vec<Controller> {
        let below = Path::new(path).strip_prefix("/").unwrap_or(Path::new(path));
        listed(&self.top.join(below).join("cgroup.controllers"))
    }

    /// Those of `limits` that the group of this process is held to, or to
    /// less, as the kernel says.
    #[must_use]
    pub fn holds(&self, limits: &Limits) -> Vec<Controller> {
        held(&self.own, limits)
    }
}

fn held(group: &Path, limits: &Limits) -> Vec<Controller> {
    let words = |name: &str| -> Vec<u64> {
        let text = file::read_bounded(group.join(name), MAX).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        // `max` is no number, and no limit.
        let numbers = text.split_ascii_whitespace().map(str::parse);
        numbers.collect::<Result<_, _>>().unwrap_or_default()
    };
    let at_most = |name: &str, wanted: u64| matches!(*words(name), [found] if found <= wanted);
    let mut all = Vec::new();
    if limits.memory.is_some_and(|n| at_most("memory.max", n)) {
        all.push(Controller::Memory);
    }
    let quota = |millis: u64| {
        matches!(*words("cpu.max"), [quota, period]
            if period > 0 && quota.saturating_mul(1000) <= millis.saturating_mul(period))
    };
    if limits.cpu_millis.is_some_and(quota) {
        all.push(Controller::Cpu);
    }
    if limits.pids.is_some_and(|n| at_most("pids.max", n)) {
        all.push(Controller::Pids);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_held_where_the_kernel_says_so_and_nowhere_else() {
        let group = tempfile::tempdir().unwrap();
        let limits = Limits {
            memory: Some(64 << 20),
            cpu_millis: Some(1500),
            pids: Some(100),
        };
        let write = |name: &str, text: &str| std::fs::write(group.path().join(name), text).unwrap();
        assert_eq!(held(group.path(), &limits), [], "no controller");
        for (name, text) in [
            ("memory.max", "max\n"),
            ("cpu.max", "max 100000\n"),
            ("pids.max", "max\n"),
        ] {
            write(name, text);
        }
        assert_eq!(held(group.path(), &limits), [], "no limit");
        for (name, text) in [
            ("memory.max", "67108865"),
            ("cpu.max", "150001 100000"),
            ("pids.max", "101"),
        ] {
            write(name, text);
        }
        assert_eq!(held(group.path(), &limits), [], "a wider limit");
        for (name, text) in [
            ("memory.max", "67108864\n"),
            ("cpu.max", "150000 100000\n"),
            ("pids.max", "100\n"),
        ] {
            write(name, text);
        }
        let all = [Controller::Memory, Controller::Cpu, Controller::Pids];
        assert_eq!(held(group.path(), &limits), all);
        assert_eq!(
            held(group.path(), &Limits::default()),
            [],
            "none was asked for"
        );
    }
}
