//! The file system trait: from messages to operations, one line each.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{CreateIn, WRITE_KILL_PRIV, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::host::{self, Name};
use super::node::{Node, borrow};
use super::{BELIEF, ShareFs};

/// `FUSE_OPEN_KILL_SUIDGID`: the opener has no right to keep set-id bits.
const OPEN_KILL_SET_ID: u32 = 1;

/// Only for its default answers.
struct Defaults;

impl FileSystem for Defaults {
    type Inode = u64;
    type Handle = u64;
}

impl FileSystem for ShareFs {
    type Inode = u64;
    type Handle = u64;

    fn init(&self, _capable: FsOptions) -> io::Result<FsOptions> {
        // No write-back cache: the host writes to these files too. No POSIX_LOCKS and
        // FLOCK_LOCKS: locks are kept by the guest's kernel.
        Ok(FsOptions::ASYNC_READ
            | FsOptions::ASYNC_DIO
            | FsOptions::ATOMIC_O_TRUNC
            | FsOptions::AUTO_INVAL_DATA
            | FsOptions::BIG_WRITES
            | FsOptions::DO_READDIRPLUS
            | FsOptions::READDIRPLUS_AUTO
            | FsOptions::HANDLE_KILLPRIV_V2
            | FsOptions::INIT_EXT
            | FsOptions::MAX_PAGES
            | FsOptions::PARALLEL_DIROPS)
    }

    fn destroy(&self) {
        self.handles.clear();
        self.nodes.clear();
    }

    fn lookup(&self, _ctx: &Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        let parent = self.nodes.find(parent)?;
        let _shape = self.shape.read();
        self.look_up(&parent, name)
    }

    fn forget(&self, _ctx: &Context, inode: u64, count: u64) {
        self.nodes.forget(inode, count);
    }

    fn getattr(
        &self,
        _ctx: &Context,
        inode: u64,
        _handle: Option<u64>,
    ) -> io::Result<(stat64, Duration)> {
        Ok((self.attributes_now(&*self.nodes.find(inode)?)?, BELIEF))
    }

