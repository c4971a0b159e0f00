//! Shares that a file server serves: where the kernel asks one of them, and
//! what is mounted with that.
//!
//! The kernel lets `/dev/fuse` be mounted with by the user namespace alone in
//! which it was opened, and by root of it. It is opened while this process is
//! still who the caller is, since root of that namespace is nobody to the
//! host; the ends go to the supervisor, and the container keeps none. When the
//! file server is gone nobody has one, and whoever waits for it gets an error.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use sbx_sys::mounts::{self, Attributes};
use sbx_sys::{Error, Result, unix};

use super::config::{BoxConfig, Way};
use super::refused;
use crate::facts::FUSE;

/// Nothing on it is a device or gives privileges. A share that is not to be
/// written to is refused by its file server too.
const OPEN: Attributes = Attributes {
    read_only: false,
    no_devices: true,
    no_exec: false,
};

/// Opens the device once for each share that is served.
pub(super) fn open(config: &BoxConfig) -> Result<Vec<OwnedFd>> {
    let served = (config.shares.iter()).filter(|share| matches!(share.way, Way::Served { .. }));
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    served
        .map(|_| {
            rustix::fs::open(FUSE, flags, Mode::empty()).map_err(refused(format!("open `{FUSE}`")))
        })
        .collect()
}

/// Mounts with `devices` and sends them through `to`, from where they come to
/// file servers. Nothing on the mounts is answered until then. One for each
/// share that is served, in their order.
pub(super) fn mount(
    config: &BoxConfig,
    devices: Vec<OwnedFd>,
    to: Option<OwnedFd>,
) -> Result<Vec<OwnedFd>> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let to = to.ok_or_else(|| Error::refused("serve shares without a link to their servers"))?;
    let mut mounted = Vec::new();
    let shares = config.shares.iter();
    let shares = shares.filter(|share| matches!(share.way, Way::Served { .. }));
    for (share, device) in shares.zip(&devices) {
        let text = |number: u32| {
            CString::new(number.to_string()).map_err(|_| Error::refused("write a number"))
        };
        let number = text(device.as_raw_fd().unsigned_abs())?;
        let (user, group) = (text(config.agent.0)?, text(config.agent.1)?);
        let options = [
            (c"source", Some(c"sbx")),
            (c"fd", Some(&*number)),
            (c"rootmode", Some(c"40000")),
            (c"user_id", Some(&*user)),
            (c"group_id", Some(&*group)),
            // The kernel judges by the owners that the server shows, and lets
            // everybody in whom it can judge: nobody outside the container.
            (c"default_permissions", None),
            (c"allow_other", None),
        ];
        let attributes = Attributes {
            read_only: share.read_only,
            ..OPEN
        };
        mounted.push(mounts::fresh(c"fuse", &options, attributes)?);
    }
    let ends: Vec<_> = devices.iter().map(AsFd::as_fd).collect();
    unix::send(&to, b"served", &ends)?;
    Ok(mounted)
}
