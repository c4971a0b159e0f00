//! The guest kernel: our options over the distribution's packaged source.
//!
//! Owns: which kernel a sandbox boots and how it is built. Never: a source
//! that the host's package manager did not bring. A kernel that came with
//! the program (a release) is preferred if it was made with the same
//! options; else one is built once and kept in the cache.

mod build;
mod source;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sbx_spec::ByteSize;
use serde::{Deserialize, Serialize};

use crate::cache::{Artifact, Cache, EntryName, Key, hash_file};
use crate::error::{Error, MissingPackage};
use crate::host::{Host, missing};
use crate::progress::Progress;

use source::Source;

/// The options, merged over `make tinyconfig`.
pub const CONFIG: &str = include_str!("../../../kernel/sbx.config");

/// Changes whenever the same source and options would give another kernel.
const BUILDER: &[u8] = b"kernel-1";
const IMAGE: &str = "vmlinux";
const DESCRIPTION: &str = "kernel.json";
/// The options of the finished kernel, all of them.
const FINAL_CONFIG: &str = "config";

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// An uncompressed ELF image with a PVH entry point.
    pub image: Artifact,
    /// What `uname -r` says inside.
    pub release: String,
    /// The version of the source package.
    pub source: String,
    /// All options of the kernel as it was built, one a line.
    pub config: PathBuf,
    /// When it was built, if the file system knows.
    pub built: Option<SystemTime>,
    /// Whether it came with the program.
    pub shipped: bool,
}

/// `kernel.json`: what a built kernel says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Description {
    version: u32,
    release: String,
    source: String,
    /// The key of the entry it was built as.
    key: String,
    /// The digest of the options it was built with.
    options: String,
    /// SHA-256 of the image.
    sha256: String,
}

/// The kernel for this host, built if there is none.
///
/// # Errors
/// [`Error::MissingPackages`] lists what building needs; [`Error::Program`]
/// has the compiler's last lines.
pub fn kernel(cache: &Cache, host: &Host, progress: &dyn Progress) -> Result<Kernel, Error> {
    if let Some(kernel) = present(cache, host)? {
        return Ok(kernel);
    }
    let missing = missing_for_kernel(cache, host)?;
    if !missing.is_empty() {
        return Err(Error::MissingPackages(missing));
    }
    let source = source::newest(cache)?.ok_or(Error::Cancelled)?;
    let name = entry_name(&source);
    cache.make(&name, progress, |place| {
        let release = build::build(place, &source, progress)?;
        let description = Description {
            version: 1,
            release,
            source: source.version.clone(),
            key: name.key.as_str().to_owned(),
            options: options_digest(),
            sha256: hash_file(&place.entry.join(IMAGE))?,
        };
        let path = place.entry.join(DESCRIPTION);
        let text = serde_json::to_vec_pretty(&description)
            .map_err(|error| Error::form(DESCRIPTION, error))?;
        fs::write(&path, text).map_err(Error::file("write", &path))
    })?;
    present(cache, host)?.ok_or_else(|| Error::Corrupt {
        path: cache.entry_path(&name),
        reason: "the kernel just built is not there".to_owned(),
    })
}

/// The kernel that [`kernel`] would return without building, if any.
///
/// # Errors
/// [`Error::File`] if the cache cannot be read.
pub fn present(cache: &Cache, host: &Host) -> Result<Option<Kernel>, Error> {
    if let Some(kernel) = shipped(cache, host)? {
        return Ok(Some(kernel));
    }
    match source::newest(cache)? {
        Some(source) => from_entry(cache, &entry_name(&source)),
        // The source package is gone: a kernel made from it is still good.
        None => newest_entry(cache),
    }
}

/// What this host lacks to build a kernel; empty if none has to be built.
///
/// # Errors
/// As [`present`].
pub fn missing_for_kernel(cache: &Cache, host: &Host) -> Result<Vec<MissingPackage>, Error> {
    if present(cache, host)?.is_some() {
        return Ok(Vec::new());
    }
    let mut list = missing(&build::NEEDS);
    if source::newest(cache)?.is_none() {
        list.push(MissingPackage {
            program: "/usr/src/linux-source-*.tar.xz".to_owned(),
            package: source::package(Path::new("/etc/os-release")),
            why: "the guest kernel is built from it".to_owned(),
        });
    }
    Ok(list)
}

