//! The `sbx share` process: from inherited descriptors to a served share.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use crate::config::{Channel, ShareConfig};
use crate::control::{self, Control, Message};
use crate::error::Error;
use crate::fs::ShareFs;
use crate::fuse;
use crate::jail;
use crate::vhost;

/// How long a supervisor that does not read can hold a serving thread up.
const CONTROL_PATIENCE: Duration = Duration::from_secs(2);

/// Serves one share until the virtual machine hangs up or the mount is gone.
///
/// `door` is what the configuration's channel says, a listening Unix socket for one vhost-user
/// front end or a `/dev/fuse` that was mounted with; `root` is the directory of the share and
/// `shadow` that of its shadow store (`O_PATH` descriptors will do), `control` a Unix stream of
/// JSON lines. The walls of the jail stand before the first byte of
/// the guest is read; they are named in the `{"ready":{"walls":[…]}}` line.
///
/// The caller has dropped all privilege already: whoever this process runs as owns what the
/// guest writes. To be called before any thread is started.
///
/// # Errors
/// If a wall cannot be set, the directories cannot be used, the front end breaks the protocol or
/// the mount cannot be answered.
pub fn run(
    config: ShareConfig,
    door: OwnedFd,
    root: OwnedFd,
    shadow: OwnedFd,
    control: OwnedFd,
) -> Result<(), Error> {
    jail::prepare([&door, &root, &shadow, &control])?;
    let jail = jail::jail(&config, &root, &shadow)?;
    let stream = UnixStream::from(control);
    stream
        .set_write_timeout(Some(CONTROL_PATIENCE))
        .map_err(Error::io("bound the wait for the supervisor"))?;
    let requests = stream
        .try_clone()
        .map_err(Error::io("share the control link"))?;
    let store = shadow
        .try_clone()
        .map_err(Error::io("share the shadow store"))?;
    let control = Control::new(stream);
    let fs = ShareFs::new(&config, root, shadow, Box::new(control.clone()))
        .map_err(Error::io("open the share"))?;
    let walls = jail
        .apply()
        .map_err(|e| Error::new("put up the walls of the jail", e))?;
    let replies = control.clone();
    thread::Builder::new()
        .name("control".to_owned())
        .spawn(move || control::answer(requests, &replies, &store))
        .map_err(Error::io("start the control thread"))?;
    control
        .send(&Message::Ready { walls: &walls })
        .map_err(Error::io("report readiness"))?;
    match config.channel {
        Channel::VhostUser => vhost::serve(fs, door),
        Channel::Fuse => fuse::serve(fs, door),
    }
}
