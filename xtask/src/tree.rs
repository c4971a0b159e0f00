//! The files of this repository as git knows them: tracked ones, and new ones that are not ignored.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::programs::program;
use crate::rust::Source;

/// Why a check could not be made at all.
#[derive(Debug)]
pub(crate) struct Failure {
    attempted: String,
    cause: String,
}

impl Failure {
    pub(crate) fn new(attempted: impl Into<String>, cause: impl fmt::Display) -> Self {
        Self {
            attempted: attempted.into(),
            cause: cause.to_string(),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.attempted, self.cause)
    }
}

/// One file.
pub(crate) struct File {
    /// Relative to the root of the repository, with `/`.
    pub(crate) path: String,
    /// In bytes.
    pub(crate) size: usize,
    /// Nothing where the file is not UTF-8 text.
    pub(crate) text: Option<String>,
    /// Only of `.rs` files.
    pub(crate) rust: Option<Source>,
}

impl File {
    pub(crate) fn new(path: &str, bytes: Vec<u8>) -> Self {
        let size = bytes.len();
        let text = String::from_utf8(bytes)
            .ok()
            .filter(|text| !text.contains('\0'));
        let rust = text
            .as_deref()
            .filter(|_| path.ends_with(".rs"))
            .map(Source::new);
        Self {
            path: path.to_owned(),
            size,
            text,
            rust,
        }
    }

    /// Tests, and what only tests and people run.
    pub(crate) fn is_test(&self) -> bool {
        let path = self.path.as_str();
        path.starts_with("e2e/")
            || path.starts_with("fuzz/")
            || path.contains("/tests/")
            || path.contains("/examples/")
            || path.contains("/benches/")
            || path.ends_with("/tests.rs")
    }
}

/// All files, by path.
pub(crate) struct Tree {
    pub(crate) files: Vec<File>,
}

impl Tree {
    /// Reads the repository that xtask was built in.
    pub(crate) fn of_this_repository() -> Result<Self, Failure> {
        let root = root()?;
        let listed = program("git", &root)
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .output()
            .map_err(|e| Failure::new("run git ls-files", e))?;
        if !listed.status.success() {
            let said = String::from_utf8_lossy(&listed.stderr).trim().to_owned();
            return Err(Failure::new("list the files of this repository", said));
        }
        let mut files = Vec::new();
        for path in listed.stdout.split(|b| *b == 0).filter(|p| !p.is_empty()) {
            let path = String::from_utf8_lossy(path).into_owned();
            // A file that was removed and not yet committed is still listed; links are not followed.
            let full = root.join(&path);
            if full.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                let bytes =
                    std::fs::read(&full).map_err(|e| Failure::new(format!("read `{path}`"), e))?;
                files.push(File::new(&path, bytes));
            }
        }
        Ok(Self::new(files))
    }

    /// Marks the modules that only tests compile, wherever they lie.
    pub(crate) fn new(mut files: Vec<File>) -> Self {
        let mut only_tests = Vec::new();
        for file in &files {
            let Some(rust) = &file.rust else { continue };
            let home = module_directory(&file.path);
            only_tests.extend(
                rust.test_modules
                    .iter()
                    .map(|name| format!("{home}/{name}.rs")),
            );
        }
        for file in &mut files {
            if let Some(rust) = &mut file.rust
                && only_tests.contains(&file.path)
            {
                rust.without_tests = "\n".repeat(rust.code.lines().count());
            }
        }
        Self { files }
    }

    /// The text of a file, if it is there.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|f| f.path == path)?.text.as_deref()
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        let directory = format!("{}/", path.trim_end_matches('/'));
        self.files
            .iter()
            .any(|f| f.path == path || f.path.starts_with(&directory))
    }

    /// Every file of Rust with its views.
    pub(crate) fn rust(&self) -> impl Iterator<Item = (&File, &Source)> {
        self.files
            .iter()
            .filter_map(|f| Some((f, f.rust.as_ref()?)))
    }
}

/// Where the submodules of a file lie.
fn module_directory(path: &str) -> String {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    match name {
        "lib.rs" | "main.rs" | "mod.rs" => directory.to_owned(),
        _ => format!("{directory}/{}", name.trim_end_matches(".rs")),
    }
}

pub(crate) fn root() -> Result<PathBuf, Failure> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(Path::to_owned)
        .ok_or_else(|| Failure::new("find the repository", "xtask has no parent directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_that_only_tests_compile_has_no_other_code() {
        let tree = Tree::new(vec![
            File::new(
                "crates/a/src/lib.rs",
                b"#[cfg(test)]\nmod reference;\nmod plain;\n".to_vec(),
            ),
            File::new("crates/a/src/reference.rs", b"fn f() {}\n".to_vec()),
            File::new("crates/a/src/plain.rs", b"fn f() {}\n".to_vec()),
        ]);
        let code = |n: usize| {
            tree.files[n]
                .rust
                .as_ref()
                .unwrap()
                .without_tests
                .trim()
                .to_owned()
        };
        assert_eq!(code(1), "");
        assert_eq!(code(2), "fn f() {}");
    }

    #[test]
    fn bytes_that_are_no_text_are_told_apart() {
        assert!(File::new("a", vec![0x7f, b'E', 0]).text.is_none());
        assert!(File::new("a", vec![0xff]).text.is_none());
        assert!(File::new("a", "für".into()).text.is_some());
    }
}
