//! Support for the end-to-end tests: the real `sbx` in a home of the test's
//! own, in real virtual machines.
//!
//! Owns: where the programs are, hermetic homes, terminals, stand-ins on
//! loopback, and the check that a test leaves nothing behind. Never: knows
//! how `sbx` works inside; it types commands and looks at what a user could
//! look at.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a step that fails fails the test that took it"
)]

mod anthropic;
mod authority;
mod call;
mod client;
mod engine;
mod environment;
mod home;
mod isolation;
mod leftovers;
mod loopback;
mod machine;
mod sandbox;
mod skip;
mod ssh_server;
mod terminal;
mod web;
mod world;

pub use anthropic::{Call, StandIn, Turn};
pub use authority::Authority;
pub use call::{Output, Running, Sbx, ends, host};
pub use client::{client, java, pjdfstest};
pub use engine::{Engine, Kind};
pub use environment::full_run;
pub use home::Home;
pub use isolation::{Isolation, Kept, Promise, WorkspaceGuard, where_kept};
pub use leftovers::Process;
pub use loopback::{Listener, free_port};
pub use machine::{Checked, USERS, checked_by_systemd};
pub use sandbox::Sandbox;
pub use skip::{Fact, skips_here};
pub use ssh_server::SshServer;
pub use terminal::Terminal;
pub use web::WebServer;
