//! Safe wrappers over the Linux interfaces sbx needs; the home of unsafe code.