fn options_digest() -> String {
    Key::of(&[CONFIG.as_bytes()]).as_str().to_owned()
}

fn entry_name(source: &Source) -> EntryName {
    named(Key::of(&[
        BUILDER,
        CONFIG.as_bytes(),
        source.version.as_bytes(),
    ]))
}

fn named(key: Key) -> EntryName {
    EntryName {
        kind: "kernel",
        key,
        payload: IMAGE,
        title: "the guest kernel".to_owned(),
        // The source without what is left out, and the objects beside it.
        room: ByteSize::gib(2),
    }
}

fn from_entry(cache: &Cache, name: &EntryName) -> Result<Option<Kernel>, Error> {
    let Some(image) = cache.find(name)? else {
        return Ok(None);
    };
    let Some(description) = describe(&cache.entry_path(name)) else {
        return Ok(None);
    };
    Ok(Some(assemble(image, description, false)))
}

fn assemble(image: Artifact, description: Description, shipped: bool) -> Kernel {
    Kernel {
        release: description.release,
        source: description.source,
        config: image.path.with_file_name(FINAL_CONFIG),
        built: fs::metadata(&image.path)
            .and_then(|meta| meta.modified())
            .ok(),
        image,
        shipped,
    }
}

/// A kernel with our options, whatever the version of its source.
fn newest_entry(cache: &Cache) -> Result<Option<Kernel>, Error> {
    let mut found: Option<Kernel> = None;
    for item in cache.list()? {
        if item.kind != "kernel" {
            continue;
        }
        let name = named(item.key);
        let ours =
            describe(&cache.entry_path(&name)).is_some_and(|d| d.options == options_digest());
        if !ours {
            continue;
        }
        let kernel = from_entry(cache, &name)?;
        if kernel.as_ref().map(|k| k.built) > found.as_ref().map(|k| k.built) {
            found = kernel;
        }
    }
    Ok(found)
}

/// The kernel beside the program: `<exe dir>/../lib/sbx/vmlinux`.
fn shipped(cache: &Cache, host: &Host) -> Result<Option<Kernel>, Error> {
    let Some(prefix) = host.exe_dir.parent() else {
        return Ok(None);
    };
    let directory = prefix.join("lib/sbx");
    let Some(description) = describe(&directory) else {
        return Ok(None);
    };
    let Some(key) = Key::parse(&description.key) else {
        return Ok(None);
    };
    if description.options != options_digest() {
        return Ok(None);
    }
    let path = directory.join(IMAGE);
    let Some(ident) = cache.vouch(&path, &description.sha256)? else {
        return Ok(None);
    };
    let image = Artifact {
        path,
        key,
        sha256: description.sha256.clone(),
        ident,
    };
    Ok(Some(assemble(image, description, true)))
}

fn describe(directory: &Path) -> Option<Description> {
    let text = fs::read(directory.join(DESCRIPTION)).ok()?;
    serde_json::from_slice(&text)
        .ok()
        .filter(|d: &Description| d.version == 1)
}

impl Cache {
    /// Whether the file at `path`, outside the cache, has this hash: read
    /// once, then compared by what it was. `None` if it is another file.
    pub(crate) fn vouch(
        &self,
        path: &Path,
        sha256: &str,
    ) -> Result<Option<crate::cache::FileIdent>, Error> {
        use std::os::unix::ffi::OsStrExt;
        let Some(ident) = crate::cache::FileIdent::of(path)? else {
            return Ok(None);
        };
        let vouched = self.root().join("vouched");
        let note = vouched.join(Key::of(&[path.as_os_str().as_bytes()]).as_str());
        let line = serde_json::to_vec(&(sha256, ident))
            .map_err(|error| Error::form("a note of a verified file", error))?;
        if fs::read(&note).is_ok_and(|old| old == line) {
            return Ok(Some(ident));
        }
        if hash_file(path)? != sha256 {
            return Ok(None);
        }
        crate::cache::make_directory(&vouched)?;
        crate::cache::write_atomically(&note, &line)?;
        Ok(Some(ident))
    }
}

#[cfg(test)]
mod tests;
