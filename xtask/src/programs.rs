//! The programs that xtask runs: the one home of `Command::new` here.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;

/// A program that runs in `directory`. The environment is the developer's: these programs are theirs.
#[expect(
    clippy::disallowed_methods,
    reason = "the home of the programs that xtask runs"
)]
pub(crate) fn program(name: impl AsRef<OsStr>, directory: &Path) -> Command {
    let mut command = Command::new(name);
    command.current_dir(directory);
    command
}
