//! Tap devices: the Ethernet frames of a network namespace, one for each read
//! and each write.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::error::{Attempt, Error, Result};

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
    let mut request = libc::ifreq {
        ifr_name: device_name(name)?,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            // Both fit: the field has 16 bits for them.
            ifru_flags: (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short,
        },
    };
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

/// `name` as the kernel reads it. What it would cut, refuse or, with a `%`,
/// take for a pattern is refused here: the device would not be the one asked for.
fn device_name(name: &str) -> Result<[libc::c_char; libc::IFNAMSIZ]> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
    // The last byte is the zero that ends it.
    let fits = (1..libc::IFNAMSIZ).contains(&name.len());
    if !fits || !name.bytes().all(plain) || matches!(name, "." | "..") {
        return Err(Error::refused(format!("name a tap device {name:?}")));
    }
    let mut field = [0; libc::IFNAMSIZ];
    for (to, from) in field.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    Ok(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_kernel_would_take_otherwise_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "a/b",
            "a:1",
            "a b",
            "tap%d",
            "a\0b",
            "é",
            "sixteen-letters-",
        ] {
            let refused = open(name, false).unwrap_err();
            assert_eq!(refused.errno(), None, "{name:?}");
        }
        let name = device_name("fifteen-letters").unwrap();
        assert_eq!(name[14..], [b's'.cast_signed(), 0]);
    }

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