    fn setattr(
        &self,
        _ctx: &Context,
        inode: u64,
        attr: stat64,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(stat64, Duration)> {
        let open = handle.map(|h| self.handles.file(inode, h)).transpose()?;
        let node = match &open {
            Some(open) => Arc::clone(&open.node),
            None => self.nodes.find(inode)?,
        };
        Ok((self.set_attributes(&node, &attr, open, valid)?, BELIEF))
    }

    fn readlink(&self, _ctx: &Context, inode: u64) -> io::Result<Vec<u8>> {
        host::readlink(borrow(&self.nodes.find(inode)?.top()?))
    }

    fn symlink(&self, ctx: &Context, target: &CStr, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.make_link(ctx, &self.nodes.find(parent)?, name, target)
    }

    fn mknod(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        _rdev: u32,
        _umask: u32,
    ) -> io::Result<Entry> {
        self.make_node(ctx, &self.nodes.find(parent)?, name, mode)
    }

    fn mkdir(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        _umask: u32,
    ) -> io::Result<Entry> {
        self.make_dir(ctx, &self.nodes.find(parent)?, name, mode)
    }

    fn unlink(&self, _ctx: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove_file(&self.nodes.find(parent)?, name)
    }

    fn rmdir(&self, _ctx: &Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.remove_dir(&self.nodes.find(parent)?, name)
    }

    fn rename(
        &self,
        _ctx: &Context,
        olddir: u64,
        oldname: &CStr,
        newdir: u64,
        newname: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        let (old, new) = (self.nodes.find(olddir)?, self.nodes.find(newdir)?);
        self.rename_entry((&old, oldname), (&new, newname), flags)
    }

    fn link(
        &self,
        _ctx: &Context,
        inode: u64,
        newparent: u64,
        newname: &CStr,
    ) -> io::Result<Entry> {
        let (node, parent) = (self.nodes.find(inode)?, self.nodes.find(newparent)?);
        self.add_name(&node, &parent, newname)
    }

    fn open(
        &self,
        _ctx: &Context,
        inode: u64,
        flags: u32,
        fuse_flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions, Option<u32>)> {
        let node = self.nodes.find(inode)?;
        let kill = fuse_flags & OPEN_KILL_SET_ID != 0;
        let (handle, options) = self.open_file(&node, flags, kill)?;
        Ok((Some(handle), options, None))
    }

    fn create(
        &self,
        ctx: &Context,
        parent: u64,
        name: &CStr,
        args: CreateIn,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions, Option<u32>)> {
        let parent = self.nodes.find(parent)?;
        let (entry, handle, options) =
            self.create_or_open(ctx, &parent, name, args.flags, args.mode)?;
        Ok((entry, Some(handle), options, None))
    }

    fn read(
        &self,
        _ctx: &Context,
        inode: u64,
        handle: u64,
        w: &mut dyn ZeroCopyWriter,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        _flags: u32,
    ) -> io::Result<usize> {
        self.read_file(&*self.handles.file(inode, handle)?, w, size, offset)
    }

    fn write(
        &self,
        _ctx: &Context,
        inode: u64,
        handle: u64,
        r: &mut dyn ZeroCopyReader,
        size: u32,
        offset: u64,
        _lock_owner: Option<u64>,
        _delayed_write: bool,
        _flags: u32,
        fuse_flags: u32,
    ) -> io::Result<usize> {
        self.writable()?;
        let open = self.handles.file(inode, handle)?;
        let kill = fuse_flags & WRITE_KILL_PRIV != 0;
        self.write_file(&open, r, size, offset, kill)
    }

    fn flush(&self, _ctx: &Context, _inode: u64, _handle: u64, _owner: u64) -> io::Result<()> {
        // Nothing of a file is kept here that closing it would write. Hearing so once, the guest's
        // kernel does not ask again.
        Err(Errno::NOSYS.into())
    }

    fn fsync(&self, _ctx: &Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        self.sync(&*self.handles.file(inode, handle)?, datasync)
    }

    fn fallocate(
        &self,
        _ctx: &Context,
        inode: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        self.writable()?;
        self.allocate(&*self.handles.file(inode, handle)?, mode, offset, length)
    }

    fn release(
        &self,
        _ctx: &Context,
        inode: u64,
        _flags: u32,
        handle: u64,
        _flush: bool,
        _flock_release: bool,
        _lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.handles.file(inode, handle)?;
        self.handles.close(handle);
        Ok(())
    }

    fn statfs(&self, ctx: &Context, inode: u64) -> io::Result<statvfs64> {
        let node = self.nodes.find(inode)?;
        let host = rustix::fs::fstatvfs(node.top()?.as_fd())?;
        let mut st = Defaults.statfs(ctx, inode)?;
        st.f_bsize = host.f_bsize;
        st.f_frsize = host.f_frsize;
        st.f_blocks = host.f_blocks;
        st.f_bfree = host.f_bfree;
        st.f_bavail = host.f_bavail;
        st.f_files = host.f_files;
        st.f_ffree = host.f_ffree;
        st.f_favail = host.f_favail;
        st.f_namemax = host.f_namemax;
        Ok(st)
    }

    fn setxattr(
        &self,
        _ctx: &Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
    ) -> io::Result<()> {
        self.set_xattr(&self.nodes.find(inode)?, name, value, flags)
    }

    fn getxattr(
        &self,
        _ctx: &Context,
        inode: u64,
        name: &CStr,
        size: u32,
    ) -> io::Result<GetxattrReply> {
        self.get_xattr(&*self.nodes.find(inode)?, name, size)
    }

    fn listxattr(&self, _ctx: &Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        self.list_xattrs(&*self.nodes.find(inode)?, size)
    }

    fn removexattr(&self, _ctx: &Context, inode: u64, name: &CStr) -> io::Result<()> {
        self.remove_xattr(&self.nodes.find(inode)?, name)
    }

    fn opendir(
        &self,
        _ctx: &Context,
        inode: u64,
        _flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        let node = self.nodes.find(inode)?;
        if !node.is_dir() {
            return Err(Errno::NOTDIR.into());
        }
        Ok((Some(self.handles.add_dir(node)?), OpenOptions::empty()))
    }

    fn readdir(
        &self,
        _ctx: &Context,
        inode: u64,
        handle: u64,
        _size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>) -> io::Result<usize>,
    ) -> io::Result<()> {
        let (_, names) = self.names_from(inode, handle, offset)?;
        for (at, name) in names.iter().enumerate().skip(index(offset)) {
            if add_entry(dir_entry(name, at))? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn readdirplus(
        &self,
        _ctx: &Context,
        inode: u64,
        handle: u64,
        _size: u32,
        offset: u64,
        add_entry: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
    ) -> io::Result<()> {
        let (node, names) = self.names_from(inode, handle, offset)?;
        for (at, name) in names.iter().enumerate().skip(index(offset)) {
            // Without attributes, and the guest asks for them if it needs any.
            let entry = if self.was_told(&node, name) {
                Entry::default()
            } else {
                let _shape = self.shape.read();
                // Gone meanwhile: listed all the same, so that the offset moves on.
                self.look_up(&node, &name.name).unwrap_or_default()
            };
            let added = add_entry(dir_entry(name, at), entry);
            if !matches!(added, Ok(n) if n > 0) {
                self.nodes.forget(entry.inode, 1);
                added?;
                break;
            }
        }
        Ok(())
    }

    fn fsyncdir(&self, _ctx: &Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        let open = self.handles.dir(inode, handle)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir = self.proc.reopen(borrow(&open.node.top()?), flags)?;
        if datasync {
            Ok(rustix::fs::fdatasync(dir)?)
        } else {
            Ok(rustix::fs::fsync(dir)?)
        }
    }

    fn releasedir(&self, _ctx: &Context, inode: u64, _flags: u32, handle: u64) -> io::Result<()> {
        self.handles.dir(inode, handle)?;
        self.handles.close(handle);
        Ok(())
    }

    fn lseek(
        &self,
        _ctx: &Context,
        inode: u64,
        handle: u64,
        offset: u64,
        whence: u32,
    ) -> io::Result<u64> {
        self.seek(&*self.handles.file(inode, handle)?, offset, whence)
    }
}

impl ShareFs {
    /// The names of an open directory, read anew when it is read from its start.
    fn names_from(
        &self,
        inode: u64,
        handle: u64,
        offset: u64,
    ) -> io::Result<(Arc<Node>, Arc<Vec<Name>>)> {
        let open = self.handles.dir(inode, handle)?;
        let mut listing = open.listing.lock();
        let names = match listing.names() {
            Some(names) if offset > 0 => names,
            _ => {
                let _shape = self.shape.read();
                let found = self.list(&open.node)?;
                listing.keep(found, self.handles.listing_limit)?
            }
        };
        Ok((Arc::clone(&open.node), names))
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn dir_entry(name: &Name, at: usize) -> DirEntry<'_> {
    DirEntry {
        ino: name.ino,
        offset: at as u64 + 1,
        type_: name.kind,
        name: name.name.to_bytes(),
    }
}
