//! Finding and listing names.

use std::collections::HashSet;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use fuse_backend_rs::api::filesystem::{Entry, ROOT_ID};
use libc::stat64;
use rustix::fs::{FileType, OFlags, Statx};
use rustix::io::Errno;

use super::host::{self, Name};
use super::node::{Backing, Birth, Key, Node, Place, borrow, device};
use super::owner::SET_ID;
use super::{BELIEF, ShareFs};
use crate::guard::shadow::join;
use crate::guard::{Verdict, Zone, pattern};

/// Set in inode numbers of files that are in the shadow, to keep them apart from the host's.
const SHADOW_INO: u64 = 1 << 62;

/// What a name in a directory leads to.
pub(super) enum Found {
    /// A file of the share.
    Host { fd: OwnedFd, zone: Zone },
    /// A held file.
    Held {
        upper: Option<OwnedFd>,
        lower: Option<OwnedFd>,
    },
}

impl Found {
    /// The descriptor that answers questions about it.
    pub(super) fn top(&self) -> io::Result<BorrowedFd<'_>> {
        match self {
            Found::Host { fd, .. } => Ok(fd.as_fd()),
            Found::Held { upper, lower } => upper
                .as_ref()
                .or(lower.as_ref())
                .map(AsFd::as_fd)
                .ok_or_else(|| Errno::NOENT.into()),
        }
    }
}

/// What the guard says of a name, with the file system asked where the name alone does not tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rule {
    /// Served from the share; if it is a directory, its inside lies in this zone.
    Open(Zone),
    /// Served from the shadow.
    Held,
    /// Open as a directory, whose inside lies in this zone; held as anything else.
    Dir(Zone),
}

/// Whether a name is one plain component.
pub(super) fn is_plain(name: &CStr) -> bool {
    let bytes = name.to_bytes();
    !matches!(bytes, b"" | b"." | b"..") && !bytes.contains(&b'/')
}

/// The file type a stat result carries.
pub(super) fn file_type(st: &Statx) -> FileType {
    FileType::from_raw_mode(u32::from(st.stx_mode))
}

impl ShareFs {
    /// The rule for the entry `name` of `parent`; `ENOENT` for names outside of a single-file
    /// share, `EINVAL` for what is no plain name.
    pub(super) fn rule(&self, parent: &Arc<Node>, name: &CStr) -> io::Result<Rule> {
        if !is_plain(name) {
            return Err(Errno::INVAL.into());
        }
        if parent.id == ROOT_ID && self.only.as_deref().is_some_and(|only| only != name) {
            return Err(Errno::NOENT.into());
        }
        let bytes = name.to_bytes();
        if parent.zone != Zone::Held
            && pattern::may_be_alias(bytes)
            && host::has_aliases(borrow(&parent.host()?))?
        {
            return Ok(Rule::Held);
        }
        let open = match self.patterns.judge(parent.zone, bytes) {
            Verdict::Held => return Ok(Rule::Held),
            Verdict::HeldUnlessDirectory(zone) => return Ok(Rule::Dir(zone)),
            Verdict::HeldIfBare if is_repository(borrow(&parent.host()?))? => {
                return Ok(Rule::Held);
            }
            Verdict::HeldIfNew(zone) => {
                let kind = host::entry_type(borrow(&parent.host()?), name)?;
                if kind != Some(FileType::Directory) {
                    return Ok(Rule::Held);
                }
                zone
            }
            Verdict::HeldIfBare => Zone::Free,
            Verdict::Open(zone) => zone,
        };
        if !self.patterns.asks_for_path(bytes) {
            return Ok(Rule::Open(open));
        }
        let path = join(&parent.path()?, name);
        Ok(match self.patterns.judge_path(open, &path) {
            Verdict::Held => Rule::Held,
            Verdict::HeldUnlessDirectory(zone) => Rule::Dir(zone),
            _ => Rule::Open(open),
        })
    }

