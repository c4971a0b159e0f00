//! A control group for the processes of one sandbox, in version 1 or 2.
//!
//! Owns: where a group can be made, its limits, its end. A group is located
//! first and made second, so that the caller can write down what it is about
//! to take. Where the kernel or the distribution does not delegate one, the
//! answer is why, and the sandbox runs with the limits of its machine alone.
//!
//! Source: Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Attempt, Error, Result};
use crate::{file, jail, process};

mod hierarchy;
mod unified;

use hierarchy::Hierarchies;
pub use unified::Unified;

/// Most bytes of a list of processes that are read.
const MAX_PROCESSES: usize = 64 * 1024;
/// The controllers that a group is made for.
const CONTROLLERS: [Controller; 3] = [Controller::Memory, Controller::Cpu, Controller::Pids];

/// What a group limits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Controller {
    /// Memory of all its processes together, page cache included.
    Memory,
    /// Processor time.
    Cpu,
    /// Processes and threads.
    Pids,
}

/// Upper bounds; what is `None` is not limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Limits {
    /// In bytes.
    pub memory: Option<u64>,
    /// In thousandths of a processor.
    pub cpu_millis: Option<u64>,
    /// In processes and threads.
    pub pids: Option<u64>,
}

/// Why there can be no group here, in words for the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unavailable {
    /// The missing fact.
    pub why: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no control group: {}", self.why)
    }
}

