//! What can go wrong while something is made, verified or fetched.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sbx_spec::ByteSize;

/// How programs of the host, in the C locale, say that a file system or what
/// the user may take of it is full.
const FULL: [&str; 3] = [
    "No space left on device",
    "Disk quota exceeded",
    "enough free space",
];

/// A program that this host lacks.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MissingPackage {
    /// The program or file that was looked for.
    pub program: String,
    /// The Debian package that brings it.
    pub package: String,
    /// What it is needed for.
    pub why: String,
}

/// Why something could not be made, verified or fetched.
#[derive(Debug)]
pub enum Error {
    /// A file operation failed: what was attempted, on what, and why.
    File {
        /// What was attempted, as a verb: `read`, `create`.
        act: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A program of the host failed.
    Program {
        /// What it was doing, such as `build the guest kernel`.
        task: String,
        /// How it ended, such as `exit status 2`, or why it did not start.
        outcome: String,
        /// The last lines it wrote, oldest first, escaped.
        tail: Vec<String>,
    },
    /// Programs are missing on this host; all of them are listed.
    MissingPackages(Vec<MissingPackage>),
    /// Something is not what it was when it was verified.
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// What was fetched is not what is pinned.
    Integrity {
        /// What was fetched.
        what: String,
        /// The pinned digest.
        expected: String,
        /// The digest of what came.
        found: String,
    },
    /// The host refuses user namespaces.
    Namespaces {
        /// What the host said.
        reason: String,
    },
    /// Something that was read does not have the form it must have.
    Form {
        /// What was read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file system of the cache is full.
    NoRoom {
        /// What was being made.
        title: String,
        /// The cache directory.
        cache: PathBuf,
        /// What making it takes there at most, about.
        room: ByteSize,
        /// What did not fit.
        source: Box<Error>,
    },
    /// The caller asked to stop.
    Cancelled,
}

impl Error {
    /// For `map_err`: a file operation on `path` failed.
    pub(crate) fn file(
        act: &'static str,
        path: &Path,
    ) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_path_buf();
        move |source| Self::File { act, path, source }
    }

    pub(crate) fn errno(
        act: &'static str,
        path: &Path,
    ) -> impl FnOnce(rustix::io::Errno) -> Self + use<> {
        let wrap = Self::file(act, path);
        move |errno| wrap(errno.into())
    }

    /// Whether a file system had no room, by its own word or a program's.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Self::File { source, .. } => matches!(
                source.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded
            ),
            Self::Program { tail, .. } => tail
                .iter()
                .any(|line| FULL.iter().any(|full| line.contains(full))),
            _ => false,
        }
    }

    pub(crate) fn form(what: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::Form {
            what: what.into(),
            reason: reason.to_string(),
        }
    }

    /// A hint for the user, where there is one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::MissingPackages(list) => {
                let mut packages: Vec<&str> = list.iter().map(|m| m.package.as_str()).collect();
                packages.sort_unstable();
                packages.dedup();
                Some(format!("run `sudo apt-get install {}`", packages.join(" ")))
            }
            Self::Namespaces { .. } => Some(
                "let ordinary users make user namespaces: on Ubuntu `./x install` brings an \
                 AppArmor profile, elsewhere see `sysctl user.max_user_namespaces \
                 kernel.unprivileged_userns_clone` and the entries for your user in /etc/subuid \
                 and /etc/subgid"
                    .to_owned(),
            ),
            Self::Corrupt { path, .. } => Some(format!(
                "remove `{}`; what is in it is made again when needed",
                path.parent().unwrap_or(path).display()
            )),
            Self::NoRoom { cache, room, .. } => Some(format!(
                "make {room} of room for `{}`, with `sbx gc` and `sbx rm` or elsewhere, then \
                 try again: what was finished is kept",
                cache.display()
            )),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { act, path, .. } => write!(f, "cannot {act} `{}`", path.display()),
            Self::Program {
                task,
                outcome,
                tail,
            } => {
                write!(f, "cannot {task}: {outcome}")?;
                tail.iter().try_for_each(|line| write!(f, "\n  {line}"))
            }
            Self::MissingPackages(list) => {
                f.write_str("this host lacks")?;
                for (i, missing) in list.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    let MissingPackage {
                        program,
                        package,
                        why,
                    } = missing;
                    write!(f, "{comma} {program} (package {package}: {why})")?;
                }
                Ok(())
            }
            Self::Corrupt { path, reason } => {
                write!(f, "`{}` is damaged: {reason}", path.display())
            }
            Self::Integrity {
                what,
                expected,
                found,
            } => {
                write!(
                    f,
                    "{what} is not what is pinned: expected {expected}, found {found}"
                )
            }
            Self::Namespaces { reason } => {
                write!(f, "this host refuses user namespaces: {reason}")
            }
            Self::Form { what, reason } => write!(f, "cannot understand {what}: {reason}"),
            Self::NoRoom {
                title, cache, room, ..
            } => write!(
                f,
                "no room to make {title} in `{}`: it takes about {room} there",
                cache.display()
            ),
            Self::Cancelled => f.write_str("stopped on request"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::NoRoom { source, .. } => Some(source),
            _ => None,
        }
    }
}