    /// Finds the entry `name` of `parent`.
    pub(super) fn find(&self, parent: &Arc<Node>, name: &CStr) -> io::Result<Option<Found>> {
        self.find_by(self.rule(parent, name)?, parent, name)
    }

    fn find_by(&self, rule: Rule, parent: &Arc<Node>, name: &CStr) -> io::Result<Option<Found>> {
        match rule {
            Rule::Open(zone) => self.find_open(parent, name, zone),
            Rule::Held => self.find_held(parent, name),
            Rule::Dir(zone) => {
                let path = parent.path()?;
                if let Some(upper) = self.shadow.entry(&path, name)?
                    && file_type(&host::stat(upper.as_fd())?) != FileType::Directory
                {
                    let upper = Some(upper);
                    return Ok(Some(Found::Held { upper, lower: None }));
                }
                let found = self.find_open(parent, name, zone)?;
                match found {
                    Some(Found::Host { fd, .. })
                        if file_type(&host::stat(fd.as_fd())?) != FileType::Directory =>
                    {
                        if self.shadow.hides(&join(&path, name)) {
                            return Ok(None);
                        }
                        let lower = Some(fd);
                        Ok(Some(Found::Held { upper: None, lower }))
                    }
                    other => Ok(other),
                }
            }
        }
    }

    fn find_open(&self, parent: &Arc<Node>, name: &CStr, zone: Zone) -> io::Result<Option<Found>> {
        let Some(fd) = host::find_entry(borrow(&parent.host()?), name)? else {
            return Ok(None);
        };
        if self.shadow.hides_any() && self.is_hidden(parent, name, &host::stat(fd.as_fd())?)? {
            return Ok(None);
        }
        Ok(Some(Found::Host { fd, zone }))
    }

    /// Attributes of the entry `name` of `parent`, which no rule holds.
    pub(super) fn stat_open(&self, parent: &Arc<Node>, name: &CStr) -> io::Result<Option<Statx>> {
        match host::stat_entry(borrow(&parent.host()?), name)? {
            Some(st) if self.is_hidden(parent, name, &st)? => Ok(None),
            found => Ok(found),
        }
    }

    /// Whether the guest removed this directory, whose held entries the host keeps.
    fn is_hidden(&self, parent: &Arc<Node>, name: &CStr, st: &Statx) -> io::Result<bool> {
        Ok(self.shadow.hides_any()
            && file_type(st) == FileType::Directory
            && self.shadow.hides(&join(&parent.path()?, name)))
    }

    /// Finds a held entry in its two layers.
    pub(super) fn find_held(&self, parent: &Arc<Node>, name: &CStr) -> io::Result<Option<Found>> {
        let upper = match self.upper_of(parent)? {
            Some(dir) => host::find_entry(borrow(&dir), name)?,
            None => None,
        };
        let mut lower = match self.lower_of(parent)? {
            Some(dir) => host::find_entry(borrow(&dir), name)?,
            None => None,
        };
        if lower.is_some() && self.shadow.hides(&join(&parent.path()?, name)) {
            lower = None;
        }
        if let (Some(u), Some(l)) = (&upper, &lower) {
            let both_dirs = file_type(&host::stat(u.as_fd())?) == FileType::Directory
                && file_type(&host::stat(l.as_fd())?) == FileType::Directory;
            if !both_dirs {
                lower = None;
            }
        }
        if upper.is_none() && lower.is_none() {
            return Ok(None);
        }
        Ok(Some(Found::Held { upper, lower }))
    }

    /// The directory of the share behind `parent`, if it has one.
    pub(super) fn lower_of(&self, parent: &Arc<Node>) -> io::Result<Option<Arc<OwnedFd>>> {
        match parent.backing()? {
            Backing::Host(fd) => Ok(Some(fd)),
            Backing::Held { lower, .. } => Ok(lower),
        }
    }

