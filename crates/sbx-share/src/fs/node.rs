//! The inodes the guest kernel knows, each bound to descriptors and never to a path.
//!
//! Owns the mapping from guest inode number to descriptor, its reference counts, and its bound.
//! The guest is trusted for nothing here: a wrong number is `EBADF`, a forged reference count
//! can only make its own inode vanish.

use std::collections::{HashMap, VecDeque};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use fuse_backend_rs::api::filesystem::ROOT_ID;
use parking_lot::{Mutex, RwLock};
use rustix::fs::{FileType, Statx, StatxFlags};
use rustix::io::Errno;

use super::host;
use crate::guard::Zone;

/// The longest path inside a share that the shadow will mirror, in bytes.
const PATH_MAX: usize = 64 * 1024;

/// What an inode is made of.
#[derive(Clone, Debug)]
pub(crate) enum Backing {
    /// A file of the share.
    Host(Arc<OwnedFd>),
    /// A held file: the shadow's copy if there is one, over the host's, which is only read.
    Held {
        upper: Option<Arc<OwnedFd>>,
        lower: Option<Arc<OwnedFd>>,
    },
}

impl Backing {
    /// The descriptor that answers questions about this inode.
    pub(crate) fn top(&self) -> io::Result<&Arc<OwnedFd>> {
        match self {
            Backing::Host(fd) => Ok(fd),
            Backing::Held { upper, lower } => upper
                .as_ref()
                .or(lower.as_ref())
                .ok_or_else(|| Errno::STALE.into()),
        }
    }
}

/// Where an inode was last seen: the path in the share is the path in the shadow, and a file whose
/// descriptor was closed is found again there.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) parent: Arc<Node>,
    pub(crate) name: Box<CStr>,
}

/// What makes two lookups the same inode.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Key {
    /// A host file; a directory also by what the guard says of its inside.
    Host {
        dev: u64,
        ino: u64,
        zone: Option<Zone>,
    },
    /// A held file: by name, because its two layers are different files.
    Held { parent: u64, name: Box<CStr> },
}

impl Key {
    /// Of a host file, whose inside lies in `zone` if it is a directory.
    pub(crate) fn host(st: &Statx, zone: Zone) -> Self {
        let is_dir = FileType::from_raw_mode(u32::from(st.stx_mode)) == FileType::Directory;
        Key::Host {
            dev: device(st),
            ino: st.stx_ino,
            zone: is_dir.then_some(zone),
        }
    }
}

/// Size and times of a file when it was last opened, to tell whether cached pages still hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    size: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
}

impl From<&Statx> for Version {
    fn from(st: &Statx) -> Self {
        Self {
            size: st.stx_size,
            mtime: (st.stx_mtime.tv_sec, st.stx_mtime.tv_nsec),
            ctime: (st.stx_ctime.tv_sec, st.stx_ctime.tv_nsec),
        }
    }
}

/// What tells one file from every other that ever had its inode number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Identity {
    dev: u64,
    ino: u64,
    born: (i64, u32),
}

impl From<&Statx> for Identity {
    fn from(st: &Statx) -> Self {
        let known = StatxFlags::from_bits_retain(st.stx_mask).contains(StatxFlags::BTIME);
        Self {
            dev: device(st),
            ino: st.stx_ino,
            born: if known {
                (st.stx_btime.tv_sec, st.stx_btime.tv_nsec)
            } else {
                (0, 0)
            },
        }
    }
}

/// The descriptors that may be closed and opened again: those of files that are not held.
///
/// The guest's kernel may know more files than this process may have descriptors. The ones not
/// used for longest are closed; each is found again by its one name in its directory's
/// descriptor, and only if it is still the same file.
#[derive(Debug)]
struct Pool {
    open: Mutex<VecDeque<Weak<Node>>>,
    budget: usize,
    /// Of removed files, which could not be found again by name.
    pinned: AtomicUsize,
    /// Of held files, which stay open.
    fixed: AtomicUsize,
    /// All inodes.
    live: AtomicUsize,
    begun: Instant,
}

