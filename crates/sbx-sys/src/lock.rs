//! Whole-file locks that end with their process, whatever happens to it.
//!
//! A lock is `flock` on an open file: it goes with the last descriptor, so a
//! killed process leaves nothing locked. Whoever holds one writes its own
//! identity into the file first, so that others can say who it is.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::error::{Attempt, Error, Result};
use crate::file::plain;
use crate::process::ProcessId;

/// A lock that this process holds until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock on file `name` in `dir` (made when missing, mode 0600)
    /// if nobody has it: `None` when somebody does.
    ///
    /// # Errors
    /// When the file cannot be opened or locked for another reason.
    pub fn try_exclusive(dir: impl AsFd, name: &str) -> Result<Option<Self>> {
        Self::take(dir, name, FlockOperation::NonBlockingLockExclusive)
    }

    /// Takes the lock on file `name` in `dir`, waiting for it without bound.
    ///
    /// # Errors
    /// When the file cannot be opened or locked.
    pub fn exclusive(dir: impl AsFd, name: &str) -> Result<Self> {
        Self::take(dir, name, FlockOperation::LockExclusive)?
            .ok_or_else(|| Error::refused(format!("lock `{name}`")))
    }

    fn take(dir: impl AsFd, name: &str, how: FlockOperation) -> Result<Option<Self>> {
        let fd = open(dir.as_fd(), name, OFlags::RDWR | OFlags::CREATE)?;
        loop {
            match rustix::fs::flock(&fd, how) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::new(format!("lock `{name}`"), error)),
            }
        }
        // Someone may have removed the file while we waited: then our lock is
        // on a file nobody else will ever find.
        let held = rustix::fs::fstat(&fd).attempt_with(|| format!("look at `{name}`"))?;
        let current = rustix::fs::statat(dir.as_fd(), name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
        match current {
            Ok(now) if now.st_ino == held.st_ino && now.st_dev == held.st_dev => {}
            Ok(_) | Err(rustix::io::Errno::NOENT) => return Self::take(dir, name, how),
            Err(error) => return Err(Error::new(format!("look at `{name}`"), error)),
        }
        Ok(Some(Self {
            file: File::from(fd),
        }))
    }

    /// Writes who holds the lock into its file, for [`holder`].
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn sign(&mut self, who: &ProcessId) -> Result<()> {
        let line = format!("{} {} {}\n", who.pid, who.start, who.boot);
        self.file.set_len(0).attempt("empty a lock file")?;
        self.file.rewind().attempt("rewind a lock file")?;
        self.file
            .write_all(line.as_bytes())
            .attempt("sign a lock file")
    }

    /// The descriptor, to hand the lock on to a child: it is held until both
    /// have closed it.
    #[must_use]
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Gives up the wrapper, not the lock: whoever holds the descriptor
    /// holds the lock.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.file.into()
    }

    /// Takes over a lock whose descriptor was inherited.
    ///
    /// # Errors
    /// When the descriptor does not hold the lock and cannot get it at once.
    pub fn from_fd(fd: OwnedFd) -> Result<Self> {
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)
            .attempt("take over a lock")?;
        Ok(Self {
            file: File::from(fd),
        })
    }
}

/// Whether somebody holds the lock on file `name` in `dir`; a missing file is
/// a free lock. Takes it, shared, for a moment: two probes do not see each
/// other, but a [`Lock::try_exclusive`] in that moment sees the probe and
/// must be tried again.
///
/// # Errors
/// When the file is there and cannot be opened.
pub fn is_held(dir: impl AsFd, name: &str) -> Result<bool> {
    let fd = match open(dir.as_fd(), name, OFlags::RDONLY) {
        Ok(fd) => fd,
        Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(false),
        Err(error) => return Err(error),
    };
    match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(Error::new(format!("probe the lock `{name}`"), error)),
    }
}

/// Who signed the lock on file `name` in `dir`, if it is held and signed.
///
/// # Errors
/// As [`is_held`].
pub fn holder(dir: impl AsFd, name: &str) -> Result<Option<ProcessId>> {
    if !is_held(dir.as_fd(), name)? {
        return Ok(None);
    }
    let bytes = crate::file::read_at(dir, name, 256)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut fields = text.split_ascii_whitespace();
    let who = (|| {
        Some(ProcessId {
            pid: fields.next()?.parse().ok()?,
            start: fields.next()?.parse().ok()?,
            boot: fields.next()?.to_owned(),
        })
    })();
    Ok(who)
}

fn open(dir: BorrowedFd<'_>, name: &str, flags: OFlags) -> Result<OwnedFd> {
    plain(name)?;
    rustix::fs::openat(
        dir,
        name,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
    .attempt_with(|| format!("open the lock `{name}` in directory {}", dir.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::open_dir;

    #[test]
    fn a_lock_is_exclusive_and_ends_when_dropped() {
        let home = tempfile::tempdir().unwrap();
        let dir = open_dir(home.path()).unwrap();
        let lock = Lock::try_exclusive(&dir, "lock").unwrap().unwrap();
        assert!(is_held(&dir, "lock").unwrap());
        assert!(Lock::try_exclusive(&dir, "lock").unwrap().is_none());
        drop(lock);
        assert!(!is_held(&dir, "lock").unwrap());
        assert!(Lock::try_exclusive(&dir, "lock").unwrap().is_some());
    }

    #[test]
    fn a_missing_lock_is_free() {
        let home = tempfile::tempdir().unwrap();
        let dir = open_dir(home.path()).unwrap();
        assert!(!is_held(&dir, "lock").unwrap());
    }

    #[test]
    fn a_signed_lock_says_who_holds_it() {
        let home = tempfile::tempdir().unwrap();
        let dir = open_dir(home.path()).unwrap();
        let own = ProcessId::own().unwrap();
        let mut lock = Lock::try_exclusive(&dir, "lock").unwrap().unwrap();
        assert_eq!(holder(&dir, "lock").unwrap(), None);
        lock.sign(&own).unwrap();
        assert_eq!(holder(&dir, "lock").unwrap(), Some(own));
        drop(lock);
        assert_eq!(holder(&dir, "lock").unwrap(), None);
    }

    #[test]
    fn an_inherited_descriptor_holds_the_lock() {
        let home = tempfile::tempdir().unwrap();
        let dir = open_dir(home.path()).unwrap();
        let lock = Lock::try_exclusive(&dir, "lock").unwrap().unwrap();
        let copy = lock.as_fd().try_clone_to_owned().unwrap();
        drop(lock);
        assert!(is_held(&dir, "lock").unwrap());
        let lock = Lock::from_fd(copy).unwrap();
        drop(lock);
        assert!(!is_held(&dir, "lock").unwrap());
    }
}