    /// The directory of the shadow behind `parent`, if it has one.
    pub(super) fn upper_of(&self, parent: &Arc<Node>) -> io::Result<Option<Arc<OwnedFd>>> {
        match parent.backing()? {
            Backing::Host(_) => Ok(self.shadow.dir(&parent.path()?)?.map(Arc::new)),
            Backing::Held { upper, .. } => Ok(upper),
        }
    }

    /// Makes what was found an inode of the guest, counting one lookup.
    pub(super) fn enter(
        &self,
        parent: &Arc<Node>,
        name: &CStr,
        found: Found,
    ) -> io::Result<(Arc<Node>, Statx)> {
        let st = host::stat(found.top()?)?;
        let kind = file_type(&st);
        let place = Place {
            parent: Arc::clone(parent),
            name: name.into(),
        };
        let is_dir = kind == FileType::Directory;
        let (key, birth) = match found {
            Found::Host { fd, zone } => (
                Key::host(&st, zone),
                Birth {
                    stat: st,
                    zone: if is_dir { zone } else { parent.zone },
                    kind,
                    backing: Backing::Host(Arc::new(fd)),
                    place: Some(place),
                },
            ),
            Found::Held { upper, lower } => {
                let key = Key::Held {
                    parent: parent.id,
                    name: name.into(),
                };
                self.drop_stale(&key, &st)?;
                let birth = Birth {
                    stat: st,
                    zone: Zone::Held,
                    kind,
                    backing: Backing::Held {
                        upper: upper.map(Arc::new),
                        lower: lower.map(Arc::new),
                    },
                    place: Some(place),
                };
                (key, birth)
            }
        };
        Ok((self.nodes.intern(key, birth)?, st))
    }

    /// Parts with the inode of a held name if the name now leads to another file: the host put a
    /// new one there.
    fn drop_stale(&self, key: &Key, now: &Statx) -> io::Result<()> {
        let Some(node) = self.nodes.known(key) else {
            return Ok(());
        };
        let st = host::stat(borrow(&node.top()?))?;
        if (st.stx_ino, device(&st)) != (now.stx_ino, device(now)) {
            self.nodes.rekey(key, None);
        }
        Ok(())
    }

    /// The answer to a lookup: what `name` leads to, as an inode of the guest.
    pub(super) fn look_up(&self, parent: &Arc<Node>, name: &CStr) -> io::Result<Entry> {
        let rule = self.rule(parent, name)?;
        if let Rule::Open(zone) = rule {
            // What the guest knows already needs no descriptor.
            let st = self.stat_open(parent, name)?.ok_or(Errno::NOENT)?;
            if let Some(node) = self.nodes.seen_again(&Key::host(&st, zone), parent, name) {
                return Ok(self.entry(&node, &st));
            }
        }
        let found = self.find_by(rule, parent, name)?.ok_or(Errno::NOENT)?;
        let (node, st) = self.enter(parent, name, found)?;
        Ok(self.entry(&node, &st))
    }

    /// Whether the guest was told of this entry of `parent`, no directory, so lately that it will
    /// not ask again for a while.
    pub(super) fn was_told(&self, parent: &Node, name: &Name) -> bool {
        let node = self.nodes.known(&Key::Host {
            dev: parent.device(),
            ino: name.ino,
            zone: None,
        });
        node.is_some_and(|node| node.was_told_within(BELIEF / 2))
    }

    /// The message for one inode.
    pub(super) fn entry(&self, node: &Node, st: &Statx) -> Entry {
        node.tell();
        Entry {
            inode: node.id,
            generation: 0,
            attr: self.attributes(node, st),
            attr_flags: 0,
            attr_timeout: BELIEF,
            entry_timeout: BELIEF,
        }
    }

