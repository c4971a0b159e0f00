//! What is written down about sandboxes: one directory each, small versioned
//! JSON files replaced by rename, and a lock that a running supervisor holds.
//!
//! Owns: the layout below `sandboxes/`. Never: decides what runs. Trusts the
//! user's own state directory, but not that a file in it is whole: a record
//! that cannot be read makes that one sandbox `broken`, nothing else. What a
//! supervisor writes once its guest runs is in a directory of its own, and
//! not trusted: neither links in it nor anything that it says of the next
//! start.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::FlockOperation;
use sbx_spec::{SandboxName, SandboxSpec};
use sbx_sys::file;
use sbx_sys::process::ProcessId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::command::{Code, Error};
use crate::plan::Accelerator;

/// Largest record that is read, in bytes; a larger one is broken.
const MAX_RECORD: usize = 4 << 20;

/// What was decided when the sandbox was made.
const MADE: &str = "sandbox.json";
/// What the supervisor says of itself.
const RUN: &str = "run.json";
/// What a container writes, owned by its ids.
pub(crate) const OWN_FILES: &str = "box";
/// The only directory that a supervisor can write to once its guest runs.
const RUN_DIRECTORY: &str = "run";

/// How long commands that look at the state may keep a supervisor from its
/// lock. Each does so for microseconds.
const PROBES: std::time::Duration = std::time::Duration::from_secs(2);

/// Version of the records this program writes.
const VERSION: u32 = 1;

/// All sandboxes of one user.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

/// The directory of one sandbox.
#[derive(Clone, Debug)]
pub(crate) struct SandboxDir {
    name: SandboxName,
    path: PathBuf,
}

/// What `create` wrote down, `sandbox.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SandboxRecord {
    /// Format of this record.
    pub(crate) version: u32,
    /// What the sandbox is.
    pub(crate) spec: SandboxSpec,
    /// Seconds since 1970.
    pub(crate) created: u64,
}

/// What a supervisor wrote down, `run.json`; there only between its start
/// and its orderly end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct RunRecord {
    /// Format of this record.
    pub(crate) version: u32,
    /// Link generation the supervisor speaks.
    pub(crate) generation: u16,
    /// Its process id.
    pub(crate) pid: u32,
    /// Boot of the host it belongs to.
    pub(crate) boot_id: String,
    /// Seconds since 1970.
    pub(crate) started: u64,
    /// How far it has come.
    pub(crate) phase: Phase,
    /// What executes the guest's instructions.
    pub(crate) accelerator: Option<Accelerator>,
    /// What started its parts, and ends them.
    #[serde(default)]
    pub(crate) spawner: Option<ProcessId>,
}

/// How far a supervisor has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    /// The boundary is being set up.
    Starting,
    /// Sessions can be opened.
    Running,
    /// It is ending.
    Stopping,
}

/// What is known of a sandbox without asking its supervisor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Nothing of it runs.
    Stopped,
    /// A supervisor holds its lock.
    Live(Option<RunRecord>),
    /// No supervisor, but one left its record behind.
    Crashed(RunRecord),
}

/// Leave to change a sandbox: held by one command at a time.
#[derive(Debug)]
pub(crate) struct Change {
    _lock: File,
}

/// The proof that this process supervises a sandbox. Closing it is what
/// tells everybody that the supervisor is gone, however it ended.
#[derive(Debug)]
pub(crate) struct Supervising {
    _lock: File,
}

