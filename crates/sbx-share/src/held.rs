//! What is held: the list for the user, and the first-change events.

use std::collections::HashSet;
use std::io;
use std::os::fd::BorrowedFd;

use parking_lot::Mutex;
use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use crate::fs::host;
use crate::guard::shadow::{self, Step};

/// The most entries one list carries; what is beyond is only counted by the reader seeing
/// exactly this many.
pub const LIST_MAX: usize = 1024;
/// How deep the store is walked for a list.
const DEPTH_MAX: usize = 128;
/// The most paths that are announced in the life of one server.
const ANNOUNCED_MAX: usize = 4096;

/// How a held path differs from the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldOp {
    /// The guest made or changed it; the host does not see that.
    Changed,
    /// The guest deleted it; the host still has it.
    Deleted,
}

/// One held change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldEntry {
    /// The path inside the share, components joined by slashes. Bytes that are no text, control
    /// characters and backslashes are written as `\xNN`.
    pub path: String,
    /// What happened to it.
    pub op: HeldOp,
}

/// Lists what the shadow store `shadow_dir` holds, at most [`LIST_MAX`] entries, in no order.
/// No server needs to run.
///
/// # Errors
/// If the store cannot be read. An empty directory is an empty store.
pub fn list(shadow_dir: BorrowedFd<'_>) -> io::Result<Vec<HeldEntry>> {
    let mut entries: Vec<HeldEntry> = shadow::read_gone(shadow_dir)?
        .iter()
        .filter(|path| !is_noise(path))
        .take(LIST_MAX)
        .map(|path| HeldEntry {
            path: printable(path),
            op: HeldOp::Deleted,
        })
        .collect();
    let Some(tree) = shadow::open_tree(shadow_dir)? else {
        return Ok(entries);
    };
    shadow::walk(tree, |seen| {
        if entries.len() >= LIST_MAX {
            return Ok(Step::Stop);
        }
        if is_noise(seen.path) {
            return Ok(Step::Over);
        }
        let is_dir = host::entry_type(seen.dir, seen.name)? == Some(FileType::Directory);
        if is_dir && seen.depth <= DEPTH_MAX {
            return Ok(Step::Into);
        }
        entries.push(HeldEntry {
            path: printable(seen.path),
            op: HeldOp::Changed,
        });
        Ok(Step::Over)
    })?;
    Ok(entries)
}

/// Held, but not worth a word: git's samples, which it never runs, come by the dozen with every
/// new repository, and its lock files become what they lock.
fn is_noise(path: &[u8]) -> bool {
    path.ends_with(b".sample") && path.windows(7).any(|w| w == b"/hooks/")
        || path.ends_with(b".lock")
}

/// Text for a record or a terminal, from bytes that a guest chose.
pub(crate) fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() || c == '\\' {
                let mut utf8 = [0; 4];
                for b in c.encode_utf8(&mut utf8).bytes() {
                    text.push_str(&format!("\\x{b:02x}"));
                }
            } else {
                text.push(c);
            }
        }
        for b in chunk.invalid() {
            text.push_str(&format!("\\x{b:02x}"));
        }
    }
    text
}

/// Receives the first change of each held path.
pub trait HeldSink: Send + Sync {
    /// Called once per path, from a serving thread: must not block for long.
    fn held(&self, entry: HeldEntry);
}

/// A sink that drops everything.
#[derive(Clone, Copy, Debug)]
pub struct NoSink;

impl HeldSink for NoSink {
    fn held(&self, _entry: HeldEntry) {}
}

/// Announces each held path once, to a bound.
pub(crate) struct Announcer {
    seen: Mutex<HashSet<Vec<u8>>>,
    sink: Box<dyn HeldSink>,
}

impl Announcer {
    pub(crate) fn new(sink: Box<dyn HeldSink>) -> Self {
        Self {
            seen: Mutex::new(HashSet::new()),
            sink,
        }
    }

    /// Announces that `path` changed, if that is new.
    pub(crate) fn changed(&self, path: &[u8], op: HeldOp) {
        if is_noise(path) {
            return;
        }
        {
            let mut seen = self.seen.lock();
            if seen.len() >= ANNOUNCED_MAX || !seen.insert(path.to_vec()) {
                return;
            }
        }
        self.sink.held(HeldEntry {
            path: printable(path),
            op,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_and_locks_are_no_news() {
        for noise in [
            "a/.git/hooks/pre-push.sample",
            ".git/config.lock",
            "HEAD.lock",
        ] {
            assert!(is_noise(noise.as_bytes()), "{noise}");
        }
        for news in [
            ".git/hooks/pre-push",
            ".vscode/x.sample",
            ".git/config",
            "HEAD",
        ] {
            assert!(!is_noise(news.as_bytes()), "{news}");
        }
    }

    #[test]
    fn guest_bytes_reach_no_terminal_raw() {
        assert_eq!(printable(b"a/b c"), "a/b c");
        assert_eq!(printable(b"\x1b]52\\\xff\n"), "\\x1b]52\\x5c\\xff\\x0a");
    }
}
