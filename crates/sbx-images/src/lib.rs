//! Guest kernel, templates and agent programs: how they are made, verified
//! and cached.
//!
//! Owns: the cache directory and everything in it; the only programs of the
//! host that sbx runs to make something. Never: prints, reads the
//! environment, runs as part of a sandbox. Trusts: the host's own package
//! archive (its signatures), a kit's program by the digest written in this
//! repository, and nothing else that comes over a network.

mod cache;
mod command;
mod error;
mod host;
mod initramfs;
mod kernel;
mod kit;
mod prepare;
mod progress;
mod scratch;
mod template;

pub use cache::{Artifact, Cache, CacheItem, CacheUse, FileIdent, ItemState, Key};
pub use error::{Error, MissingPackage};
pub use host::Host;
pub use initramfs::initramfs;
pub use kernel::{
    CONFIG as KERNEL_CONFIG, Kernel, kernel, missing_for_kernel, present as present_kernel,
};
pub use kit::{HomeContext, HomeFile, Kit};
pub use prepare::{Prepared, prepare};
pub use progress::{Progress, Silent};
pub use scratch::scratch;
pub use template::{Base, PACKAGES, base, missing_for_base, present_base, refresh_base};
