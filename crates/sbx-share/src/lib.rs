//! The file server that gives a sandbox its workspace, and the guard in front of it.
//!
//! One process serves one share to one guest. [`process::run`] is its entry; [`fs::ShareFs`] is
//! the file system behind every adapter; [`guard`] decides which names are held; [`held`] lists
//! what is. Everything that comes from the guest is hostile.

pub mod config;
mod control;
mod error;
pub mod fs;
mod fuse;
pub mod guard;
pub mod held;
mod jail;
pub mod process;
mod vhost;

pub use config::{Channel, ShareConfig, ShareLimits, Squash};
pub use error::Error;