impl Pool {
    /// Milliseconds since the table was made.
    fn age(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn admit(&self, node: Weak<Node>) {
        let mut open = self.open.lock();
        open.push_back(node);
        let mut looks = 2 * open.len();
        while open.len() > self.budget && looks > 0 {
            looks -= 1;
            let Some(oldest) = open.pop_front() else {
                return;
            };
            match oldest.upgrade() {
                None => {}
                Some(node) if node.used.swap(false, Ordering::Relaxed) => open.push_back(oldest),
                Some(node) => node.close(),
            }
        }
    }
}

/// One inode as the guest knows it.
#[derive(Debug)]
pub(crate) struct Node {
    /// The number the guest uses.
    pub(crate) id: u64,
    /// For a directory, what the guard says of its inside; else that of its directory.
    pub(crate) zone: Zone,
    /// The file type, which an inode never changes.
    pub(crate) kind: FileType,
    identity: Identity,
    /// `None` while its descriptor is closed.
    backing: RwLock<Option<Backing>>,
    used: AtomicBool,
    pinned: AtomicBool,
    me: Weak<Node>,
    place: RwLock<Option<Place>>,
    key: Mutex<Option<Key>>,
    lookups: AtomicU64,
    version: Mutex<Option<Version>>,
    /// When the guest was last told of it, in milliseconds of the table's age.
    told: AtomicU64,
    pool: Arc<Pool>,
}

impl Node {
    /// The current descriptors.
    pub(crate) fn backing(&self) -> io::Result<Backing> {
        self.used.store(true, Ordering::Relaxed);
        if let Some(backing) = &*self.backing.read() {
            return Ok(backing.clone());
        }
        self.reopen()
    }

    /// The descriptor that answers questions about this inode.
    pub(crate) fn top(&self) -> io::Result<Arc<OwnedFd>> {
        self.backing()?.top().cloned()
    }

    /// The descriptor of an open host file; held files have none that may be written through.
    pub(crate) fn host(&self) -> io::Result<Arc<OwnedFd>> {
        match self.backing()? {
            Backing::Host(fd) => Ok(fd),
            Backing::Held { .. } => Err(Errno::XDEV.into()),
        }
    }

    /// Keeps the descriptor of a file that is about to lose its name.
    pub(crate) fn pin(&self) -> io::Result<()> {
        if self.is_fixed() || self.pool.pinned.load(Ordering::Relaxed) >= self.pool.budget {
            return Ok(());
        }
        if !self.pinned.swap(true, Ordering::Relaxed) {
            self.pool.pinned.fetch_add(1, Ordering::Relaxed);
        }
        self.backing().map(drop)
    }

    /// Whether its descriptors stay open for as long as it lives.
    fn is_fixed(&self) -> bool {
        self.zone == Zone::Held || self.id == ROOT_ID
    }

    fn close(&self) {
        if !self.pinned.load(Ordering::Relaxed) {
            *self.backing.write() = None;
        }
    }

    /// Opens the closed directories from here up, uppermost first, so that nothing recurses as
    /// deep as a guest can nest directories.
    fn reopen_above(self: &Arc<Self>) -> io::Result<()> {
        let mut closed = Vec::new();
        let mut at = Arc::clone(self);
        while at.backing.read().is_none() {
            let above = at.place().ok_or(Errno::STALE)?.parent;
            closed.push(at);
            at = above;
        }
        // Kept open until the end of the loop by what it returns.
        let mut keep = None;
        while let Some(node) = closed.pop() {
            keep = Some(node.reopen_in_open_parent()?);
        }
        drop(keep);
        Ok(())
    }

    fn reopen(&self) -> io::Result<Backing> {
        if let Some(place) = self.place() {
            place.parent.reopen_above()?;
        }
        self.reopen_in_open_parent()
    }

