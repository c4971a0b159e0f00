//! Making and removing entries.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use fuse_backend_rs::api::filesystem::{Context, Entry};
use rustix::fs::{FileType, Mode, OFlags, Statx};
use rustix::io::Errno;

use super::ShareFs;
use super::entry::{Found, Rule, file_type};
use super::host;
use super::node::{Key, Node, borrow, device};
use super::owner::{Owner, SET_ID};
use crate::guard::Zone;
use crate::guard::shadow::join;

/// Permission bits that reach a host file: set-id bits are only recorded.
pub(super) const HOST_MODE: u32 = 0o1777;

/// Where a new entry is made.
pub(super) enum Room {
    /// In the share.
    Host(Arc<OwnedFd>, Zone),
    /// In the shadow.
    Held(Arc<OwnedFd>),
}

impl Room {
    pub(super) fn dir(&self) -> &Arc<OwnedFd> {
        match self {
            Room::Host(dir, _) | Room::Held(dir) => dir,
        }
    }
}

/// The permission bits a new host file gets.
pub(super) fn host_mode(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & HOST_MODE)
}

impl ShareFs {
    /// Where the new entry `name`, not a directory, is to be made.
    pub(super) fn room(&self, parent: &Arc<Node>, name: &CStr) -> io::Result<Room> {
        match self.rule(parent, name)? {
            Rule::Open(zone) => Ok(Room::Host(parent.host()?, zone)),
            Rule::Held | Rule::Dir(_) => Ok(Room::Held(self.room_for_held(parent, name)?)),
        }
    }

    /// What was just made in `room`.
    pub(super) fn made(&self, room: &Room, name: &CStr) -> io::Result<Found> {
        match room {
            Room::Host(dir, zone) => Ok(Found::Host {
                fd: host::open_entry(borrow(dir), name)?,
                zone: *zone,
            }),
            Room::Held(dir) => self.made_held(dir, name),
        }
    }

    /// Enters what was made and records whose it is.
    pub(super) fn settle(
        &self,
        ctx: &Context,
        parent: &Arc<Node>,
        name: &CStr,
        found: Found,
        mode: u32,
    ) -> io::Result<(Arc<Node>, Statx)> {
        let (node, st) = self.enter(parent, name, found)?;
        let above = self.owners.shown(&host::stat(borrow(&parent.top()?))?);
        let inherits = above.set_id & libc::S_ISGID != 0;
        let mut set_id = mode & SET_ID;
        if inherits && node.is_dir() {
            set_id |= libc::S_ISGID;
        }
        let owner = Owner {
            uid: ctx.uid,
            gid: if inherits { above.gid } else { ctx.gid },
            set_id,
        };
        if let Err(e) = self.owners.record(&st, owner) {
            self.nodes.forget(node.id, 1);
            return Err(e);
        }
        Ok((node, st))
    }

    pub(super) fn make_dir(
        &self,
        ctx: &Context,
        parent: &Arc<Node>,
        name: &CStr,
        mode: u32,
    ) -> io::Result<Entry> {
        self.writable()?;
        let _shape = self.shape.read();
        let found = match self.rule(parent, name)? {
            Rule::Open(zone) => self.make_host_dir(parent, name, mode, zone)?,
            Rule::Dir(zone) => {
                if self.find(parent, name)?.is_some() {
                    return Err(Errno::EXIST.into());
                }
                self.make_host_dir(parent, name, mode, zone)?
            }
            Rule::Held => {
                let dir = self.room_for_held(parent, name)?;
                // The owner bits keep the store manageable for the server itself.
                host::mkdir(borrow(&dir), name, host_mode(mode) | Mode::RWXU)?;
                self.made_held(&dir, name)?
            }
        };
        let (node, st) = self.settle(ctx, parent, name, found, mode)?;
        Ok(self.entry(&node, &st))
    }

    fn make_host_dir(
        &self,
        parent: &Arc<Node>,
        name: &CStr,
        mode: u32,
        zone: Zone,
    ) -> io::Result<Found> {
        let dir = parent.host()?;
        match host::mkdir(borrow(&dir), name, host_mode(mode)) {
            Ok(()) => {}
            // The guest removed it, but held files of the host are still in it.
            Err(e) if host::is(&e, Errno::EXIST) && self.shadow.hides_any() => {
                let is_dir = host::entry_type(borrow(&dir), name)? == Some(FileType::Directory);
                if !is_dir || !self.shadow.unhide(&join(&parent.path()?, name))? {
                    return Err(e);
                }
            }
            Err(e) => return Err(e),
        }
        let fd = host::open_entry(borrow(&dir), name)?;
        Ok(Found::Host { fd, zone })
    }

    pub(super) fn make_node(
        &self,
        ctx: &Context,
        parent: &Arc<Node>,
        name: &CStr,
        mode: u32,
    ) -> io::Result<Entry> {
        self.writable()?;
        let kind = match mode & libc::S_IFMT {
            0 | libc::S_IFREG => FileType::RegularFile,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            _ => return Err(Errno::PERM.into()),
        };
        let _shape = self.shape.read();
        let room = self.room(parent, name)?;
        host::mknod(borrow(room.dir()), name, kind, host_mode(mode))?;
        let found = self.made(&room, name)?;
        let (node, st) = self.settle(ctx, parent, name, found, mode)?;
        Ok(self.entry(&node, &st))
    }

