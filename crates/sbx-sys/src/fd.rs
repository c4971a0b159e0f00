//! Descriptors that a process was started with.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Highest descriptor that is looked at: ours pass a few dozen.
const LAST: RawFd = 255;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes over every open descriptor from `first` on and marks it to be
/// closed on exec. Only for the first lines of `main`, before anything else
/// of this process has opened one.
///
/// # Errors
/// When it was called before in this process, or a descriptor refuses.
pub fn take_inherited(first: RawFd) -> Result<Vec<(RawFd, OwnedFd)>> {
    if first < 3 || TAKEN.swap(true, Ordering::SeqCst) {
        return Err(Error::refused("take over inherited descriptors twice"));
    }
    let mut taken = Vec::new();
    for number in first..=LAST {
        // SAFETY: F_GETFD only reads the flags of a number, open or not.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags < 0 {
            continue;
        }
        // SAFETY: the number is open, and as this runs once and first, no
        // other value of this process owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)
            .map_err(|source| Error::new("mark an inherited descriptor", source))?;
        taken.push((number, fd));
    }
    Ok(taken)
}
