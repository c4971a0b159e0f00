//! What `sbx-vmm` is told, and what it may open.
//!
//! Owns: the shape of its configuration and the list of files that a machine
//! monitor needs. Never: sandboxes, policy, secrets. The engine's spawner
//! writes a [`Config`] and names the monitor as the argument; the program
//! reads it from a sealed memory file, puts up the walls and becomes the
//! monitor.

mod config;
mod files;

pub use config::{Config, Ids, Limits, MAX_CONFIG, Namespaces};
pub use files::{FileRule, KVM, Needed, QEMU_FILES, rules};
