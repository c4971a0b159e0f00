//! A share and its shadow in a temporary directory, driven as a guest kernel would, without one.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuse_backend_rs::abi::fuse_abi::CreateIn;
use fuse_backend_rs::api::filesystem::{Context, Entry, FileSystem, ROOT_ID, SetattrValid};
use parking_lot::Mutex;
use sbx_share::ShareConfig;
use sbx_share::fs::ShareFs;
use sbx_share::held::{self, HeldEntry, HeldSink};

#[derive(Clone, Default)]
pub(crate) struct Heard(pub(crate) Arc<Mutex<Vec<HeldEntry>>>);

impl HeldSink for Heard {
    fn held(&self, entry: HeldEntry) {
        self.0.lock().push(entry);
    }
}

pub(crate) struct World {
    pub(crate) fs: ShareFs,
    pub(crate) heard: Heard,
    dir: tempfile::TempDir,
}

/// Makes a file and the directories above it.
pub(crate) fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn open_dir(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

pub(crate) fn name(text: &str) -> CString {
    CString::new(text).unwrap()
}

pub(crate) fn errno<T>(result: io::Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(e) => e.raw_os_error().unwrap_or(-1),
    }
}

impl World {
    /// A writable share whose host side is made by `host`.
    pub(crate) fn new(host: impl FnOnce(&Path)) -> Self {
        Self::with(ShareConfig::writable(), host)
    }

    pub(crate) fn with(config: ShareConfig, host: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, shadow) = (dir.path().join("root"), dir.path().join("shadow"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&shadow).unwrap();
        host(&root);
        let heard = Heard::default();
        let fs = serve(&config, &root, &shadow, &heard);
        Self { fs, heard, dir }
    }

    /// The same share and shadow after a new start of the server.
    pub(crate) fn restarted(mut self, config: &ShareConfig) -> Self {
        let (root, shadow) = (self.dir.path().join("root"), self.dir.path().join("shadow"));
        self.heard = Heard::default();
        self.fs = serve(config, &root, &shadow, &self.heard);
        self
    }

