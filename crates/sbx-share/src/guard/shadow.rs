//! The shadow store: what the guest wrote to held names, and which of them it deleted.
//!
//! Owns the directory that the engine gave: `tree/` mirrors the paths of the share and contains
//! held entries only (the directories above them are bare structure, mode 0700), `gone` lists
//! host entries that the guest deleted, `tmp/` is where copies are made before they are put in
//! place. All paths are walked one component at a time, no link followed: the contents were
//! written by a guest.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLockReadGuard};
use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::quota::{self, Quota, STORE_DEPTH_MAX};
pub(crate) use super::quota::{Amount, Step, walk};
use crate::config::ShareLimits;
use crate::fs::host;

const TREE: &CStr = c"tree";
const STAGING: &CStr = c"tmp";
const GONE: &CStr = c"gone";
const GONE_NEW: &CStr = c"gone.new";
/// The list of deleted entries is never read beyond this many bytes.
const GONE_MAX: u64 = 64 << 20;
/// What the paths of deleted entries may add up to, in bytes.
const GONE_PATHS_MAX: usize = 8 << 20;
const PRIVATE: Mode = Mode::RWXU;

/// The store of one share.
#[derive(Debug)]
pub(crate) struct Shadow {
    base: OwnedFd,
    tree: OwnedFd,
    staging: OwnedFd,
    gone: Mutex<BTreeSet<Vec<u8>>>,
    gone_limit: usize,
    serial: AtomicU64,
    quota: Quota,
}

impl Shadow {
    /// Opens the store in the directory `base`, making it if it is empty.
    pub(crate) fn open(base: OwnedFd, limits: &ShareLimits) -> io::Result<Self> {
        let tree = make_and_open(base.as_fd(), TREE, PRIVATE)?;
        let staging = make_and_open(base.as_fd(), STAGING, PRIVATE)?;
        clear_staging(&staging)?;
        let gone = read_gone(base.as_fd())?;
        // Counted when that is first asked for: until then nothing fits.
        let unknown = Amount {
            bytes: u64::MAX,
            entries: u64::MAX,
        };
        let limit = Amount {
            bytes: limits.held_bytes,
            entries: limits.held_entries,
        };
        Ok(Self {
            base,
            tree,
            staging,
            gone: Mutex::new(gone),
            gone_limit: limits.whiteouts,
            serial: AtomicU64::new(0),
            quota: Quota::new(unknown, limit),
        })
    }