/// Where a group is or will be. Serialisable, so that another process can
/// remove what a killed one left.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Group {
    places: Vec<Place>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Place {
    directory: PathBuf,
    /// Where the process that located it was, and returns to.
    home: PathBuf,
    version: Version,
    controllers: Vec<Controller>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Version {
    V1,
    V2,
}

impl Group {
    /// Finds where a group called `name` can be made. Changes nothing.
    ///
    /// # Errors
    /// Says what is missing.
    pub fn locate(name: &str) -> Result<Self, Unavailable> {
        file::plain(name).map_err(|error| Unavailable {
            why: error.to_string(),
        })?;
        let hierarchies = Hierarchies::read().map_err(|error| Unavailable {
            why: error.to_string(),
        })?;
        let mut places = Vec::new();
        if let Some(place) = hierarchies.unified(name) {
            places.push(place);
        }
        for place in hierarchies.legacy(name) {
            let known = |controller: &Controller| {
                places
                    .iter()
                    .any(|place: &Place| place.controllers.contains(controller))
            };
            if !place.controllers.iter().all(known) {
                places.push(place);
            }
        }
        if places.is_empty() {
            return Err(Unavailable {
                why: hierarchies.why_none(),
            });
        }
        Ok(Self { places })
    }

    /// What a group made here can limit.
    #[must_use]
    pub fn controllers(&self) -> Vec<Controller> {
        let mut all: Vec<_> = self
            .places
            .iter()
            .flat_map(|place| place.controllers.iter().copied())
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Makes the group and sets those of `limits` that it can; says which.
    ///
    /// # Errors
    /// When a directory or a limit is refused; what was made is removed.
    pub fn create(&self, limits: &Limits) -> Result<Vec<Controller>> {
        let made = self.make(limits);
        if made.is_err() {
            let _ = self.remove("");
        }
        made
    }

    fn make(&self, limits: &Limits) -> Result<Vec<Controller>> {
        let mut set = Vec::new();
        for place in &self.places {
            match fs::create_dir(&place.directory) {
                Ok(()) => {}
                // Left by a killed owner of the same name.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => {
                    return Err(Error::new(
                        format!("make the control group `{}`", place.directory.display()),
                        error,
                    ));
                }
            }
            for controller in &place.controllers {
                if place.limit(*controller, limits)? {
                    set.push(*controller);
                }
            }
        }
        set.sort_unstable();
        Ok(set)
    }

    /// Moves the calling process into the group. It must have one thread.
    ///
    /// A thread of version 1 that moves itself alone is spared the wait for all
    /// processors that moving a process takes: 6 to 14 ms.
    ///
    /// # Errors
    /// When the process has more threads, or may not be moved.
    pub fn join(&self) -> Result<()> {
        jail::single_thread()
            .map_err(|_| Error::refused("move one of several threads into a control group"))?;
        for place in &self.places {
            let list = match place.version {
                Version::V1 => "tasks",
                Version::V2 => "cgroup.procs",
            };
            write(&place.directory.join(list), "0")?;
        }
        Ok(())
    }

    /// Memory that the group's processes use now, in bytes, where it is known.
    #[must_use]
    pub fn memory_used(&self) -> Option<u64> {
        let place = self
            .places
            .iter()
            .find(|place| place.controllers.contains(&Controller::Memory))?;
        let name = match place.version {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        };
        let text = file::read_bounded(place.directory.join(name), 64).ok()?;
        String::from_utf8_lossy(&text).trim().parse().ok()
    }

    /// Moves process `pid` back to where the group was located from.
    ///
    /// # Errors
    /// When the process is gone, may not be moved, or that group is gone.
    pub fn expel(&self, pid: u32) -> Result<()> {
        for place in &self.places {
            write(&place.home.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Kills what is left in the group. A place that is no group of this name's
    /// kind is left alone: the record may have been altered.
    pub fn kill(&self, prefix: &str) {
        for place in self.named(prefix) {
            for pid in place.processes() {
                // Whose number this is by now is known once it is held.
                if let Ok(Some(process)) = process::open(pid)
                    && place.processes().contains(&pid)
                {
                    let _gone = process::signal(&process, rustix::process::Signal::KILL);
                }
            }
        }
    }

    /// Its places that are groups of this name's kind.
    fn named(&self, prefix: &str) -> impl Iterator<Item = &Place> {
        self.places.iter().filter(move |place| {
            let name = place.directory.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(prefix)) && is_group(&place.directory)
        })
    }

    /// Removes the group; one that is not there is fine. A place that is no
    /// group of this name's kind is left alone: the record may have been
    /// altered.
    ///
    /// # Errors
    /// [`io::ErrorKind::ResourceBusy`] while processes are left in it.
    pub fn remove(&self, prefix: &str) -> Result<()> {
        let mut worst = Ok(());
        for place in self.named(prefix) {
            match fs::remove_dir(&place.directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    worst = Err(Error::new(
                        format!("remove the control group `{}`", place.directory.display()),
                        error,
                    ));
                }
            }
        }
        worst
    }
}

impl Place {
    /// The processes in it.
    fn processes(&self) -> Vec<u32> {
        let text = file::read_bounded(self.directory.join("cgroup.procs"), MAX_PROCESSES);
        let text = text.unwrap_or_default();
        let lines = String::from_utf8_lossy(&text);
        lines.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Sets one limit; whether there was one to set.
    fn limit(&self, controller: Controller, limits: &Limits) -> Result<bool> {
        const PERIOD_US: u64 = 100_000;
        let quota = |millis: u64| (millis.saturating_mul(PERIOD_US) / 1000).max(1000);
        let (name, value) = match (controller, self.version) {
            (Controller::Memory, Version::V1) => (
                "memory.limit_in_bytes",
                limits.memory.map(|n| n.to_string()),
            ),
            (Controller::Memory, Version::V2) => {
                ("memory.max", limits.memory.map(|n| n.to_string()))
            }
            (Controller::Cpu, Version::V1) => (
                "cpu.cfs_quota_us",
                limits.cpu_millis.map(|n| quota(n).to_string()),
            ),
            (Controller::Cpu, Version::V2) => (
                "cpu.max",
                limits
                    .cpu_millis
                    .map(|n| format!("{} {PERIOD_US}", quota(n))),
            ),
            (Controller::Pids, _) => ("pids.max", limits.pids.map(|n| n.to_string())),
        };
        let Some(value) = value else {
            return Ok(false);
        };
        write(&self.directory.join(name), &value)?;
        Ok(true)
    }
}

/// Whether this directory is one of a hierarchy of control groups.
fn is_group(directory: &Path) -> bool {
    const V1: i64 = 0x0027_e0eb;
    const V2: i64 = 0x6367_7270;
    rustix::fs::statfs(directory).is_ok_and(|found| {
        let kind = found.f_type;
        kind == V1 || kind == V2
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).attempt_with(|| format!("write `{text}` to `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spawn::{Signal, Spawn};

    #[test]
    fn a_process_joins_with_its_only_thread_and_not_with_one_of_several() {
        let name = format!("sbx-join-{}", std::process::id());
        let Ok(group) = Group::locate(&name) else {
            return;
        };
        group.create(&Limits::default()).unwrap();
        // The runner of tests has a thread of its own beside this one.
        assert!(group.join().is_err());
        // SAFETY: the child has one thread, looks and ends; libc keeps its
        // locks usable across a fork.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let joined = group.join().is_ok();
            let seen = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
            let there = seen.matches(&name).count() == group.places.len();
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(i32::from(!(joined && there))) };
        }
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let ended = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        assert_eq!(ended.unwrap().unwrap().1.exit_status(), Some(0));
        group.remove("sbx-join-").unwrap();
    }

    /// Moves process `pid` into `group`.
    fn add(group: &Group, pid: u32) {
        for place in &group.places {
            write(&place.directory.join("cgroup.procs"), &pid.to_string()).unwrap();
        }
    }

    #[test]
    fn a_group_limits_its_processes_and_goes_away() {
        let name = format!("sbx-test-{}", std::process::id());
        let group = match Group::locate(&name) {
            Ok(group) => group,
            Err(unavailable) => {
                // Where none is delegated, the reason is the answer.
                assert!(!unavailable.why.is_empty());
                return;
            }
        };
        let limits = Limits {
            memory: Some(64 << 20),
            cpu_millis: Some(500),
            pids: Some(100),
        };
        let set = group.create(&limits).unwrap();
        assert_eq!(set, group.controllers());
        let child = Spawn::path("/bin/sleep").arg("600").spawn().unwrap();
        add(&group, child.pid());
        let seen = fs::read_to_string(format!("/proc/{}/cgroup", child.pid())).unwrap();
        assert_eq!(seen.matches(&name).count(), group.places.len(), "{seen}");
        let busy = group.remove("sbx-test-").unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        let killed = Spawn::path("/bin/sleep").arg("600").spawn().unwrap();
        add(&group, killed.pid());
        group.expel(child.pid()).unwrap();
        group.kill("sbx-other-");
        assert!(killed.try_wait().unwrap().is_none());
        group.kill("sbx-test-");
        killed.wait().unwrap();
        assert!(child.try_wait().unwrap().is_none());
        add(&group, child.pid());
        // Another prefix is another's group, and a process can be let go.
        group.remove("sbx-other-").unwrap();
        group.expel(child.pid()).unwrap();
        group.remove("sbx-test-").unwrap();
        let seen = fs::read_to_string(format!("/proc/{}/cgroup", child.pid())).unwrap();
        assert!(!seen.contains(&name), "{seen}");
        child.signal(Signal::KILL).unwrap();
        child.wait().unwrap();
        group.remove("sbx-test-").unwrap();
    }

    #[test]
    fn a_directory_that_is_no_group_is_not_removed() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("sbx-a");
        fs::create_dir(&directory).unwrap();
        let group = Group {
            places: vec![Place {
                directory: directory.clone(),
                home: root.path().to_owned(),
                version: Version::V1,
                controllers: Vec::new(),
            }],
        };
        group.remove("sbx-").unwrap();
        assert!(directory.is_dir());
    }

    #[test]
    fn a_name_that_leaves_its_directory_is_refused() {
        assert!(Group::locate("../x").is_err());
    }
}
