//! Finds the packaged kernel source of this host and its version.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, FileIdent, hash_file, write_atomically};
use crate::command::Tool;
use crate::error::Error;

const SOURCES: &str = "/usr/src";
/// The oldest series whose options our list names.
const OLDEST: (u32, u32) = (6, 1);

/// A packaged kernel source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Source {
    pub(super) archive: PathBuf,
    /// The package's version, or the archive's hash where no package manager
    /// knows it.
    pub(super) version: String,
}

/// What was found out about an archive, so that it is asked once.
#[derive(Serialize, Deserialize)]
struct Memo {
    archive: PathBuf,
    ident: FileIdent,
    version: String,
}

/// The newest source on this host.
pub(super) fn newest(cache: &Cache) -> Result<Option<Source>, Error> {
    let Some(archive) = newest_archive(Path::new(SOURCES)) else {
        return Ok(None);
    };
    let Some(ident) = FileIdent::of(&archive)? else {
        return Ok(None);
    };
    let memo_path = cache.root().join("kernel-source.json");
    let memo: Option<Memo> = fs::read(&memo_path)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok());
    if let Some(memo) = memo.filter(|memo| memo.archive == archive && memo.ident == ident) {
        return Ok(Some(Source {
            archive,
            version: memo.version,
        }));
    }
    let version = package_version(&archive).map_or_else(|| hash_file(&archive), Ok)?;
    let memo = Memo {
        archive: archive.clone(),
        ident,
        version: version.clone(),
    };
    let text =
        serde_json::to_vec(&memo).map_err(|error| Error::form("the note of a source", error))?;
    write_atomically(&memo_path, &text)?;
    Ok(Some(Source { archive, version }))
}

/// The package that brings a source on this distribution.
pub(super) fn package(os_release: &Path) -> String {
    let text = fs::read_to_string(os_release).unwrap_or_default();
    let debian = text.lines().any(|line| line == "ID=debian");
    if debian {
        "linux-source-6.12"
    } else {
        "linux-source"
    }
    .to_owned()
}

/// `linux-source-6.12.tar.xz` in `directory`, or, as Ubuntu has it,
/// `linux-source-6.8.0/linux-source-6.8.0.tar.bz2`.
fn newest_archive(directory: &Path) -> Option<PathBuf> {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten();
    let direct = entries(directory).map(|item| item.path());
    let nested = entries(directory)
        .filter(|item| {
            item.file_name()
                .to_string_lossy()
                .starts_with("linux-source-")
        })
        .filter(|item| item.path().is_dir())
        .flat_map(|item| {
            entries(&item.path())
                .map(|item| item.path())
                .collect::<Vec<_>>()
        });
    direct
        .chain(nested)
        .filter_map(|path| {
            let version = archive_version(path.file_name()?.to_str()?)?;
            // Ubuntu links the nested archive into /usr/src: one file.
            let path = fs::canonicalize(path).ok().filter(|path| path.is_file())?;
            Some((version, path))
        })
        .filter(|((major, minor, _), _)| (*major, *minor) >= OLDEST)
        .max()
        .map(|(_, path)| path)
}

/// `linux-source-6.12.tar.xz` is 6.12.0.
fn archive_version(name: &str) -> Option<(u32, u32, u32)> {
    let rest = name.strip_prefix("linux-source-")?;
    let version = rest
        .strip_suffix(".tar.xz")
        .or_else(|| rest.strip_suffix(".tar.bz2"))?;
    let mut numbers = version.split('.').map(str::parse);
    let major = numbers.next()?.ok()?;
    let minor = numbers.next()?.ok()?;
    let patch = numbers.next().unwrap_or(Ok(0)).ok()?;
    Some((major, minor, patch))
}

fn package_version(archive: &Path) -> Option<String> {
    let name = archive.file_name()?.to_str()?;
    let package = name
        .strip_suffix(".tar.xz")
        .or_else(|| name.strip_suffix(".tar.bz2"))?;
    let output = Tool::new("dpkg-query", "ask for the version of the kernel source")
        .args(["-W", "-f", "${db:Status-Status} ${Version}", package])
        .output(1 << 10)
        .ok()?;
    let text = String::from_utf8(output).ok()?;
    let version = text.strip_prefix("installed ")?.trim();
    (!version.is_empty()).then(|| format!("{package} {version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_source_of_either_layout_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let touch = |name: &str| fs::write(dir.path().join(name), b"").unwrap();
        assert_eq!(newest_archive(dir.path()), None);
        touch("linux-source-5.10.tar.xz");
        touch("linux-source-6.1.tar.xz");
        touch("linux-patch-6.99.tar.xz");
        let found = |dir: &Path| newest_archive(dir).map(|p| p.file_name().unwrap().to_owned());
        assert_eq!(found(dir.path()), Some("linux-source-6.1.tar.xz".into()));
        fs::create_dir(dir.path().join("linux-source-6.8.0")).unwrap();
        touch("linux-source-6.8.0/linux-source-6.8.0.tar.bz2");
        assert_eq!(found(dir.path()), Some("linux-source-6.8.0.tar.bz2".into()));
        touch("linux-source-6.12.tar.xz");
        assert_eq!(found(dir.path()), Some("linux-source-6.12.tar.xz".into()));
    }
}
