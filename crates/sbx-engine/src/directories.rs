//! Where sbx keeps its files. The values come from the program, which alone
//! reads the environment.

use std::fs::{DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::command::{Code, Error};

/// The four directories of one user, each absolute and ending in `sbx` or
/// chosen by the user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Directories {
    /// Settings: written by the user.
    pub config: PathBuf,
    /// One directory per sandbox.
    pub state: PathBuf,
    /// Kernels, images, agents: everything here can be made again.
    pub cache: PathBuf,
    /// Sockets: gone after a reboot.
    pub runtime: PathBuf,
}

impl Directories {
    /// The directory that holds one directory per sandbox.
    #[must_use]
    pub fn sandboxes(&self) -> PathBuf {
        self.state.join("sandboxes")
    }

    /// Makes the directories that must exist before a sandbox can, private
    /// to the user.
    ///
    /// # Errors
    /// If one cannot be made, or belongs to somebody else, or others could
    /// write to it: a socket or a record there could then be replaced.
    pub fn prepare(&self) -> Result<(), Error> {
        for path in [&self.state, &self.runtime, &self.cache] {
            private_directory(path)?;
        }
        private_directory(&self.sandboxes())
    }
}

fn private_directory(path: &Path) -> Result<(), Error> {
    let failed = |what: &str| {
        Error::new(
            Code::State,
            format!("cannot {what} directory `{}`", path.display()),
        )
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| failed("make").because(source))?;
    let found = path
        .symlink_metadata()
        .map_err(|source| failed("read").because(source))?;
    ours(&found).map_err(|source| failed("use").because(source))
}

fn ours(found: &Metadata) -> io::Result<()> {
    if !found.is_dir() {
        return Err(io::Error::other("it is not a directory"));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other("it belongs to another user"));
    }
    if found.mode() & 0o022 != 0 {
        return Err(io::Error::other("others may write to it"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn below(root: &Path) -> Directories {
        Directories {
            config: root.join("config"),
            state: root.join("state"),
            cache: root.join("cache"),
            runtime: root.join("runtime"),
        }
    }

    #[test]
    fn makes_private_directories() {
        let root = tempfile::tempdir().unwrap();
        let dirs = below(root.path());
        dirs.prepare().unwrap();
        let mode = dirs.sandboxes().metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn refuses_a_directory_others_may_write_to() {
        let root = tempfile::tempdir().unwrap();
        let dirs = below(root.path());
        dirs.prepare().unwrap();
        std::fs::set_permissions(&dirs.runtime, Permissions::from_mode(0o777)).unwrap();
        let error = dirs.prepare().unwrap_err();
        assert!(error.to_string().contains("runtime"), "{error}");
    }

    #[test]
    fn refuses_a_link_in_place_of_a_directory() {
        let root = tempfile::tempdir().unwrap();
        let dirs = below(root.path());
        std::os::unix::fs::symlink(root.path(), &dirs.state).unwrap();
        assert!(dirs.prepare().is_err());
    }
}