    /// The attributes the guest is told.
    pub(super) fn attributes(&self, node: &Node, st: &Statx) -> stat64 {
        let owner = self.owners.shown(st);
        let mut attr = Entry::default().attr;
        attr.st_ino = self.inode_number(st, node.upper().is_some());
        attr.st_mode = (u32::from(st.stx_mode) & !SET_ID) | owner.set_id;
        attr.st_uid = owner.uid;
        attr.st_gid = owner.gid;
        attr.st_nlink = u64::from(st.stx_nlink);
        attr.st_size = st.stx_size as i64;
        attr.st_blocks = st.stx_blocks as i64;
        attr.st_blksize = i64::from(st.stx_blksize);
        attr.st_rdev = rustix::fs::makedev(st.stx_rdev_major, st.stx_rdev_minor);
        attr.st_atime = st.stx_atime.tv_sec;
        attr.st_atime_nsec = i64::from(st.stx_atime.tv_nsec);
        attr.st_mtime = st.stx_mtime.tv_sec;
        attr.st_mtime_nsec = i64::from(st.stx_mtime.tv_nsec);
        attr.st_ctime = st.stx_ctime.tv_sec;
        attr.st_ctime_nsec = i64::from(st.stx_ctime.tv_nsec);
        attr
    }

    /// The inode number the guest is told: the host's for files of the share itself, so that
    /// what git noted about a file is true on both sides.
    fn inode_number(&self, st: &Statx, shadow: bool) -> u64 {
        let dev = device(st);
        if shadow {
            st.stx_ino | SHADOW_INO
        } else if dev == self.root_dev {
            st.stx_ino
        } else {
            // Another file system mounted inside the share may use the same numbers.
            st.stx_ino ^ (dev.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 2 & !0xffff_ffff)
        }
    }

    /// All names of a directory as the guest sees it.
    pub(super) fn list(&self, node: &Arc<Node>) -> io::Result<Vec<Name>> {
        let budget = self.limits.listings;
        let mut names = match self.lower_of(node)? {
            Some(dir) => host::names(self.open_dir(borrow(&dir))?, budget)?,
            None => Vec::new(),
        };
        if node.id == ROOT_ID
            && let Some(only) = &self.only
        {
            names.retain(|n| *n.name == **only);
        }
        let upper = match self.upper_of(node)? {
            Some(dir) => host::names(self.open_dir(borrow(&dir))?, budget)?,
            None => Vec::new(),
        };
        let hides = self.shadow.hides_any();
        if upper.is_empty() && !hides {
            return Ok(names);
        }
        if hides {
            let path = node.path()?;
            names.retain(|n| !self.shadow.hides(&join(&path, &n.name)));
        }
        self.merge(node, &mut names, upper)?;
        Ok(names)
    }

    /// Adds what the shadow has to what the share has.
    fn merge(&self, node: &Arc<Node>, names: &mut Vec<Name>, upper: Vec<Name>) -> io::Result<()> {
        let mut held = Vec::new();
        for mut name in upper {
            let is_held = match self.rule(node, &name.name) {
                Ok(Rule::Held) => true,
                Ok(Rule::Dir(_)) => name.kind != u32::from(libc::DT_DIR),
                // Structure: a directory of the share with held entries beneath.
                Ok(Rule::Open(_)) => false,
                Err(e) if host::is(&e, Errno::NOENT) => false,
                Err(e) => return Err(e),
            };
            if is_held {
                name.ino |= SHADOW_INO;
                held.push(name);
            }
        }
        let taken: HashSet<&CStr> = held.iter().map(|n| &*n.name).collect();
        names.retain(|n| !taken.contains(&*n.name));
        drop(taken);
        names.extend(held);
        Ok(())
    }

    fn open_dir(&self, fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        self.proc.reopen(fd, OFlags::RDONLY | OFlags::DIRECTORY)
    }
}

/// Whether git may take this directory for a repository. Nothing else tells: the guest could make
/// all the rest of one around a `HEAD` of the host, and the guard keeps it from making that.
fn is_repository(dir: BorrowedFd<'_>) -> io::Result<bool> {
    let head = host::entry_type(dir, c"HEAD")?;
    Ok(head.is_some_and(|kind| kind != FileType::Directory))
}
