//! The process `sbx net`: its walls, then its loop.

use std::os::fd::OwnedFd;

use sbx_sys::jail::InForce;

use crate::config::NetConfig;
use crate::control::Ready;
use crate::engine::{Ended, Engine};
use crate::error::Error;
use crate::jail;

/// Locks the process down and serves one sandbox until the virtual machine
/// closes `link` or the supervisor closes `control`. Both are Unix stream
/// sockets: frames behind a 4-byte big-endian length on the one, JSON lines
/// on the other, the first of which is `{"ready":{"walls":[…]}}`. The caller
/// holds no other descriptors and has started no thread.
///
/// # Errors
/// When a wall cannot be set, when the link carries what cannot be a frame,
/// or when the kernel refuses something that the loop cannot do without.
pub fn run(config: NetConfig, link: OwnedFd, control: OwnedFd) -> Result<(), Error> {
    let walls = lock_down()?;
    serve_with(&config, link, control, walls)
}

/// Puts the walls of [`run`] around the calling process, which has one
/// thread. They stay for its life.
///
/// # Errors
/// When a wall cannot be set; some may stand by then.
pub fn lock_down() -> Result<InForce, Error> {
    jail::enter()
}

/// Serves one sandbox like [`run`], without the walls: for tests that share
/// their process with the endpoint.
///
/// # Errors
/// As [`run`], walls aside.
pub fn serve(config: &NetConfig, link: OwnedFd, control: OwnedFd) -> Result<(), Error> {
    serve_with(config, link, control, InForce::default())
}

fn serve_with(
    config: &NetConfig,
    link: OwnedFd,
    control: OwnedFd,
    walls: InForce,
) -> Result<(), Error> {
    match Engine::new(config, link, control)?.run(&Ready { walls })? {
        Ended::Link | Ended::Control => Ok(()),
    }
}
