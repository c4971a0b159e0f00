//! Files that belong to the ids of a container.
//!
//! Owns: the programs of the host that run as root of a container's
//! namespace, and the removal of what only that root may remove. Never: lets
//! one of them see a directory above the one it works in; by descriptor and
//! working directory is how they reach anything, for that root may enter none
//! of the caller's directories. Trusts nothing in such a tree: no link in it
//! is followed.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use sbx_sys::userns::{self, Maps, Unavailable};

use crate::MissingPackage;
use crate::command::Tool;
use crate::error::Error;
use crate::host::{Need, find_program, missing};
use crate::progress::Silent;

const NEEDS: [Need; 2] = [
    Need {
        program: "nsenter",
        package: "util-linux",
        why: "enters the identities of a container",
    },
    Need {
        program: "find",
        package: "findutils",
        why: "removes files of a container",
    },
];
const NEEDS_OF_USERS: [Need; 1] = [Need {
    program: "newuidmap",
    package: "uidmap",
    why: "gives an ordinary user the identities of a container",
}];

/// What is missing to act as the root of a container with these maps.
pub(crate) fn missing_for(maps: &Maps) -> Vec<MissingPackage> {
    let mut list = missing(&NEEDS);
    if !is_root() && has_root(maps) {
        list.extend(missing(&NEEDS_OF_USERS));
    }
    list
}

/// The root of a container, or the caller where the maps have no root.
pub(crate) struct Inside {
    namespace: Option<Arc<OwnedFd>>,
}

impl Inside {
    /// Makes a namespace with these maps.
    pub(crate) fn new(maps: &Maps) -> Result<Self, Error> {
        let namespace = has_root(maps)
            .then(|| userns::create(maps))
            .transpose()
            .map_err(|error| refused(&error))?
            .map(Arc::new);
        Ok(Self { namespace })
    }

    /// `program` as that root. It ends with us, and gains nothing by a
    /// set-user-ID program.
    pub(crate) fn tool(&self, program: &str, task: &str) -> Tool {
        let Some(namespace) = &self.namespace else {
            return Tool::new(program, task);
        };
        let path = find_program(program).unwrap_or_else(|| Path::new("/usr/bin").join(program));
        let at = format!(
            "--user=/proc/{}/fd/{}",
            std::process::id(),
            namespace.as_raw_fd()
        );
        // The change of identity cancels the signal that was asked for before.
        Tool::new("nsenter", task)
            .args([&at, "--setuid=0", "--setgid=0", "--"])
            .args(["/usr/bin/setpriv", "--pdeathsig", "KILL", "--no-new-privs"])
            .arg("--")
            .arg(path)
            .holding(Arc::clone(namespace))
    }
}

/// Gives the directory `path`, which belongs to the caller, to root of a
/// container with these maps.
pub(crate) fn give(inside: &Inside, maps: &Maps, path: &Path) -> Result<(), Error> {
    let (Some(uid), Some(gid)) = (maps.outside_uid(0), maps.outside_gid(0)) else {
        return Ok(());
    };
    if is_root() {
        return std::os::unix::fs::lchown(path, Some(uid), Some(gid))
            .map_err(Error::file("give", path));
    }
    inside
        .tool("chown", "give a directory to a container")
        .args(["0:0", "."])
        .directory(path)
        .run(&Silent, &mut |_| {})
}

/// Makes the directory `path`, which everybody may enter who may enter the one
/// above and root of a container with these maps alone may write.
///
/// # Errors
/// [`Error::Namespaces`] if the host does not give the caller these ids,
/// [`Error::File`] if the file system refuses.
pub fn directory_of(maps: &Maps, path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    match fs::DirBuilder::new().mode(0o755).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(Error::file("make", path)(error));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(path).map_err(Error::file("look at", path))?;
    if !found.is_dir() {
        return Err(Error::form(
            format!("`{}`", path.display()),
            "it is no directory",
        ));
    }
    if Some(found.uid()) == maps.outside_uid(0) {
        return Ok(());
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(Error::file("open up", path))?;
    give(&Inside::new(maps)?, maps, path)
}

/// Removes the file or directory `path`, in which files belong to ids of
/// `maps`, with everything in it; nothing there is as good as removed. No
/// link is followed and no other file system entered, whatever was made in it
/// and however deep.
///
/// # Errors
/// [`Error::Namespaces`] if the host no longer gives the caller these ids,
/// [`Error::Program`] if something cannot be removed.
pub fn remove_tree_of(maps: &Maps, path: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file("look at", path)(error)),
        Ok(meta) if !meta.is_dir() => {
            return fs::remove_file(path).map_err(Error::file("remove", path));
        }
        Ok(_) => {}
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::form(
            format!("`{}`", path.display()),
            "it is no file in a directory",
        ));
    };
    let mut here = OsString::from("./");
    here.push(name);
    let task = "remove the files of a container";
    let find = if is_root() {
        // What most sandboxes leave behind is gone before a program has started.
        sbx_sys::tree::clear(path);
        if fs::remove_dir(path).is_ok() {
            return Ok(());
        }
        Tool::new("find", task)
    } else {
        if !has_root(maps) {
            // What the caller themselves is kept out of; the rest is told by `find`.
            let _ = Tool::new("chmod", task)
                .args(["--recursive", "u+rwX", "--"])
                .arg(&here)
                .directory(parent)
                .run(&Silent, &mut |_| {});
        }
        Inside::new(maps)?.tool("find", task)
    };
    find.arg(here)
        .args(["-xdev", "-depth", "-delete"])
        .directory(parent)
        .run(&Silent, &mut |_| {})
}

