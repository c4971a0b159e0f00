//! What the files of an entry were when they were verified.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{hex, sync_directory};
use crate::error::Error;

const FILE_NAME: &str = "record.json";
/// The directory of an entry that holds a whole tree of its own.
pub(crate) const TREE: &str = "tree";
/// A record names a handful of files; anything larger is not ours.
const MAX_RECORD: u64 = 64 << 10;

/// What a file system says about a file. Contents cannot change without a
/// change here unless the clock is set back by someone who may also write
/// the file, which is the user.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileIdent {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Size in bytes.
    pub size: u64,
    /// Last modification: nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Last change of the inode: nanoseconds since 1970.
    pub ctime_ns: i64,
}

impl FileIdent {
    /// The identity of the regular file at `path`; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::File`] if the file system does not say.
    pub fn of(path: &Path) -> Result<Option<Self>, Error> {
        let meta = match fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("look at", path)(error)),
        };
        Ok(meta.is_file().then(|| Self {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
        }))
    }
}

/// What a file system says about a directory. What is in it can change
/// without a change here, but for its names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DirectoryIdent {
    dev: u64,
    ino: u64,
    uid: u32,
    gid: u32,
    mode: u32,
    mtime_ns: i64,
    ctime_ns: i64,
}

impl DirectoryIdent {
    /// The identity of the directory at `path`; `None` if there is none.
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::symlink_metadata(path)
            .ok()
            .filter(fs::Metadata::is_dir)?;
        Some(Self {
            dev: meta.dev(),
            ino: meta.ino(),
            uid: meta.uid(),
            gid: meta.gid(),
            mode: meta.mode(),
            mtime_ns: ns(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: ns(meta.ctime(), meta.ctime_nsec()),
        })
    }
}

fn ns(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// A file of an entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RecordedFile {
    pub(crate) sha256: String,
    pub(crate) ident: FileIdent,
}

/// The files of an entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    pub(crate) files: BTreeMap<String, RecordedFile>,
    /// The root of the entry's tree, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tree: Option<DirectoryIdent>,
}

impl Record {
    /// The record in `directory`; `None` if there is none or it is not one
    /// of ours, so that the entry is made again.
    pub(crate) fn load(directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join(FILE_NAME);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Error::file("open", &path)(error)),
        };
        let mut text = Vec::new();
        file.take(MAX_RECORD)
            .read_to_end(&mut text)
            .map_err(Error::file("read", &path))?;
        Ok(serde_json::from_slice(&text)
            .ok()
            .filter(|record: &Self| record.version == 1))
    }

    /// Whether the entry in `directory` has the tree that was recorded, or
    /// none if none was. Its root alone is looked at: nobody but its owners
    /// and the caller reaches the rest.
    pub(crate) fn has_its_tree(&self, directory: &Path) -> bool {
        DirectoryIdent::of(&directory.join(TREE)) == self.tree
    }

    /// Whether every file of the entry in `directory` is the one recorded, as
    /// far as the file system says.
    pub(crate) fn stands(directory: &Path) -> bool {
        Self::load(directory).ok().flatten().is_some_and(|record| {
            record.has_its_tree(directory)
                && record.files.iter().all(|(name, file)| {
                    let found = FileIdent::of(&directory.join(name));
                    found.is_ok_and(|ident| ident == Some(file.ident))
                })
        })
    }

    /// Hashes every file of `directory`, makes it read-only, flushes it, and
    /// writes the record.
    pub(crate) fn write(directory: &Path) -> Result<(), Error> {
        let mut files = BTreeMap::new();
        for item in fs::read_dir(directory).map_err(Error::file("list", directory))? {
            let item = item.map_err(Error::file("list", directory))?;
            let path = item.path();
            let Some(name) = item.file_name().to_str().map(str::to_owned) else {
                continue;
            };
            if name.starts_with(FILE_NAME) || !path.symlink_metadata().is_ok_and(|m| m.is_file()) {
                continue;
            }
            // Where nothing changes, an entry in use keeps its identity.
            let mode = path.metadata().map(|meta| meta.mode() & 0o7777);
            if !mode.is_ok_and(|mode| mode == 0o444) {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o444))
                    .map_err(Error::file("protect", &path))?;
            }
            File::open(&path)
                .and_then(|f| f.sync_all())
                .map_err(Error::file("flush", &path))?;
            let sha256 = hash_file(&path)?;
            if let Some(ident) = FileIdent::of(&path)? {
                files.insert(name, RecordedFile { sha256, ident });
            }
        }
        let record = Self {
            version: 1,
            files,
            tree: DirectoryIdent::of(&directory.join(TREE)),
        };
        let text = serde_json::to_vec_pretty(&record)
            .map_err(|error| Error::form("a cache record", error))?;
        write_atomically(&directory.join(FILE_NAME), &text)
    }
}

/// Replaces the file at `path` by `bytes`, flushed with its directory, never
/// half, by however many processes at once.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let mut temp = path.as_os_str().to_owned();
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    temp.push(format!(".new-{}-{serial}", std::process::id()));
    let temp = Path::new(&temp);
    let written = File::create(temp)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(Error::file("write", temp))
        .and_then(|()| fs::rename(temp, path).map_err(Error::file("write", path)));
    if written.is_err() {
        let _ = fs::remove_file(temp);
        return written;
    }
    path.parent().map_or(Ok(()), sync_directory)
}

/// SHA-256 of a file's contents: 64 hexadecimal digits.
pub(crate) fn hash_file(path: &Path) -> Result<String, Error> {
    let mut file = File::open(path).map_err(Error::file("open", path))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(Error::file("read", path))?;
        let Some(chunk) = buffer.get(..n).filter(|chunk| !chunk.is_empty()) else {
            break;
        };
        hash.update(chunk);
    }
    Ok(hex(&hash.finalize()))
}
