//! Programs that tests start.

use std::path::PathBuf;
use std::process::Command;

/// A program by its absolute path, with no environment but a search path.
pub fn program(path: impl Into<PathBuf>) -> Command {
    #[expect(
        clippy::disallowed_methods,
        reason = "the home of started programs in these tests"
    )]
    let mut command = Command::new(path.into());
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    #[cfg(feature = "unguarded")]
    command.envs(sbx_spec::guard::named().map(|named| (sbx_spec::guard::VARIABLE, named)));
    command
}

/// One of this crate's examples, which `cargo test` builds beside the tests.
pub fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is missing: cargo build --examples",
        path.display()
    );
    path
}