    /// The store's own directory, for the other small files kept there.
    pub(crate) fn base(&self) -> BorrowedFd<'_> {
        self.base.as_fd()
    }

    /// The mirrored directory `path`, if the store has it.
    pub(crate) fn dir(&self, path: &[u8]) -> io::Result<Option<OwnedFd>> {
        let mut at = self.tree.try_clone()?;
        for name in components(path)? {
            match open_dir(at.as_fd(), &name) {
                Ok(fd) => at = fd,
                Err(e) if host::is(&e, Errno::NOENT) || host::is(&e, Errno::NOTDIR) => {
                    return Ok(None);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Some(at))
    }

    /// The mirrored directory `path`, made if it is missing. There must be room for it.
    pub(crate) fn make_dir(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let mut at = self.tree.try_clone()?;
        for name in components(path)? {
            at = make_and_open(at.as_fd(), &name, PRIVATE)?;
        }
        Ok(at)
    }

    /// What it takes to make the mirrored directory `path`. `ENAMETOOLONG` if it lies too deep.
    pub(crate) fn cost_of_dir(&self, path: &[u8]) -> io::Result<Amount> {
        let depth = components(path)?.len();
        if depth > STORE_DEPTH_MAX {
            return Err(Errno::NAMETOOLONG.into());
        }
        let entries = match self.dir(path)? {
            Some(_) => 0,
            None => depth as u64,
        };
        Ok(Amount { bytes: 0, entries })
    }

    /// Agrees to keep `more`, which is to be made before the guard is dropped. `removed` counts
    /// files that have no name any more and are still open.
    pub(crate) fn agree(
        &self,
        more: Amount,
        removed: impl FnOnce() -> io::Result<Amount>,
    ) -> io::Result<RwLockReadGuard<'_, ()>> {
        self.quota.agree(more, || {
            let mut sum = quota::count(self.tree.try_clone()?)?;
            sum += quota::count(self.staging.try_clone()?)?;
            sum += removed()?;
            Ok(sum)
        })
    }

    /// Whether the directory `old` may be renamed to `new`: `ENOSPC` if the list of deleted
    /// entries would grow beyond its bound.
    pub(crate) fn may_follow(&self, old: &[u8], new: &[u8]) -> io::Result<()> {
        let gone = self.gone.lock();
        let moved = beneath(&gone, old).chain(gone.get(old)).count();
        let growth = moved * new.len().saturating_sub(old.len());
        if growth > 0 && paths_length(&gone) + growth > GONE_PATHS_MAX {
            return Err(Errno::NOSPC.into());
        }
        Ok(())
    }

    /// The stored entry `name` of the mirrored directory `path`.
    pub(crate) fn entry(&self, path: &[u8], name: &CStr) -> io::Result<Option<OwnedFd>> {
        match self.dir(path)? {
            Some(dir) => host::find_entry(dir.as_fd(), name),
            None => Ok(None),
        }
    }

    /// Removes the structure directories `path` and above that hold nothing any more.
    pub(crate) fn prune(&self, path: &[u8]) -> io::Result<()> {
        let mut names = components(path)?;
        while let Some(name) = names.pop() {
            let above = join_all(&names);
            let Some(parent) = self.dir(&above)? else {
                continue;
            };
            match host::rmdir(parent.as_fd(), &name) {
                Ok(()) => {}
                Err(e) if host::is(&e, Errno::NOENT) => {}
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }

    /// A directory of the share was renamed: its mirror follows.
    pub(crate) fn follow_rename(&self, old: &[u8], new: &[u8]) -> io::Result<()> {
        if let (Some((old_dir, old_name)), Some((new_dir, new_name))) = (split(old), split(new)) {
            let old_name = CString::new(old_name)?;
            let new_name = CString::new(new_name)?;
            if self.entry(old_dir, &old_name)?.is_some()
                && let Some(from) = self.dir(old_dir)?
            {
                let to = self.make_dir(new_dir)?;
                host::rename(
                    (from.as_fd(), &old_name),
                    (to.as_fd(), &new_name),
                    RenameFlags::empty(),
                )?;
                self.prune(old_dir)?;
            }
        }
        let mut gone = self.gone.lock();
        let moved: Vec<Vec<u8>> = beneath(&gone, old).chain(gone.get(old)).cloned().collect();
        if moved.is_empty() {
            return Ok(());
        }
        for path in moved {
            let mut to = new.to_vec();
            to.extend_from_slice(path.get(old.len()..).unwrap_or_default());
            gone.remove(&path);
            gone.insert(to);
        }
        self.write_gone(&gone)
    }

    /// Two directories of the share changed places: so do their mirrors.
    pub(crate) fn follow_exchange(&self, a: &[u8], b: &[u8]) -> io::Result<()> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        let aside = format!(".exchange-{serial}").into_bytes();
        self.follow_rename(a, &aside)?;
        self.follow_rename(b, a)?;
        self.follow_rename(&aside, b)
    }

    /// Whether anything is stored for `path` or beneath it.
    pub(crate) fn has_any(&self, path: &[u8]) -> io::Result<bool> {
        let Some((dir, name)) = split(path) else {
            return Ok(true);
        };
        Ok(self.entry(dir, &CString::new(name)?)?.is_some())
    }

    /// Makes an empty file aside, to be filled and then put in place. Returns its name too.
    pub(crate) fn stage_file(&self, mode: Mode) -> io::Result<(File, CString)> {
        let name = self.staging_name()?;
        let file = host::create(self.staging.as_fd(), &name, OFlags::RDWR, mode)?;
        Ok((file, name))
    }

    /// Makes a link aside, to be put in place.
    pub(crate) fn stage_link(&self, target: &CStr) -> io::Result<CString> {
        let name = self.staging_name()?;
        host::symlink(target, self.staging.as_fd(), &name)?;
        Ok(name)
    }

    /// Puts what was made aside in its place, unless the place is taken.
    pub(crate) fn place(&self, staged: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
        let done = host::rename(
            (self.staging.as_fd(), staged),
            (dir, name),
            RenameFlags::NOREPLACE,
        );
        if done.is_err() {
            self.discard(staged);
        }
        done
    }

    /// Gives up what was made aside.
    pub(crate) fn discard(&self, staged: &CStr) {
        if let Err(e) = host::unlink(self.staging.as_fd(), staged) {
            log::warn!("cannot remove an unfinished copy from the shadow: {e}");
        }
    }

    /// Whether the guest deleted anything at all.
    pub(crate) fn hides_any(&self) -> bool {
        !self.gone.lock().is_empty()
    }

    /// Whether the guest deleted the host's entry at `path`, or one above it.
    pub(crate) fn hides(&self, path: &[u8]) -> bool {
        let gone = self.gone.lock();
        if gone.is_empty() {
            return false;
        }
        gone.contains(path)
            || path
                .iter()
                .enumerate()
                .filter(|(_, b)| **b == b'/')
                .any(|(at, _)| gone.contains(path.get(..at).unwrap_or_default()))
    }

    /// Whether the guest deleted anything beneath `path`.
    pub(crate) fn hides_beneath(&self, path: &[u8]) -> bool {
        beneath(&self.gone.lock(), path).next().is_some()
    }

    /// Hides the host's entry at `path`. With `whole`, entries beneath are no longer listed one
    /// by one: a directory made there later does not show the host's contents again.
    pub(crate) fn hide(&self, path: &[u8], whole: bool) -> io::Result<()> {
        let mut gone = self.gone.lock();
        let covered: Vec<Vec<u8>> = if whole {
            beneath(&gone, path).cloned().collect()
        } else {
            Vec::new()
        };
        let full = paths_length(&gone) + path.len() > GONE_PATHS_MAX;
        if full || gone.len() - covered.len() >= self.gone_limit {
            return Err(Errno::NOSPC.into());
        }
        for path in &covered {
            gone.remove(path);
        }
        gone.insert(path.to_vec());
        self.write_gone(&gone)
    }

    /// Shows the host's entry at `path` again. False if it was not hidden by itself.
    pub(crate) fn unhide(&self, path: &[u8]) -> io::Result<bool> {
        let mut gone = self.gone.lock();
        if !gone.remove(path) {
            return Ok(false);
        }
        self.write_gone(&gone)?;
        Ok(true)
    }

    /// Shows the host's entries beneath `path` again: the directory is gone.
    pub(crate) fn unhide_beneath(&self, path: &[u8]) -> io::Result<()> {
        let mut gone = self.gone.lock();
        let stale: Vec<Vec<u8>> = beneath(&gone, path)
            .chain(gone.get(path))
            .cloned()
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        for path in &stale {
            gone.remove(path);
        }
        self.write_gone(&gone)
    }

    fn staging_name(&self) -> io::Result<CString> {
        let serial = self.serial.fetch_add(1, Ordering::Relaxed);
        Ok(CString::new(format!("{serial}"))?)
    }

    fn write_gone(&self, gone: &BTreeSet<Vec<u8>>) -> io::Result<()> {
        if let Err(e) = host::unlink(self.base.as_fd(), GONE_NEW)
            && !host::is(&e, Errno::NOENT)
        {
            return Err(e);
        }
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = host::create(self.base.as_fd(), GONE_NEW, OFlags::WRONLY, mode)?;
        let mut text = Vec::new();
        for path in gone {
            text.extend_from_slice(path);
            text.push(0);
        }
        file.write_all(&text)?;
        host::rename(
            (self.base.as_fd(), GONE_NEW),
            (self.base.as_fd(), GONE),
            RenameFlags::empty(),
        )
    }
}

/// Reads the list of deleted entries in the store `base`.
pub(crate) fn read_gone(base: BorrowedFd<'_>) -> io::Result<BTreeSet<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = match rustix::fs::openat(base, GONE, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(BTreeSet::new()),
        Err(e) => return Err(e.into()),
    };
    let mut bytes = Vec::new();
    File::from(fd).take(GONE_MAX).read_to_end(&mut bytes)?;
    Ok(bytes
        .split(|b| *b == 0)
        .filter(|p| !p.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}

/// Opens the mirror of the share in the store `base`, if there is one.
pub(crate) fn open_tree(base: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    match open_dir(base, TREE) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if host::is(&e, Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Opens the directory `name` as an `O_PATH` descriptor, links not followed.
pub(crate) fn open_dir(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// `path` with `name` appended.
pub(crate) fn join(path: &[u8], name: &CStr) -> Vec<u8> {
    let mut joined = path.to_vec();
    if !joined.is_empty() {
        joined.push(b'/');
    }
    joined.extend_from_slice(name.to_bytes());
    joined
}

fn make_and_open(parent: BorrowedFd<'_>, name: &CStr, mode: Mode) -> io::Result<OwnedFd> {
    match host::mkdir(parent, name, mode) {
        Err(e) if !host::is(&e, Errno::EXIST) => Err(e),
        _ => open_dir(parent, name),
    }
}

fn clear_staging(staging: &OwnedFd) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(staging, c".", flags, Mode::empty())?;
    for left in host::names(&dir, usize::MAX)? {
        host::unlink(staging.as_fd(), &left.name)?;
    }
    Ok(())
}

fn components(path: &[u8]) -> io::Result<Vec<CString>> {
    path.split(|b| *b == b'/')
        .filter(|c| !c.is_empty())
        .map(|c| Ok(CString::new(c)?))
        .collect()
}

fn join_all(names: &[CString]) -> Vec<u8> {
    names.iter().fold(Vec::new(), |path, n| join(&path, n))
}

/// Directory part and last name of a path; `None` for the root.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => Some((path.get(..at)?, path.get(at + 1..)?)),
        None => Some((&[], path)),
    }
}

fn paths_length(gone: &BTreeSet<Vec<u8>>) -> usize {
    gone.iter().map(|path| path.len() + 1).sum()
}

fn beneath<'a>(gone: &'a BTreeSet<Vec<u8>>, path: &[u8]) -> impl Iterator<Item = &'a Vec<u8>> {
    let mut first = path.to_vec();
    if !first.is_empty() {
        first.push(b'/');
    }
    let prefix = first.clone();
    gone.range((Bound::Included(first), Bound::Unbounded))
        .take_while(move |p| p.starts_with(&prefix))
}
