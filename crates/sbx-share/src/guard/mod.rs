//! The guard: names that the host would execute or obey are served from a shadow of the sandbox.
//!
//! [`list`] is what sbx ships, [`git_config`] finds what a repository adds; [`pattern`] decides by
//! name, purely; [`shadow`] stores what the guest wrote. Joining them with the share is the work
//! of the file system in `crate::fs`.

pub mod git_config;
pub mod list;
pub(crate) mod pattern;
mod quota;
pub(crate) mod shadow;

pub use pattern::{GuardPatterns, HeldPath, Verdict, Zone};
