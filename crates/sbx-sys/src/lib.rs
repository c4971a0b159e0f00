//! Safe wrappers over the Linux interfaces sbx needs; the home of unsafe code.
//!
//! Owns: descriptors, processes, jails, namespaces, control groups, the C library's
//! resolver and the probe for virtualisation. Never: policy, defaults that grant, output, the
//! environment. Trusts its caller for the arguments and nobody for what is
//! read back. Everything here is a thin layer over one kernel interface;
//! what a sandbox is made of is decided elsewhere.

#![expect(unsafe_code, reason = "this crate is where unsafe code lives")]

mod error;
mod interface;
mod offloads;

pub mod cgroup;
pub mod fd;
pub mod file;
pub mod idmap;
pub mod jail;
pub mod kvm;
pub mod lock;
pub mod memfd;
pub mod memory;
pub mod mounts;
pub mod namespaces;
pub mod netlink;
pub mod process;
pub mod resolver;
pub mod spawn;
pub mod tap;
pub mod tree;
pub mod unix;
pub mod userns;
pub mod veth;

pub use error::{Error, Result};