impl Store {
    /// The store below `root`, which exists and is private to the user.
    #[must_use]
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    /// Every sandbox, by name. Names that are none of ours are left alone.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub(crate) fn list(&self) -> Result<Vec<SandboxDir>, Error> {
        let failed = |source| {
            Error::new(
                Code::State,
                format!("cannot read `{}`", self.root.display()),
            )
            .because(source)
        };
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry
                .file_name()
                .to_str()
                .and_then(|text| text.parse().ok());
            if let Some(name) = name {
                found.push(SandboxDir {
                    name,
                    path: entry.path(),
                });
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// The sandbox called `name`, if there is one.
    #[must_use]
    pub(crate) fn find(&self, name: &SandboxName) -> Option<SandboxDir> {
        let path = self.root.join(name.as_str());
        path.is_dir().then(|| SandboxDir {
            name: name.clone(),
            path,
        })
    }

    /// Writes down a new sandbox. It appears whole or not at all.
    ///
    /// # Errors
    /// If the name is taken, or the file system refuses.
    pub(crate) fn create(&self, spec: &SandboxSpec) -> Result<SandboxDir, Error> {
        let name = spec.name.clone();
        let failed = |source: io::Error| {
            Error::new(Code::State, format!("cannot write down sandbox `{name}`")).because(source)
        };
        let fresh = self
            .root
            .join(format!(".new-{}-{}", name, std::process::id()));
        let path = self.root.join(name.as_str());
        let record = SandboxRecord {
            version: VERSION,
            spec: spec.clone(),
            created: now(),
        };
        let written = make_directory(&fresh)
            .and_then(|()| make_directory(&fresh.join(RUN_DIRECTORY)))
            .and_then(|()| write_record(&fresh, MADE, &record, file::replace_at))
            .and_then(|()| {
                // A directory replaces only an empty one, and none of ours is
                // empty: two creators cannot both win.
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &fresh,
                    rustix::fs::CWD,
                    &path,
                    rustix::fs::RenameFlags::NOREPLACE,
                )
                .map_err(io::Error::from)
            });
        if let Err(error) = written {
            let _ = fs::remove_dir_all(&fresh);
            if error.kind() == io::ErrorKind::AlreadyExists {
                return Err(Error::new(
                    Code::NameTaken,
                    format!("a sandbox `{name}` exists"),
                ));
            }
            return Err(failed(error));
        }
        Ok(SandboxDir { name, path })
    }

    /// Leftovers of commands that were killed: half-made and half-removed
    /// directories, with nobody working on them.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub(crate) fn leftovers(&self) -> Result<Vec<PathBuf>, Error> {
        let failed = |source| {
            Error::new(
                Code::State,
                format!("cannot read `{}`", self.root.display()),
            )
            .because(source)
        };
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let maker = text
                .rsplit('-')
                .next()
                .and_then(|pid| pid.parse::<u32>().ok());
            let alive = maker.is_some_and(|pid| Path::new(&format!("/proc/{pid}")).exists());
            if (text.starts_with(".new-") || text.starts_with(".gone-")) && !alive {
                found.push(entry.path());
            }
        }
        Ok(found)
    }

    /// Removes a stopped sandbox: first out of sight, then its files, so that
    /// being killed in between leaves a leftover and never half a sandbox.
    ///
    /// # Errors
    /// If the file system refuses.
    pub(crate) fn remove(&self, sandbox: &SandboxDir, _leave: &Change) -> Result<(), Error> {
        let failed = |source: io::Error| {
            Error::new(
                Code::State,
                format!("cannot remove sandbox `{}`", sandbox.name),
            )
            .because(source)
        };
        let gone = self
            .root
            .join(format!(".gone-{}-{}", sandbox.name, std::process::id()));
        fs::rename(&sandbox.path, &gone).map_err(failed)?;
        erase(&gone)
    }
}

/// Removes the files of a sandbox that is out of sight, those of a
/// container's ids as its root.
///
/// # Errors
/// If the file system refuses, or the host no longer gives the caller these
/// ids.
pub(crate) fn erase(path: &Path) -> Result<(), Error> {
    let failed = || Error::new(Code::State, format!("cannot remove `{}`", path.display()));
    let own = path.join(OWN_FILES);
    if own.symlink_metadata().is_ok() {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        let maps = sbx_sys::userns::maps_of(uid.as_raw(), gid.as_raw()).map_err(|missing| {
            failed()
                .because(io::Error::other(missing.reason))
                .hint(missing.cure)
        })?;
        sbx_images::remove_tree_of(&maps, &own).map_err(|source| failed().because(source))?;
    }
    fs::remove_dir_all(path).map_err(|source| failed().because(source))
}

impl SandboxDir {
    /// The sandbox's name.
    #[must_use]
    pub(crate) fn name(&self) -> &SandboxName {
        &self.name
    }

    /// A file or directory of ours in it.
    #[must_use]
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where its supervisor writes while the guest runs. Whoever reads there
    /// follows no link and believes nothing.
    #[must_use]
    pub(crate) fn run_directory(&self) -> PathBuf {
        self.path.join(RUN_DIRECTORY)
    }

    /// What `create` wrote down.
    ///
    /// # Errors
    /// If the record is missing, larger than 4 MiB, or not of this format.
    pub(crate) fn record(&self) -> Result<SandboxRecord, Error> {
        let failed = |source: io::Error| {
            Error::new(
                Code::BrokenSandbox,
                format!("cannot read the record of sandbox `{}`", self.name),
            )
            .because(source)
            .hint(format!(
                "remove it with `sbx rm -f {}`; workspace files stay",
                self.name
            ))
        };
        let record: SandboxRecord = read_record(&self.path, MADE).map_err(failed)?;
        if record.version != VERSION {
            return Err(failed(io::Error::other(format!(
                "it has format {}, this sbx reads {VERSION}",
                record.version
            ))));
        }
        if record.spec.name != self.name {
            return Err(failed(io::Error::other("it names another sandbox")));
        }
        Ok(record)
    }

