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
mod mapped;
mod prepare;
mod progress;
mod scratch;
mod template;
mod tree;

pub use cache::{Artifact, Cache, CacheItem, CacheUse, FileIdent, ItemState, Key};
pub use error::{Error, MissingPackage};
pub use host::Host;
pub use initramfs::initramfs;
pub use kernel::{
    CONFIG as KERNEL_CONFIG, Kernel, kernel, missing_for_kernel, present as present_kernel,
};
pub use kit::{HomeContext, HomeFile, Kit};
pub use mapped::{directory_of, remove_tree_of};
pub use prepare::{Prepared, PreparedContainer, prepare, prepare_container};
pub use progress::{Progress, Silent};
pub use scratch::scratch;
pub use template::{Base, PACKAGES, base, missing_for_base, present_base, refresh_base};
pub use tree::{Tree, missing_for_tree, present_tree, tree};
