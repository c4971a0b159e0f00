//! Joins a tap device, which the argument names, and the link on descriptor 0:
//! the place of QEMU where real clients of a network namespace are a guest.
//! Prints `up` once it does, and ends with the link. For tests and benches.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

/// So many frames one way before the other has its turn.
const TURN: usize = 64;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let name = std::env::args().nth(1).ok_or("usage: tap DEVICE")?;
    let mut bridge = Bridge {
        tap: sbx_sys::tap::open(&name, false)?,
        link: io::stdin().as_fd().try_clone_to_owned()?,
        from_guest: vec![0; sbx_net::limits::FRAME],
        held: 0,
        to_guest: vec![0; sbx_net::limits::FRAME],
    };
    writeln!(io::stdout(), "up")?;
    while bridge.turn()? {}
    Ok(())
}

struct Bridge {
    tap: OwnedFd,
    link: OwnedFd,
    from_guest: Vec<u8>,
    /// The length of the frame in `from_guest` that the link had no room for.
    held: usize,
    to_guest: Vec<u8>,
}

impl Bridge {
    /// Waits, and carries what there is; whether the link goes on.
    fn turn(&mut self) -> Result<bool, Errno> {
        // Waiting in a send would keep the endpoint from sending in its turn.
        let (tap, link) = match self.held {
            0 => (PollFlags::IN, PollFlags::IN),
            _ => (PollFlags::empty(), PollFlags::IN | PollFlags::OUT),
        };
        let mut fds = [PollFd::new(&self.tap, tap), PollFd::new(&self.link, link)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        let [tap, link] = fds.map(|fd| !fd.revents().is_empty());
        if link && !self.deliver()? {
            return Ok(false);
        }
        if tap || self.held > 0 {
            self.collect()?;
        }
        Ok(true)
    }

    /// From the guest to the link.
    fn collect(&mut self) -> Result<(), Errno> {
        for _ in 0..TURN {
            if self.held == 0 {
                match rustix::io::read(&self.tap, &mut *self.from_guest) {
                    Ok(length) => self.held = length,
                    Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
            let frame = self.from_guest.get(..self.held).unwrap_or_default();
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.link, frame, flags) {
                // That the endpoint is gone is for the other way to see.
                Ok(_) | Err(Errno::PIPE | Errno::CONNRESET) => self.held = 0,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// From the link to the guest; whether the link goes on.
    fn deliver(&mut self) -> Result<bool, Errno> {
        for _ in 0..TURN {
            match rustix::net::recv(&self.link, &mut *self.to_guest, RecvFlags::DONTWAIT) {
                Ok((0, _)) | Err(Errno::CONNRESET) => return Ok(false),
                Ok((length, _)) => {
                    let frame = self.to_guest.get(..length).unwrap_or_default();
                    match rustix::io::write(&self.tap, frame) {
                        // A device that is down or full loses it, as any wire.
                        Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::IO | Errno::NOBUFS) => {}
                        Err(error) => return Err(error),
                    }
                }
                Err(Errno::AGAIN | Errno::INTR) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}
