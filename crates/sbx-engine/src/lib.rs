//! Plans, starts, supervises and stops sandboxes.
