//! The file server that gives a sandbox its workspace, and the guard in front of it.