    /// Waits for leave to change this sandbox.
    ///
    /// # Errors
    /// If the lock cannot be opened or is held for longer than `patience`.
    pub(crate) fn change(&self, patience: std::time::Duration) -> Result<Change, Error> {
        let failed = |source: io::Error| {
            Error::new(Code::Busy, format!("cannot lock sandbox `{}`", self.name))
                .because(source)
                .hint("another sbx command works on it; try again when it has ended")
        };
        let file = lock_file(&self.join("change.lock")).map_err(failed)?;
        let deadline = std::time::Instant::now() + patience;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR)
                    if std::time::Instant::now() < deadline =>
                {
                    std::thread::sleep(std::time::Duration::from_millis(20));
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
        // Whoever held it may have removed the sandbox meanwhile.
        if !self.path.is_dir() {
            return Err(Error::new(
                Code::SandboxNotFound,
                format!("sandbox `{}` is gone", self.name),
            ));
        }
        Ok(Change { _lock: file })
    }

    /// Takes the lock of a supervisor.
    ///
    /// # Errors
    /// If another supervisor holds it.
    pub(crate) fn supervise(&self) -> Result<Supervising, Error> {
        let failed = |source: io::Error| {
            Error::new(
                Code::Busy,
                format!("sandbox `{}` is supervised already", self.name),
            )
            .because(source)
        };
        let file = lock_file(&self.join("supervisor.lock")).map_err(failed)?;
        let deadline = std::time::Instant::now() + PROBES;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Supervising { _lock: file }),
                // Whoever looks at the state holds it for a moment too.
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR)
                    if std::time::Instant::now() < deadline =>
                {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    /// What can be told without asking the supervisor.
    ///
    /// # Errors
    /// If the lock cannot be probed.
    pub(crate) fn state(&self) -> Result<State, Error> {
        let failed = |source: io::Error| {
            Error::new(Code::State, format!("cannot probe sandbox `{}`", self.name)).because(source)
        };
        let file = lock_file(&self.join("supervisor.lock")).map_err(failed)?;
        let run = read_record::<RunRecord>(&self.run_directory(), RUN).ok();
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(run.map_or(State::Stopped, State::Crashed)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(State::Live(run)),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Writes how far the supervisor has come.
    ///
    /// # Errors
    /// If the file system refuses.
    pub(crate) fn write_run(&self, record: &RunRecord, _proof: &Supervising) -> Result<(), Error> {
        let write = file::replace_for_this_boot_at;
        write_record(&self.run_directory(), RUN, record, write).map_err(|source| {
            Error::new(
                Code::State,
                format!("cannot write down the run of `{}`", self.name),
            )
            .because(source)
        })
    }

    /// Erases what a supervisor wrote: last thing of an orderly end, or of a
    /// command that has cleared up after a crash.
    pub(crate) fn clear_run(&self) {
        let _ = fs::remove_file(self.run_directory().join(RUN));
    }
}

impl RunRecord {
    /// A record of this process.
    #[must_use]
    pub(crate) fn starting() -> Self {
        Self {
            version: VERSION,
            generation: sbx_proto::GENERATION,
            pid: std::process::id(),
            // One that cannot be read matches none: nothing is killed by it.
            boot_id: sbx_sys::process::boot_id().unwrap_or_default(),
            started: now(),
            phase: Phase::Starting,
            accelerator: None,
            spawner: None,
        }
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| passed.as_secs())
}

fn lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn read_record<T: DeserializeOwned>(directory: &Path, name: &str) -> io::Result<T> {
    let text = file::open_dir(directory)
        .and_then(|directory| file::read_at(directory, name, MAX_RECORD))
        .map_err(|error| io::Error::new(error.kind(), error))?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

fn write_record<T: Serialize>(
    directory: &Path,
    name: &str,
    record: &T,
    write: impl FnOnce(OwnedFd, &str, &[u8]) -> sbx_sys::Result<()>,
) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(record).map_err(io::Error::other)?;
    file::open_dir(directory)
        .and_then(|directory| write(directory, name, &text))
        .map_err(|error| io::Error::new(error.kind(), error))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use sbx_spec::{Accel, ByteSize, Cpus, Driver, GuestPath, Isolation, Limits, Network};

    use super::*;

    fn spec(name: &str) -> SandboxSpec {
        SandboxSpec {
            name: name.parse().unwrap(),
            kit: "shell".parse().unwrap(),
            isolation: Isolation::MicroVm,
            image: None,
            driver: Driver::Auto,
            accel: Accel::Auto,
            limits: Limits {
                cpus: Cpus::whole(1),
                memory: ByteSize::mib(512),
                disk: ByteSize::gib(1),
                pids: 100,
            },
            asked: Vec::new(),
            shares: Vec::new(),
            guard: sbx_spec::WorkspaceGuard::Full,
            volumes: Vec::new(),
            tmpfs: Vec::new(),
            workdir: GuestPath::new("/").unwrap(),
            env: Vec::new(),
            network: Network { preset: None },
        }
    }

    pub(crate) fn made(store: &Store, name: &str) -> SandboxDir {
        store.create(&spec(name)).unwrap()
    }

    pub(crate) fn store() -> (tempfile::TempDir, Store) {
        let root = tempfile::tempdir().unwrap();
        let store = Store::new(root.path().to_owned());
        (root, store)
    }

    #[test]
    fn a_created_sandbox_is_found_with_what_was_written() {
        let (_root, store) = store();
        store.create(&spec("one")).unwrap();
        let found = store.list().unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].record().unwrap().spec, spec("one"));
        assert_eq!(found[0].state().unwrap(), State::Stopped);
    }

    #[test]
    fn a_name_is_given_once() {
        let (_root, store) = store();
        store.create(&spec("one")).unwrap();
        let error = store.create(&spec("one")).unwrap_err();
        assert_eq!(error.code, Code::NameTaken);
        assert!(store.leftovers().unwrap().is_empty());
    }

    #[test]
    fn only_one_supervisor_and_its_end_is_seen_without_its_help() {
        let (_root, store) = store();
        let sandbox = store.create(&spec("one")).unwrap();
        let proof = sandbox.supervise().unwrap();
        assert!(sandbox.supervise().is_err());
        sandbox.write_run(&RunRecord::starting(), &proof).unwrap();
        assert!(matches!(sandbox.state().unwrap(), State::Live(Some(_))));
        drop(proof);
        assert!(matches!(sandbox.state().unwrap(), State::Crashed(_)));
        sandbox.clear_run();
        assert_eq!(sandbox.state().unwrap(), State::Stopped);
    }

    #[test]
    fn a_corrupt_record_breaks_one_sandbox_only() {
        let (_root, store) = store();
        let broken = store.create(&spec("one")).unwrap();
        store.create(&spec("two")).unwrap();
        fs::write(broken.join("sandbox.json"), b"{").unwrap();
        let found = store.list().unwrap();
        assert_eq!(found[0].record().unwrap_err().code, Code::BrokenSandbox);
        assert!(found[1].record().is_ok());
    }

    #[test]
    fn what_a_supervisor_planted_is_neither_followed_nor_believed() {
        let (root, store) = store();
        let sandbox = store.create(&spec("one")).unwrap();
        let proof = sandbox.supervise().unwrap();
        let victim = root.path().join("victim");
        fs::write(&victim, "{}").unwrap();
        let run = sandbox.run_directory().join(RUN);
        std::os::unix::fs::symlink(&victim, &run).unwrap();
        assert_eq!(sandbox.state().unwrap(), State::Live(None));
        sandbox.write_run(&RunRecord::starting(), &proof).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"{}");
        assert!(matches!(sandbox.state().unwrap(), State::Live(Some(_))));
    }

    #[test]
    fn removing_needs_leave_and_leaves_nothing() {
        let (root, store) = store();
        let sandbox = store.create(&spec("one")).unwrap();
        let leave = sandbox.change(Duration::ZERO).unwrap();
        assert_eq!(sandbox.change(Duration::ZERO).unwrap_err().code, Code::Busy);
        store.remove(&sandbox, &leave).unwrap();
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
        drop(leave);
        assert_eq!(
            sandbox.change(Duration::ZERO).map(drop).unwrap_err().code,
            Code::Busy
        );
    }

    #[test]
    fn what_a_killed_command_left_is_listed() {
        let (root, store) = store();
        // No process has the highest id the kernel can be set to give.
        fs::create_dir(root.path().join(".gone-one-4194304")).unwrap();
        fs::create_dir(root.path().join(format!(".new-two-{}", std::process::id()))).unwrap();
        assert_eq!(
            store.leftovers().unwrap(),
            [root.path().join(".gone-one-4194304")]
        );
    }
}
