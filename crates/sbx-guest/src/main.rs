//! PID 1 of a microVM: mounts, sessions, reaping, shutdown.
//!
//! One static program in several roles, told apart by how it is started:
//! PID 1 of a machine ([`init`]), of a container ([`init::contained`]), of one
//! that an engine runs ([`init::docked`]) and of the one that keeps that one's
//! network ([`wire`]); the first moments of every session's process
//! ([`launch`]); `sudo` inside and its root half ([`sudo`]); a link on
//! descriptor 0 without any set-up (`serve`, for tests and for entry points).
//!
//! Trusts the host side of the link. Trusts nothing inside: root of the
//! sandbox is the agent, so PID 1 opens no file that it could be made to
//! wait for once sessions run, and bounds all it is sent.

mod error;
mod init;
mod launch;
mod program;
mod serve;
mod sudo;
mod wire;

use std::process::ExitCode;

use crate::program::Role;

fn main() -> ExitCode {
    match program::role() {
        Role::Init => init::run(),
        Role::Contained => init::contained::run(),
        Role::Docked => init::docked::run(),
        Role::Wire => wire::run(),
        Role::Serve => serve::bare(),
        Role::Launch { request, status } => launch::child::run(request, status),
        Role::SudoServer {
            connection,
            context,
        } => sudo::server::run(connection, context),
        Role::Sudo { arguments } => sudo::client::run(arguments),
        Role::Unknown => {
            program::log("sbx-guest runs inside a sandbox only");
            ExitCode::from(2)
        }
    }
}
