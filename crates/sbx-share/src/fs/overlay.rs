//! Held entries: the shadow's copy over the host's file, which is only ever read.
//!
//! **Invariant:** no descriptor made here from a lower layer is opened for writing.

use std::ffi::CStr;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use super::ShareFs;
use super::entry::{Found, file_type};
use super::host;
use super::node::{Backing, Key, Node, borrow};
use crate::guard::shadow::{Amount, join, open_dir};
use crate::held::HeldOp;

/// How deep held directories may nest.
const DEPTH_MAX: usize = 128;
/// Permission bits that a copy keeps.
const COPIED_MODE: u32 = 0o777;

impl ShareFs {
    /// The directory of the shadow in which entries of `parent` are made, made itself if missing.
    pub(super) fn upper_dir(&self, parent: &Arc<Node>) -> io::Result<Arc<OwnedFd>> {
        self.upper_dir_within(parent, DEPTH_MAX)
    }

    fn upper_dir_within(&self, parent: &Arc<Node>, depth: usize) -> io::Result<Arc<OwnedFd>> {
        if !parent.is_held() {
            let path = parent.path()?;
            let _room = self.agree(self.shadow.cost_of_dir(&path)?)?;
            return Ok(Arc::new(self.shadow.make_dir(&path)?));
        }
        if let Some(upper) = parent.upper() {
            return Ok(upper);
        }
        if !parent.is_dir() {
            return Err(Errno::NOTDIR.into());
        }
        let depth = depth.checked_sub(1).ok_or(Errno::NAMETOOLONG)?;
        let place = parent.place().ok_or(Errno::NOENT)?;
        let above = self.upper_dir_within(&place.parent, depth)?;
        let st = host::stat(borrow(&parent.top()?))?;
        let mode = Mode::from_raw_mode(u32::from(st.stx_mode) & COPIED_MODE) | Mode::RWXU;
        let _room = self.agree(Amount::entry(0))?;
        match host::mkdir(borrow(&above), &place.name, mode) {
            Err(e) if !host::is(&e, Errno::EXIST) => return Err(e),
            _ => {}
        }
        parent.set_upper(open_dir(borrow(&above), &place.name)?)
    }

    /// The shadow's copy of a held inode, made now if there is none. Without `contents` the copy
    /// of a file is empty.
    pub(super) fn copy_up(&self, node: &Arc<Node>, contents: bool) -> io::Result<Arc<OwnedFd>> {
        if let Some(upper) = node.upper() {
            return Ok(upper);
        }
        let place = node.place().ok_or(Errno::NOENT)?;
        self.announcer.changed(&node.path()?, HeldOp::Changed);
        if node.is_dir() {
            return self.upper_dir(node);
        }
        let dir = self.upper_dir(&place.parent)?;
        let lower = node.top()?;
        let st = host::stat(borrow(&lower))?;
        if contents && node.kind == FileType::RegularFile && st.stx_size > self.limits.held_file {
            return Err(Errno::FBIG.into());
        }
        let _room = self.agree(Amount::entry(if contents { st.stx_size } else { 0 }))?;
        let staged = match node.kind {
            FileType::RegularFile => {
                let mode = Mode::from_raw_mode(u32::from(st.stx_mode) & COPIED_MODE);
                let (mut file, staged) = self.shadow.stage_file(mode)?;
                if contents && let Err(e) = self.fill(&mut file, &lower, &st) {
                    self.shadow.discard(&staged);
                    return Err(e);
                }
                staged
            }
            FileType::Symlink => {
                let target = std::ffi::CString::new(host::readlink(borrow(&lower))?)?;
                self.shadow.stage_link(&target)?
            }
            _ => return Err(Errno::PERM.into()),
        };
        match self.shadow.place(&staged, borrow(&dir), &place.name) {
            Err(e) if !host::is(&e, Errno::EXIST) => return Err(e),
            _ => {}
        }
        let upper = node.set_upper(host::open_entry(borrow(&dir), &place.name)?)?;
        let shown = self.owners.shown(&st);
        self.owners.record(&host::stat(borrow(&upper))?, shown)?;
        Ok(upper)
    }

