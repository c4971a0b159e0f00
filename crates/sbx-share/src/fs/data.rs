//! Contents, attributes and extended attributes.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fuse_backend_rs::api::filesystem::{
    Entry, GetxattrReply, ListxattrReply, OpenOptions, SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use libc::stat64;
use parking_lot::{Mutex, RwLockReadGuard};
use rustix::fs::{
    FallocateFlags, FileType, OFlags, SeekFrom, Statx, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT,
    XattrFlags,
};
use rustix::io::Errno;

use super::ShareFs;
use super::change::{HOST_MODE, host_mode};
use super::handle::OpenFile;
use super::host;
use super::node::{Node, Version, borrow};
use super::owner::SET_ID;
use crate::guard::shadow::Amount;

/// The only extended attributes served; all others carry rights or belong to the host.
const USER_XATTR: &[u8] = b"user.";
/// The way of giving room back that leaves the length as it is.
const PUNCH_HOLE: FallocateFlags = FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE);
/// The longest extended attribute name Linux knows, in bytes.
const XATTR_NAME_MAX: usize = 255;

impl ShareFs {
    /// Opens a regular file; returns the handle and whether cached pages still hold.
    pub(super) fn open_file(
        &self,
        node: &Arc<Node>,
        flags: u32,
        kill_set_id: bool,
    ) -> io::Result<(u64, OpenOptions)> {
        match node.kind {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Errno::ISDIR.into()),
            // Opening a FIFO or device here would act on the host's.
            _ => return Err(Errno::NXIO.into()),
        }
        let flags = open_flags(flags);
        let truncate = flags.contains(OFlags::TRUNC);
        let write = flags.intersects(OFlags::WRONLY | OFlags::RDWR) || truncate;
        let _shape = self.shape.read();
        let fd = if write {
            self.writable()?;
            self.for_writing(node, !truncate)?
        } else {
            node.top()?
        };
        let file = self.proc.file(borrow(&fd), flags)?;
        let st = host::stat(file.as_fd())?;
        if write && kill_set_id {
            self.drop_set_id(&st)?;
        }
        let options = if !truncate && node.unchanged_since_last_open(Version::from(&st)) {
            OpenOptions::KEEP_CACHE
        } else {
            OpenOptions::empty()
        };
        Ok((self.add_open(node, file, write)?, options))
    }

    /// Registers an open file.
    pub(super) fn add_open(
        &self,
        node: &Arc<Node>,
        file: std::fs::File,
        writable: bool,
    ) -> io::Result<u64> {
        self.handles.add_file(OpenFile {
            node: Arc::clone(node),
            file: Mutex::new(file),
            writable,
            lower: AtomicBool::new(!writable && node.is_held() && node.upper().is_none()),
        })
    }

    /// The descriptor behind which `node` may be changed: the share's file, or the shadow's copy.
    fn for_writing(&self, node: &Arc<Node>, contents: bool) -> io::Result<Arc<OwnedFd>> {
        self.writable()?;
        if node.is_held() {
            self.copy_up(node, contents)
        } else {
            node.host()
        }
    }

    pub(super) fn read_file(
        &self,
        open: &OpenFile,
        to: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
    ) -> io::Result<usize> {
        let mut file = open.file.lock();
        if open.lower.load(Ordering::Relaxed)
            && let Some(upper) = open.node.upper()
        {
            *file = self.proc.file(borrow(&upper), OFlags::RDONLY)?;
            open.lower.store(false, Ordering::Relaxed);
        }
        let wanted = (size as usize).min(to.available_bytes());
        let mut done = 0;
        while done < wanted {
            let at = offset.checked_add(done as u64).ok_or(Errno::INVAL)?;
            match to.write_from(&mut *file, wanted - done, at) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    pub(super) fn write_file(
        &self,
        open: &OpenFile,
        from: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        kill_set_id: bool,
    ) -> io::Result<usize> {
        let mut file = writable_file(open)?;
        let wanted = size as usize;
        let _room = self.room_to_grow(&open.node, &*file, offset, size.into())?;
        let mut done = 0;
        while done < wanted {
            let at = offset.checked_add(done as u64).ok_or(Errno::FBIG)?;
            match from.read_to(&mut *file, wanted - done, at) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
        }
        if kill_set_id {
            self.drop_set_id(&host::stat(file.as_fd())?)?;
        }
        Ok(done)
    }

    pub(super) fn allocate(
        &self,
        open: &OpenFile,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let file = writable_file(open)?;
        let mode = FallocateFlags::from_bits_retain(mode);
        if open.node.is_held() && !(mode.is_empty() || mode == PUNCH_HOLE) {
            // Would take room beyond the length, which is what is counted.
            return Err(Errno::OPNOTSUPP.into());
        }
        let _room = self.room_to_grow(&open.node, &*file, offset, length)?;
        Ok(rustix::fs::fallocate(&*file, mode, offset, length)?)
    }

    /// Room for `length` bytes at `offset` in the shadow, if that is where the file is; they are
    /// to be written before the guard is dropped.
    fn room_to_grow(
        &self,
        node: &Node,
        file: impl AsFd,
        offset: u64,
        length: u64,
    ) -> io::Result<Option<RwLockReadGuard<'_, ()>>> {
        if !node.is_held() {
            return Ok(None);
        }
        let size = host::stat(file.as_fd())?.stx_size;
        let end = offset.checked_add(length).ok_or(Errno::FBIG)?;
        let bytes = if rustix::fs::fcntl_getfl(file)?.contains(OFlags::APPEND) {
            length
        } else {
            end.saturating_sub(size)
        };
        self.agree(Amount { bytes, entries: 0 }).map(Some)
    }

    pub(super) fn seek(&self, open: &OpenFile, offset: u64, whence: u32) -> io::Result<u64> {
        let to = match i32::try_from(whence) {
            Ok(libc::SEEK_DATA) => SeekFrom::Data(offset),
            Ok(libc::SEEK_HOLE) => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL.into()),
        };
        Ok(rustix::fs::seek(&*open.file.lock(), to)?)
    }

    pub(super) fn sync(&self, open: &OpenFile, data_only: bool) -> io::Result<()> {
        // A duplicate, so that reads do not wait for the disk.
        let file = open.file.lock().try_clone()?;
        if data_only {
            file.sync_data()
        } else {
            file.sync_all()
        }
    }

    /// The attributes of an inode now.
    pub(super) fn attributes_now(&self, node: &Node) -> io::Result<stat64> {
        let st = host::stat(borrow(&node.top()?))?;
        Ok(self.attributes(node, &st))
    }

    /// Changes attributes; `handle` is the open file through which a size is set, if any.
    pub(super) fn set_attributes(
        &self,
        node: &Arc<Node>,
        wanted: &stat64,
        handle: Option<Arc<OpenFile>>,
        valid: SetattrValid,
    ) -> io::Result<stat64> {
        self.writable()?;
        let _shape = self.shape.read();
        let keeps = !(valid.contains(SetattrValid::SIZE) && wanted.st_size == 0);
        let fd = self.for_writing(node, keeps)?;
        if valid.contains(SetattrValid::MODE) {
            self.set_mode(&fd, wanted.st_mode)?;
        }
        if valid.intersects(SetattrValid::UID | SetattrValid::GID) {
            let uid = valid.contains(SetattrValid::UID).then_some(wanted.st_uid);
            let gid = valid.contains(SetattrValid::GID).then_some(wanted.st_gid);
            self.set_owner(node, &fd, uid, gid)?;
        }
        if valid.contains(SetattrValid::SIZE) {
            let size = u64::try_from(wanted.st_size).map_err(|_| Errno::INVAL)?;
            // An open file's lock comes before the room for it, as when it is written.
            match &handle {
                Some(open) => {
                    let file = writable_file(open)?;
                    let _room = self.room_to_grow(node, &*file, size, 0)?;
                    rustix::fs::ftruncate(&*file, size)?;
                }
                None if node.kind == FileType::RegularFile => {
                    let _room = self.room_to_grow(node, fd.as_ref(), size, 0)?;
                    rustix::fs::ftruncate(self.proc.file(borrow(&fd), OFlags::WRONLY)?, size)?;
                }
                None => return Err(Errno::INVAL.into()),
            }
        }
        if valid.intersects(SetattrValid::ATIME | SetattrValid::MTIME) {
            self.proc.utimens(borrow(&fd), &times(wanted, valid))?;
        }
        if valid.contains(SetattrValid::KILL_SUIDGID) {
            self.drop_set_id(&host::stat(borrow(&fd))?)?;
        }
        self.attributes_now(node)
    }

    fn set_mode(&self, fd: &Arc<OwnedFd>, mode: u32) -> io::Result<()> {
        let before = host::stat(borrow(fd))?;
        let mut owner = self.owners.shown(&before);
        let old = u32::from(before.stx_mode);
        if old & HOST_MODE != mode & HOST_MODE || old & SET_ID != 0 {
            // A set-group-id directory of the host keeps that bit if the guest agrees.
            let kept = if old & libc::S_IFMT == libc::S_IFDIR {
                rustix::fs::Mode::from_raw_mode(old & mode & libc::S_ISGID)
            } else {
                rustix::fs::Mode::empty()
            };
            self.proc.chmod(borrow(fd), host_mode(mode) | kept)?;
        }
        owner.set_id = mode & SET_ID;
        self.owners.record(&host::stat(borrow(fd))?, owner)
    }

    fn set_owner(
        &self,
        node: &Node,
        fd: &Arc<OwnedFd>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> io::Result<()> {
        let st = host::stat(borrow(fd))?;
        let mut owner = self.owners.shown(&st);
        owner.uid = uid.unwrap_or(owner.uid);
        owner.gid = gid.unwrap_or(owner.gid);
        if node.kind == FileType::RegularFile {
            owner.set_id = without_set_id(u32::from(st.stx_mode), owner.set_id);
        }
        self.owners.record(&st, owner)
    }

    /// A write takes the set-id bits away, as on any local file system.
    fn drop_set_id(&self, st: &Statx) -> io::Result<()> {
        let mut owner = self.owners.shown(st);
        let left = without_set_id(u32::from(st.stx_mode), owner.set_id);
        if left == owner.set_id {
            return Ok(());
        }
        owner.set_id = left;
        self.owners.record(st, owner)
    }

    pub(super) fn set_xattr(
        &self,
        node: &Arc<Node>,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        self.writable()?;
        self.serves_xattr(node, name)?;
        if value.len() > self.limits.xattr {
            return Err(Errno::NOSPC.into());
        }
        if node.is_held() {
            // The store counts no attributes, so it keeps none.
            return Err(Errno::OPNOTSUPP.into());
        }
        let _shape = self.shape.read();
        let fd = self.for_writing(node, true)?;
        let file = self.proc.reopen(borrow(&fd), OFlags::RDONLY)?;
        let flags = XattrFlags::from_bits_truncate(flags);
        Ok(rustix::fs::fsetxattr(file, name, value, flags)?)
    }

    pub(super) fn get_xattr(
        &self,
        node: &Node,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        self.serves_xattr(node, name)?;
        let file = self.proc.reopen(borrow(&node.top()?), OFlags::RDONLY)?;
        if size == 0 {
            let length = rustix::fs::fgetxattr_query(file, name)?;
            return Ok(GetxattrReply::Count(
                u32::try_from(length).map_err(|_| Errno::RANGE)?,
            ));
        }
        let mut value = vec![0; (size as usize).min(self.limits.xattr)];
        let length = rustix::fs::fgetxattr(file, name, &mut value)?;
        value.truncate(length);
        Ok(GetxattrReply::Value(value))
    }

    pub(super) fn list_xattrs(&self, node: &Node, size: u32) -> io::Result<ListxattrReply> {
        if !matches!(node.kind, FileType::RegularFile | FileType::Directory) {
            return Ok(if size == 0 {
                ListxattrReply::Count(0)
            } else {
                ListxattrReply::Names(Vec::new())
            });
        }
        let file = self.proc.reopen(borrow(&node.top()?), OFlags::RDONLY)?;
        let mut all = vec![0; self.limits.xattr];
        let length = rustix::fs::flistxattr(file, &mut all)?;
        all.truncate(length);
        let served: Vec<u8> = all
            .split_inclusive(|b| *b == 0)
            .filter(|n| n.starts_with(USER_XATTR))
            .flatten()
            .copied()
            .collect();
        if size == 0 {
            return Ok(ListxattrReply::Count(
                u32::try_from(served.len()).map_err(|_| Errno::RANGE)?,
            ));
        }
        if served.len() > size as usize {
            return Err(Errno::RANGE.into());
        }
        Ok(ListxattrReply::Names(served))
    }

    pub(super) fn remove_xattr(&self, node: &Arc<Node>, name: &CStr) -> io::Result<()> {
        self.writable()?;
        self.serves_xattr(node, name)?;
        let _shape = self.shape.read();
        let fd = self.for_writing(node, true)?;
        let file = self.proc.reopen(borrow(&fd), OFlags::RDONLY)?;
        Ok(rustix::fs::fremovexattr(file, name)?)
    }

    fn serves_xattr(&self, node: &Node, name: &CStr) -> io::Result<()> {
        let bytes = name.to_bytes();
        if !bytes.starts_with(USER_XATTR) || bytes.len() > XATTR_NAME_MAX {
            return Err(Errno::OPNOTSUPP.into());
        }
        match node.kind {
            FileType::RegularFile | FileType::Directory => Ok(()),
            _ => Err(Errno::PERM.into()),
        }
    }

    /// The answer to a create: a new file, or, without `O_EXCL`, the one that is there.
    pub(super) fn create_or_open(
        &self,
        ctx: &fuse_backend_rs::api::filesystem::Context,
        parent: &Arc<Node>,
        name: &CStr,
        flags: u32,
        mode: u32,
    ) -> io::Result<(Entry, u64, OpenOptions)> {
        let made = self.make_file(ctx, parent, name, open_flags(flags) - OFlags::TRUNC, mode);
        match made {
            Ok((node, st, file)) => {
                let writable = open_flags(flags).intersects(OFlags::WRONLY | OFlags::RDWR);
                match self.add_open(&node, file, writable) {
                    Ok(handle) => Ok((self.entry(&node, &st), handle, OpenOptions::empty())),
                    Err(e) => {
                        self.nodes.forget(node.id, 1);
                        Err(e)
                    }
                }
            }
            Err(e)
                if host::is(&e, Errno::EXIST)
                    && !OFlags::from_bits_retain(flags).contains(OFlags::EXCL) =>
            {
                let entry = {
                    let _shape = self.shape.read();
                    self.look_up(parent, name)?
                };
                let opened = self
                    .nodes
                    .find(entry.inode)
                    .and_then(|node| self.open_file(&node, flags, true));
                match opened {
                    Ok((handle, options)) => Ok((entry, handle, options)),
                    Err(e) => {
                        self.nodes.forget(entry.inode, 1);
                        Err(e)
                    }
                }
            }
            Err(e) => Err(e),
        }
    }
}

