//! Plans, starts, supervises and stops sandboxes.

pub mod command;
