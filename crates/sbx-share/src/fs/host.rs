//! Descriptor-relative operations on the host: the only place that names a host file.
//!
//! Owns nothing. Every function takes a directory descriptor and one single name, and never
//! follows a link or a path: what a descriptor was opened on is what is worked on for its whole
//! life. The one indirect route is [`Proc`], a held descriptor of `/proc/self/fd`, which turns a
//! held `O_PATH` descriptor into an open file without naming anything.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, Dev, FileType, Mode, OFlags, RawDir, RenameFlags, ResolveFlags, Statx,
    StatxFlags, Timestamps,
};
use rustix::io::Errno;
use rustix::path::DecInt;

/// How much of a directory is read in one system call.
const DIRENT_BUFFER: usize = 32 * 1024;
/// File systems whose files may have names that nobody gave them, by the magic number that
/// `statfs(2)` tells: those of DOS and Windows, and whatever may be one behind a server or a
/// program.
const ALIASING: [u32; 9] = [
    0x4d44,      // FAT
    0x5346_544e, // NTFS
    0x7366_746e, // NTFS, the later driver
    0x6573_5546, // FUSE
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB 2
    0x517b,      // SMB
    0x0102_1997, // 9P
    0x786f_4256, // shared folders of VirtualBox
];
/// How an entry is looked at: itself and not where it leads, and nothing is mounted by that.
const BY_NAME: AtFlags = AtFlags::SYMLINK_NOFOLLOW.union(AtFlags::NO_AUTOMOUNT);

/// The descriptor table of this process, for reopening descriptors.
#[derive(Debug)]
pub(crate) struct Proc(OwnedFd);

impl Proc {
    /// Opens `/proc/self/fd`. Must run before the process is jailed.
    pub(crate) fn open() -> io::Result<Self> {
        let fd = rustix::fs::openat(
            CWD,
            c"/proc/self/fd",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self(fd))
    }

    /// Opens the file behind `fd` again, with other flags.
    pub(crate) fn reopen(&self, fd: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = (flags - OFlags::NOFOLLOW - OFlags::CREATE - OFlags::EXCL) | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(
            &self.0,
            DecInt::from_fd(fd),
            flags,
            Mode::empty(),
        )?)
    }

    /// Opens the regular file behind `fd` as a [`File`].
    pub(crate) fn file(&self, fd: BorrowedFd<'_>, flags: OFlags) -> io::Result<File> {
        Ok(File::from(self.reopen(fd, flags | OFlags::NONBLOCK)?))
    }

    /// Sets the permission bits of what `fd` was opened on.
    pub(crate) fn chmod(&self, fd: BorrowedFd<'_>, mode: Mode) -> io::Result<()> {
        Ok(rustix::fs::chmodat(
            &self.0,
            DecInt::from_fd(fd),
            mode,
            AtFlags::empty(),
        )?)
    }

    /// Sets the times of what `fd` was opened on.
    pub(crate) fn utimens(&self, fd: BorrowedFd<'_>, times: &Timestamps) -> io::Result<()> {
        Ok(rustix::fs::utimensat(
            &self.0,
            DecInt::from_fd(fd),
            times,
            AtFlags::empty(),
        )?)
    }

    /// Gives what `fd` was opened on one more name.
    pub(crate) fn link(
        &self,
        fd: BorrowedFd<'_>,
        parent: BorrowedFd<'_>,
        name: &CStr,
    ) -> io::Result<()> {
        Ok(rustix::fs::linkat(
            &self.0,
            DecInt::from_fd(fd),
            parent,
            name,
            AtFlags::SYMLINK_FOLLOW,
        )?)
    }
}

