//! Tap devices: the Ethernet frames of a network namespace, one for each read
//! and each write.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::error::{Attempt, Error, Result};
use crate::interface::request;

const CLONE: &str = "/dev/net/tun";

/// Opens the tap device `name` of this process's network namespace, closed on
/// exec; makes it when it is not there, and then it goes with the descriptor.
/// Frames have no header before their Ethernet one. Without `blocking` a read
/// that has no frame says [`std::io::ErrorKind::WouldBlock`].
///
/// # Errors
/// When no device can have that name, when it is another's or of another kind,
/// or when this process may not administer the namespace.
pub fn open(name: &str, blocking: bool) -> Result<OwnedFd> {
    let mut request = request(name)?;
    // Both fit: the field has 16 bits for them.
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC;
    flags.set(OFlags::NONBLOCK, !blocking);
    let device =
        rustix::fs::open(CLONE, flags, Mode::empty()).attempt_with(|| format!("open `{CLONE}`"))?;
    // SAFETY: this request reads and writes one `ifreq`, which `request` is and
    // which outlives the call.
    let status = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if status != 0 {
        return Err(Error::new(
            format!("open the tap device `{name}`"),
            std::io::Error::last_os_error(),
        ));
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_opened_by_its_name_and_nobody_else_gets_it() {
        let name = format!("t{}", std::process::id());
        let Ok(device) = open(&name, false) else {
            println!("SKIPPED a_device_is_opened_by_its_name: no tap devices here");
            return;
        };
        let empty = rustix::io::read(&device, &mut [0; 64]).unwrap_err();
        // A device that is down has no frames, and says so in its own way.
        assert!(matches!(
            empty,
            rustix::io::Errno::AGAIN | rustix::io::Errno::IO
        ));
        let taken = open(&name, false).unwrap_err();
        assert_eq!(taken.errno(), Some(libc::EBUSY));
        drop(device);
        assert!(open(&name, true).is_ok());
    }
}
