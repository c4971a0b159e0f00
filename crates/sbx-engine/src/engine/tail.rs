//! Reads a file of JSON lines that a supervisor writes and starts anew when
//! it is large, and goes on reading as it grows.
//!
//! Believes nothing: follows no link, and what is not a line of the kind
//! asked for is counted and left out.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use sbx_sys::file;
use serde::de::DeserializeOwned;

/// How often a followed file is looked at: there is no event for a file that
/// grows on every file system.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// A file and the one before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rolled {
    /// Its name.
    pub(super) name: &'static str,
    /// The name of the one before it.
    pub(super) older: &'static str,
    /// Size at which it starts anew, in bytes.
    pub(super) most: u64,
}

/// How far such a file was read.
#[derive(Default, Debug)]
pub(super) struct Tail {
    at: u64,
    /// Which file that was: device and inode.
    of: Option<(u64, u64)>,
    /// Lines that were none.
    pub(super) unreadable: u64,
}

impl Tail {
    /// Hands each new whole line to `each`, those of the older file first.
    pub(super) fn read<T: DeserializeOwned>(
        &mut self,
        directory: &Path,
        what: Rolled,
        mut each: impl FnMut(T),
    ) {
        let open = |name| {
            let directory = file::open_dir(directory).ok()?;
            let file = file::open_at(directory, name).ok()?;
            let found = file.metadata().ok()?;
            Some((file, (found.dev(), found.ino()), found.len()))
        };
        let Some((file, now, size)) = open(what.name) else {
            return;
        };
        if self.of != Some(now) {
            // The rest of what was read before, or all of it the first time.
            if let Some((older, before, _)) = open(what.older)
                && before != now
                && self.of.is_none_or(|read| read == before)
            {
                self.lines(older, what.most, &mut each);
            }
            self.at = 0;
            self.of = Some(now);
        }
        if size < self.at {
            self.at = 0;
        }
        self.lines(file, what.most, &mut each);
    }

    fn lines<T: DeserializeOwned>(&mut self, mut file: File, most: u64, each: &mut impl FnMut(T)) {
        if file.seek(SeekFrom::Start(self.at)).is_err() {
            return;
        }
        let mut reader = BufReader::new(file.take(2 * most));
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|count| count > 0)
        {
            if line.last() != Some(&b'\n') {
                break;
            }
            self.at += line.len() as u64;
            match serde_json::from_slice(&line) {
                Ok(entry) => each(entry),
                Err(_) => self.unreadable += 1,
            }
            line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const FILE: Rolled = Rolled {
        name: "a",
        older: "a.old",
        most: 1024,
    };

    fn read(tail: &mut Tail, root: &tempfile::TempDir) -> Vec<u32> {
        let mut found = Vec::new();
        tail.read(root.path(), FILE, |number| found.push(number));
        found
    }

    #[test]
    fn a_line_is_shown_once_and_only_when_it_is_whole() {
        let root = tempfile::tempdir().unwrap();
        let mut file = File::create(root.path().join("a")).unwrap();
        write!(file, "1\n2").unwrap();
        let mut tail = Tail::default();
        assert_eq!(read(&mut tail, &root), [1]);
        assert!(read(&mut tail, &root).is_empty());
        writeln!(file, "3\nno number\n4").unwrap();
        assert_eq!(read(&mut tail, &root), [23, 4]);
        assert_eq!(tail.unreadable, 1);
    }

    #[test]
    fn a_file_that_starts_anew_loses_no_line() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        std::fs::write(path("a.old"), "1\n").unwrap();
        std::fs::write(path("a"), "2\n").unwrap();
        let mut tail = Tail::default();
        assert_eq!(read(&mut tail, &root), [1, 2]);
        let mut file = File::options().append(true).open(path("a")).unwrap();
        writeln!(file, "3").unwrap();
        std::fs::rename(path("a"), path("a.old")).unwrap();
        std::fs::write(path("a"), "4\n").unwrap();
        assert_eq!(read(&mut tail, &root), [3, 4]);
        assert!(read(&mut tail, &root).is_empty());
    }

    #[test]
    fn a_link_in_its_place_is_not_read() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("secret"), "1\n").unwrap();
        std::os::unix::fs::symlink("secret", root.path().join("a")).unwrap();
        let mut tail = Tail::default();
        assert!(read(&mut tail, &root).is_empty());
        std::fs::rename(root.path().join("secret"), root.path().join("a")).unwrap();
        assert_eq!(read(&mut tail, &root), [1]);
    }
}
