//! Paths inside a sandbox, kept apart from host paths by type.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

/// An absolute path inside the sandbox without `.`, `..`, NUL or doubled
/// slashes, at most 4095 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "PathBuf", into = "PathBuf")]
pub struct GuestPath(PathBuf);

/// Why a text is not a guest path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestPathError {
    /// Does not start with `/`.
    Relative,
    /// Holds `..`, which would make its meaning depend on links inside.
    Parent,
    /// Holds a NUL byte.
    Nul,
    /// Longer than the kernel takes.
    Long,
}

impl fmt::Display for GuestPathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Relative => "a path inside the sandbox starts with /",
            Self::Parent => "a path inside the sandbox holds no `..`",
            Self::Nul => "a path holds no NUL byte",
            Self::Long => "a path has at most 4095 bytes",
        })
    }
}

impl std::error::Error for GuestPathError {}

impl GuestPath {
    /// Checks and normalises `path`.
    ///
    /// # Errors
    /// [`GuestPathError`] says which rule it breaks.
    pub fn new(path: impl AsRef<Path>) -> Result<Self, GuestPathError> {
        let path = path.as_ref();
        let bytes = path.as_os_str().as_bytes();
        if bytes.contains(&0) {
            return Err(GuestPathError::Nul);
        }
        if bytes.len() > 4095 {
            return Err(GuestPathError::Long);
        }
        if !path.is_absolute() {
            return Err(GuestPathError::Relative);
        }
        let mut clean = PathBuf::from("/");
        for part in path.components() {
            match part {
                Component::Normal(name) => clean.push(name),
                Component::ParentDir => return Err(GuestPathError::Parent),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        Ok(Self(clean))
    }

    /// The path as the guest kernel sees it.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        &self.0
    }

    /// Its bytes, as they go over the link.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_os_str().as_bytes()
    }
}

impl TryFrom<PathBuf> for GuestPath {
    type Error = GuestPathError;
    fn try_from(path: PathBuf) -> Result<Self, GuestPathError> {
        Self::new(path)
    }
}

impl From<GuestPath> for PathBuf {
    fn from(path: GuestPath) -> PathBuf {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises_what_is_only_written_oddly() {
        assert_eq!(
            GuestPath::new("/a//b/./c/").unwrap().as_path(),
            Path::new("/a/b/c")
        );
        assert_eq!(GuestPath::new("/").unwrap().as_path(), Path::new("/"));
    }

    #[test]
    fn refuses_what_has_no_fixed_meaning() {
        assert_eq!(GuestPath::new("a"), Err(GuestPathError::Relative));
        assert_eq!(GuestPath::new("/a/../b"), Err(GuestPathError::Parent));
        assert_eq!(GuestPath::new("/a\0b"), Err(GuestPathError::Nul));
        assert_eq!(
            GuestPath::new(format!("/{}", "x".repeat(4095))),
            Err(GuestPathError::Long)
        );
    }
}
