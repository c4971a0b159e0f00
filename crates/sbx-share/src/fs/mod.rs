//! The file system that the guest sees: the share, with the guard's shadow laid over held names.
//!
//! Owns the inodes and handles of one guest. Trusts the guest for nothing; trusts the host's
//! kernel and the contents of the shadow directory's top level. The adapters (vhost-user-fs,
//! `/dev/fuse`) only carry messages; all behaviour is here, in four parts: [`entry`] finds and
//! lists, [`change`] creates, removes and renames, [`data`] reads, writes and sets attributes,
//! [`overlay`] keeps held files apart from the host's.

mod change;
mod data;
mod entry;
mod handle;
pub(crate) mod host;
mod node;
mod overlay;
mod owner;
mod rename;
mod service;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard};
use rustix::fs::FileType;
use rustix::io::Errno;
use sbx_spec::Access;

use crate::config::{ShareConfig, ShareLimits};
use crate::guard::shadow::{Amount, Shadow};
use crate::guard::{GuardPatterns, Zone};
use crate::held::{Announcer, HeldSink};
use handle::Handles;
use host::Proc;
use node::{Backing, Birth, NodeLimits, Nodes, borrow};
use owner::Owners;

/// How long the guest may believe names and attributes: the host's own changes are seen within
/// this time.
const BELIEF: Duration = Duration::from_millis(500);
/// Files and directories whose descriptors are kept at hand.
const MOST_OPEN_FILES: usize = 1 << 16;
/// Descriptors kept free for handles, memory regions and the program itself.
const RESERVED_DESCRIPTORS: usize = 512;

/// One share, served to one guest.
pub struct ShareFs {
    proc: Proc,
    nodes: Nodes,
    handles: Handles,
    patterns: GuardPatterns,
    shadow: Shadow,
    owners: Owners,
    announcer: Announcer,
    limits: ShareLimits,
    read_only: bool,
    only: Option<CString>,
    root_dev: u64,
    /// Held to write while the shape of the tree changes (renames and removals of directories
    /// and held entries), so that a path computed from inodes is the path it is used as.
    shape: RwLock<()>,
}

impl ShareFs {
    /// Serves `root`, with held names in `shadow` (both directory descriptors; `O_PATH` will do).
    ///
    /// Opens `/proc/self/fd`, so this comes before the jail. The process umask should be 0: the
    /// guest's kernel has applied the guest's.
    ///
    /// # Errors
    /// If one of the directories cannot be used, or the single file's name is not a plain name.
    pub fn new(
        config: &ShareConfig,
        root: OwnedFd,
        shadow: OwnedFd,
        sink: Box<dyn HeldSink>,
    ) -> io::Result<Self> {
        let only = config.file.clone().map(CString::new).transpose()?;
        if only.as_ref().is_some_and(|n| !entry::is_plain(n)) {
            return Err(Errno::INVAL.into());
        }
        let root_stat = host::stat(root.as_fd())?;
        let shadow_stat = host::stat(shadow.as_fd())?;
        let root_dev = node::device(&root_stat);
        let shadow = Shadow::open(shadow, &config.limits)?;
        let owners = Owners::open(
            shadow.base(),
            config.limits.owners,
            config.squash,
            [root_dev, node::device(&shadow_stat)],
        )?;
        let birth = Birth {
            stat: root_stat,
            zone: if config.inside_git {
                Zone::GitRoot
            } else {
                Zone::Free
            },
            kind: FileType::from_raw_mode(u32::from(root_stat.stx_mode)),
            backing: Backing::Host(Arc::new(root)),
            place: None,
        };
        if birth.kind != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        let mut limits = config.limits;
        let inodes = fit_descriptors(&mut limits);
        Ok(Self {
            proc: Proc::open()?,
            nodes: Nodes::new(birth, inodes),
            handles: Handles::new(limits.handles, limits.listings),
            patterns: config.guard.clone(),
            shadow,
            owners,
            announcer: Announcer::new(sink),
            limits,
            read_only: config.access == Access::ReadOnly,
            only,
            root_dev,
            shape: RwLock::new(()),
        })
    }

    /// Agrees to keep `more` in the shadow; it is to be made before the guard is dropped, and
    /// nothing else is to be agreed to until then. `ENOSPC` if there is no room.
    fn agree(&self, more: Amount) -> io::Result<RwLockReadGuard<'_, ()>> {
        self.shadow.agree(more, || {
            let mut open = self.nodes.held();
            open.extend(self.handles.nodes().filter(|node| node.is_held()));
            open.sort_by_key(|node| node.id);
            open.dedup_by_key(|node| node.id);
            let mut sum = Amount::default();
            for upper in open.iter().filter_map(|node| node.upper()) {
                let st = host::stat(borrow(&upper))?;
                if st.stx_nlink == 0 {
                    sum += Amount::entry(st.stx_size);
                }
            }
            Ok(sum)
        })
    }

    /// Refuses every change of a read-only share.
    fn writable(&self) -> io::Result<()> {
        if self.read_only {
            return Err(Errno::ROFS.into());
        }
        Ok(())
    }
}

/// Shares the descriptors of the process out, so that a greedy guest runs into limits of ours and
/// not into the kernel's, where it would take the server down with it.
fn fit_descriptors(limits: &mut ShareLimits) -> NodeLimits {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(usize::MAX)
        .saturating_sub(RESERVED_DESCRIPTORS);
    limits.handles = limits.handles.min(most / 4);
    NodeLimits {
        inodes: limits.inodes,
        // A held file costs two; few are held.
        fixed: most / 8,
        files: (most / 4).clamp(1, MOST_OPEN_FILES),
    }
}
