//! The control port: a virtio-serial port found by its name.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};

use crate::error::{Attempt as _, Error, Result};

const NAME: &str = "sbx.control";
/// How long the port and the host's end of it may take to appear.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(2);

/// Opens the control port once the host has opened its end.
pub(super) fn open() -> Result<OwnedFd> {
    let deadline = Instant::now() + PATIENCE;
    let path = loop {
        if let Some(path) = find() {
            break path;
        }
        wait(deadline, "find the control port")?;
    };
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&*path, flags, Mode::empty())
        .attempt(format!("open the control port `{path}`"))?;
    // Until the host's end is open the port reads as ended and polls as hung
    // up, and the event loop would never forget that.
    loop {
        let mut fds = [PollFd::new(&fd, PollFlags::OUT)];
        rustix::event::poll(
            &mut fds,
            Some(&rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
        .attempt("wait for the host")?;
        let [state] = &fds;
        if !state.revents().contains(PollFlags::HUP) {
            return Ok(fd);
        }
        wait(deadline, "wait for the host at the control port")?;
    }
}

fn find() -> Option<String> {
    let ports = std::fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports.flatten().find_map(|port| {
        let name = std::fs::read_to_string(port.path().join("name")).ok()?;
        (name.trim_end() == NAME).then(|| format!("/dev/{}", port.file_name().to_string_lossy()))
    })
}

fn wait(deadline: Instant, what: &str) -> Result<()> {
    if Instant::now() > deadline {
        return Err(Error::new(format!("{what}: nothing for too long")));
    }
    std::thread::sleep(PAUSE);
    Ok(())
}
