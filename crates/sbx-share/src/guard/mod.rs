//! The guard: names that the host would execute or obey are served from a shadow of the sandbox.
//!
//! [`list`] is what sbx ships; [`pattern`] decides by name, purely; [`shadow`] stores what the guest wrote. Joining them
//! with the share is the work of the file system in `crate::fs`.

pub mod list;
pub(crate) mod pattern;
pub(crate) mod shadow;

pub use pattern::{GuardPatterns, HeldPath, Verdict, Zone};