/// Opens the entry `name` of `parent` as a handle without rights (`O_PATH`), links not followed.
pub(crate) fn open_entry(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        // Beneath-resolution answers EAGAIN when a rename anywhere raced with it.
        match rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// As [`open_entry`], but absence is `None`.
pub(crate) fn find_entry(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<OwnedFd>> {
    match open_entry(parent, name) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if is(&e, Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Creates the regular file `name` and opens it; fails if the name is taken.
pub(crate) fn create(
    parent: BorrowedFd<'_>,
    name: &CStr,
    flags: OFlags,
    mode: Mode,
) -> io::Result<File> {
    let flags = flags | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(parent, name, flags, mode, resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(File::from(other?)),
        }
    }
}

/// Attributes of what `fd` was opened on.
pub(crate) fn stat(fd: BorrowedFd<'_>) -> io::Result<Statx> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    Ok(rustix::fs::statx(
        fd,
        c"",
        AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
        mask,
    )?)
}

/// Attributes of the entry `name`, links not followed, or `None` if there is no such entry.
pub(crate) fn stat_entry(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Statx>> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    match rustix::fs::statx(parent, name, BY_NAME, mask) {
        Ok(st) => Ok(Some(st)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// The file type bits of the entry `name`, or `None` if there is no such entry.
pub(crate) fn entry_type(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<FileType>> {
    match rustix::fs::statx(parent, name, BY_NAME, StatxFlags::TYPE) {
        Ok(st) => Ok(Some(FileType::from_raw_mode(u32::from(st.stx_mode)))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Whether the file system of `dir` may have given its files second names.
pub(crate) fn has_aliases(dir: BorrowedFd<'_>) -> io::Result<bool> {
    let kind = rustix::fs::fstatfs(dir)?.f_type;
    // The number has 32 bits, whatever the width and the sign of the field.
    Ok(ALIASING
        .iter()
        .any(|known| i64::from(*known) == kind & 0xffff_ffff))
}

/// Creates the directory `name`.
pub(crate) fn mkdir(parent: BorrowedFd<'_>, name: &CStr, mode: Mode) -> io::Result<()> {
    Ok(rustix::fs::mkdirat(parent, name, mode)?)
}

/// Creates a regular file, FIFO or socket without opening it. Device nodes are refused here.
pub(crate) fn mknod(
    parent: BorrowedFd<'_>,
    name: &CStr,
    kind: FileType,
    mode: Mode,
) -> io::Result<()> {
    match kind {
        FileType::RegularFile | FileType::Fifo | FileType::Socket => Ok(rustix::fs::mknodat(
            parent,
            name,
            kind,
            mode,
            Dev::from(0u8),
        )?),
        _ => Err(Errno::PERM.into()),
    }
}

/// Creates the symbolic link `name` with the contents `target`.
pub(crate) fn symlink(target: &CStr, parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    Ok(rustix::fs::symlinkat(target, parent, name)?)
}

/// The contents of the symbolic link `fd`.
pub(crate) fn readlink(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(fd, c"", Vec::new())?.into_bytes())
}

/// Removes the entry `name`, which is not a directory.
pub(crate) fn unlink(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::empty())?)
}

/// Removes the empty directory `name`.
pub(crate) fn rmdir(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

/// Renames an entry.
pub(crate) fn rename(
    old: (BorrowedFd<'_>, &CStr),
    new: (BorrowedFd<'_>, &CStr),
    flags: RenameFlags,
) -> io::Result<()> {
    if flags.is_empty() {
        // The plain call also works on file systems that know no flags.
        return Ok(rustix::fs::renameat(old.0, old.1, new.0, new.1)?);
    }
    Ok(rustix::fs::renameat_with(
        old.0, old.1, new.0, new.1, flags,
    )?)
}

/// One name in a directory.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    /// The inode number the host reports.
    pub(crate) ino: u64,
    /// The `DT_*` value.
    pub(crate) kind: u32,
    /// The name, without a slash.
    pub(crate) name: Box<CStr>,
}

/// Reads all names of the directory `dir` (an open, not an `O_PATH`, descriptor), without `.` and
/// `..`. `budget` is what the names may cost in bytes; beyond it the answer is `ENOMEM`.
pub(crate) fn names(dir: impl AsFd, mut budget: usize) -> io::Result<Vec<Name>> {
    rustix::fs::seek(dir.as_fd(), rustix::fs::SeekFrom::Start(0))?;
    let mut buffer = vec![MaybeUninit::uninit(); DIRENT_BUFFER];
    let mut raw = RawDir::new(dir.as_fd(), &mut buffer);
    let mut found = Vec::new();
    while let Some(entry) = raw.next() {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        budget = budget.checked_sub(cost_of_name(name)).ok_or(Errno::NOMEM)?;
        found.push(Name {
            ino: entry.ino(),
            kind: dirent_type(entry.file_type()),
            name: name.into(),
        });
    }
    Ok(found)
}

/// What one listed name costs in memory, in bytes.
pub(crate) fn cost_of_name(name: &CStr) -> usize {
    name.count_bytes() + size_of::<Name>() + 16
}

/// The `DT_*` value of a file type.
pub(crate) fn dirent_type(kind: FileType) -> u32 {
    u32::from(match kind {
        FileType::RegularFile => libc::DT_REG,
        FileType::Directory => libc::DT_DIR,
        FileType::Symlink => libc::DT_LNK,
        FileType::Fifo => libc::DT_FIFO,
        FileType::Socket => libc::DT_SOCK,
        FileType::CharacterDevice => libc::DT_CHR,
        FileType::BlockDevice => libc::DT_BLK,
        FileType::Unknown => libc::DT_UNKNOWN,
    })
}

/// Whether `error` is exactly `errno`.
pub(crate) fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}
