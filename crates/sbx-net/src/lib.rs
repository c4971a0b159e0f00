//! The user-space network endpoint of a sandbox.
