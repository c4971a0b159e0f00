//! An image as a directory tree: what containers, which have no kernel of
//! their own to mount one, share read-only.
//!
//! Owns: how an image is unpacked and how its tree is recognised afterwards.
//! Never: unpacks as the host's root or as the caller (where there are ids of
//! a container), gives a set-user-ID bit on, or uses a tree that is not the
//! one it made. Trusts: the image, which was verified.
//!
//! An entry of the cache holds the tree and, as its payload, a stamp that
//! says whose it is; see `docs/decisions/0005-trees-for-containers.md`.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use sbx_spec::ByteSize;
use sbx_sys::userns::Maps;
use serde::{Deserialize, Serialize};

use crate::cache::{Artifact, Cache, EntryName, Key, TREE, Workplace, make_directory};
use crate::command::Tool;
use crate::error::{Error, MissingPackage};
use crate::host::{Host, Need, missing};
use crate::mapped::{self, Inside};
use crate::progress::{Progress, Silent};
use crate::template::{base, missing_for_base, present_base};

/// The stamp of a tree, and the payload of its entry.
pub(crate) const STAMP: &str = "tree.json";
/// A stamp names a handful of ranges; anything larger is not ours.
const MAX_STAMP: u64 = 64 << 10;
/// Changes whenever the same image would give another tree.
const BUILDER: &[u8] = b"tree-1";

const NEEDS: [Need; 2] = [
    Need {
        program: "fsck.erofs",
        package: "erofs-utils",
        why: "unpacks read-only images for containers",
    },
    Need {
        program: "tar",
        package: "tar",
        why: "reads a tree with owners that its user cannot read",
    },
];

/// A verified image as a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tree {
    /// Its root, which belongs to root of a container with `maps`. The
    /// directory above is the caller's alone, 0700.
    pub path: PathBuf,
    /// The entry of the cache, to be kept as long as a sandbox uses it.
    pub key: Key,
    /// SHA-256 of the image that it was made from.
    pub image: String,
    /// SHA-256 of an archive of all of it, when it was made.
    pub sha256: String,
    /// The ids that its owners are.
    pub maps: Maps,
}

impl Tree {
    /// Hands all of it as an archive, with its owners as its container has
    /// them, to `take`, piece by piece.
    ///
    /// # Errors
    /// [`Error::Program`] if it cannot be read or is not taken,
    /// [`Error::Namespaces`] if the host no longer gives the caller its ids.
    pub fn archive(&self, take: &mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), Error> {
        packed(&Inside::new(&self.maps)?, &self.path).stream(take)
    }

    /// Reads all of it, as root of its container, and compares: for `doctor`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is another than was unpacked,
    /// [`Error::Namespaces`] if the host no longer gives the caller its ids.
    pub fn verify_full(&self) -> Result<(), Error> {
        let inside = Inside::new(&self.maps)?;
        let found = digest(&inside, &self.path, &Silent)?;
        if found == self.sha256 {
            return Ok(());
        }
        let reason = format!("the SHA-256 of all of it is {found}, not {}", self.sha256);
        Err(Error::Corrupt {
            path: self.path.clone(),
            reason,
        })
    }
}

/// The base root as a tree with these owners, made if there is none, the
/// base image too.
///
/// # Errors
/// [`Error::MissingPackages`], [`Error::Namespaces`] with the cure, and those
/// of [`base`].
pub fn tree(
    cache: &Cache,
    host: &Host,
    maps: &Maps,
    progress: &dyn Progress,
) -> Result<Tree, Error> {
    if let Some(tree) = present_tree(cache, maps)? {
        return Ok(tree);
    }
    let missing = missing_for_tree(cache, host, maps)?;
    if !missing.is_empty() {
        return Err(Error::MissingPackages(missing));
    }
    let base = base(cache, host, progress)?;
    of_base(&base.image).unpack(cache, maps, progress)
}

/// The tree that [`tree`] would return without making it, if any.
///
/// # Errors
/// [`Error::File`] if the cache cannot be read.
pub fn present_tree(cache: &Cache, maps: &Maps) -> Result<Option<Tree>, Error> {
    match present_base(cache)? {
        Some(base) => of_base(&base.image).present(cache, maps),
        None => Ok(None),
    }
}

/// What this host lacks to make the tree, the base image included; empty if
/// it is there.
///
/// # Errors
/// As [`present_tree`].
pub fn missing_for_tree(
    cache: &Cache,
    host: &Host,
    maps: &Maps,
) -> Result<Vec<MissingPackage>, Error> {
    if present_tree(cache, maps)?.is_some() {
        return Ok(Vec::new());
    }
    let mut list = missing_for_base(cache, host)?;
    list.extend(missing_to_unpack(maps));
    list.sort();
    list.dedup_by(|a, b| a.program == b.program);
    Ok(list)
}

/// What is missing to unpack any image.
pub(crate) fn missing_to_unpack(maps: &Maps) -> Vec<MissingPackage> {
    let mut list = missing(&NEEDS);
    list.extend(mapped::missing_for(maps));
    list
}

fn of_base(image: &Artifact) -> Source<'_> {
    Source {
        kind: "tree",
        image,
        title: "the base template for containers".to_owned(),
    }
}

/// An image to unpack.
pub(crate) struct Source<'a> {
    /// Of the entry: one word.
    pub(crate) kind: &'static str,
    pub(crate) image: &'a Artifact,
    /// What the user is told is being made.
    pub(crate) title: String,
}

