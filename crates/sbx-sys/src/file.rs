//! Small files, whole: read with a bound, replaced in one step.
//!
//! Everything that keeps state is relative to a directory descriptor, so that
//! a directory that is renamed or replaced meanwhile changes nothing.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};

use crate::error::{Attempt, Error, Result};

/// Lets everybody pass through the directories that lead to `path`, `top`
/// aside, as far as they are of the file system of `top`: what is mounted
/// between has an owner of its own. Links are left alone.
///
/// # Errors
/// When one of them cannot be looked at or changed.
pub fn let_through(top: &Path, path: &Path) -> Result<()> {
    let what = |step: &Path| format!("let others through `{}`", step.display());
    let own = rustix::fs::stat(top).attempt_with(|| what(top))?.st_dev;
    let steps = path.ancestors().skip(1).take_while(|step| *step != top);
    for step in steps {
        let found = rustix::fs::lstat(step).attempt_with(|| what(step))?;
        let kind = FileType::from_raw_mode(found.st_mode);
        let mode = Mode::from_raw_mode(found.st_mode);
        if kind != FileType::Directory || found.st_dev != own || mode.contains(Mode::XOTH) {
            continue;
        }
        rustix::fs::chmod(step, mode | Mode::XOTH).attempt_with(|| what(step))?;
    }
    Ok(())
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// Opens a directory as a handle for the `*_at` functions: no reading, only
/// a place. Follows links in `path`.
///
/// # Errors
/// When there is none or it may not be entered.
pub fn open_dir(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let path = path.as_ref();
    rustix::fs::open(
        path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .attempt_with(|| format!("open the directory `{}`", path.display()))
}

/// Opens a file or directory as a mere place, where no link stands there nor
/// on the way.
///
/// # Errors
/// When there is none, a link is met, or it may not be entered.
pub fn open_straight(path: impl AsRef<Path>) -> Result<OwnedFd> {
    let path = path.as_ref();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let how = ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(CWD, path, flags, Mode::empty(), how)
        .attempt_with(|| format!("open `{}` without following a link", path.display()))
}

/// Writes `bytes` as the file `name` in `dir`, mode 0600, so that a reader
/// (and the next boot) sees either the old file or the whole new one.
///
/// # Errors
/// When any step is refused; the old file is then untouched.
pub fn replace_at(dir: impl AsFd, name: &str, bytes: &[u8]) -> Result<()> {
    let dir = dir.as_fd();
    put(dir, name, bytes, true)?;
    // O_PATH descriptors cannot be synced.
    let real = rustix::fs::openat(
        dir,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .attempt_with(|| format!("open the directory of `{name}`"))?;
    rustix::fs::fsync(&real).attempt_with(|| format!("sync the directory of `{name}`"))
}

/// Like [`replace_at`], without waiting for the disk: a reader sees either
/// file whole, the next boot of the host perhaps neither. For what says
/// something of this boot alone; a busy disk would hold its writer up.
///
/// # Errors
/// As [`replace_at`].
pub fn replace_for_this_boot_at(dir: impl AsFd, name: &str, bytes: &[u8]) -> Result<()> {
    put(dir.as_fd(), name, bytes, false)
}

fn put(dir: BorrowedFd<'_>, name: &str, bytes: &[u8], durable: bool) -> Result<()> {
    plain(name)?;
    let temporary = format!(
        ".{name}.{}.{}",
        std::process::id(),
        SERIAL.fetch_add(1, Ordering::Relaxed)
    );
    let _ = rustix::fs::unlinkat(dir, &temporary, AtFlags::empty());
    let fd = rustix::fs::openat(
        dir,
        &temporary,
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
    .attempt_with(|| format!("create `{temporary}`"))?;
    let mut file = File::from(fd);
    let written = file
        .write_all(bytes)
        .and_then(|()| if durable { file.sync_all() } else { Ok(()) })
        .attempt_with(|| format!("write `{temporary}`"))
        .and_then(|()| {
            rustix::fs::renameat(dir, &temporary, dir, name)
                .attempt_with(|| format!("replace `{name}`"))
        });
    if written.is_err() {
        let _ = rustix::fs::unlinkat(dir, &temporary, AtFlags::empty());
    }
    written
}

/// The bytes of the regular file `name` in `dir`; links are not followed.
///
/// # Errors
/// When it is missing, not a regular file, or longer than `max` bytes.
pub fn read_at(dir: impl AsFd, name: &str, max: usize) -> Result<Vec<u8>> {
    let file = open_at(dir, name)?;
    read_up_to(file, name, max)
}

/// The regular file `name` in `dir`, to be read; links are not followed and a
/// pipe is not waited for.
///
/// # Errors
/// When it is missing or not a regular file.
pub fn open_at(dir: impl AsFd, name: &str) -> Result<File> {
    open_regular(dir, name, OFlags::RDONLY)
}

/// The regular file `name` in `dir`, made with mode 0600 where it is missing,
/// to be written to at its end; links are not followed.
///
/// # Errors
/// When it is not a regular file, or the file system refuses.
pub fn append_at(dir: impl AsFd, name: &str) -> Result<File> {
    open_regular(dir, name, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE)
}

fn open_regular(dir: impl AsFd, name: &str, flags: OFlags) -> Result<File> {
    plain(name)?;
    let fd = rustix::fs::openat(
        dir,
        name,
        flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::RUSR | Mode::WUSR,
    )
    .attempt_with(|| format!("open `{name}`"))?;
    let file = File::from(fd);
    let kind = file
        .metadata()
        .attempt_with(|| format!("look at `{name}`"))?;
    if !kind.is_file() {
        return Err(Error::refused(format!(
            "open `{name}`, which is not a regular file"
        )));
    }
    Ok(file)
}

/// The bytes of the file at `path`, of any kind; for `/proc`, `/sys` and
/// files that the user named.
///
/// # Errors
/// When it cannot be read or is longer than `max` bytes.
pub fn read_bounded(path: impl AsRef<Path>, max: usize) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let name = path.display().to_string();
    let file = File::open(path).attempt_with(|| format!("open `{name}`"))?;
    read_up_to(file, &name, max)
}

fn read_up_to(file: File, name: &str, max: usize) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take((max as u64).saturating_add(1))
        .read_to_end(&mut bytes)
        .attempt_with(|| format!("read `{name}`"))?;
    if bytes.len() > max {
        return Err(Error::refused(format!(
            "read `{name}`, which is longer than {max} bytes"
        )));
    }
    Ok(bytes)
}

/// Accepts a name that stays in its directory.
pub(crate) fn plain(name: &str) -> Result<()> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(Error::refused(format!(
            "use `{}` as a file name",
            name.escape_default()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn others_pass_through_what_leads_there_and_see_no_more_of_it() {
        use std::os::unix::fs::PermissionsExt;
        let top = tempfile::tempdir().unwrap();
        let (private, open) = (top.path().join("private"), top.path().join("private/open"));
        let path = open.join("there");
        std::fs::create_dir_all(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let set = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        set(&private, 0o2700);
        set(&open, 0o755);
        set(&path, 0o700);
        let above = mode(top.path());

        let_through(top.path(), &path).unwrap();

        assert_eq!(mode(&private), 0o2701);
        assert_eq!((mode(&open), mode(&path)), (0o755, 0o700));
        assert_eq!(mode(top.path()), above);
        // What is behind a link is not what leads there.
        let elsewhere = top.path().join("elsewhere");
        std::fs::create_dir_all(elsewhere.join("there")).unwrap();
        set(&elsewhere, 0o700);
        std::os::unix::fs::symlink(&elsewhere, top.path().join("link")).unwrap();
        let_through(top.path(), &top.path().join("link/there")).unwrap();
        assert_eq!(mode(&elsewhere), 0o700);
    }

    #[test]
    fn a_replaced_file_is_whole_private_and_alone() {
        let home = tempfile::tempdir().unwrap();
        let dir = open_dir(home.path()).unwrap();
        replace_at(&dir, "state.json", b"one").unwrap();
        replace_for_this_boot_at(&dir, "state.json", b"two").unwrap();
        assert_eq!(read_at(&dir, "state.json", 16).unwrap(), b"two");
        let mode = std::fs::metadata(home.path().join("state.json"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_replacement_leaves_nothing_behind() {
        let home = tempfile::tempdir().unwrap();
        let dir = open_dir(home.path()).unwrap();
        std::fs::create_dir(home.path().join("taken")).unwrap();
        assert!(replace_at(&dir, "taken", b"x").is_err());
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_over_the_bound_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let dir = open_dir(home.path()).unwrap();
        replace_at(&dir, "f", b"12345").unwrap();
        assert!(read_at(&dir, "f", 4).is_err());
        assert_eq!(read_at(&dir, "f", 5).unwrap(), b"12345");
    }

    #[test]
    fn links_and_pipes_are_neither_read_nor_written() {
        let home = tempfile::tempdir().unwrap();
        let dir = open_dir(home.path()).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", home.path().join("link")).unwrap();
        rustix::fs::mknodat(
            &dir,
            "pipe",
            rustix::fs::FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        assert!(read_at(&dir, "link", 4096).is_err());
        assert!(read_at(&dir, "pipe", 4096).is_err());
        assert!(append_at(&dir, "link").is_err());
        assert!(append_at(&dir, "pipe").is_err());
    }

    #[test]
    fn what_is_appended_comes_after_what_was_there() {
        let home = tempfile::tempdir().unwrap();
        let dir = open_dir(home.path()).unwrap();
        for text in ["one ", "two"] {
            append_at(&dir, "f")
                .unwrap()
                .write_all(text.as_bytes())
                .unwrap();
        }
        assert_eq!(read_at(&dir, "f", 16).unwrap(), b"one two");
    }

    #[test]
    fn names_that_leave_the_directory_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let dir = open_dir(home.path()).unwrap();
        for name in ["", ".", "..", "a/b", "/etc/hostname", "a\0b"] {
            assert!(read_at(&dir, name, 10).is_err(), "{name:?}");
            assert!(replace_at(&dir, name, b"").is_err(), "{name:?}");
        }
    }
}
