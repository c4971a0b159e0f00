//! The one error of this crate: what was attempted, and what the kernel said.

use std::fmt;
use std::io;

/// A kernel interface that refused, with what was being attempted.
#[derive(Debug)]
pub struct Error {
    attempt: String,
    source: Option<io::Error>,
}

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A refusal by the kernel. `attempt` is lower case, says what was done
    /// to what, and does not repeat the source.
    pub fn new(attempt: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self {
            attempt: attempt.into(),
            source: Some(source.into()),
        }
    }

    /// A refusal of our own, without a kernel error behind it.
    pub fn refused(attempt: impl Into<String>) -> Self {
        Self {
            attempt: attempt.into(),
            source: None,
        }
    }

    /// The class of the kernel's error; [`io::ErrorKind::Other`] when the
    /// refusal is our own.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        self.source
            .as_ref()
            .map_or(io::ErrorKind::Other, io::Error::kind)
    }

    /// The kernel's error number, if the kernel refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.as_ref().and_then(io::Error::raw_os_error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.attempt)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_ref()
            .map(|source| source as &(dyn std::error::Error + 'static))
    }
}

/// Adds what was attempted to a kernel error.
pub(crate) trait Attempt<T> {
    /// Adds a fixed text.
    fn attempt(self, attempt: &str) -> Result<T>;
    /// Adds a text that is made only on failure.
    fn attempt_with<S: Into<String>>(self, attempt: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Into<io::Error>> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, attempt: &str) -> Result<T> {
        self.map_err(|source| Error::new(attempt, source))
    }

    fn attempt_with<S: Into<String>>(self, attempt: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|source| Error::new(attempt(), source))
    }
}
