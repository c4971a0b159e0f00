//! The isolation `microvm`: what each process of it is told.

pub(crate) mod qemu;
pub(crate) mod vmm;
