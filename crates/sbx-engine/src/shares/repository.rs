//! What the host's own git would run from a share because its configuration says so: hooks that
//! live in the tree, configuration that does, and programs named as filters or aliases.
//!
//! Reads the configuration as it is when the sandbox starts, as files, and runs no git. Trusts
//! the host's `.git`, which the guard keeps from guests; every file is bounded and need not be one.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use sbx_share::guard::HeldPath;
use sbx_share::guard::git_config::{Named, named};

use crate::command::{Code, Error};

/// Longest configuration file that is read, in bytes.
const CONFIG_MAX: u64 = 1 << 20;
/// Most configuration files that one repository may consist of.
const FILES_MAX: usize = 64;
/// Most paths of one share that are held because a configuration names them.
const PATHS_MAX: usize = 256;
/// The hooks that git runs, held one by one where the root of a share is the directory of hooks.
const HOOKS: &[&str] = &[
    "applypatch-msg",
    "commit-msg",
    "fsmonitor-watchman",
    "post-applypatch",
    "post-checkout",
    "post-commit",
    "post-index-change",
    "post-merge",
    "post-receive",
    "post-rewrite",
    "post-update",
    "pre-applypatch",
    "pre-auto-gc",
    "pre-commit",
    "pre-merge-commit",
    "pre-push",
    "pre-rebase",
    "pre-receive",
    "prepare-commit-msg",
    "proc-receive",
    "push-to-checkout",
    "reference-transaction",
    "sendemail-validate",
    "update",
];

/// The paths beneath `root`, a directory with its links followed, that are held because the
/// repository it lies in says that git obeys them; `common` if it is the common directory of one.
///
/// # Errors
/// If a configuration cannot be read or says more than is bounded: what it names could not be
/// held then.
pub(crate) fn obeyed(root: &Path, common: bool) -> Result<Vec<HeldPath>, Error> {
    let mut reading = Reading {
        root,
        top: root.to_owned(),
        files: Vec::new(),
        paths: Vec::new(),
    };
    if common {
        reading.config(root.join("config"))?;
    } else if let Some((top, dirs)) = root.ancestors().find_map(repository) {
        reading.top = top;
        for dir in dirs {
            reading.config(dir.join("config"))?;
            reading.config(dir.join("config.worktree"))?;
        }
    }
    let mut next = 0;
    while let Some(file) = reading.files.get(next).cloned() {
        reading.read(&file)?;
        next += 1;
    }
    if reading.paths.len() > PATHS_MAX {
        return Err(too_much(root, "names too many files of the workspace"));
    }
    Ok(reading.paths)
}

/// The work tree `top` and the directories of its repository, if it has one.
fn repository(top: &Path) -> Option<(PathBuf, Vec<PathBuf>)> {
    let dot_git = top.join(".git");
    if dot_git.is_dir() {
        return Some((top.to_owned(), vec![dot_git]));
    }
    let link = read(&dot_git).ok()??;
    let link = link.trim_ascii_end().strip_prefix(b"gitdir: ")?;
    let own = top.join(OsStr::from_bytes(link));
    let mut dirs = vec![own.clone()];
    if let Ok(Some(common)) = read(&own.join("commondir")) {
        dirs.push(own.join(OsStr::from_bytes(common.trim_ascii_end())));
    }
    Some((top.to_owned(), dirs))
}

struct Reading<'a> {
    root: &'a Path,
    top: PathBuf,
    files: Vec<PathBuf>,
    paths: Vec<HeldPath>,
}

impl Reading<'_> {
    /// Notes a configuration file, once.
    fn config(&mut self, file: PathBuf) -> Result<(), Error> {
        if self.files.contains(&file) {
            return Ok(());
        }
        if self.files.len() >= FILES_MAX {
            return Err(too_much(self.root, "consists of too many files"));
        }
        self.files.push(file);
        Ok(())
    }

    fn read(&mut self, file: &Path) -> Result<(), Error> {
        let text = read(file).map_err(|source| {
            Error::new(
                Code::Workspace,
                format!("cannot read the git configuration `{}`", file.display()),
            )
            .because(source)
            .hint("sbx holds back what it tells git to run, so it has to be readable")
        })?;
        for name in named(&text.unwrap_or_default()) {
            match name {
                Named::Hooks(path) => self.hold_hooks(&path),
                Named::Include(path) if path.starts_with(b"~") => {}
                Named::Include(path) => {
                    let above = file.parent().unwrap_or(file);
                    let file = above.join(OsStr::from_bytes(&path));
                    self.hold(&file);
                    self.config(file)?;
                }
                Named::Word(word) => {
                    let path = self.top.join(OsStr::from_bytes(&word));
                    if path.is_file() {
                        self.hold(&path);
                    }
                }
            }
        }
        Ok(())
    }

    fn hold_hooks(&mut self, path: &[u8]) {
        let dir = self.top.join(OsStr::from_bytes(path));
        if lexical(&dir) == self.root || dir.canonicalize().is_ok_and(|real| real == self.root) {
            for hook in HOOKS {
                self.hold(&self.root.join(hook));
            }
            return;
        }
        self.hold(&dir);
    }

    /// Holds `path` as it is written, and where its links lead, as far as that lies in the share.
    fn hold(&mut self, path: &Path) {
        for path in [Some(lexical(path)), path.canonicalize().ok()] {
            let beneath = path.as_deref().and_then(|p| p.strip_prefix(self.root).ok());
            let names: Vec<Vec<u8>> = beneath
                .into_iter()
                .flat_map(Path::components)
                .map(|name| name.as_os_str().as_bytes().to_vec())
                .collect();
            let held = HeldPath {
                anchored: true,
                names,
            };
            if !held.names.is_empty() && !self.paths.contains(&held) {
                self.paths.push(held);
            }
        }
    }
}

