//! PID 1 of a microVM: mounts, sessions, reaping, shutdown.

fn main() {}
