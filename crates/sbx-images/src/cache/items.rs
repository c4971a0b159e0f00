//! What the cache holds, and the removal of what nobody uses.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use super::record::Record;
use super::{Cache, Key, open_lock, remove_tree};
use crate::error::Error;
use crate::template::remove_leftovers;

/// Something in the cache that can be removed.
#[derive(Clone, Debug)]
pub struct CacheItem {
    /// `kernel`, `base`, `kit`, `initramfs`, `tree`, `program`.
    pub kind: String,
    /// What it was made from.
    pub key: Key,
    /// Whether it is complete.
    pub state: ItemState,
    /// Bytes on disk.
    pub bytes: u64,
    /// When it was last asked for.
    pub last_use: Option<SystemTime>,
    path: PathBuf,
}

impl CacheItem {
    /// The directory that it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Whether an item is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ItemState {
    /// Complete.
    Entry,
    /// Unfinished work that the next attempt resumes.
    Work,
    /// Left over by a process that was killed, or work that led to an entry
    /// which is complete; of no use.
    Stale,
}

/// The keys that sandboxes refer to.
#[derive(Clone, Debug, Default)]
pub struct CacheUse {
    keys: BTreeSet<Key>,
}

impl CacheUse {
    /// Marks an entry as needed.
    pub fn add(&mut self, key: Key) {
        self.keys.insert(key);
    }
}

impl Cache {
    /// Everything in the cache, complete or not.
    ///
    /// # Errors
    /// [`Error::File`] if a directory cannot be listed.
    pub fn list(&self) -> Result<Vec<CacheItem>, Error> {
        let mut items = Vec::new();
        for (part, state) in [
            ("entries", ItemState::Entry),
            ("work", ItemState::Work),
            ("tmp", ItemState::Stale),
        ] {
            let directory = self.root.join(part);
            for item in fs::read_dir(&directory).map_err(Error::file("list", &directory))? {
                let path = item.map_err(Error::file("list", &directory))?.path();
                let Some((kind, key)) = split_name(&path) else {
                    continue;
                };
                let name = format!("{kind}-{key}");
                let last_use = last_use(&self.lock_path(&name));
                let finished = state == ItemState::Work
                    && Record::stands(&self.root.join("entries").join(&name));
                let state = if finished { ItemState::Stale } else { state };
                let bytes = bytes_on_disk(&path);
                items.push(CacheItem {
                    kind,
                    key,
                    state,
                    bytes,
                    last_use,
                    path,
                });
            }
        }
        items.sort_by(|a, b| (&a.kind, &a.key).cmp(&(&b.kind, &b.key)));
        Ok(items)
    }

    /// The items that may go: everything that `used` does not name and
    /// nobody asked for during `idle`.
    ///
    /// # Errors
    /// As [`Cache::list`].
    pub fn unused(&self, used: &CacheUse, idle: Duration) -> Result<Vec<CacheItem>, Error> {
        let now = SystemTime::now();
        let idle_long = |item: &CacheItem| {
            item.last_use
                .is_none_or(|t| now.duration_since(t).is_ok_and(|age| age >= idle))
        };
        let mut items = self.list()?;
        items.retain(|item| match item.state {
            ItemState::Stale => true,
            ItemState::Entry | ItemState::Work => !used.keys.contains(&item.key) && idle_long(item),
        });
        Ok(items)
    }

    /// Removes an item; `false` if a process is making it just now or has
    /// asked for it since it was listed.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be removed.
    pub fn remove(&self, item: &CacheItem) -> Result<bool, Error> {
        let lock_path = self.lock_path(&format!("{}-{}", item.kind, item.key));
        let lock = open_lock(&lock_path)?;
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        if item.state == ItemState::Entry {
            if item.last_use.is_some() && last_use(&lock_path) != item.last_use {
                return Ok(false);
            }
            // Out of sight first, so that nobody finds it half removed.
            let aside = self
                .root
                .join("tmp")
                .join(format!("{}-{}", item.kind, item.key));
            remove_tree(&aside)?;
            fs::rename(&item.path, &aside).map_err(Error::file("remove", &item.path))?;
            remove_tree(&aside)?;
        } else {
            remove_work(&item.path)?;
        }
        Ok(true)
    }
}

/// Removes unfinished work. That of a template build belongs to its
/// identities, so that an ordinary caller may need a namespace for it.
pub(super) fn remove_work(path: &Path) -> Result<(), Error> {
    remove_tree(path).or_else(|_| remove_leftovers(path).and_then(|()| remove_tree(path)))
}

/// When somebody asked for the entry with this lock.
fn last_use(lock: &Path) -> Option<SystemTime> {
    fs::metadata(lock).and_then(|meta| meta.modified()).ok()
}

fn split_name(path: &Path) -> Option<(String, Key)> {
    let stem = path.file_name()?.to_str()?.trim_end_matches(".old");
    let (kind, key) = stem.rsplit_once('-')?;
    Some((kind.to_owned(), Key::parse(key)?))
}

/// Bytes that a tree takes on disk; what cannot be read counts nothing.
pub(crate) fn bytes_on_disk(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = fs::symlink_metadata(path) else {
        return 0;
    };
    let own = meta.blocks() * 512;
    if !meta.is_dir() {
        return own;
    }
    let children = fs::read_dir(path).into_iter().flatten().flatten();
    children.fold(own, |sum, child| {
        sum.saturating_add(bytes_on_disk(&child.path()))
    })
}