    fn fill(
        &self,
        copy: &mut std::fs::File,
        lower: &Arc<OwnedFd>,
        st: &rustix::fs::Statx,
    ) -> io::Result<()> {
        let source = self.proc.file(borrow(lower), OFlags::RDONLY)?;
        // No more than was agreed to, should the host's file grow meanwhile.
        io::copy(&mut source.take(st.stx_size), copy)?;
        let time = |t: &rustix::fs::StatxTimestamp| Timespec {
            tv_sec: t.tv_sec,
            tv_nsec: t.tv_nsec.into(),
        };
        Ok(rustix::fs::futimens(
            copy,
            &Timestamps {
                last_access: time(&st.stx_atime),
                last_modification: time(&st.stx_mtime),
            },
        )?)
    }

    /// Removes a held entry from the guest's view.
    pub(super) fn remove_held(
        &self,
        parent: &Arc<Node>,
        name: &CStr,
        found: &Found,
        directory: bool,
    ) -> io::Result<()> {
        let is_dir = file_type(&host::stat(found.top()?)?) == FileType::Directory;
        match (directory, is_dir) {
            (true, false) => return Err(Errno::NOTDIR.into()),
            (false, true) => return Err(Errno::ISDIR.into()),
            _ => {}
        }
        let Found::Held { upper, .. } = found else {
            return Err(Errno::XDEV.into());
        };
        if is_dir {
            self.held_is_empty(parent, name, found)?;
        }
        let path = join(&parent.path()?, name);
        // Covered by the lower entry even if the upper one hid it so far.
        if self.has_lower(parent, name)? {
            self.shadow.hide(&path, is_dir)?;
        }
        if upper.is_some()
            && let Some(dir) = self.upper_of(parent)?
        {
            if is_dir {
                host::rmdir(borrow(&dir), name)?;
            } else {
                host::unlink(borrow(&dir), name)?;
            }
        }
        self.detach_held(parent, name);
        if !parent.is_held() {
            self.shadow.prune(&parent.path()?)?;
        }
        self.announcer.changed(&path, HeldOp::Deleted);
        Ok(())
    }

    /// The inode at a held name has no name any more.
    pub(super) fn detach_held(&self, parent: &Arc<Node>, name: &CStr) {
        let key = Key::Held {
            parent: parent.id,
            name: name.into(),
        };
        if let Some(node) = self.nodes.known(&key) {
            self.nodes.rekey(&key, None);
            node.detach();
        }
    }

    /// Whether the host has an entry of this held name that the guest is to see.
    pub(super) fn has_lower(&self, parent: &Arc<Node>, name: &CStr) -> io::Result<bool> {
        let Some(dir) = self.lower_of(parent)? else {
            return Ok(false);
        };
        Ok(host::entry_type(borrow(&dir), name)?.is_some()
            && !self.shadow.hides(&join(&parent.path()?, name)))
    }

    /// `ENOTEMPTY` if the held directory shows any name.
    fn held_is_empty(&self, parent: &Arc<Node>, name: &CStr, found: &Found) -> io::Result<()> {
        let again = match found {
            Found::Held { upper, lower } => Found::Held {
                upper: upper.as_ref().map(|f| f.try_clone()).transpose()?,
                lower: lower.as_ref().map(|f| f.try_clone()).transpose()?,
            },
            Found::Host { .. } => return Err(Errno::XDEV.into()),
        };
        let (node, _) = self.enter(parent, name, again)?;
        let names = self.list(&node);
        self.nodes.forget(node.id, 1);
        if !names?.is_empty() {
            return Err(Errno::NOTEMPTY.into());
        }
        Ok(())
    }