    pub(super) fn make_link(
        &self,
        ctx: &Context,
        parent: &Arc<Node>,
        name: &CStr,
        target: &CStr,
    ) -> io::Result<Entry> {
        self.writable()?;
        let _shape = self.shape.read();
        let room = self.room(parent, name)?;
        if matches!(room, Room::Host(..))
            && parent.zone.is_git()
            && !self.patterns.is_harmless_git_link(target.to_bytes())
        {
            return Err(Errno::PERM.into());
        }
        host::symlink(target, borrow(room.dir()), name)?;
        let found = self.made(&room, name)?;
        let (node, st) = self.settle(ctx, parent, name, found, 0)?;
        Ok(self.entry(&node, &st))
    }

    /// Makes a regular file and opens it.
    pub(super) fn make_file(
        &self,
        ctx: &Context,
        parent: &Arc<Node>,
        name: &CStr,
        flags: OFlags,
        mode: u32,
    ) -> io::Result<(Arc<Node>, Statx, File)> {
        self.writable()?;
        let _shape = self.shape.read();
        let room = self.room(parent, name)?;
        let file = host::create(borrow(room.dir()), name, flags, host_mode(mode))?;
        // From the open file and not by name: the host may have put another there since.
        let fd = self.proc.reopen(file.as_fd(), OFlags::PATH)?;
        let found = match room {
            Room::Host(_, zone) => Found::Host { fd, zone },
            Room::Held(_) => Found::Held {
                upper: Some(fd),
                lower: None,
            },
        };
        let (node, st) = self.settle(ctx, parent, name, found, mode)?;
        Ok((node, st, file))
    }

    /// Gives a file one more name.
    pub(super) fn add_name(
        &self,
        node: &Arc<Node>,
        parent: &Arc<Node>,
        name: &CStr,
    ) -> io::Result<Entry> {
        self.writable()?;
        let _shape = self.shape.read();
        let Rule::Open(zone) = self.rule(parent, name)? else {
            return Err(Errno::XDEV.into());
        };
        if node.is_held() || (node.kind == FileType::Symlink && parent.zone.is_git()) {
            return Err(Errno::XDEV.into());
        }
        if node.is_dir() {
            return Err(Errno::PERM.into());
        }
        let dir = parent.host()?;
        self.proc.link(node.host()?.as_fd(), borrow(&dir), name)?;
        let found = self.made(&Room::Host(dir, zone), name)?;
        let (node, st) = self.enter(parent, name, found)?;
        Ok(self.entry(&node, &st))
    }

    /// Removes an entry that is no directory.
    pub(super) fn remove_file(&self, parent: &Arc<Node>, name: &CStr) -> io::Result<()> {
        self.writable()?;
        let _shape = self.shape.write();
        let st = match self.rule(parent, name)? {
            Rule::Open(_) => self.stat_open(parent, name)?.ok_or(Errno::NOENT)?,
            Rule::Held | Rule::Dir(_) => match self.find(parent, name)?.ok_or(Errno::NOENT)? {
                Found::Host { fd, .. } => host::stat(fd.as_fd())?,
                found @ Found::Held { .. } => {
                    return self.remove_held(parent, name, &found, false);
                }
            },
        };
        self.keep_open(&st);
        host::unlink(borrow(&parent.host()?), name)?;
        self.forget_owner_of_last_name(&st);
        Ok(())
    }

    /// Removes an empty directory.
    pub(super) fn remove_dir(&self, parent: &Arc<Node>, name: &CStr) -> io::Result<()> {
        self.writable()?;
        let _shape = self.shape.write();
        let found = self.find(parent, name)?.ok_or(Errno::NOENT)?;
        let Found::Host { fd, zone } = found else {
            return self.remove_held(parent, name, &found, true);
        };
        let st = host::stat(fd.as_fd())?;
        if file_type(&st) != FileType::Directory {
            return Err(Errno::NOTDIR.into());
        }
        let path = join(&parent.path()?, name);
        if self.shadow.has_any(&path)? {
            return Err(Errno::NOTEMPTY.into());
        }
        match host::rmdir(borrow(&parent.host()?), name) {
            Ok(()) => {
                self.shadow.unhide_beneath(&path)?;
                self.owners.forget(&st);
            }
            // Only held entries are left, which the guest deleted and the host keeps.
            Err(e) if host::is(&e, Errno::NOTEMPTY) && self.shadow.hides_beneath(&path) => {
                let (node, _) = self.enter(parent, name, Found::Host { fd, zone })?;
                let names = self.list(&node);
                self.nodes.forget(node.id, 1);
                if !names?.is_empty() {
                    return Err(e);
                }
                return self.shadow.hide(&path, false);
            }
            Err(e) => return Err(e),
        }
        if let Some(node) = self.nodes.known(&Key::host(&st, zone)) {
            node.detach();
        }
        Ok(())
    }

    /// The file is about to lose a name by which its inode could be found again.
    pub(super) fn keep_open(&self, st: &Statx) {
        let key = Key::Host {
            dev: device(st),
            ino: st.stx_ino,
            zone: None,
        };
        if let Some(node) = self.nodes.known(&key)
            && let Err(e) = node.pin()
        {
            // Its other name is gone too: whoever still has it open reads through that.
            log::debug!("cannot keep a removed file at hand: {e}");
        }
    }

    /// Drops the record of a file whose last name was just removed.
    pub(super) fn forget_owner_of_last_name(&self, before: &Statx) {
        if before.stx_nlink <= 1 {
            self.owners.forget(before);
        }
    }
}