    /// A path on the host.
    pub(crate) fn host(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    pub(crate) fn host_text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.host(path)).ok()
    }

    pub(crate) fn held(&self) -> Vec<String> {
        let shadow = open_dir(&self.dir.path().join("shadow"));
        let mut list: Vec<String> = held::list(std::os::fd::AsFd::as_fd(&shadow))
            .unwrap()
            .into_iter()
            .map(|e| format!("{} {:?}", e.path, e.op).to_lowercase())
            .collect();
        list.sort();
        list
    }

    pub(crate) fn ctx(&self) -> Context {
        let mut ctx = Context::new();
        ctx.uid = rustix::process::geteuid().as_raw();
        ctx.gid = rustix::process::getegid().as_raw();
        ctx
    }

    /// Looks a path up from the root, component by component.
    pub(crate) fn entry(&self, path: &str) -> io::Result<Entry> {
        let mut entry = Entry {
            inode: ROOT_ID,
            ..Entry::default()
        };
        for part in path.split('/').filter(|p| !p.is_empty()) {
            entry = self.fs.lookup(&self.ctx(), entry.inode, &name(part))?;
        }
        Ok(entry)
    }

    pub(crate) fn inode(&self, path: &str) -> io::Result<u64> {
        Ok(self.entry(path)?.inode)
    }

    /// The inode of the directory part, and the last name.
    pub(crate) fn end(&self, path: &str) -> io::Result<(u64, CString)> {
        let (dir, last) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.inode(dir)?, name(last)))
    }

    pub(crate) fn mkdir(&self, path: &str) -> io::Result<Entry> {
        let (dir, last) = self.end(path)?;
        self.fs.mkdir(&self.ctx(), dir, &last, 0o755, 0)
    }

    pub(crate) fn create(&self, path: &str, flags: i32) -> io::Result<(u64, u64)> {
        let (dir, last) = self.end(path)?;
        let args = CreateIn {
            flags: flags as u32,
            mode: 0o644,
            umask: 0,
            fuse_flags: 0,
        };
        let (entry, handle, ..) = self.fs.create(&self.ctx(), dir, &last, args)?;
        Ok((entry.inode, handle.unwrap()))
    }

    pub(crate) fn open(&self, path: &str, flags: i32) -> io::Result<(u64, u64)> {
        let inode = self.inode(path)?;
        let (handle, ..) = self.fs.open(&self.ctx(), inode, flags as u32, 0)?;
        Ok((inode, handle.unwrap()))
    }

    pub(crate) fn write_at(&self, open: (u64, u64), text: &str) -> io::Result<usize> {
        let mut source = tempfile::tempfile().unwrap();
        source.write_all(text.as_bytes()).unwrap();
        source.seek(SeekFrom::Start(0)).unwrap();
        let size = text.len() as u32;
        self.fs.write(
            &self.ctx(),
            open.0,
            open.1,
            &mut source,
            size,
            0,
            None,
            false,
            0,
            0,
        )
    }

    pub(crate) fn read_at(&self, open: (u64, u64)) -> io::Result<String> {
        let mut sink = tempfile::tempfile().unwrap();
        self.fs
            .read(&self.ctx(), open.0, open.1, &mut sink, 1 << 16, 0, None, 0)?;
        sink.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        sink.read_to_string(&mut text).unwrap();
        Ok(text)
    }

    /// As a shell's `echo text > path`.
    pub(crate) fn write(&self, path: &str, text: &str) -> io::Result<()> {
        let open = match self.open(path, libc::O_WRONLY | libc::O_TRUNC) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {
                self.create(path, libc::O_WRONLY)?
            }
            other => other?,
        };
        self.write_at(open, text)?;
        self.close(open);
        Ok(())
    }

    pub(crate) fn read(&self, path: &str) -> io::Result<String> {
        let open = self.open(path, libc::O_RDONLY)?;
        let text = self.read_at(open);
        self.close(open);
        text
    }

    pub(crate) fn close(&self, open: (u64, u64)) {
        self.fs
            .release(&self.ctx(), open.0, 0, open.1, false, false, None)
            .unwrap();
    }

    pub(crate) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.rename_with(from, to, 0)
    }

    pub(crate) fn rename_with(&self, from: &str, to: &str, flags: u32) -> io::Result<()> {
        let ((a, an), (b, bn)) = (self.end(from)?, self.end(to)?);
        self.fs.rename(&self.ctx(), a, &an, b, &bn, flags)
    }

    pub(crate) fn link(&self, from: &str, to: &str) -> io::Result<Entry> {
        let (dir, last) = self.end(to)?;
        self.fs.link(&self.ctx(), self.inode(from)?, dir, &last)
    }

    pub(crate) fn symlink(&self, target: &str, path: &str) -> io::Result<Entry> {
        let (dir, last) = self.end(path)?;
        self.fs.symlink(&self.ctx(), &name(target), dir, &last)
    }

    pub(crate) fn unlink(&self, path: &str) -> io::Result<()> {
        let (dir, last) = self.end(path)?;
        self.fs.unlink(&self.ctx(), dir, &last)
    }

    pub(crate) fn rmdir(&self, path: &str) -> io::Result<()> {
        let (dir, last) = self.end(path)?;
        self.fs.rmdir(&self.ctx(), dir, &last)
    }

    pub(crate) fn truncate(&self, path: &str, size: i64) -> io::Result<()> {
        let entry = self.entry(path)?;
        let mut attr = entry.attr;
        attr.st_size = size;
        self.fs
            .setattr(&self.ctx(), entry.inode, attr, None, SetattrValid::SIZE)?;
        Ok(())
    }

    pub(crate) fn chmod(&self, path: &str, mode: u32) -> io::Result<u32> {
        let entry = self.entry(path)?;
        let mut attr = entry.attr;
        attr.st_mode = mode;
        let (attr, _) =
            self.fs
                .setattr(&self.ctx(), entry.inode, attr, None, SetattrValid::MODE)?;
        Ok(attr.st_mode & 0o7777)
    }

    pub(crate) fn chown(&self, path: &str, uid: u32, gid: u32) -> io::Result<()> {
        let entry = self.entry(path)?;
        let mut attr = entry.attr;
        (attr.st_uid, attr.st_gid) = (uid, gid);
        let valid = SetattrValid::UID | SetattrValid::GID;
        self.fs
            .setattr(&self.ctx(), entry.inode, attr, None, valid)?;
        Ok(())
    }

    pub(crate) fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let inode = self.inode(path)?;
        let listed = self.list_plus(path)?;
        for (listed, found) in &listed {
            let listed = CString::new(listed.as_bytes()).unwrap();
            let found = *found != 0 || self.fs.lookup(&self.ctx(), inode, &listed).is_ok();
            assert!(found, "listed but not found: {listed:?}");
        }
        Ok(listed.into_iter().map(|(name, _)| name).collect())
    }

    /// The names of a directory, sorted, and the inodes that were told with them, 0 for none.
    pub(crate) fn list_plus(&self, path: &str) -> io::Result<Vec<(String, u64)>> {
        let inode = self.inode(path)?;
        let (handle, _) = self.fs.opendir(&self.ctx(), inode, 0)?;
        let handle = handle.unwrap();
        let mut listed = Vec::new();
        self.fs
            .readdirplus(&self.ctx(), inode, handle, 1 << 20, 0, &mut |d, e| {
                listed.push((String::from_utf8(d.name.to_vec()).unwrap(), e.inode));
                Ok(1)
            })?;
        self.fs.releasedir(&self.ctx(), inode, 0, handle)?;
        listed.sort();
        Ok(listed)
    }
}

fn serve(config: &ShareConfig, root: &Path, shadow: &Path, heard: &Heard) -> ShareFs {
    ShareFs::new(
        config,
        open_dir(root),
        open_dir(shadow),
        Box::new(heard.clone()),
    )
    .unwrap()
}

impl World {
    /// Creates `last` in the root with the name as it is; the error number, or 0.
    pub(crate) fn fs_create(&self, last: &str) -> i32 {
        let args = CreateIn {
            flags: libc::O_WRONLY as u32,
            mode: 0o644,
            umask: 0,
            fuse_flags: 0,
        };
        errno(self.fs.create(&self.ctx(), ROOT_ID, &name(last), args))
    }
}
