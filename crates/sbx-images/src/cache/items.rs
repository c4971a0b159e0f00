//! What the cache holds, and the removal of what nobody uses.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;

use super::{Cache, Key, open_lock, remove_tree};
use crate::error::Error;
use crate::template::remove_leftovers;

/// Something in the cache that can be removed.
#[derive(Clone, Debug)]
pub struct CacheItem {
    /// `kernel`, `base`, `kit`, `initramfs`.
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

/// Whether an item is complete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ItemState {
    /// Complete.
    Entry,
    /// Unfinished work that the next attempt resumes.
    Work,
    /// Left over by a process that was killed; of no use.
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
                let last_use = fs::metadata(self.lock_path(&format!("{kind}-{key}")))
                    .and_then(|meta| meta.modified())
                    .ok();
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

    /// Removes an item; `false` if a process is making it just now.
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
            // Out of sight first, so that nobody finds it half removed.
            let aside = self
                .root
                .join("tmp")
                .join(format!("{}-{}", item.kind, item.key));
            remove_tree(&aside)?;
            fs::rename(&item.path, &aside).map_err(Error::file("remove", &item.path))?;
            remove_tree(&aside)?;
        } else {
            // The leftovers of a template build belong to its identities, so
            // that an ordinary caller may need a namespace to remove them.
            remove_tree(&item.path)
                .or_else(|_| remove_leftovers(&item.path).and_then(|()| remove_tree(&item.path)))?;
        }
        Ok(true)
    }
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
