//! How much a guest may keep in the shadow store, and a walk through it.
//!
//! What is used is an upper bound, raised before anything is made and never lowered; where it
//! would pass the limit, the store is counted again.

use std::ffi::CStr;
use std::io;
use std::ops::AddAssign;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::shadow::{join, open_dir};
use crate::fs::host::{self, Name};

/// How deep directories of the store may nest.
pub(crate) const STORE_DEPTH_MAX: usize = 512;

/// An amount of what a store keeps.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Amount {
    /// Lengths of files, holes included, in bytes.
    pub(crate) bytes: u64,
    /// Files, links and directories.
    pub(crate) entries: u64,
}

impl Amount {
    /// One new entry of this length.
    pub(crate) fn entry(bytes: u64) -> Self {
        Self { bytes, entries: 1 }
    }

    fn fits(self, other: Self, limit: Self) -> bool {
        self.bytes.saturating_add(other.bytes) <= limit.bytes
            && self.entries.saturating_add(other.entries) <= limit.entries
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.entries = self.entries.saturating_add(other.entries);
    }
}

/// The account of one store.
#[derive(Debug)]
pub(crate) struct Quota {
    used: Mutex<Amount>,
    limit: Amount,
    /// Held to read while something that was agreed is being made, so that a count misses nothing.
    making: RwLock<()>,
}

impl Quota {
    pub(crate) fn new(used: Amount, limit: Amount) -> Self {
        Self {
            used: Mutex::new(used),
            limit,
            making: RwLock::new(()),
        }
    }

    /// Agrees to `more`, which is to be made before the guard is dropped; `ENOSPC` if there is no
    /// room for it even after a new count.
    pub(crate) fn agree(
        &self,
        more: Amount,
        count: impl FnOnce() -> io::Result<Amount>,
    ) -> io::Result<RwLockReadGuard<'_, ()>> {
        let making = self.making.read();
        if self.take(more) {
            return Ok(making);
        }
        drop(making);
        let alone = self.making.write();
        *self.used.lock() = count()?;
        if !self.take(more) {
            return Err(Errno::NOSPC.into());
        }
        Ok(RwLockWriteGuard::downgrade(alone))
    }

    fn take(&self, more: Amount) -> bool {
        let mut used = self.used.lock();
        let fits = used.fits(more, self.limit);
        if fits {
            *used += more;
        }
        fits
    }
}

/// What to do after one entry of a walk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// Walk the directory it is.
    Into,
    /// Go on beside it.
    Over,
    /// End the walk.
    Stop,
}

/// One entry on a walk.
pub(crate) struct Seen<'a> {
    pub(crate) dir: BorrowedFd<'a>,
    pub(crate) name: &'a CStr,
    /// Its path from where the walk began.
    pub(crate) path: &'a [u8],
    /// How many directories of the walk it lies in.
    pub(crate) depth: usize,
}

struct Level {
    dir: OwnedFd,
    path: Vec<u8>,
    left: std::vec::IntoIter<Name>,
}

impl Level {
    fn open(dir: OwnedFd, path: Vec<u8>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = rustix::fs::openat(&dir, c".", flags, Mode::empty())?;
        let left = host::names(&open, usize::MAX)?.into_iter();
        Ok(Self { dir, path, left })
    }
}

/// Walks the tree beneath `top`, one descriptor for each level it is deep.
///
/// # Errors
/// Those of `visit`, and if a directory cannot be read.
pub(crate) fn walk(
    top: OwnedFd,
    mut visit: impl FnMut(Seen<'_>) -> io::Result<Step>,
) -> io::Result<()> {
    let mut levels = vec![Level::open(top, Vec::new())?];
    loop {
        let depth = levels.len();
        let Some(level) = levels.last_mut() else {
            return Ok(());
        };
        let Some(entry) = level.left.next() else {
            levels.pop();
            continue;
        };
        let path = join(&level.path, &entry.name);
        let seen = Seen {
            dir: level.dir.as_fd(),
            name: &entry.name,
            path: &path,
            depth,
        };
        match visit(seen)? {
            Step::Into => {
                let inner = open_dir(level.dir.as_fd(), &entry.name)?;
                levels.push(Level::open(inner, path)?);
            }
            Step::Over => {}
            Step::Stop => return Ok(()),
        }
    }
}

/// What is kept beneath `top`.
pub(crate) fn count(top: OwnedFd) -> io::Result<Amount> {
    let mut sum = Amount::default();
    walk(top, |seen| {
        let entry = host::open_entry(seen.dir, seen.name)?;
        let st = host::stat(entry.as_fd())?;
        if u32::from(st.stx_mode) & libc::S_IFMT != libc::S_IFDIR {
            sum += Amount::entry(st.stx_size);
            return Ok(Step::Over);
        }
        sum += Amount::entry(0);
        if seen.depth > STORE_DEPTH_MAX {
            return Err(Errno::NOSPC.into());
        }
        Ok(Step::Into)
    })?;
    Ok(sum)
}