    fn reopen_in_open_parent(&self) -> io::Result<Backing> {
        let place = self.place().ok_or(Errno::STALE)?;
        let dir = place.parent.host()?;
        let fd = host::find_entry(borrow(&dir), &place.name)?.ok_or(Errno::STALE)?;
        if Identity::from(&host::stat(fd.as_fd())?) != self.identity {
            return Err(Errno::STALE.into());
        }
        let opened = {
            let mut backing = self.backing.write();
            if let Some(already) = &*backing {
                return Ok(already.clone());
            }
            backing.insert(Backing::Host(Arc::new(fd))).clone()
        };
        self.pool.admit(self.me.clone());
        Ok(opened)
    }

    /// The shadow's copy, if this is a held file that has one.
    pub(crate) fn upper(&self) -> Option<Arc<OwnedFd>> {
        match &*self.backing.read() {
            Some(Backing::Held { upper, .. }) => upper.clone(),
            _ => None,
        }
    }

    /// Gives a held file its shadow copy, unless it got one meanwhile; returns the one it has.
    pub(crate) fn set_upper(&self, fd: OwnedFd) -> io::Result<Arc<OwnedFd>> {
        match &mut *self.backing.write() {
            Some(Backing::Held { upper, .. }) => {
                Ok(Arc::clone(upper.get_or_insert_with(|| Arc::new(fd))))
            }
            _ => Err(Errno::XDEV.into()),
        }
    }

    /// Whether this is a held file.
    pub(crate) fn is_held(&self) -> bool {
        matches!(&*self.backing.read(), Some(Backing::Held { .. }))
    }

    /// Notes that the guest is told of it now.
    pub(crate) fn tell(&self) {
        self.told.store(self.pool.age(), Ordering::Relaxed);
    }

    /// Whether the guest was told of it within this time.
    pub(crate) fn was_told_within(&self, time: Duration) -> bool {
        let told = self.told.load(Ordering::Relaxed);
        u128::from(self.pool.age().saturating_sub(told)) < time.as_millis()
    }

    /// The device it lies on.
    pub(crate) fn device(&self) -> u64 {
        self.identity.dev
    }

    /// Whether this is a directory.
    pub(crate) fn is_dir(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Where it was last seen.
    pub(crate) fn place(&self) -> Option<Place> {
        self.place.read().clone()
    }

    /// It was removed from its directory.
    pub(crate) fn detach(&self) {
        let old = self.place.write().take();
        drop(old);
    }

    /// The path in the share, components joined by slashes; empty for the root.
    pub(crate) fn path(self: &Arc<Self>) -> io::Result<Vec<u8>> {
        let mut names: Vec<Box<CStr>> = Vec::new();
        let mut length = 0;
        let mut at = Arc::clone(self);
        while at.id != ROOT_ID {
            // Removed from its directory: it has no path any more.
            let place = at.place().ok_or(Errno::STALE)?;
            length += place.name.count_bytes() + 1;
            if length > PATH_MAX {
                return Err(Errno::NAMETOOLONG.into());
            }
            names.push(place.name);
            at = place.parent;
        }
        let mut path = Vec::with_capacity(length);
        for name in names.iter().rev() {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
        }
        Ok(path)
    }

    /// Whether `other` is this directory or lies beneath it.
    fn contains(&self, other: &Arc<Node>) -> bool {
        let mut at = Some(Arc::clone(other));
        while let Some(node) = at {
            if node.id == self.id {
                return true;
            }
            at = node.place().map(|p| p.parent);
        }
        false
    }

    /// Remembers the state of the file at an open; true if it is as it was at the last one.
    pub(crate) fn unchanged_since_last_open(&self, now: Version) -> bool {
        self.version.lock().replace(now) == Some(now)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.pool.live.fetch_sub(1, Ordering::Relaxed);
        if self.is_fixed() {
            self.pool.fixed.fetch_sub(1, Ordering::Relaxed);
        }
        if *self.pinned.get_mut() {
            self.pool.pinned.fetch_sub(1, Ordering::Relaxed);
        }
        // By hand, because a chain of parents may be longer than a stack is deep.
        let mut next = self.place.get_mut().take();
        while let Some(place) = next {
            next = Arc::into_inner(place.parent).and_then(|mut node| node.place.get_mut().take());
        }
    }
}

/// What a new inode starts with.
pub(crate) struct Birth {
    pub(crate) stat: Statx,
    pub(crate) zone: Zone,
    pub(crate) kind: FileType,
    pub(crate) backing: Backing,
    pub(crate) place: Option<Place>,
}

#[derive(Default)]
struct Maps {
    by_id: HashMap<u64, Arc<Node>>,
    by_key: HashMap<Key, u64>,
}

/// Bounds of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodeLimits {
    /// Inodes.
    pub(crate) inodes: usize,
    /// Those among them that keep their descriptors open: held files.
    pub(crate) fixed: usize,
    /// Descriptors of other files that are open at a time, and of removed ones again as many.
    pub(crate) files: usize,
}

/// All inodes the guest knows.
pub(crate) struct Nodes {
    maps: RwLock<Maps>,
    next: AtomicU64,
    pool: Arc<Pool>,
    limits: NodeLimits,
    moves: Mutex<()>,
}

impl Nodes {
    /// A table with only the root (number 1).
    pub(crate) fn new(root: Birth, limits: NodeLimits) -> Self {
        let nodes = Self {
            maps: RwLock::new(Maps::default()),
            next: AtomicU64::new(ROOT_ID),
            pool: Arc::new(Pool {
                open: Mutex::new(VecDeque::new()),
                budget: limits.files,
                pinned: AtomicUsize::new(0),
                fixed: AtomicUsize::new(0),
                live: AtomicUsize::new(0),
                begun: Instant::now(),
            }),
            limits,
            moves: Mutex::new(()),
        };
        let node = nodes.make(root, None);
        nodes.maps.write().by_id.insert(node.id, node);
        nodes
    }

