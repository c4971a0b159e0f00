//! Looks at paths of the host that were typed, once, and follows their
//! links: what is decided later is decided about the place, not its name.
//!
//! Trusts: the caller. Not: the repository, whose `.git` file could name any
//! directory as its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use sbx_engine::command::{Code, Error};
use sbx_spec::{HostKind, HostPath};

/// Largest file that is read to find a repository.
const MAX_LINK: u64 = 8 << 10;

/// Looks at a path that was typed as a workspace.
pub(crate) fn workspace(cwd: &Path, typed: &OsStr) -> Result<HostPath, Error> {
    let mut found = look(cwd, typed, Code::Workspace, "workspace")?;
    if found.kind == HostKind::File {
        let message = format!("workspace `{}` is a file", shown(typed));
        return Err(Error::new(Code::Workspace, message)
            .hint("name its directory, or mount the file: `-v FILE:PATH`"));
    }
    found.git_common = git_common(&found.real);
    Ok(found)
}

/// Looks at a path that was typed as the source of a mount.
pub(crate) fn source(cwd: &Path, typed: &OsStr) -> Result<HostPath, Error> {
    look(cwd, typed, Code::Mount, "mount source")
}

/// A path of the command line made absolute, as typed and with its links
/// followed, for comparison with others.
pub(crate) fn both_forms(cwd: &Path, typed: &OsStr) -> Vec<PathBuf> {
    let absolute = absolute(cwd, typed);
    let real = absolute.canonicalize().ok();
    real.into_iter().chain([absolute]).collect()
}

fn look(cwd: &Path, typed: &OsStr, code: Code, what: &str) -> Result<HostPath, Error> {
    let wrong = |why: &str| Err(Error::new(code, format!("{what} `{}` {why}", shown(typed))));
    if typed.is_empty() {
        return wrong("is empty");
    }
    let absolute = absolute(cwd, typed);
    let real = match absolute.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return wrong("does not exist"),
        Err(error) => {
            let message = format!("cannot open {what} `{}`", shown(typed));
            return Err(Error::new(code, message).because(error));
        }
    };
    for path in [&absolute, &real] {
        match path.to_str() {
            None => return wrong("has a name that is not UTF-8"),
            Some(text) if text.chars().any(char::is_control) => {
                return wrong("has a control character in its name");
            }
            Some(_) => {}
        }
    }
    let metadata = fs::metadata(&real).map_err(|source| {
        Error::new(code, format!("cannot open {what} `{}`", shown(typed))).because(source)
    })?;
    let kind = match metadata.file_type() {
        kind if kind.is_dir() => HostKind::Directory,
        kind if kind.is_file() => HostKind::File,
        _ => HostKind::Special,
    };
    Ok(HostPath {
        typed: absolute,
        real,
        kind,
        git_common: None,
    })
}

fn absolute(cwd: &Path, typed: &OsStr) -> PathBuf {
    let parts = cwd.join(typed);
    parts
        .components()
        .filter(|part| !matches!(part, Component::CurDir))
        .collect()
}

/// A path as it can be shown: control characters and bytes that are no text
/// are escaped.
fn shown(path: &OsStr) -> String {
    crate::render::escape(&path.to_string_lossy())
}

/// The common directory of the repository that `worktree` is a linked work
/// tree of, if it lies outside. The repository must know of this work tree:
/// a `.git` file alone, which anything inside could have written, proves
/// nothing.
fn git_common(worktree: &Path) -> Option<PathBuf> {
    let link = worktree.join(".git");
    let named = one_line(&link)?;
    let git_dir = worktree
        .join(named.strip_prefix("gitdir: ")?)
        .canonicalize()
        .ok()?;
    let common = git_dir
        .join(one_line(&git_dir.join("commondir"))?)
        .canonicalize()
        .ok()?;
    let back = one_line(&git_dir.join("gitdir"))?;
    let knows = git_dir.join(back).canonicalize().ok()? == link.canonicalize().ok()?;
    let within = git_dir.parent() == Some(&common.join("worktrees"));
    let whole = common.join("HEAD").is_file() && common.join("objects").is_dir();
    let outside = !common.starts_with(worktree);
    let text = common
        .to_str()
        .is_some_and(|path| !path.chars().any(char::is_control));
    (knows && within && whole && outside && text).then_some(common)
}

fn one_line(path: &Path) -> Option<String> {
    let metadata = fs::symlink_metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > MAX_LINK {
        return None;
    }
    let mut text = String::new();
    File::open(path)
        .ok()?
        .take(MAX_LINK)
        .read_to_string(&mut text)
        .ok()?;
    Some(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    fn message(result: Result<HostPath, Error>) -> String {
        result.unwrap_err().message
    }

    #[test]
    fn follows_links_and_keeps_what_was_typed() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        fs::create_dir(root.join("app")).unwrap();
        symlink("app", root.join("link")).unwrap();
        let found = workspace(&root, OsStr::new("./link")).unwrap();
        assert_eq!(found.real, root.join("app"));
        assert_eq!(found.typed, root.join("link"));
        assert_eq!(found.kind, HostKind::Directory);
    }

    #[test]
    fn refuses_what_cannot_be_a_workspace() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        fs::write(root.join("file"), "").unwrap();
        fs::create_dir(root.join("a\nb")).unwrap();
        let bytes = OsStr::from_bytes(b"a\xff");
        fs::create_dir(root.join(bytes)).unwrap();
        let of = |name: &OsStr| message(workspace(root, name));
        assert_eq!(of(OsStr::new("none")), "workspace `none` does not exist");
        assert_eq!(of(OsStr::new("file")), "workspace `file` is a file");
        assert_eq!(
            of(OsStr::new("a\nb")),
            "workspace `a\\nb` has a control character in its name"
        );
        assert!(of(bytes).ends_with("has a name that is not UTF-8"));
        assert_eq!(of(OsStr::new("")), "workspace `` is empty");
    }

    #[test]
    fn refuses_a_name_that_a_link_hides() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a\nb")).unwrap();
        symlink("a\nb", root.path().join("plain")).unwrap();
        assert!(message(workspace(root.path(), OsStr::new("plain"))).contains("control character"));
    }

    fn linked_tree(root: &Path) -> PathBuf {
        let git_dir = root.join("repo/.git/worktrees/tree");
        fs::create_dir_all(&git_dir).unwrap();
        fs::create_dir_all(root.join("repo/.git/objects")).unwrap();
        fs::create_dir(root.join("tree")).unwrap();
        fs::write(root.join("repo/.git/HEAD"), "ref: refs/heads/main\n").unwrap();
        fs::write(git_dir.join("commondir"), "../..\n").unwrap();
        let back = format!("{}\n", root.join("tree/.git").display());
        fs::write(git_dir.join("gitdir"), back).unwrap();
        fs::write(
            root.join("tree/.git"),
            format!("gitdir: {}\n", git_dir.display()),
        )
        .unwrap();
        git_dir
    }

    #[test]
    fn a_linked_work_tree_finds_its_repository() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        linked_tree(&root);
        let found = workspace(&root, OsStr::new("tree")).unwrap();
        assert_eq!(found.git_common, Some(root.join("repo/.git")));
    }

    #[test]
    fn a_repository_that_does_not_know_the_tree_is_not_its_own() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let git_dir = linked_tree(&root);
        fs::write(git_dir.join("gitdir"), "/elsewhere/.git\n").unwrap();
        assert_eq!(
            workspace(&root, OsStr::new("tree")).unwrap().git_common,
            None
        );
    }
}
