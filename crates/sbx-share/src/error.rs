//! What can go wrong while the file server starts or serves.

use std::fmt;
use std::io;

/// A failure of the file server: what was attempted, and why it failed.
#[derive(Debug)]
pub struct Error {
    attempt: &'static str,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error that happened while attempting `attempt`.
    pub(crate) fn new(
        attempt: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            attempt,
            source: Some(source.into()),
        }
    }

    /// For `map_err`: adds what was attempted to an I/O error.
    pub(crate) fn io<E: Into<io::Error>>(attempt: &'static str) -> impl FnOnce(E) -> Self {
        move |e| Self::new(attempt, e.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.attempt)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}
