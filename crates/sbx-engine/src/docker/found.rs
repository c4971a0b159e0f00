//! Which engine a sandbox is with, and who asks: written down before the first
//! container is made.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Endpoint;
use crate::command::{Code, Error};
use crate::store::SandboxDir;

/// The record in a sandbox's directory.
const RECORD: &str = "engine.json";
/// Longest record that is read, in bytes.
const MAX_RECORD: usize = 64 * 1024;
/// What tells the containers of one state directory from those of another.
const OWNER: &str = "engine-owner";
/// Random bytes of it.
const OWNER_BYTES: usize = 16;

/// Where a sandbox's containers are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// The engine that has them.
    pub(crate) endpoint: Endpoint,
    /// Whose they are.
    pub(crate) owner: String,
}

impl Record {
    /// That of `sandbox`, if it ever came as far as an engine.
    ///
    /// # Errors
    /// If there is one that cannot be read.
    pub(crate) fn read(sandbox: &SandboxDir) -> Result<Option<Self>, Error> {
        let failed = || {
            let what = format!("cannot read which engine has `{}`", sandbox.name());
            Error::new(Code::State, what)
        };
        if !sandbox.join(RECORD).exists() {
            return Ok(None);
        }
        let directory =
            sbx_sys::file::open_dir(sandbox.join("")).map_err(|source| failed().because(source))?;
        let text = sbx_sys::file::read_at(&directory, RECORD, MAX_RECORD)
            .map_err(|source| failed().because(source))?;
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| failed().because(source))
    }

    /// Writes it down.
    ///
    /// # Errors
    /// If the file system refuses.
    pub(crate) fn write(&self, sandbox: &SandboxDir) -> Result<(), Error> {
        let failed = || {
            let what = format!("cannot write down which engine has `{}`", sandbox.name());
            Error::new(Code::State, what)
        };
        let text = serde_json::to_vec(self).map_err(|source| failed().because(source))?;
        let directory =
            sbx_sys::file::open_dir(sandbox.join("")).map_err(|source| failed().because(source))?;
        sbx_sys::file::replace_at(&directory, RECORD, &text)
            .map_err(|source| failed().because(source))
    }
}

/// The mark of the state directory `state`, made at the first need.
///
/// # Errors
/// If it cannot be read or made.
pub(crate) fn owner_of(state: &Path) -> Result<String, Error> {
    let path = state.join(OWNER);
    let failed = |source: std::io::Error| {
        let what = format!("cannot make `{}`", path.display());
        Error::new(Code::State, what).because(source)
    };
    if let Some(owner) = read(&path) {
        return Ok(owner);
    }
    let mut bytes = [0; OWNER_BYTES];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(failed)?;
    let owner: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let made = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path);
    match made {
        Ok(mut file) => file.write_all(owner.as_bytes()).map_err(failed)?,
        // Another command was first.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed(error)),
    }
    read(&path).ok_or_else(|| failed(std::io::Error::other("it is not what was written")))
}

fn read(path: &Path) -> Option<String> {
    let text = sbx_sys::file::read_bounded(path, 2 * OWNER_BYTES).ok()?;
    let text = String::from_utf8(text).ok()?;
    let whole = text.len() == 2 * OWNER_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_keeps_its_mark_and_another_has_another() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let first = owner_of(one.path()).unwrap();
        assert_eq!(owner_of(one.path()).unwrap(), first);
        assert_ne!(owner_of(other.path()).unwrap(), first);
        std::fs::write(one.path().join(OWNER), "x").unwrap();
        assert!(owner_of(one.path()).is_err());
    }
}