    /// The inode with this number.
    pub(crate) fn find(&self, id: u64) -> io::Result<Arc<Node>> {
        let maps = self.maps.read();
        maps.by_id
            .get(&id)
            .cloned()
            .ok_or_else(|| Errno::BADF.into())
    }

    /// The inode for `key`, made from `birth` if the guest does not know it; counts one lookup.
    pub(crate) fn intern(&self, key: Key, birth: Birth) -> io::Result<Arc<Node>> {
        let mut maps = self.maps.write();
        if let Some(node) = maps.by_key.get(&key).and_then(|id| maps.by_id.get(id)) {
            let node = Arc::clone(node);
            node.lookups.fetch_add(1, Ordering::Relaxed);
            drop(maps);
            // A directory may have been moved on the host since; the last look is right.
            if let Some(place) = birth.place {
                self.moved(&node, place);
            }
            return Ok(node);
        }
        if self.pool.live.load(Ordering::Relaxed) >= self.limits.inodes
            || self.pool.fixed.load(Ordering::Relaxed) >= self.limits.fixed
                && birth.zone == Zone::Held
        {
            return Err(Errno::NFILE.into());
        }
        let node = self.make(birth, Some(key.clone()));
        maps.by_key.insert(key, node.id);
        maps.by_id.insert(node.id, Arc::clone(&node));
        drop(maps);
        if !node.is_fixed() {
            self.pool.admit(Arc::downgrade(&node));
        }
        Ok(node)
    }

    /// The inode for `key`, found as `name` in `parent`, if the guest knows it; counts one lookup.
    pub(crate) fn seen_again(
        &self,
        key: &Key,
        parent: &Arc<Node>,
        name: &CStr,
    ) -> Option<Arc<Node>> {
        let node = {
            let maps = self.maps.read();
            let node = maps.by_key.get(key).and_then(|id| maps.by_id.get(id))?;
            node.lookups.fetch_add(1, Ordering::Relaxed);
            Arc::clone(node)
        };
        let stayed = {
            let place = node.place.read();
            let place = place.as_ref();
            place.is_some_and(|place| place.parent.id == parent.id && *place.name == *name)
        };
        if !stayed {
            let parent = Arc::clone(parent);
            let name = name.into();
            self.moved(&node, Place { parent, name });
        }
        Some(node)
    }

