//! A file of lines that starts anew when it is large, and keeps the one
//! before it. What a guest can make a supervisor write ends up in such files.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use sbx_sys::file;

/// The file, open at its end.
#[derive(Debug)]
pub(super) struct Rolling {
    directory: OwnedFd,
    name: &'static str,
    older: &'static str,
    most: u64,
    file: File,
    size: u64,
    torn: bool,
}

impl Rolling {
    /// Opens `name` in `directory`; what it held stays. Beyond `most` bytes
    /// it becomes `older`, and what was that before is gone.
    ///
    /// # Errors
    /// If it cannot be opened, or something else lies in its place.
    pub(super) fn open(
        directory: &Path,
        name: &'static str,
        older: &'static str,
        most: u64,
    ) -> sbx_sys::Result<Self> {
        let directory = file::open_dir(directory)?;
        let file = file::append_at(&directory, name)?;
        let size = file.metadata().map_or(0, |found| found.len());
        Ok(Self {
            directory,
            name,
            older,
            most,
            file,
            size,
            torn: false,
        })
    }

    /// Adds a line; `text` has its line end.
    ///
    /// # Errors
    /// What the file system says. The line may stand there in part; the next
    /// one begins on a line of its own.
    pub(super) fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.size + text.len() as u64 > self.most {
            rustix::fs::renameat(&self.directory, self.name, &self.directory, self.older)?;
            self.file = file::append_at(&self.directory, self.name).map_err(io::Error::other)?;
            self.size = 0;
            self.torn = false;
        }
        if std::mem::replace(&mut self.torn, true) {
            self.file.write_all(b"\n")?;
            self.size += 1;
        }
        self.file.write_all(text)?;
        self.size += text.len() as u64;
        self.torn = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file_starts_anew_and_keeps_one_before_it() {
        let root = tempfile::tempdir().unwrap();
        let mut file = Rolling::open(root.path(), "a", "a.old", 10).unwrap();
        for line in ["one1\n", "two2\n", "three\n", "four4\n"] {
            file.write(line.as_bytes()).unwrap();
        }
        let read = |name| std::fs::read_to_string(root.path().join(name)).unwrap();
        assert_eq!(
            (read("a.old").as_str(), read("a").as_str()),
            ("three\n", "four4\n")
        );
        drop(file);
        let mut file = Rolling::open(root.path(), "a", "a.old", 11).unwrap();
        file.write(b"five\n").unwrap();
        assert_eq!(read("a"), "four4\nfive\n");
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("victim"), "").unwrap();
        std::os::unix::fs::symlink("victim", root.path().join("a")).unwrap();
        assert!(Rolling::open(root.path(), "a", "a.old", 10).is_err());
        assert!(Rolling::open(root.path(), "victim", "a.old", 10).is_ok());
    }
}
