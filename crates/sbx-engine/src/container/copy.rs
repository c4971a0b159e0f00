//! The root of a container where there can be no layers: the template, copied
//! for this sandbox alone.
//!
//! As root of the namespace that owns both. The template is one that was
//! verified and nobody in a container writes to; the copy is the sandbox's, so
//! it is made before anything of it runs, and taken for whole only under its
//! final name. Files share their blocks where the file system can do that.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use sbx_sys::{Error, Result};

use super::failed;

/// A copy under way.
const UNFINISHED: &str = "whole.new";
/// One that can be used.
const WHOLE: &str = "whole";

/// The copy in `directory`, if one was made there.
pub(super) fn made(directory: &Path) -> Option<PathBuf> {
    let path = directory.join(WHOLE);
    let found = path.symlink_metadata();
    found.is_ok_and(|found| found.is_dir()).then_some(path)
}

/// Copies `template` into `directory`; returns where it is, and the bytes of
/// its files.
///
/// # Errors
/// If there is no room, or a file that is none of a template.
pub(super) fn make(template: &Path, directory: &Path) -> Result<(PathBuf, u64)> {
    let (unfinished, whole) = (directory.join(UNFINISHED), directory.join(WHOLE));
    // Of a start that was killed.
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(failed("remove half a copy of the template")(error));
        }
        _ => {}
    }
    let bytes = tree(template, &unfinished)?;
    fs::rename(&unfinished, &whole).map_err(failed("put the copy of the template in place"))?;
    Ok((whole, bytes))
}

fn tree(from: &Path, to: &Path) -> Result<u64> {
    let mut bytes = 0u64;
    let mut left = vec![(from.to_owned(), to.to_owned())];
    let mut directories = Vec::new();
    while let Some((from, to)) = left.pop() {
        let what = || format!("copy `{}` of the template", from.display());
        fs::create_dir(&to).map_err(failed(what()))?;
        for entry in fs::read_dir(&from).map_err(failed(what()))? {
            let entry = entry.map_err(failed(what()))?;
            let (source, target) = (entry.path(), to.join(entry.file_name()));
            let kind = entry.file_type().map_err(failed(what()))?;
            if kind.is_dir() {
                left.push((source, target));
            } else if kind.is_symlink() || kind.is_file() {
                let copied = one(&source, &target, kind.is_symlink()).map_err(failed(format!(
                    "copy `{}` of the template",
                    source.display()
                )))?;
                bytes = bytes.saturating_add(copied);
            } else {
                return Err(Error::refused(format!(
                    "copy `{}` of the template: it is no file",
                    source.display()
                )));
            }
        }
        directories.push((from, to));
    }
    // Last, and the inner ones first: making an entry touches its directory.
    for (from, to) in directories.iter().rev() {
        like(from, to).map_err(failed(format!("copy `{}` of the template", from.display())))?;
    }
    Ok(bytes)
}

fn one(from: &Path, to: &Path, is_link: bool) -> std::io::Result<u64> {
    if is_link {
        let found = from.symlink_metadata()?;
        symlink(fs::read_link(from)?, to)?;
        lchown(to, Some(found.uid()), Some(found.gid()))?;
        return Ok(0);
    }
    let bytes = fs::copy(from, to)?;
    like(from, to)?;
    Ok(bytes)
}

/// Gives `to` the owner, mode and time of `from`.
fn like(from: &Path, to: &Path) -> std::io::Result<()> {
    let found = from.symlink_metadata()?;
    lchown(to, Some(found.uid()), Some(found.gid()))?;
    // A change of owner takes bits away: the mode comes after it.
    fs::set_permissions(to, fs::Permissions::from_mode(found.mode() & 0o7777))?;
    File::open(to)?.set_modified(found.modified()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at("template/usr/bin")).unwrap();
        fs::create_dir(at("own")).unwrap();
        fs::write(at("template/usr/bin/tool"), "does").unwrap();
        symlink("/nowhere/outside", at("template/link")).unwrap();
        let open = fs::Permissions::from_mode(0o1777);
        fs::set_permissions(at("template/usr"), open).unwrap();
        let shut = fs::Permissions::from_mode(0o550);
        fs::set_permissions(at("template/usr/bin/tool"), shut).unwrap();
        root
    }

    #[test]
    fn a_copy_has_files_links_modes_and_times_and_changes_nothing_of_the_template() {
        let root = world();
        let (template, own) = (root.path().join("template"), root.path().join("own"));
        assert_eq!(made(&own), None);
        let (whole, bytes) = make(&template, &own).unwrap();
        assert_eq!(bytes, 4);
        assert_eq!(made(&own), Some(whole.clone()));
        for name in ["usr", "usr/bin", "usr/bin/tool"] {
            let [a, b] = [&template, &whole].map(|at| at.join(name).metadata().unwrap());
            assert_eq!(a.mode(), b.mode(), "{name}");
            assert_eq!(a.modified().unwrap(), b.modified().unwrap(), "{name}");
        }
        let link = fs::read_link(whole.join("link")).unwrap();
        assert_eq!(link, Path::new("/nowhere/outside"));
        fs::remove_file(whole.join("usr/bin/tool")).unwrap();
        assert!(template.join("usr/bin/tool").exists());
    }

    #[test]
    fn half_a_copy_is_not_taken_and_makes_way_for_a_whole_one() {
        let root = world();
        let (template, own) = (root.path().join("template"), root.path().join("own"));
        fs::create_dir_all(own.join(UNFINISHED).join("usr")).unwrap();
        assert_eq!(made(&own), None);
        let (whole, bytes) = make(&template, &own).unwrap();
        assert_eq!(bytes, 4);
        assert!(whole.join("usr/bin/tool").exists());
        assert!(!own.join(UNFINISHED).exists());
    }

    #[test]
    fn what_is_no_file_is_not_copied() {
        let root = world();
        let (template, own) = (root.path().join("template"), root.path().join("own"));
        let socket = template.join("socket");
        let _listening = std::os::unix::net::UnixListener::bind(socket).unwrap();
        assert!(make(&template, &own).is_err());
        assert_eq!(made(&own), None);
    }
}