/// The open flags that are passed on; the rest is for the guest's kernel.
fn open_flags(flags: u32) -> OFlags {
    OFlags::from_bits_retain(flags)
        & (OFlags::WRONLY
            | OFlags::RDWR
            | OFlags::APPEND
            | OFlags::TRUNC
            | OFlags::SYNC
            | OFlags::DSYNC)
}

fn writable_file(open: &OpenFile) -> io::Result<parking_lot::MutexGuard<'_, std::fs::File>> {
    if !open.writable {
        return Err(Errno::BADF.into());
    }
    Ok(open.file.lock())
}

/// The set-id bits that are left after a change by someone else than root.
fn without_set_id(mode: u32, set_id: u32) -> u32 {
    // Without group execution the set-group-id bit means mandatory locking and stays.
    if mode & libc::S_IXGRP != 0 {
        0
    } else {
        set_id & libc::S_ISGID
    }
}

fn times(wanted: &stat64, valid: SetattrValid) -> Timestamps {
    let pick = |set: SetattrValid, now: SetattrValid, sec: i64, nsec: i64| {
        let tv_nsec = if valid.contains(now) {
            UTIME_NOW
        } else if valid.contains(set) {
            nsec
        } else {
            UTIME_OMIT
        };
        Timespec {
            tv_sec: sec,
            tv_nsec,
        }
    };
    Timestamps {
        last_access: pick(
            SetattrValid::ATIME,
            SetattrValid::ATIME_NOW,
            wanted.st_atime,
            wanted.st_atime_nsec,
        ),
        last_modification: pick(
            SetattrValid::MTIME,
            SetattrValid::MTIME_NOW,
            wanted.st_mtime,
            wanted.st_mtime_nsec,
        ),
    }
}