/// The maps of a container of this caller.
pub(crate) fn own_maps() -> Result<Maps, Error> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    userns::maps_of(uid, gid).map_err(|Unavailable { reason, cure }| Error::Namespaces {
        reason: format!("{reason}; {cure}"),
    })
}

fn has_root(maps: &Maps) -> bool {
    maps.outside_uid(0).is_some()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn refused(error: &sbx_sys::Error) -> Error {
    let source = std::error::Error::source(error).map(ToString::to_string);
    Error::Namespaces {
        reason: match source {
            Some(source) => format!("cannot {error}: {source}"),
            None => format!("cannot {error}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    use super::*;

    /// The maps of whoever runs the test.
    fn maps() -> Option<Maps> {
        own_maps()
            .inspect_err(|error| println!("skipped: {error}"))
            .ok()
    }

    fn shell(inside: &Inside, at: &Path, script: &str) {
        let tool = inside.tool("sh", "run a test").args(["-ec", script]);
        tool.directory(at).run(&Silent, &mut |_| {}).unwrap();
    }

    /// A directory of a container in one of the caller.
    fn given(maps: &Maps, inside: &Inside) -> (tempfile::TempDir, PathBuf) {
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::set_permissions(&tree, fs::Permissions::from_mode(0o755)).unwrap();
        give(inside, maps, &tree).unwrap();
        (home, tree)
    }

    #[test]
    fn what_a_container_made_is_removed_and_nothing_that_it_points_at() {
        let Some(maps) = maps() else {
            return;
        };
        let inside = Inside::new(&maps).unwrap();
        let (home, tree) = given(&maps, &inside);
        fs::write(home.path().join("precious"), "x").unwrap();
        let kept = home.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        let script = "mkdir -p a/b c; chown 33:33 a; ln -s ../../kept a/link; ln -s / a/root; \
                      ln -s ../precious file; touch -- '-delete' 'a/b/new
line'; mkfifo a/pipe; chmod 000 a/b a c";
        shell(&inside, &tree, script);
        assert_eq!(
            Some(fs::metadata(tree.join("a")).unwrap().uid()),
            maps.outside_uid(33)
        );

        remove_tree_of(&maps, &tree).unwrap();

        assert!(tree.symlink_metadata().is_err());
        assert!(home.path().join("precious").exists() && kept.join("file").exists());
        remove_tree_of(&maps, &tree).unwrap();
    }

    #[test]
    fn the_caller_alone_cannot_remove_it() {
        let Some(maps) = maps().filter(|_| !is_root()) else {
            println!("skipped: needs an ordinary user with ranges");
            return;
        };
        let inside = Inside::new(&maps).unwrap();
        let (_home, tree) = given(&maps, &inside);
        shell(&inside, &tree, "mkdir a; touch a/file; chmod 700 a");
        assert!(fs::remove_dir_all(&tree).is_err());
        remove_tree_of(&maps, &tree).unwrap();
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_removed_and_not_followed() {
        let maps = Maps::own(1, 1).unwrap();
        let home = tempfile::tempdir().unwrap();
        let kept = home.path().join("kept");
        fs::create_dir(&kept).unwrap();
        fs::write(kept.join("file"), "x").unwrap();
        let link = home.path().join("tree");
        symlink(&kept, &link).unwrap();
        remove_tree_of(&maps, &link).unwrap();
        assert!(link.symlink_metadata().is_err() && kept.join("file").exists());
    }

    #[test]
    fn a_tree_of_any_depth_is_removed() {
        let Some(maps) = maps() else {
            return;
        };
        let home = tempfile::tempdir().unwrap();
        let tree = home.path().join("tree");
        fs::create_dir(&tree).unwrap();
        // Deeper than a process has descriptors and a path has bytes.
        let mut at = fs::File::open(&tree).unwrap();
        for _ in 0..2500 {
            rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).unwrap();
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
            at = rustix::fs::openat(&at, "d", flags, rustix::fs::Mode::empty())
                .unwrap()
                .into();
        }
        remove_tree_of(&maps, &tree).unwrap();
        assert!(tree.symlink_metadata().is_err());
    }

    #[test]
    fn a_caller_with_one_id_removes_what_shuts_them_out() {
        let uid = rustix::process::geteuid().as_raw();
        let gid = rustix::process::getegid().as_raw();
        let Some(maps) = Maps::own(uid, gid) else {
            println!("skipped: root is mapped nowhere");
            return;
        };
        let inside = Inside::new(&maps).unwrap();
        let (_home, tree) = given(&maps, &inside);
        shell(
            &inside,
            &tree,
            "mkdir -p a/b; touch a/b/c; chmod 000 a/b; chmod 500 a",
        );
        remove_tree_of(&maps, &tree).unwrap();
        assert!(tree.symlink_metadata().is_err());
    }
}
