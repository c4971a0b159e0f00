//! What failed, on what, and why.

use std::{fmt, io};

/// A failure: what was attempted, and the cause if the kernel gave one.
#[derive(Debug)]
pub(crate) struct Error {
    what: String,
    source: Option<io::Error>,
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            source: None,
        }
    }

    /// The attempt and its cause in one line, for the link and the log.
    pub(crate) fn line(&self) -> String {
        match &self.source {
            Some(source) => format!("{}: {source}", self.what),
            None => self.what.clone(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| source as _)
    }
}

impl From<sbx_sys::Error> for Error {
    fn from(error: sbx_sys::Error) -> Self {
        Self {
            what: error.to_string(),
            source: error.errno().map(io::Error::from_raw_os_error),
        }
    }
}

/// Says what was attempted.
pub(crate) trait Attempt<T> {
    fn attempt(self, what: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<io::Error>> Attempt<T> for std::result::Result<T, E> {
    fn attempt(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error {
            what: what.into(),
            source: Some(source.into()),
        })
    }
}