    /// Renames between two held names, within the shadow.
    pub(super) fn rename_held(
        &self,
        old: (&Arc<Node>, &CStr),
        new: (&Arc<Node>, &CStr),
        no_replace: bool,
    ) -> io::Result<()> {
        let source = self.find_held(old.0, old.1)?.ok_or(Errno::NOENT)?;
        let (node, st) = self.enter(old.0, old.1, source)?;
        let done = self.rename_held_node(&node, file_type(&st), old, new, no_replace);
        self.nodes.forget(node.id, 1);
        done
    }

    fn rename_held_node(
        &self,
        node: &Arc<Node>,
        kind: FileType,
        old: (&Arc<Node>, &CStr),
        new: (&Arc<Node>, &CStr),
        no_replace: bool,
    ) -> io::Result<()> {
        let is_dir = kind == FileType::Directory;
        if is_dir && matches!(node.backing()?, Backing::Held { lower: Some(_), .. }) {
            // Its contents are spread over two layers: the caller copies instead.
            return Err(Errno::XDEV.into());
        }
        let (old_path, new_path) = (join(&old.0.path()?, old.1), join(&new.0.path()?, new.1));
        if old_path == new_path {
            return Ok(());
        }
        if let Some(target) = self.find_held(new.0, new.1)? {
            if no_replace {
                return Err(Errno::EXIST.into());
            }
            let onto_dir = file_type(&host::stat(target.top()?)?) == FileType::Directory;
            match (is_dir, onto_dir) {
                (true, false) => return Err(Errno::NOTDIR.into()),
                (false, true) => return Err(Errno::ISDIR.into()),
                (true, true) => self.remove_held(new.0, new.1, &target, true)?,
                (false, false) => {}
            }
        }
        self.copy_up(node, true)?;
        let to = self.upper_dir(new.0)?;
        let from = self.upper_of(old.0)?.ok_or(Errno::NOENT)?;
        let lower_left = self.has_lower(old.0, old.1)?;
        if is_dir && self.has_lower(new.0, new.1)? {
            self.shadow.hide(&new_path, true)?;
        }
        host::rename(
            (borrow(&from), old.1),
            (borrow(&to), new.1),
            rustix::fs::RenameFlags::empty(),
        )?;
        if lower_left {
            self.shadow.hide(&old_path, is_dir)?;
        }
        let key = |place: (&Arc<Node>, &CStr)| Key::Held {
            parent: place.0.id,
            name: place.1.into(),
        };
        if let Some(replaced) = self.nodes.known(&key(new)) {
            replaced.detach();
        }
        self.nodes.rekey(&key(old), Some(key(new)));
        self.nodes.moved(
            node,
            super::node::Place {
                parent: Arc::clone(new.0),
                name: new.1.into(),
            },
        );
        if !old.0.is_held() {
            self.shadow.prune(&old.0.path()?)?;
        }
        self.announcer.changed(&new_path, HeldOp::Changed);
        Ok(())
    }

    /// A new held entry: the directory of the shadow to make it in. `EEXIST` if the name is taken.
    pub(super) fn room_for_held(
        &self,
        parent: &Arc<Node>,
        name: &CStr,
    ) -> io::Result<Arc<OwnedFd>> {
        let taken = if parent.is_held() {
            self.find_held(parent, name)?
        } else {
            self.find(parent, name)?
        };
        if taken.is_some() {
            return Err(Errno::EXIST.into());
        }
        let dir = self.upper_dir(parent)?;
        self.agree(Amount::entry(0)).map(drop)?;
        self.announcer
            .changed(&join(&parent.path()?, name), HeldOp::Changed);
        Ok(dir)
    }

    /// What was just made at a held name.
    pub(super) fn made_held(&self, dir: &Arc<OwnedFd>, name: &CStr) -> io::Result<Found> {
        Ok(Found::Held {
            upper: Some(host::open_entry(dir.as_fd(), name)?),
            lower: None,
        })
    }
}
