//! The names that have an address in one sandbox, kept beside its disk.
//!
//! Owns: the file `names.jsonl`, a line for each, the oldest first. A network
//! engine tells each new one; the next engine, after a death or at the next
//! start, is given them all. Trusts neither: what cannot be read is left out.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sbx_net::{KnownName, limits};
use sbx_spec::DnsName;
use serde::Deserialize;

use super::log;

/// The file, in a sandbox's directory.
pub(super) const FILE: &str = "names.jsonl";

/// Names that are kept from one start to the next. The oldest beyond are
/// forgotten then, so that a sandbox of many starts has room for new ones.
const KEPT: usize = limits::NAMES / 2;

/// The line of an engine that says a new one.
#[derive(Deserialize)]
struct Told {
    name: KnownName,
}

/// What is known, in memory and in the file.
#[derive(Debug)]
pub(super) struct Names {
    file: File,
    known: Vec<KnownName>,
    failed: bool,
}

impl Names {
    /// Reads `path`, which need not exist, and writes it anew where it is too
    /// long.
    ///
    /// # Errors
    /// If the file cannot be opened or written.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let options = |truncate| {
            let mut options = looking();
            options.write(true).create(true).mode(0o600);
            options.truncate(truncate);
            options
        };
        let mut file = options(false).open(path)?;
        let (mut known, whole) = read(&mut file)?;
        if known.len() > KEPT || !whole {
            known.drain(..known.len().saturating_sub(KEPT));
            file = options(true).open(path)?;
            for one in &known {
                write(&mut file, one)?;
            }
        }
        Ok(Self {
            file,
            known,
            failed: false,
        })
    }

    /// All of them, the oldest first.
    pub(super) fn known(&self) -> &[KnownName] {
        &self.known
    }

    /// Keeps the name that `line` of an engine tells. False where it tells
    /// something else.
    pub(super) fn hear(&mut self, line: &str) -> bool {
        let Ok(Told { name }) = serde_json::from_str(line) else {
            return false;
        };
        if self.known.len() < limits::NAMES {
            if let Err(error) = write(&mut self.file, &name)
                && !self.failed
            {
                self.failed = true;
                log::log(&format!(
                    "names are kept until the next start only: {error}"
                ));
            }
            self.known.push(name);
        }
        true
    }
}

/// The name that `address` stands for in the sandbox of this directory, for
/// whoever only looks; the engine believes the earlier of two, too.
pub(crate) fn named(sandbox: &Path, address: Ipv4Addr) -> Option<DnsName> {
    let mut file = looking().open(sandbox.join(FILE)).ok()?;
    let (known, _) = read(&mut file).ok()?;
    let found = known.into_iter().find(|known| known.addr == address);
    found.map(|known| known.name)
}

fn looking() -> OpenOptions {
    let mut options = OpenOptions::new();
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    options.read(true).custom_flags(flags.bits().cast_signed());
    options
}

/// What a file holds, and whether its last line is whole.
fn read(file: &mut File) -> io::Result<(Vec<KnownName>, bool)> {
    let mut text = Vec::new();
    let most = u64::try_from(limits::NAMES * limits::NAME).unwrap_or(u64::MAX);
    file.take(most).read_to_end(&mut text)?;
    let known = text
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    Ok((known, text.is_empty() || text.ends_with(b"\n")))
}

fn write(file: &mut File, one: &KnownName) -> io::Result<()> {
    let mut line = serde_json::to_vec(one)?;
    line.push(b'\n');
    file.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(number: usize) -> String {
        let [.., high, low] = number.to_be_bytes();
        format!(r#"{{"name":{{"addr":"198.18.{high}.{low}","name":"n{number}.example"}}}}"#)
    }

    #[test]
    fn names_come_back_in_their_order_and_half_a_line_does_not() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("names.jsonl");
        let mut names = Names::open(&path).unwrap();
        assert!(names.hear(&told(1)) && names.hear(&told(2)));
        assert!(!names.hear(r#"{"flow":{}}"#));
        let before = names.known().to_vec();
        let second = named(home.path(), "198.18.0.2".parse().unwrap());
        assert_eq!(second.unwrap().as_str(), "n2.example");
        assert_eq!(named(home.path(), "198.18.0.3".parse().unwrap()), None);
        std::fs::write(
            &path,
            [std::fs::read(&path).unwrap(), b"{\"addr\":\"198.1".to_vec()].concat(),
        )
        .unwrap();
        let mut names = Names::open(&path).unwrap();
        assert_eq!(names.known(), before);
        names.hear(&told(3));
        assert_eq!(Names::open(&path).unwrap().known().len(), 3);
    }

    #[test]
    fn a_start_with_too_many_names_forgets_the_oldest() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("names.jsonl");
        let mut names = Names::open(&path).unwrap();
        for number in 1..=limits::NAMES + 5 {
            names.hear(&told(number));
        }
        assert_eq!(names.known().len(), limits::NAMES);
        let names = Names::open(&path).unwrap();
        assert_eq!(names.known().len(), KEPT);
        let last = names.known().last().unwrap();
        assert_eq!(last.name.as_str(), format!("n{}.example", limits::NAMES));
    }
}
