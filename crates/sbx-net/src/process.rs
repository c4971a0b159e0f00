//! The process `sbx net`: its walls, then its loop.

use sbx_sys::jail::InForce;

use crate::control::Ready;
pub use crate::engine::Links;
use crate::engine::{Ended, Engine};
use crate::error::{Attempt, Error};
use crate::inspect::Roots;
use crate::jail;
use crate::limits;

/// Locks the process down and serves one sandbox until the virtual machine
/// closes the link or the supervisor its control. The first line to the
/// supervisor is `{"ready":{"walls":[…]}}`; until the supervisor's first line
/// says what is allowed, nothing is. The caller holds no other
/// descriptors and has started no thread.
///
/// # Errors
/// When memory cannot be taken as it has to be or a wall not be set, when the
/// link carries what cannot be a frame, or when the kernel refuses something
/// that the loop cannot do without.
pub fn run(mut links: Links) -> Result<(), Error> {
    // In files, which are out of reach later.
    let roots = Roots::of_host(&std::mem::take(&mut links.trust));
    // A crowd of connections that say little would otherwise cost what all
    // the buffers hold, and each new one the clearing of two of them.
    sbx_sys::memory::give_back_from(limits::SMALL_BUFFER)
        .map_err(|error| Error::new(Attempt::Memory, error))?;
    let walls = lock_down()?;
    serve_with(links, roots, walls)
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
pub fn serve(links: Links) -> Result<(), Error> {
    let roots = Roots::of_host(&links.trust);
    serve_with(links, roots, InForce::default())
}

fn serve_with(links: Links, roots: Roots, walls: InForce) -> Result<(), Error> {
    match Engine::new(links, roots)?.run(&Ready { walls })? {
        Ended::Link | Ended::Control => Ok(()),
    }
}
