//! Why an endpoint ended other than by its link or its control closing.

use std::fmt;
use std::io;

/// What failed, and why.
#[derive(Debug)]
pub struct Error {
    attempt: Attempt,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// What was attempted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Attempt {
    /// Reading or writing the link to the VMM.
    Link,
    /// Reading or writing the list of connections.
    Ledger,
    /// Reading the names of earlier endpoints.
    Names,
    /// Reading or writing the control link.
    Control,
    /// Reading the link of connections into published ports.
    Published,
    /// Waiting for events.
    Wait,
    /// Starting the threads that resolve names.
    Resolver,
    /// Starting the thread that looks at requests.
    Inspector,
    /// Saying how memory is taken.
    Memory,
    /// A wall of the jail, by its name.
    Wall(&'static str),
}

impl Error {
    pub(crate) fn new(
        attempt: Attempt,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            attempt,
            source: Some(source.into()),
        }
    }

    pub(crate) fn of(attempt: Attempt) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::new(attempt, source)
    }

    /// What was attempted.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        self.attempt
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.attempt {
            Attempt::Link => f.write_str("cannot use the link to the virtual machine"),
            Attempt::Ledger => f.write_str("cannot use the list of connections"),
            Attempt::Names => f.write_str("cannot read the names of this sandbox"),
            Attempt::Control => f.write_str("cannot use the control link"),
            Attempt::Published => f.write_str("cannot use the link of published ports"),
            Attempt::Wait => f.write_str("cannot wait for events"),
            Attempt::Resolver => f.write_str("cannot start the name resolver"),
            Attempt::Inspector => f.write_str("cannot start the inspector of requests"),
            Attempt::Memory => f.write_str("cannot say how memory is taken"),
            Attempt::Wall(wall) => write!(f, "cannot set up the {wall} of the network process"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source
            .as_ref()
            .map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}
