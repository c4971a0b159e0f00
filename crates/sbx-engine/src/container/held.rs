//! What of a writable share a container cannot change: the names that the
//! host would execute or obey, as far as they are there when it starts.
//!
//! Less than what a file server holds: a name that is not there yet can be
//! made, and one below the top of the share, outside of `.git`, is not looked
//! for. Reads the host's own files, follows no link among them and stops the
//! start where there is more than it can hold.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use sbx_share::guard::list::{self, HeldName};
use sbx_spec::ShareRole;

use crate::command::{Code, Error};
use crate::plan::SharePlan;
use crate::shares::repository;

/// Most names that are held in one share: each is a mount.
const MAX_HELD: usize = 256;
/// How deep below a repository's own directory its names are looked for:
/// those of submodules and linked work trees are three or four down.
const MAX_DEPTH: usize = 6;
/// Most entries that are looked at for that.
const MAX_ENTRIES: usize = 20_000;
/// Directories of a repository that hold its data, under names that others
/// chose.
const DATA: [&str; 3] = ["objects", "refs", "logs"];

/// Those of `share`, as paths beneath it.
///
/// # Errors
/// If there are too many, or the repository's configuration cannot be read.
pub(crate) fn names(share: &SharePlan) -> Result<Vec<PathBuf>, Error> {
    let root = &share.host;
    let mut held = Vec::new();
    if !root.is_dir() {
        return Ok(held);
    }
    let common = share.role == ShareRole::GitCommon;
    if common {
        inside_git(root, Path::new(""), &mut held)?;
    } else {
        let top = list::ANYWHERE.iter().chain(list::PATHS);
        held.extend(top.flat_map(|name| called(root, name)));
        let outside = list::OUTSIDE_GIT.iter().map(|name| Path::new(name.name));
        let outside = outside.filter(|name| !is_directory(&root.join(name)));
        held.extend(outside.map(Path::to_owned));
        let git = Path::new(".git");
        if is_directory(&root.join(git)) {
            inside_git(root, git, &mut held)?;
        } else {
            held.push(git.to_owned());
        }
    }
    for path in repository::obeyed(root, common)? {
        let names = path.names.iter().map(|name| OsStr::from_bytes(name));
        held.push(names.collect());
    }
    held.retain(|path| is_there(root, path));
    held.sort();
    held.dedup();
    if held.len() > MAX_HELD {
        return Err(too_much(root));
    }
    Ok(held)
}

/// What in `root` goes by a held name, which may stand for several.
fn called(root: &Path, name: &HeldName) -> Vec<PathBuf> {
    let path = Path::new(name.name);
    if !name.name.contains('*') {
        return vec![path.to_owned()];
    }
    let directory = path.parent().unwrap_or(Path::new(""));
    let entries = std::fs::read_dir(root.join(directory));
    let names = entries.into_iter().flatten().flatten();
    let names = names.map(|entry| entry.file_name());
    let names = names.filter(|found| name.ends_as(found.as_bytes()));
    names.map(|found| directory.join(found)).collect()
}

/// The names of the repository directory `git` beneath `root` that git
/// executes or that say what it executes.
fn inside_git(root: &Path, git: &Path, held: &mut Vec<PathBuf>) -> Result<(), Error> {
    let mut left = vec![(git.to_owned(), 0)];
    let mut seen = 0;
    while let Some((directory, depth)) = left.pop() {
        let Ok(entries) = std::fs::read_dir(root.join(&directory)) else {
            continue;
        };
        for entry in entries.flatten() {
            seen += 1;
            if seen > MAX_ENTRIES {
                return Err(too_much(root));
            }
            let name = entry.file_name();
            let path = directory.join(&name);
            if list::INSIDE_GIT.iter().any(|known| name == known.name) {
                held.push(path);
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && !DATA.iter().any(|data| name == *data)
            {
                if depth == MAX_DEPTH {
                    return Err(too_much(root));
                }
                left.push((path, depth + 1));
            }
        }
    }
    Ok(())
}

/// Whether `path` is a file or directory beneath `root` with no link on the
/// way to it.
fn is_there(root: &Path, path: &Path) -> bool {
    let mut at = root.to_owned();
    let mut kind = None;
    for name in path {
        at.push(name);
        kind = match at.symlink_metadata() {
            Ok(found) if found.is_dir() || found.is_file() => Some(found),
            _ => return false,
        };
    }
    kind.is_some()
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.is_dir())
}

fn too_much(root: &Path) -> Error {
    let message = format!(
        "`{}` has more files that the host obeys than a container can hold",
        root.display()
    );
    Error::new(Code::Workspace, message)
        .hint("run it with `--isolation microvm`, whose file server holds any number of them")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use sbx_spec::{Access, GuestPath};

    use super::*;

    fn held(root: &Path) -> Vec<String> {
        let share = SharePlan {
            tag: "s0".to_owned(),
            host: root.to_owned(),
            guest: GuestPath::new("/w").unwrap(),
            access: Access::ReadWrite,
            role: ShareRole::Workspace,
        };
        let names = names(&share).unwrap();
        names
            .iter()
            .map(|path| path.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn what_the_host_obeys_and_has_is_held_and_a_link_is_not() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        fs::create_dir_all(at(".git/hooks")).unwrap();
        fs::create_dir_all(at(".git/modules/a/b/hooks")).unwrap();
        fs::create_dir_all(at(".git/refs/heads/hooks")).unwrap();
        fs::write(at(".git/config"), "[core]\nhooksPath = tools\n").unwrap();
        fs::create_dir_all(at("tools")).unwrap();
        fs::create_dir_all(at(".vscode")).unwrap();
        fs::create_dir_all(at("python")).unwrap();
        fs::write(at(".envrc"), "").unwrap();
        fs::create_dir(at("mise")).unwrap();
        for name in ["mise.dev.toml", "mise/config.dev.toml", "mise/config.md"] {
            fs::write(at(name), "").unwrap();
        }
        symlink("tools", at(".claude")).unwrap();
        assert_eq!(
            held(root.path()),
            [
                ".envrc",
                ".git/config",
                ".git/hooks",
                ".git/modules/a/b/hooks",
                ".vscode",
                "mise/config.dev.toml",
                "mise.dev.toml",
                "tools"
            ]
        );
    }

    #[test]
    fn a_work_tree_elsewhere_keeps_the_file_that_says_where() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(".git"), "gitdir: /nowhere\n").unwrap();
        assert_eq!(held(root.path()), [".git"]);
    }
}
