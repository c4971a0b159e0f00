//! What is typed, what is answered: everything that is settled before a
//! sandbox is needed, in a home directory of the test's own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod completion;
mod configuration;
mod create;
mod exec;
mod help;
mod later;
mod life;
mod output;
mod run;

use std::path::{Path, PathBuf};

use snapbox::cmd::{Command, OutputAssert, cargo_bin};

/// A home directory with a project in it, and nothing of the caller's.
pub(crate) struct Home {
    root: tempfile::TempDir,
}

impl Home {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("app")).unwrap();
        Self { root }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.root.path().canonicalize().unwrap()
    }

    pub(crate) fn project(&self) -> PathBuf {
        self.path().join("app")
    }

    /// `sbx` with these arguments in the project.
    pub(crate) fn sbx(&self, args: &[&str]) -> OutputAssert {
        self.command(&self.project()).args(args).assert()
    }

    /// `sbx` in a directory.
    pub(crate) fn command(&self, cwd: &Path) -> Command {
        Command::new(cargo_bin!("sbx"))
            .env_clear()
            .env("HOME", self.path())
            .env("PATH", "/usr/bin:/bin")
            .current_dir(cwd)
    }
}

/// `sbx` with these arguments, in a home directory of its own.
pub(crate) fn sbx(args: &[&str]) -> OutputAssert {
    Home::new().sbx(args)
}
