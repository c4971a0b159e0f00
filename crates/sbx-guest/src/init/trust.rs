//! The system's root certificates: the template's, those that were put in
//! place inside, and those that come with the start (the host's extra ones
//! and the sandbox's own authority), put together anew each time, so that one
//! that is gone outside is gone.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::early::make_directory;
use super::etc::replace;
use super::keystore;
use crate::error::{Attempt as _, Error, Result};

const BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
const LOCAL: &str = "/usr/local/share/ca-certificates";
const EXTRA: &str = "sbx.crt";
/// OpenSSL's own file: programs that only use its defaults read the hashed
/// directory, which nothing here rebuilds, and this.
const OPENSSL: &str = "/usr/lib/ssl/cert.pem";
/// What the `cacerts` of every JRE of Debian leads to. A JRE that is installed
/// later finds this file and adds to it.
const JAVA: &str = "/etc/ssl/certs/java/cacerts";
/// Longest bundle that is read, in bytes.
const MAX_BUNDLE: u64 = 8 * 1024 * 1024;
/// Room behind the template's bundle for an authority of ours, in bytes.
const ROOM: usize = 16 << 10;
/// Most local certificate files that are read.
const MAX_LOCAL: usize = 200;

/// Rewrites the bundle and the store.
pub(super) fn write(base: &OwnedFd, extra: &[u8]) -> Result<()> {
    let extra_path = Path::new(LOCAL).join(EXTRA);
    if extra.is_empty() {
        let _ = std::fs::remove_file(&extra_path);
    } else {
        make_directory(Path::new(LOCAL))?;
        replace(&extra_path, extra, 0o644)?;
    }
    let local = read_local(Path::new(LOCAL));
    let Some(pristine) = read_pristine(base)? else {
        if local.is_empty() {
            return Ok(());
        }
        return write_all(&join(Vec::new(), &local));
    };
    if !local.is_empty() && Path::new("/usr/lib/ssl").is_dir() && !Path::new(OPENSSL).exists() {
        std::os::unix::fs::symlink(BUNDLE, OPENSSL).attempt(format!("link `{OPENSSL}`"))?;
    }
    write_all(&join(pristine, &local))
}

fn write_all(bundle: &[u8]) -> Result<()> {
    let java = Path::new(JAVA);
    make_directory(java.parent().unwrap_or(java))?;
    replace(Path::new(BUNDLE), bundle, 0o644)?;
    replace(java, &keystore::store(bundle), 0o644)
}

/// The template's bundle, from below the writable layer.
fn read_pristine(base: &OwnedFd) -> Result<Option<Vec<u8>>> {
    let what = "read the template's certificates";
    let path = BUNDLE.trim_start_matches('/');
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat2(
        base,
        path,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    );
    // A container's filter knows no such call, and its template is read-only.
    let opened = match opened {
        Err(rustix::io::Errno::NOSYS) => rustix::fs::openat(base, path, flags, Mode::empty()),
        opened => opened,
    };
    let file = match opened {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        Err(error) => return Err(error).attempt(what),
    };
    let length = file.metadata().attempt(what)?.len().min(MAX_BUNDLE);
    // With room for what is joined to it.
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0) + ROOM);
    file.take(MAX_BUNDLE + 1)
        .read_to_end(&mut bytes)
        .attempt(what)?;
    if bytes.len() as u64 > MAX_BUNDLE {
        return Err(Error::new(format!("{what}: too long")));
    }
    Ok(Some(bytes))
}

/// The certificates that were put in place inside, in the order of their names.
fn read_local(directory: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<_> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "crt") && path.is_file())
        .take(MAX_LOCAL)
        .collect();
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let mut bytes = Vec::new();
        File::open(path)
            .ok()?
            .take(MAX_BUNDLE)
            .read_to_end(&mut bytes)
            .ok()?;
        Some(bytes)
    };
    paths.iter().filter_map(read).collect()
}

fn join(mut bundle: Vec<u8>, local: &[Vec<u8>]) -> Vec<u8> {
    for pem in local {
        if bundle.last().is_some_and(|&byte| byte != b'\n') {
            bundle.push(b'\n');
        }
        bundle.extend_from_slice(pem);
    }
    bundle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_joined_line_by_line() {
        let local = [b"b".to_vec(), b"c\n".to_vec()];
        assert_eq!(join(b"a".to_vec(), &local), b"a\nb\nc\n");
        assert_eq!(join(b"a\n".to_vec(), &[]), b"a\n");
    }

    #[test]
    fn only_certificate_files_count() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b.crt"), "b").unwrap();
        std::fs::write(dir.path().join("a.crt"), "a").unwrap();
        std::fs::write(dir.path().join("c.txt"), "c").unwrap();
        std::fs::create_dir(dir.path().join("d.crt")).unwrap();
        assert_eq!(read_local(dir.path()), [b"a".to_vec(), b"b".to_vec()]);
    }
}