/// What the entry of a tree says of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stamp {
    version: u32,
    image: String,
    maps: Maps,
    /// Empty until all is there.
    sha256: String,
}

impl Stamp {
    /// The stamp in `entry`, if there is one of ours.
    fn read(entry: &Path) -> Option<Self> {
        let file = File::open(entry.join(STAMP)).ok()?;
        let mut text = Vec::new();
        file.take(MAX_STAMP).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text)
            .ok()
            .filter(|stamp: &Self| stamp.version == 1)
    }

    fn write(&self, entry: &Path) -> Result<(), Error> {
        let path = entry.join(STAMP);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| Error::form("the stamp of a tree", error))?;
        fs::write(&path, text).map_err(Error::file("write", &path))
    }
}

/// Removes the tree of an entry of the cache, whatever state it is in, so
/// that the caller can remove the rest. Entries without one are left alone,
/// and so is what a link in the place of an entry points at: another cache
/// may hold it.
pub(crate) fn clear(entry: &Path) -> Result<(), Error> {
    let tree = entry.join(TREE);
    let own = entry.symlink_metadata().is_ok_and(|meta| meta.is_dir());
    let has = |name: &str| entry.join(name).symlink_metadata().is_ok();
    if !own || !has(STAMP) || !has(TREE) {
        return Ok(());
    }
    match Stamp::read(entry) {
        Some(stamp) => mapped::remove_tree_of(&stamp.maps, &tree),
        // Of a stamp that is damaged only the caller's own ids can be meant.
        None => mapped::remove_tree_of(&mapped::own_maps()?, &tree),
    }
}

impl Source<'_> {
    pub(crate) fn present(&self, cache: &Cache, maps: &Maps) -> Result<Option<Tree>, Error> {
        let name = self.entry_name(maps)?;
        let found = cache.find(&name)?;
        Ok(found.and_then(|stamp| self.described(&stamp, maps)))
    }

    pub(crate) fn unpack(
        &self,
        cache: &Cache,
        maps: &Maps,
        progress: &dyn Progress,
    ) -> Result<Tree, Error> {
        let name = self.entry_name(maps)?;
        let stamp = cache.make(&name, progress, |place| self.build(place, maps, progress))?;
        self.described(&stamp, maps).ok_or_else(|| Error::Corrupt {
            path: stamp.path.clone(),
            reason: "it does not say what the tree beside it is".to_owned(),
        })
    }

    fn entry_name(&self, maps: &Maps) -> Result<EntryName, Error> {
        let ids = serde_json::to_vec(maps).map_err(|error| Error::form("a map of ids", error))?;
        Ok(EntryName {
            kind: self.kind,
            key: Key::of(&[BUILDER, self.image.sha256.as_bytes(), &ids]),
            payload: STAMP,
            title: self.title.clone(),
            // What is linked in the image is there twice in the tree.
            room: ByteSize::bytes(self.image.ident.size.saturating_mul(2)),
        })
    }

    fn described(&self, artifact: &Artifact, maps: &Maps) -> Option<Tree> {
        let entry = artifact.path.parent()?;
        let stamp = Stamp::read(entry)?;
        let same = stamp.image == self.image.sha256 && stamp.maps == *maps;
        (same && !stamp.sha256.is_empty()).then(|| Tree {
            path: entry.join(TREE),
            key: artifact.key.clone(),
            image: stamp.image,
            sha256: stamp.sha256,
            maps: stamp.maps,
        })
    }

    /// Unpacks the image as root of a container, who can write nothing else:
    /// it reaches the image as its input and the tree as its directory.
    fn build(
        &self,
        place: &Workplace<'_>,
        maps: &Maps,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let mut stamp = Stamp {
            version: 1,
            image: self.image.sha256.clone(),
            maps: maps.clone(),
            sha256: String::new(),
        };
        // First: with it, whoever finds the rest knows who can remove it.
        stamp.write(place.entry)?;
        progress.note(&format!("unpacking {}", self.title));
        let tree = place.entry.join(TREE);
        make_directory(&tree)?;
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&tree, open).map_err(Error::file("open up", &tree))?;
        let inside = Inside::new(maps)?;
        mapped::give(&inside, maps, &tree)?;
        let owners = if maps.outside_uid(0).is_some() {
            "--preserve-owner"
        } else {
            "--no-preserve-owner"
        };
        inside
            .tool("fsck.erofs", &format!("unpack {}", self.title))
            .args(["--extract=.", "--preserve-perms", owners])
            .arg("/proc/self/fd/0")
            .input(&self.image.path)?
            .directory(&tree)
            .run(progress, &mut |_| {})?;
        stamp.sha256 = digest(&inside, &tree, progress)?;
        // All of it is on disk before the entry is in its place.
        File::open(place.entry)
            .map_err(Error::file("open", place.entry))
            .and_then(|at| rustix::fs::syncfs(at).map_err(Error::errno("flush", place.entry)))?;
        stamp.write(place.entry)
    }
}

/// SHA-256 of an archive of all of a tree: contents, names, owners as its
/// container sees them, modes and times, in the order of the names.
fn digest(inside: &Inside, tree: &Path, progress: &dyn Progress) -> Result<String, Error> {
    packed(inside, tree).digest(progress)
}

fn packed(inside: &Inside, tree: &Path) -> Tool {
    inside
        .tool("tar", "read a tree")
        .args(["--create", "--file=-", "--sort=name", "--numeric-owner"])
        .args(["--format=gnu", "--one-file-system", "."])
        .directory(tree)
}

#[cfg(test)]
mod tests;