    /// Notes where an inode is now, unless that would put it beneath itself.
    pub(crate) fn moved(&self, node: &Arc<Node>, place: Place) {
        let _one_at_a_time = self.moves.lock();
        if !node.contains(&place.parent) {
            let old = node.place.write().replace(place);
            drop(old);
        }
    }

    /// The inode with this key, if the guest knows it. Counts nothing.
    pub(crate) fn known(&self, key: &Key) -> Option<Arc<Node>> {
        let maps = self.maps.read();
        maps.by_key
            .get(key)
            .and_then(|id| maps.by_id.get(id))
            .cloned()
    }

    /// The inodes of held files.
    pub(crate) fn held(&self) -> Vec<Arc<Node>> {
        let maps = self.maps.read();
        let held = maps.by_id.values().filter(|node| node.zone == Zone::Held);
        held.cloned().collect()
    }

    /// Makes the inode with key `old` answer to `new` from now on, or to nothing.
    pub(crate) fn rekey(&self, old: &Key, new: Option<Key>) {
        let mut maps = self.maps.write();
        if let Some(id) = new.as_ref().and_then(|k| maps.by_key.remove(k))
            && let Some(node) = maps.by_id.get(&id)
        {
            *node.key.lock() = None;
        }
        let Some(id) = maps.by_key.remove(old) else {
            return;
        };
        let Some(node) = maps.by_id.get(&id) else {
            return;
        };
        *node.key.lock() = new.clone();
        if let Some(new) = new {
            maps.by_key.insert(new, id);
        }
    }

    /// Takes `count` lookups back; at none the inode is gone.
    pub(crate) fn forget(&self, id: u64, count: u64) {
        if id == ROOT_ID {
            return;
        }
        let mut maps = self.maps.write();
        let Some(node) = maps.by_id.get(&id) else {
            return;
        };
        let left = node.lookups.load(Ordering::Relaxed).saturating_sub(count);
        node.lookups.store(left, Ordering::Relaxed);
        if left > 0 {
            return;
        }
        let gone = maps.by_id.remove(&id);
        let key = gone.as_ref().and_then(|n| n.key.lock().take());
        if let Some(key) = key
            && maps.by_key.get(&key) == Some(&id)
        {
            maps.by_key.remove(&key);
        }
        drop(maps);
        drop(gone);
    }

    /// Forgets everything but the root: the guest unmounted.
    pub(crate) fn clear(&self) {
        let mut maps = self.maps.write();
        maps.by_key.clear();
        let old = std::mem::take(&mut maps.by_id);
        let root = old.get(&ROOT_ID).cloned();
        maps.by_id.extend(root.map(|r| (r.id, r)));
        drop(maps);
        drop(old);
    }

    fn make(&self, birth: Birth, key: Option<Key>) -> Arc<Node> {
        let node = Arc::new_cyclic(|me| Node {
            id: self.next.fetch_add(1, Ordering::Relaxed),
            zone: birth.zone,
            kind: birth.kind,
            identity: Identity::from(&birth.stat),
            backing: RwLock::new(Some(birth.backing)),
            used: AtomicBool::new(false),
            pinned: AtomicBool::new(false),
            me: me.clone(),
            place: RwLock::new(birth.place),
            key: Mutex::new(key),
            lookups: AtomicU64::new(1),
            version: Mutex::new(None),
            told: AtomicU64::new(0),
            pool: Arc::clone(&self.pool),
        });
        self.pool.live.fetch_add(1, Ordering::Relaxed);
        if node.is_fixed() {
            self.pool.fixed.fetch_add(1, Ordering::Relaxed);
        }
        node
    }
}

/// The device number a stat result carries, as one value.
pub(crate) fn device(st: &Statx) -> u64 {
    rustix::fs::makedev(st.stx_dev_major, st.stx_dev_minor)
}

/// Borrows a shared descriptor.
pub(crate) fn borrow(fd: &Arc<OwnedFd>) -> BorrowedFd<'_> {
    fd.as_ref().as_fd()
}
