//! The isolation `microvm`: what each process of it is told.

pub(crate) mod qemu;
pub(crate) mod repository;
pub(crate) mod setup;
pub(crate) mod shares;
pub(crate) mod vmm;
