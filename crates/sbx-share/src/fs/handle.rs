//! Files and directories the guest has open.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

use super::host::{Name, cost_of_name};
use super::node::Node;

/// An open file.
pub(crate) struct OpenFile {
    pub(crate) node: Arc<Node>,
    /// The descriptor; a lock because the transport reads and writes through `&mut`.
    pub(crate) file: Mutex<File>,
    /// Whether writing through it was agreed.
    pub(crate) writable: bool,
    /// Whether it reads the host's file of a held name, to be replaced once there is a copy.
    pub(crate) lower: AtomicBool,
}

/// An open directory, with the names found when it was last read from its start.
pub(crate) struct OpenDir {
    pub(crate) node: Arc<Node>,
    pub(crate) listing: Mutex<Listing>,
}

/// Names of one directory at one moment.
pub(crate) struct Listing {
    names: Option<Arc<Vec<Name>>>,
    cost: usize,
    spent: Arc<AtomicUsize>,
}

impl Listing {
    /// What was found, if the directory was read.
    pub(crate) fn names(&self) -> Option<Arc<Vec<Name>>> {
        self.names.clone()
    }

    /// Keeps what was found instead of what was there.
    pub(crate) fn keep(&mut self, names: Vec<Name>, limit: usize) -> io::Result<Arc<Vec<Name>>> {
        self.drop_names();
        let cost = names.iter().map(|n| cost_of_name(&n.name)).sum();
        if self.spent.fetch_add(cost, Ordering::Relaxed) + cost > limit {
            self.spent.fetch_sub(cost, Ordering::Relaxed);
            return Err(Errno::NOMEM.into());
        }
        self.cost = cost;
        let names = Arc::new(names);
        self.names = Some(Arc::clone(&names));
        Ok(names)
    }

    fn drop_names(&mut self) {
        self.names = None;
        self.spent.fetch_sub(self.cost, Ordering::Relaxed);
        self.cost = 0;
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.drop_names();
    }
}

#[derive(Clone)]
enum Open {
    File(Arc<OpenFile>),
    Dir(Arc<OpenDir>),
}

/// All open files and directories.
pub(crate) struct Handles {
    open: RwLock<HashMap<u64, Open>>,
    next: AtomicU64,
    limit: usize,
    /// What all listings may cost together, in bytes.
    pub(crate) listing_limit: usize,
    spent: Arc<AtomicUsize>,
}

impl Handles {
    pub(crate) fn new(limit: usize, listing_limit: usize) -> Self {
        Self {
            open: RwLock::new(HashMap::new()),
            next: AtomicU64::new(1),
            limit,
            listing_limit,
            spent: Arc::new(AtomicUsize::new(0)),
        }
    }

    pub(crate) fn add_file(&self, file: OpenFile) -> io::Result<u64> {
        self.add(Open::File(Arc::new(file)))
    }

    pub(crate) fn add_dir(&self, node: Arc<Node>) -> io::Result<u64> {
        let listing = Mutex::new(Listing {
            names: None,
            cost: 0,
            spent: Arc::clone(&self.spent),
        });
        self.add(Open::Dir(Arc::new(OpenDir { node, listing })))
    }

    /// The open file `handle`, if it belongs to the inode `node`.
    pub(crate) fn file(&self, node: u64, handle: u64) -> io::Result<Arc<OpenFile>> {
        match self.open.read().get(&handle) {
            Some(Open::File(f)) if f.node.id == node => Ok(Arc::clone(f)),
            _ => Err(Errno::BADF.into()),
        }
    }

    /// The open directory `handle`, if it belongs to the inode `node`.
    pub(crate) fn dir(&self, node: u64, handle: u64) -> io::Result<Arc<OpenDir>> {
        match self.open.read().get(&handle) {
            Some(Open::Dir(d)) if d.node.id == node => Ok(Arc::clone(d)),
            _ => Err(Errno::BADF.into()),
        }
    }

    /// The inodes of all open files, one for each time one is open.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Arc<Node>> {
        let open = self.open.read();
        let files: Vec<_> = open
            .values()
            .filter_map(|what| match what {
                Open::File(file) => Some(Arc::clone(&file.node)),
                Open::Dir(_) => None,
            })
            .collect();
        files.into_iter()
    }

    pub(crate) fn close(&self, handle: u64) {
        let closed = self.open.write().remove(&handle);
        drop(closed);
    }

    pub(crate) fn clear(&self) {
        let closed = std::mem::take(&mut *self.open.write());
        drop(closed);
    }

    fn add(&self, what: Open) -> io::Result<u64> {
        let mut open = self.open.write();
        if open.len() >= self.limit {
            return Err(Errno::NFILE.into());
        }
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        open.insert(handle, what);
        Ok(handle)
    }
}
