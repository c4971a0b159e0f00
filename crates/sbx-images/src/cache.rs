//! The cache: entries named by what they were made from.
//!
//! Owns: the layout below the cache directory, the lock of each entry, the
//! record that says what an entry's file was when it was verified. Never:
//! shows half an entry. Trusts: nothing in the directory that its record
//! does not vouch for.
//!
//! ```text
//! entries/<kind>-<key>/   one complete entry and its record.json
//! locks/<kind>-<key>      held while the entry is made or removed; its
//!                         modification time is the entry's last use
//! tmp/<kind>-<key>        the entry while it is made; stale once the lock
//!                         is free
//! work/<kind>-<key>/      kept between attempts, for work that resumes
//! ```

mod items;
mod record;

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{
    CWD, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
};
use rustix::io::Errno;
use sbx_spec::ByteSize;
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::progress::Progress;

pub(crate) use items::bytes_on_disk;
use items::remove_work;
pub use items::{CacheItem, CacheUse, ItemState};
pub use record::FileIdent;
use record::Record;
pub(crate) use record::{TREE, hash_file, write_atomically};

/// How often a waiter looks whether another process has finished an entry,
/// and whether it is asked to stop.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// A file system with less room than this is full, in bytes.
const LEAST_ROOM: u64 = 1 << 20;

/// The name of an entry: the SHA-256 of everything it is made from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key(String);

impl Key {
    /// The key of an entry made from these parts, in this order. Each part
    /// is counted with its length, so that no two lists share a key.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hex(&hash.finalize()))
    }

    /// 64 hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads the text form.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let ok = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        ok.then(|| Self(text.to_owned()))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A verified file, ready for use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Artifact {
    /// Where it is.
    pub path: PathBuf,
    /// What it was made from.
    pub key: Key,
    /// SHA-256 of its contents: 64 hexadecimal digits.
    pub sha256: String,
    /// What it was when its contents were last hashed.
    pub ident: FileIdent,
}

impl Artifact {
    /// Reads the whole file and compares its hash: for `doctor`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the contents are others than recorded.
    pub fn verify_full(&self) -> Result<(), Error> {
        let found = hash_file(&self.path)?;
        if found == self.sha256 {
            return Ok(());
        }
        let reason = format!("its SHA-256 is {found}, not {}", self.sha256);
        Err(Error::Corrupt {
            path: self.path.clone(),
            reason,
        })
    }
}

/// What an entry is called and which of its files is its payload.
#[derive(Clone, Debug)]
pub(crate) struct EntryName {
    /// One word: `kernel`, `base`, `kit`, `initramfs`, `tree`, `program`.
    pub(crate) kind: &'static str,
    pub(crate) key: Key,
    /// The file within the entry that an [`Artifact`] names.
    pub(crate) payload: &'static str,
    /// What the user is told is being made.
    pub(crate) title: String,
    /// What making it takes of the cache's file system, about and at most.
    pub(crate) room: ByteSize,
}

impl EntryName {
    fn directory(&self) -> String {
        format!("{}-{}", self.kind, self.key)
    }
}

/// The places a builder may write to.
pub(crate) struct Workplace<'a> {
    /// Empty; becomes the entry when the builder returns.
    pub(crate) entry: &'a Path,
    /// Kept if the builder fails or is killed, removed once the entry is
    /// complete. It is made when first asked for.
    work: PathBuf,
}

impl Workplace<'_> {
    /// The directory that survives between attempts, 0700.
    pub(crate) fn work(&self) -> Result<&Path, Error> {
        make_directory(&self.work)?;
        Ok(&self.work)
    }
}

