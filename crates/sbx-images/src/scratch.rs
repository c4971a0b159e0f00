//! The private writable disk of a sandbox.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sbx_spec::ByteSize;

use crate::command::Tool;
use crate::error::Error;
use crate::host::{Need, require};
use crate::progress::Silent;

const NEEDS: [Need; 1] = [Need {
    program: "mkfs.ext4",
    package: "e2fsprogs",
    why: "makes the sandbox's own disk",
}];

/// Below this there is no room for the file system itself.
const MIN_SIZE: ByteSize = ByteSize::mib(16);

/// Makes a sparse file of `size` bytes, 0600, that holds an empty ext4 file
/// system labelled `sbx`. There must be nothing at `path`.
///
/// It takes a few milliseconds and some hundred kilobytes whatever the size:
/// a hole reads as zeroes, so no table has to be cleared now, nor later by
/// the guest, whose clearing would fill the file.
///
/// # Errors
/// [`Error::MissingPackages`] without `mkfs.ext4`, [`Error::Form`] for a
/// size below 16 MiB, [`Error::File`] or [`Error::Program`] if the host has
/// no room. Nothing is left at `path` then.
pub fn scratch(path: &Path, size: ByteSize) -> Result<(), Error> {
    require(&NEEDS)?;
    if size < MIN_SIZE {
        return Err(Error::form(
            format!("a disk of {size}"),
            format!("the least is {MIN_SIZE}"),
        ));
    }
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(Error::file("create", path))?;
    let made = file
        .set_len(size.as_bytes() & !0xfff)
        .map_err(Error::file("size", path))
        .and_then(|()| make_file_system(path));
    if made.is_err() {
        let _ = fs::remove_file(path);
    }
    made
}

fn make_file_system(path: &Path) -> Result<(), Error> {
    let make = |extended: &str| {
        Tool::new("mkfs.ext4", "make the sandbox's disk")
            .args([
                "-F", "-q", "-L", "sbx", "-b", "4096", "-I", "256", "-m", "0", "-T", "default",
            ])
            .args(["-E", extended])
            .arg(path)
            .run(&Silent, &mut |_| {})
    };
    make("assume_storage_prezeroed=1,nodiscard")
        // Before e2fsprogs 1.47 there is no such option.
        .or_else(|_| make("lazy_itable_init=1,lazy_journal_init=1,nodiscard"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_large_disk_is_made_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let begin = std::time::Instant::now();
        scratch(&path, ByteSize::gib(20)).unwrap();
        let meta = fs::metadata(&path).unwrap();
        eprintln!(
            "20g: {:?}, {} KiB on disk",
            begin.elapsed(),
            meta.blocks() / 2
        );
        assert_eq!(meta.len(), 20 << 30);
        assert!(meta.blocks() * 512 < 8 << 20, "{} blocks", meta.blocks());
        assert_eq!(meta.mode() & 0o777, 0o600);
        Tool::new("e2fsck", "check the disk")
            .args(["-f", "-n"])
            .arg(&path)
            .run(&Silent, &mut |_| {})
            .unwrap();
    }

    #[test]
    fn an_existing_file_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        fs::write(&path, b"precious").unwrap();
        assert!(scratch(&path, ByteSize::gib(1)).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_disk_that_cannot_hold_a_file_system_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        assert!(matches!(
            scratch(&path, ByteSize::mib(1)),
            Err(Error::Form { .. })
        ));
        assert!(!path.exists());
        scratch(&path, MIN_SIZE).unwrap();
    }
}
