//! Connections to the outside: the only code that dials.

pub(crate) mod raw;