/// A cache directory.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Opens the cache at `root`, an absolute path, and makes it (0700) if
    /// it is not there.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be made.
    pub fn open(root: &Path) -> Result<Self, Error> {
        for part in ["", "entries", "locks", "tmp", "work"] {
            make_directory(&root.join(part))?;
        }
        Ok(Self {
            root: root.to_path_buf(),
        })
    }

    /// Where the cache is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The entry if it is complete and undamaged; marks it as used.
    ///
    /// The file is not read: its record is compared with what the file
    /// system says. A file that differs only there (a restored backup) is
    /// hashed again and taken if its contents are right.
    pub(crate) fn find(&self, name: &EntryName) -> Result<Option<Artifact>, Error> {
        let directory = self.entry_path(name);
        let Some(record) = Record::load(&directory)? else {
            return Ok(None);
        };
        // A tree cannot be hashed here: one that moved or changed is made again.
        if !record.has_its_tree(&directory) {
            return Ok(None);
        }
        let path = directory.join(name.payload);
        let Some(file) = record.files.get(name.payload) else {
            return Ok(None);
        };
        let Some(mut ident) = FileIdent::of(&path)? else {
            return Ok(None);
        };
        if ident != file.ident {
            if ident.size != file.ident.size || hash_file(&path)? != file.sha256 {
                return Ok(None);
            }
            // The contents are right; where that cannot be written down they
            // are read again next time. Writing it changes the inode.
            let _ = Record::write(&directory);
            ident = FileIdent::of(&path)?.unwrap_or(ident);
        }
        self.touch(name);
        let (key, sha256) = (name.key.clone(), file.sha256.clone());
        Ok(Some(Artifact {
            path,
            key,
            sha256,
            ident,
        }))
    }

    /// The entry, made by `build` if it is not there or damaged.
    ///
    /// It is made once even if several processes ask at the same time; the
    /// others wait. `build` fills an empty directory, which is flushed to
    /// disk and renamed into place when it returns.
    pub(crate) fn make(
        &self,
        name: &EntryName,
        progress: &dyn Progress,
        build: impl FnOnce(&Workplace<'_>) -> Result<(), Error>,
    ) -> Result<Artifact, Error> {
        if let Some(artifact) = self.find(name)? {
            return Ok(artifact);
        }
        let _lock = self.lock(name, progress)?;
        if let Some(artifact) = self.find(name)? {
            return Ok(artifact);
        }
        let temp = self.root.join("tmp").join(name.directory());
        let work = self.root.join("work").join(name.directory());
        remove_tree(&temp)?;
        make_directory(&temp)?;
        let built = build(&Workplace {
            entry: &temp,
            work: work.clone(),
        })
        .and_then(|()| self.publish(name, &temp));
        let full = matches!(&built, Err(error) if error.is_full() || self.has_no_room());
        // What cannot be removed now, the next holder or `gc` removes.
        let _ = remove_tree(&temp);
        if let Err(error) = built {
            return Err(if full {
                self.no_room(name, error)
            } else {
                error
            });
        }
        // The entry is there, whatever becomes of the work that led to it.
        let _ = remove_work(&work);
        self.find(name)?.ok_or_else(|| Error::Corrupt {
            path: self.entry_path(name).join(name.payload),
            reason: "it changed while it was being stored".to_owned(),
        })
    }

    /// Moves a finished entry into its place. Its files, its record and its
    /// directory are on disk before, so that a host that stops leaves either
    /// no entry or this one.
    ///
    /// A damaged entry changes places with it in one step: no reader finds
    /// neither. Where the file system cannot do that, being killed between
    /// two steps leaves no entry, which is made again.
    fn publish(&self, name: &EntryName, temp: &Path) -> Result<(), Error> {
        Record::write(temp)?;
        let target = self.entry_path(name);
        let old = temp.with_extension("old");
        // It fails where there is no entry yet, too.
        if rustix::fs::renameat_with(CWD, temp, CWD, &target, RenameFlags::EXCHANGE).is_err() {
            if target.symlink_metadata().is_ok() {
                remove_tree(&old)?;
                fs::rename(&target, &old).map_err(Error::file("move aside", &target))?;
            }
            fs::rename(temp, &target).map_err(Error::file("store", &target))?;
        }
        let _ = remove_tree(&old);
        // Nothing is lost with a rename that is not on disk but the work of
        // making it again.
        let _ = sync_directory(&self.root.join("entries"));
        Ok(())
    }

    /// Whether nothing more fits. Not every program says that this is why it
    /// failed: `fsck.erofs` calls it an I/O error.
    fn has_no_room(&self) -> bool {
        rustix::fs::statvfs(&self.root)
            .is_ok_and(|found| found.f_bavail.saturating_mul(found.f_frsize) < LEAST_ROOM)
    }

    /// A lack of room says where and how much.
    fn no_room(&self, name: &EntryName, error: Error) -> Error {
        Error::NoRoom {
            title: name.title.clone(),
            cache: self.root.clone(),
            room: name.room,
            source: Box::new(error),
        }
    }

    /// Takes the lock of an entry, waiting for another process.
    fn lock(&self, name: &EntryName, progress: &dyn Progress) -> Result<File, Error> {
        let path = self.lock_path(&name.directory());
        let file = open_lock(&path)?;
        let mut told = false;
        loop {
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(Errno::WOULDBLOCK | Errno::INTR) => {}
                Err(errno) => return Err(Error::errno("lock", &path)(errno)),
            }
            if progress.cancelled() {
                return Err(Error::Cancelled);
            }
            if !told {
                progress.note(&format!(
                    "{} is being made by another process, waiting",
                    name.title
                ));
                told = true;
            }
            thread::sleep(LOCK_POLL);
        }
    }

    fn touch(&self, name: &EntryName) {
        let omit = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        };
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_NOW,
        };
        // The last use is a hint for `gc`: a cache on a read-only disk works.
        let _ = open_lock(&self.lock_path(&name.directory())).map(|file| {
            rustix::fs::futimens(
                &file,
                &Timestamps {
                    last_access: omit,
                    last_modification: now,
                },
            )
        });
    }

    pub(crate) fn entry_path(&self, name: &EntryName) -> PathBuf {
        self.root.join("entries").join(name.directory())
    }

    fn lock_path(&self, directory: &str) -> PathBuf {
        self.root.join("locks").join(directory)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn open_lock(path: &Path) -> Result<File, Error> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(Error::errno("open", path))?;
    Ok(File::from(fd))
}

/// Makes a directory and its parents, 0700.
pub(crate) fn make_directory(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::file("create", path))
}

/// Removes a directory or file if it is there, an entry with its tree.
pub(crate) fn remove_tree(path: &Path) -> Result<(), Error> {
    crate::tree::clear(path)?;
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::file("flush", path))
}

#[cfg(test)]
mod tests;
