//! Small files below the user's home, written as that user, beneath the home
//! and through no link.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use sbx_proto::session::{HomeFile, When};

use crate::error::{Attempt as _, Error, Result};

/// Writes `files` below `home`, which must exist.
pub(crate) fn write_files(home: &Path, files: &[HomeFile]) -> Result<()> {
    if files.is_empty() {
        return Ok(());
    }
    let root = rustix::fs::open(
        home,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .attempt(format!("open the home `{}`", home.display()))?;
    for file in files {
        write_file(&root, file)?;
    }
    Ok(())
}

fn write_file(root: &OwnedFd, file: &HomeFile) -> Result<()> {
    let path = relative(&file.path)?;
    let shown = path.display();
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => make_directories(root, parent)?,
        _ => None,
    };
    let parent = parent.as_ref().map_or(root.as_fd(), AsFd::as_fd);
    let Some(name) = path.file_name() else {
        return Err(Error::new("write a home file without a name"));
    };
    if file.when == When::Missing
        && rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    {
        return Ok(());
    }
    // Written beside and renamed over: a link of that name is replaced, never
    // followed, and no reader sees half a file.
    let temporary = format!(".sbx-{}", rustix::process::getpid().as_raw_nonzero());
    let mode = Mode::from_raw_mode(file.mode & 0o777);
    let fd = open_beneath(
        parent,
        Path::new(&temporary),
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL,
        mode,
    )
    .attempt(format!("create `{shown}` in the home"))?;
    let written = rustix::fs::fchmod(&fd, mode)
        .map_err(Into::into)
        .and_then(|()| File::from(fd).write_all(&file.content))
        .and_then(|()| rustix::fs::renameat(parent, &*temporary, parent, name).map_err(Into::into));
    if written.is_err() {
        let _ = rustix::fs::unlinkat(parent, &*temporary, AtFlags::empty());
    }
    written.attempt(format!("write `{shown}` in the home"))
}

fn relative(path: &[u8]) -> Result<&Path> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = Path::new(std::ffi::OsStr::from_bytes(path));
    let plain = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if path.as_os_str().is_empty() || !plain {
        return Err(Error::new(format!(
            "write `{}` in the home: not a plain relative path",
            path.display()
        )));
    }
    Ok(path)
}

/// Opens the entry `name` of `dir`, one name and no link, which therefore lies
/// beneath. Not by `openat2`, which a container's filter knows not.
fn open_beneath(
    dir: BorrowedFd<'_>,
    name: &Path,
    flags: OFlags,
    mode: Mode,
) -> rustix::io::Result<OwnedFd> {
    rustix::fs::openat(dir, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode)
}

fn make_directories(root: &OwnedFd, path: &Path) -> Result<Option<OwnedFd>> {
    let mut current: Option<OwnedFd> = None;
    for part in path.components() {
        let dir = current.as_ref().map_or(root.as_fd(), AsFd::as_fd);
        let name: &Path = part.as_ref();
        match rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => {
                return Err(error).attempt(format!("create `{}` in the home", path.display()));
            }
        }
        let next = open_beneath(dir, name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())
            .attempt(format!("open `{}` in the home", path.display()))?;
        current = Some(next);
    }
    Ok(current)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, when: When) -> HomeFile {
        HomeFile {
            path: path.as_bytes().to_vec().into(),
            mode: 0o600,
            content: b"new".to_vec().into(),
            when,
        }
    }

    #[test]
    fn writes_below_new_directories() {
        let home = tempfile::tempdir().unwrap();
        write_files(home.path(), &[file(".a/b/c", When::Missing)]).unwrap();
        let path = home.path().join(".a/b/c");
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn keeps_what_is_there_unless_told_otherwise() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("f"), "old").unwrap();
        write_files(home.path(), &[file("f", When::Missing)]).unwrap();
        assert_eq!(std::fs::read(home.path().join("f")).unwrap(), b"old");
        write_files(home.path(), &[file("f", When::Always)]).unwrap();
        assert_eq!(std::fs::read(home.path().join("f")).unwrap(), b"new");
    }

    #[test]
    fn a_link_is_replaced_and_never_followed() {
        let (home, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = outside.path().join("t");
        std::fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, home.path().join("f")).unwrap();
        write_files(home.path(), &[file("f", When::Always)]).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        std::os::unix::fs::symlink(outside.path(), home.path().join("d")).unwrap();
        assert!(write_files(home.path(), &[file("d/x", When::Always)]).is_err());
        assert!(!outside.path().join("x").exists());
    }

    #[test]
    fn refuses_paths_that_leave_the_home() {
        let home = tempfile::tempdir().unwrap();
        for path in ["../x", "/x", "a/../../x", ""] {
            assert!(
                write_files(home.path(), &[file(path, When::Always)]).is_err(),
                "{path}"
            );
        }
    }
}
