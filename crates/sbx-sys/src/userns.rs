//! User namespaces: which ids of the host stand behind those of a container,
//! and the kernel's maps that say so.
//!
//! Owns: the ranges that root's files give a user, the choice of a
//! container's ids, the short-lived child that a namespace is made of. Never:
//! maps host uid 0, for a task without capabilities that is host uid 0 may
//! still write root's files. Trusts: `/etc/subuid` and its kin as far as
//! `newuidmap` does, and less where they name an account. See
//! `user_namespaces(7)`.

mod ranges;

use std::fs;
use std::io::Read;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, WaitOptions};
use serde::{Deserialize, Serialize};

use crate::error::{Attempt, Error, Result};
use crate::process::Ended;
use crate::spawn::Spawn;

pub use ranges::has_ranges;

/// Ids of a container: 0 to 65535, `nobody` included.
pub const COUNT: u32 = 65_536;

/// Where they begin on the host when the caller is root (0x75000000): above
/// what distributions hand out and what systemd gives its own containers,
/// and apart from the ids of template builds and of our helpers.
pub const ROOT_BASE: u32 = 1_962_934_272;

/// Extents of one map: the kernel takes what fits into a page, at most 340.
const MAX_EXTENTS: usize = 64;

/// Where the programs of package `uidmap` are, whatever the caller's PATH.
const DIRECTORIES: [&str; 3] = ["/usr/bin", "/bin", "/run/wrappers/bin"];

/// What is kept of what such a program says.
const MAX_WORDS: u64 = 4 << 10;

/// `count` ids from `inside` on are those from `outside` on of the parent
/// namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Range {
    /// The first id as processes in the namespace see it.
    pub inside: u32,
    /// The first id as the parent namespace sees it.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

impl Range {
    /// The same id on both sides.
    fn own(id: u32) -> Self {
        Self {
            inside: id,
            outside: id,
            count: 1,
        }
    }

    fn outside_of(&self, inside: u32) -> Option<u32> {
        let offset = inside.checked_sub(self.inside)?;
        (offset < self.count).then(|| self.outside.checked_add(offset))?
    }
}

/// The ids of a user namespace.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Maps {
    /// Its users.
    pub uids: Vec<Range>,
    /// Its groups.
    pub gids: Vec<Range>,
}

/// Why this caller can have no container with ids of its own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unavailable {
    /// What is missing.
    pub reason: String,
    /// What brings it.
    pub cure: String,
}

impl Maps {
    /// Only the caller, onto themselves: what the kernel grants to everybody,
    /// with no root inside. `None` for root, who is never mapped.
    #[must_use]
    pub fn own(uid: u32, gid: u32) -> Option<Self> {
        (uid != 0 && gid != 0).then(|| Self {
            uids: vec![Range::own(uid)],
            gids: vec![Range::own(gid)],
        })
    }

    /// The user of the parent namespace who is `inside` in this one.
    #[must_use]
    pub fn outside_uid(&self, inside: u32) -> Option<u32> {
        self.uids.iter().find_map(|range| range.outside_of(inside))
    }

    /// The group of the parent namespace that is `inside` in this one.
    #[must_use]
    pub fn outside_gid(&self, inside: u32) -> Option<u32> {
        self.gids.iter().find_map(|range| range.outside_of(inside))
    }

    fn is_own(&self) -> bool {
        let own = |ranges: &[Range]| matches!(ranges, [range] if range.count == 1 && range.inside == range.outside);
        own(&self.uids) && own(&self.gids)
    }
}

/// The maps of a container of this caller. Root's is 0 to 65535 onto the ids
/// from [`ROOT_BASE`] on. An ordinary user and their group are themselves
/// inside, and all other ids up to 65535 are theirs of `/etc/subuid` and
/// `/etc/subgid`, the first range that is large enough or else the first ones
/// that are together.
///
/// # Errors
/// What is missing, with its cure.
pub fn maps_of(uid: u32, gid: u32) -> Result<Maps, Unavailable> {
    if uid == 0 {
        let all = vec![Range {
            inside: 0,
            outside: ROOT_BASE,
            count: COUNT,
        }];
        return Ok(Maps {
            uids: all.clone(),
            gids: all,
        });
    }
    for program in ["newuidmap", "newgidmap"] {
        if find(program).is_none() {
            return Err(Unavailable {
                reason: format!("there is no {program}, which gives an ordinary user more ids"),
                cure: "run `sudo apt-get install uidmap`".to_owned(),
            });
        }
    }
    let sources = ranges::Sources::of_host().map_err(|error| Unavailable {
        reason: error.to_string(),
        cure: "let every user read it, as they may elsewhere".to_owned(),
    })?;
    sources.maps(uid, gid)
}

/// Writes the maps of process `pid`, which has just entered a new user
/// namespace and has to stay until this returns: directly where the caller
/// may, else through `newuidmap` and `newgidmap`.
///
/// # Errors
/// When a map contains id 0 of the parent namespace or is no map, when the
/// kernel or one of the programs refuses.
pub fn write_maps(pid: u32, maps: &Maps) -> Result<()> {
    check("uid_map", &maps.uids)?;
    check("gid_map", &maps.gids)?;
    let root = rustix::process::geteuid().is_root();
    if !root && !maps.is_own() {
        ask("newuidmap", pid, &maps.uids)?;
        return ask("newgidmap", pid, &maps.gids);
    }
    if !root {
        // What the kernel demands before it lets somebody map their group.
        write(pid, "setgroups", "deny")?;
    }
    write(pid, "uid_map", &lines(&maps.uids))?;
    write(pid, "gid_map", &lines(&maps.gids))
}

