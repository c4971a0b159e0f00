//! Renaming, which is where most ways around a guard would lead.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::{FileType, RenameFlags, Statx};
use rustix::io::Errno;

use super::ShareFs;
use super::entry::{Found, Rule, file_type};
use super::host;
use super::node::{Key, Node, Place, borrow, device};
use crate::guard::Zone;
use crate::guard::shadow::join;

/// One end of a rename: a directory and a name in it.
type End<'a> = (&'a Arc<Node>, &'a CStr);

impl ShareFs {
    /// Renames `old` to `new`. What would cross between held and open, or move a directory to
    /// where other names are held, is `EXDEV`: the caller then copies, name by name, and every
    /// name is judged.
    pub(super) fn rename_entry(&self, old: End<'_>, new: End<'_>, flags: u32) -> io::Result<()> {
        self.writable()?;
        let flags = RenameFlags::from_bits_retain(flags);
        if !(RenameFlags::NOREPLACE | RenameFlags::EXCHANGE).contains(flags)
            || flags.bits().count_ones() > 1
        {
            return Err(Errno::INVAL.into());
        }
        let _shape = self.shape.write();
        match (self.rule(old.0, old.1)?, self.rule(new.0, new.1)?) {
            (Rule::Open(from), Rule::Open(to)) => self.rename_open((old, from), (new, to), flags),
            (Rule::Held, Rule::Held) if flags.contains(RenameFlags::EXCHANGE) => {
                Err(Errno::INVAL.into())
            }
            (Rule::Held, Rule::Held) => {
                self.rename_held(old, new, flags.contains(RenameFlags::NOREPLACE))
            }
            _ => {
                // Absence is still reported as absence.
                self.find(old.0, old.1)?.ok_or(Errno::NOENT)?;
                Err(Errno::XDEV.into())
            }
        }
    }

    fn rename_open(
        &self,
        (old, from): (End<'_>, Zone),
        (new, to): (End<'_>, Zone),
        flags: RenameFlags,
    ) -> io::Result<()> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let source = self.stat_of(old)?.ok_or(Errno::NOENT)?;
        may_move(&source, (old, from), (new, to))?;
        let target = self.stat_of(new)?;
        let new_path = join(&new.0.path()?, new.1);
        let old_path = join(&old.0.path()?, old.1);
        if let Some(target) = &target {
            self.keep_open(target);
            if exchange {
                may_move(target, (new, to), (old, from))?;
            } else if is_dir(target) && old_path != new_path && self.shadow.has_any(&new_path)? {
                return Err(Errno::NOTEMPTY.into());
            }
        }
        if is_dir(&source) {
            self.shadow.may_follow(&old_path, &new_path)?;
            if self.shadow.has_any(&old_path)? {
                let above = self.shadow.cost_of_dir(&new.0.path()?)?;
                self.agree(above).map(drop)?;
            }
        }
        if exchange && target.as_ref().is_some_and(is_dir) {
            self.shadow.may_follow(&new_path, &old_path)?;
            if self.shadow.has_any(&new_path)? {
                let above = self.shadow.cost_of_dir(&old.0.path()?)?;
                self.agree(above).map(drop)?;
            }
        }
        host::rename(
            (borrow(&old.0.host()?), old.1),
            (borrow(&new.0.host()?), new.1),
            flags,
        )?;
        if exchange {
            if let Some(target) = &target {
                if is_dir(&source) || is_dir(target) {
                    self.shadow.follow_exchange(&old_path, &new_path)?;
                }
                self.note_move(target, from, old);
            }
        } else {
            if let Some(target) = target
                && (target.stx_ino, device(&target)) != (source.stx_ino, device(&source))
            {
                self.forget_owner_of_last_name(&target);
            }
            if is_dir(&source) && old_path != new_path {
                self.shadow.unhide_beneath(&new_path)?;
                self.shadow.follow_rename(&old_path, &new_path)?;
            }
        }
        self.note_move(&source, to, new);
        Ok(())
    }

    fn stat_of(&self, end: End<'_>) -> io::Result<Option<Statx>> {
        match self.find(end.0, end.1)? {
            Some(Found::Host { fd, .. }) => Ok(Some(host::stat(fd.as_fd())?)),
            Some(Found::Held { .. }) => Err(Errno::XDEV.into()),
            None => Ok(None),
        }
    }

    /// Tells an inode where it is now.
    fn note_move(&self, st: &Statx, zone: Zone, end: End<'_>) {
        let key = Key::Host {
            dev: device(st),
            ino: st.stx_ino,
            zone: is_dir(st).then_some(zone),
        };
        if let Some(node) = self.nodes.known(&key) {
            let place = Place {
                parent: Arc::clone(end.0),
                name: end.1.into(),
            };
            self.nodes.moved(&node, place);
        }
    }
}

/// Whether what `st` describes keeps its meaning at the other end.
fn may_move(
    st: &Statx,
    (old, from): (End<'_>, Zone),
    (new, to): (End<'_>, Zone),
) -> io::Result<()> {
    let crosses = match file_type(st) {
        // Its contents would be judged by other names than they were made under.
        FileType::Directory => from != to,
        // A link was judged as a neighbour of the names it was made beside.
        FileType::Symlink => (from.is_git() || to.is_git()) && old.0.id != new.0.id,
        _ => false,
    };
    if crosses {
        return Err(Errno::XDEV.into());
    }
    Ok(())
}

fn is_dir(st: &Statx) -> bool {
    file_type(st) == FileType::Directory
}