/// `path`, which is absolute, without `.` and `..`.
fn lexical(path: &Path) -> PathBuf {
    let mut plain = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::Normal(name) => plain.push(name),
            _ => {}
        }
    }
    plain
}

/// The bytes of a regular file, links followed; `None` if there is none.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(CONFIG_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CONFIG_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is longer than {CONFIG_MAX} bytes"),
        ));
    }
    Ok(Some(bytes))
}

fn too_much(root: &Path, what: &str) -> Error {
    let message = format!("the git configuration of `{}` {what}", root.display());
    Error::new(Code::Workspace, message)
        .hint("sbx holds back what it tells git to run; make it shorter")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn held(root: &Path) -> Vec<String> {
        let paths = obeyed(root, false).unwrap();
        let mut held: Vec<String> = paths
            .iter()
            .map(|p| String::from_utf8(p.names.join(&b'/')).unwrap())
            .collect();
        held.sort();
        held
    }

    fn repository(config: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("repo");
        fs::create_dir_all(root.join(".git")).unwrap();
        fs::create_dir_all(root.join("sub/hooks")).unwrap();
        fs::write(root.join(".git/config"), config).unwrap();
        (dir, root)
    }

    #[test]
    fn hooks_are_found_from_the_tree_and_from_a_part_of_it() {
        let (_dir, root) = repository("[core]\nhooksPath = sub/hooks\n");
        assert_eq!(held(&root), ["sub/hooks"]);
        assert_eq!(held(&root.join("sub")), ["hooks"]);
        assert!(held(&root.join("sub/hooks")).contains(&"pre-commit".to_owned()));
        fs::write(root.join(".git/config"), "[core]\nbare = false\n").unwrap();
        assert!(held(&root).is_empty());
    }

    #[test]
    fn hooks_elsewhere_hold_nothing_of_the_tree() {
        for elsewhere in ["/dev/null", "../hooks", "sub/../../x"] {
            let (_dir, root) = repository(&format!("[core]\nhooksPath = {elsewhere}\n"));
            assert!(held(&root).is_empty(), "{elsewhere}");
        }
    }

    #[test]
    fn a_link_among_the_hooks_is_held_at_both_ends() {
        let (_dir, root) = repository("[core]\nhooksPath = hooks\n");
        symlink("sub/hooks", root.join("hooks")).unwrap();
        assert_eq!(held(&root), ["hooks", "sub/hooks"]);
    }

    #[test]
    fn configuration_and_programs_in_the_tree_are_held() {
        let (_dir, root) = repository(
            "[include]\npath = ../shared\n[filter \"f\"]\nclean = python sub/clean.py main\n",
        );
        fs::write(root.join("shared"), "[core]\nhooksPath = sub/hooks\n").unwrap();
        fs::write(root.join("sub/clean.py"), "").unwrap();
        assert_eq!(held(&root), ["shared", "sub/clean.py", "sub/hooks"]);
    }

    #[test]
    fn a_linked_work_tree_obeys_its_common_configuration() {
        let (dir, root) = repository("[core]\nhooksPath = tools\n");
        let own = root.join(".git/worktrees/tree");
        fs::create_dir_all(&own).unwrap();
        fs::write(own.join("commondir"), "../..\n").unwrap();
        let tree = dir.path().canonicalize().unwrap().join("tree");
        fs::create_dir(&tree).unwrap();
        fs::write(tree.join(".git"), format!("gitdir: {}\n", own.display())).unwrap();
        assert_eq!(held(&tree), ["tools"]);
    }

    #[test]
    fn a_configuration_that_cannot_be_read_stops_the_start() {
        let (_dir, root) = repository("");
        let long = "#".repeat(usize::try_from(CONFIG_MAX).unwrap() + 1);
        fs::write(root.join(".git/config"), long).unwrap();
        let error = obeyed(&root, false).unwrap_err();
        assert_eq!(error.code, Code::Workspace);
        fs::write(root.join(".git/config"), "[include]\npath = config\n").unwrap();
        assert_eq!(held(&root), [".git/config"]);
    }
}