/// Maps the ids of the caller's own user namespace, which has `maps`, onto
/// themselves in that of process `pid`, which has just entered one below it.
/// `proc` is a `/proc` that knows the process by this number; the caller is
/// root of its namespace.
///
/// # Errors
/// When the kernel refuses.
pub fn keep_maps(proc: BorrowedFd<'_>, pid: u32, maps: &Maps) -> Result<()> {
    for (name, ranges) in [("uid_map", &maps.uids), ("gid_map", &maps.gids)] {
        let same = |range: &Range| Range {
            outside: range.inside,
            ..*range
        };
        let same: Vec<_> = ranges.iter().map(same).collect();
        let what = || format!("write the {name} of an inner namespace");
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(proc, format!("{pid}/{name}"), flags, Mode::empty());
        // The kernel takes a map in one write.
        rustix::io::write(file.attempt_with(what)?, lines(&same).as_bytes()).attempt_with(what)?;
    }
    Ok(())
}

/// A user namespace with these maps, which lives as long as the descriptor or
/// a process in it. Its owner is the effective user of the caller.
///
/// # Errors
/// When the kernel grants no user namespace, and as [`write_maps`].
pub fn create(maps: &Maps) -> Result<OwnedFd> {
    let child = Child::start()?;
    let pid = child.pid();
    write_maps(pid, maps)?;
    let file = fs::File::open(format!("/proc/{pid}/ns/user")).attempt("open a user namespace")?;
    Ok(file.into())
}

/// Refuses what is no map, and above all one that contains the host's root.
fn check(name: &str, ranges: &[Range]) -> Result<()> {
    let refuse = |why: &str| Err(Error::refused(format!("write a {name} {why}")));
    if ranges.is_empty() || ranges.len() > MAX_EXTENTS {
        return refuse("of no or too many ranges");
    }
    for (number, range) in ranges.iter().enumerate() {
        let ends = |first: u32| first.checked_add(range.count).is_some();
        if range.count == 0 || !ends(range.inside) || !ends(range.outside) {
            return refuse("with a range that is empty or has no end");
        }
        if range.outside == 0 {
            return refuse("that contains the host's root");
        }
        let overlaps = |other: &Range| {
            meets((range.inside, range.count), (other.inside, other.count))
                || meets((range.outside, range.count), (other.outside, other.count))
        };
        if ranges.iter().take(number).any(overlaps) {
            return refuse("with an id in two ranges");
        }
    }
    Ok(())
}

/// Whether two runs of ids, each by its first and its length, share one.
fn meets(a: (u32, u32), b: (u32, u32)) -> bool {
    a.0 < b.0.saturating_add(b.1) && b.0 < a.0.saturating_add(a.1)
}

fn lines(ranges: &[Range]) -> String {
    let line = |range: &Range| format!("{} {} {}\n", range.inside, range.outside, range.count);
    ranges.iter().map(line).collect()
}

fn write(pid: u32, name: &str, text: &str) -> Result<()> {
    fs::write(format!("/proc/{pid}/{name}"), text)
        .attempt_with(|| format!("write the {name} of a namespace"))
}

fn find(program: &str) -> Option<PathBuf> {
    let places = DIRECTORIES
        .iter()
        .map(|place| Path::new(place).join(program));
    places.into_iter().find(|path| path.is_file())
}

/// Has a program of package `uidmap` write a map: it may, for the ranges that
/// root's files give the caller.
fn ask(program: &str, pid: u32, ranges: &[Range]) -> Result<()> {
    let path = find(program).ok_or_else(|| Error::refused(format!("find `{program}`")))?;
    let (said, words) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .attempt_with(|| format!("listen to `{program}`"))?;
    let numbers = ranges
        .iter()
        .flat_map(|range| [range.inside, range.outside, range.count]);
    let child = Spawn::path(path)
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .with_fd(words, 2)
        .spawn()?;
    let mut text = String::new();
    // Whatever it says is for the error alone.
    let _ = fs::File::from(said)
        .take(MAX_WORDS)
        .read_to_string(&mut text);
    if child.wait()? == Ended::Exit(0) {
        return Ok(());
    }
    let text = text.trim().escape_debug().to_string();
    Err(Error::refused(format!(
        "give a namespace its ids through `{program}`: {text}"
    )))
}

/// A process that does nothing in a user namespace of its own; ended and reaped when dropped.
struct Child(Pid);

impl Child {
    fn start() -> Result<Self> {
        let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
        // SAFETY: without CLONE_VM and a stack this is a fork; the child runs
        // on a copy of this stack.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid == 0 {
            wait_for_the_end();
        }
        i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .filter(|_| pid > 0)
            .map(Self)
            .ok_or_else(|| Error::new("make a user namespace", std::io::Error::last_os_error()))
    }

    fn pid(&self) -> u32 {
        self.0.as_raw_nonzero().get().unsigned_abs()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Neither can fail for a child of ours that nobody else waits for.
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.0), WaitOptions::empty());
    }
}

/// What the child does: only calls that are safe after a fork of a process with threads.
fn wait_for_the_end() -> ! {
    // SAFETY: plain numbers; the child dies with its parent.
    let _ = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    loop {
        // SAFETY: takes nothing and touches nothing.
        let _ = unsafe { libc::pause() };
    }
}

#[cfg(test)]
mod tests;
