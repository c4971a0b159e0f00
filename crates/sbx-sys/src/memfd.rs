//! Sealed memory files: bytes handed to a child that nobody can change any more.
//!
//! The seals are what makes them safe to parse: without them the writer
//! could change or cut the bytes between a check and a use.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

use crate::error::{Attempt, Error, Result};

const SEALS: SealFlags = SealFlags::SEAL
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::WRITE);

/// A memory file that holds `bytes`, sealed against every change, its
/// position at the start. `name` (up to 249 bytes) is only seen in `/proc`.
///
/// # Errors
/// When the kernel refuses the file, the bytes or the seals.
pub fn sealed(name: &str, bytes: &[u8]) -> Result<OwnedFd> {
    let mut file = create(name)?;
    file.write_all(bytes).attempt("fill a memory file")?;
    file.seek(SeekFrom::Start(0))
        .attempt("rewind a memory file")?;
    rustix::fs::fcntl_add_seals(&file, SEALS).attempt("seal a memory file")?;
    Ok(file.into())
}

/// A memory file of `size` zero bytes that can be written, never grown or cut.
///
/// # Errors
/// When the kernel refuses the file, its size or the seals.
pub fn fixed(name: &str, size: usize) -> Result<OwnedFd> {
    let file = create(name)?;
    file.set_len(size as u64)
        .attempt("set the size of a memory file")?;
    let seals = SEALS - SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals).attempt("seal a memory file")?;
    Ok(file.into())
}

fn create(name: &str) -> Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL;
    let fd = match rustix::fs::memfd_create(name, flags) {
        // Kernels before 6.3 do not know NOEXEC_SEAL.
        Err(rustix::io::Errno::INVAL) => {
            rustix::fs::memfd_create(name, flags - MemfdFlags::NOEXEC_SEAL)
        }
        other => other,
    }
    .attempt("create a memory file")?;
    Ok(File::from(fd))
}

/// The bytes of a memory file made by [`sealed`], wherever its position is.
///
/// # Errors
/// When it is not a memory file, is not sealed against writing, growing and
/// shrinking, or holds more than `max` bytes.
pub fn read_sealed(fd: OwnedFd, max: usize) -> Result<Vec<u8>> {
    let seals = rustix::fs::fcntl_get_seals(&fd).attempt("read the seals of a memory file")?;
    if !seals.contains(SEALS) {
        return Err(Error::refused(format!(
            "read a memory file that is not sealed ({seals:?})"
        )));
    }
    let mut file = File::from(fd);
    let size = file
        .metadata()
        .attempt("read the size of a memory file")?
        .len();
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if size > max {
        return Err(Error::refused(format!(
            "read a memory file of {size} bytes (at most {max})"
        )));
    }
    file.seek(SeekFrom::Start(0))
        .attempt("rewind a memory file")?;
    let mut bytes = Vec::with_capacity(size);
    file.take(max as u64)
        .read_to_end(&mut bytes)
        .attempt("read a memory file")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn sealed_bytes_come_back() {
        let fd = sealed("test", b"hello").unwrap();
        assert_eq!(read_sealed(fd, 5).unwrap(), b"hello");
    }

    #[test]
    fn sealed_bytes_cannot_be_changed() {
        let fd = sealed("test", b"hello").unwrap();
        let error = rustix::io::pwrite(fd.as_fd(), b"x", 0).unwrap_err();
        assert_eq!(error, rustix::io::Errno::PERM);
    }

    #[test]
    fn a_file_of_fixed_size_takes_bytes_within_it_only() {
        let fd = fixed("test", 4).unwrap();
        assert_eq!(rustix::io::pwrite(&fd, b"abcd", 0), Ok(4));
        assert!(rustix::io::pwrite(&fd, b"e", 4).is_err());
        assert!(rustix::fs::ftruncate(&fd, 0).is_err());
    }

    #[test]
    fn too_many_bytes_are_refused() {
        let fd = sealed("test", b"hello").unwrap();
        assert!(read_sealed(fd, 4).is_err());
    }

    #[test]
    fn an_unsealed_file_is_refused() {
        let fd = rustix::fs::memfd_create("test", MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(read_sealed(fd, 4).is_err());
    }

    #[test]
    fn an_ordinary_file_is_refused() {
        let file = tempfile::tempfile().unwrap();
        assert!(read_sealed(file.into(), 4).is_err());
    }
}
