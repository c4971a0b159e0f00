//! Plans, starts, supervises and stops sandboxes.
//!
//! Owns: the straight line from a [`command::Command`] to a running sandbox
//! and back. Never: prints, reads the environment, knows what a terminal is.
//! Commands go down, events come up, and no layer is skipped.

mod client;
mod container;
mod directories;
mod docker;
mod engine;
mod facts;
mod group;
mod microvm;
mod session;
mod setup;
mod shares;
mod store;

pub mod command;
pub mod plan;
pub mod role;
mod spawner;
mod supervisor;

pub use directories::Directories;
pub use engine::Engine;
pub use facts::{HostFacts, Virtualisation};
