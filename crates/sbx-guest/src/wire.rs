//! The first process of the container that keeps a sandbox's network: makes
//! the interface that the agent's container has, and carries its frames
//! between it and standard input and output.
//!
//! Once the interface is up it has no capability, no file and no new
//! descriptor. It looks into no frame. It ends with its input.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::{Arc, mpsc};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use sbx_proto::dock::{Frames, MAX_FRAME, MAX_SAID, SILENCE, UP, Wire, put_frame, read_first};
use sbx_sys::jail::{Jail, Profile};
use sbx_sys::netlink::{Netlink, index_of};

use crate::error::{Attempt as _, Error, Result};
use crate::program;

const INTERFACE: &str = "eth0";
/// The other end of it, where there is no device for taps.
const FAR_END: &str = "host0";
/// Bytes of one read.
const CHUNK: usize = 256 * 1024;

/// One direction of the wire, to its end.
type Way = fn(&OwnedFd) -> Result<()>;

/// Its life.
pub(crate) fn run() -> ExitCode {
    let mut input = std::io::stdin().lock();
    let mut output = std::io::stdout().lock();
    let device = match read_first(&mut input)
        .attempt("read what the network is")
        .and_then(|wire| bring_up(&wire))
    {
        Ok(device) => device,
        Err(error) => {
            program::log(&error.line());
            let mut line = error.line().replace('\n', " ");
            line.truncate(line.floor_char_boundary(MAX_SAID - 1));
            let _ = writeln!(output, "{line}").and_then(|()| output.flush());
            return ExitCode::FAILURE;
        }
    };
    drop((input, output));
    match carry(device) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            program::log(&error.line());
            ExitCode::FAILURE
        }
    }
}

/// Makes the interface, and gives up all that took.
fn bring_up(wire: &Wire) -> Result<OwnedFd> {
    let net = &wire.net;
    let device = match sbx_sys::tap::open(INTERFACE, false) {
        // Nobody else in this namespace may administer or listen to it.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            sbx_sys::veth::beside(FAR_END, INTERFACE, wire.mac, net.mtu)?
        }
        device => device?,
    };
    let mut netlink = Netlink::open()?;
    netlink.up(index_of("lo")?, None)?;
    let index = index_of(INTERFACE)?;
    netlink.link_address(index, wire.mac)?;
    netlink.up(index, Some(net.mtu))?;
    netlink.address(index, IpAddr::V4(net.v4), net.v4_prefix)?;
    netlink.address(index, IpAddr::V6(net.v6), net.v6_prefix)?;
    netlink.default_route(index, IpAddr::V4(net.v4_gateway))?;
    netlink.default_route(index, IpAddr::V6(net.v6_gateway))?;
    drop(netlink);
    Jail::new(Profile::Carrier).apply()?;
    Ok(device)
}

/// Carries frames until the host is gone.
fn carry(device: OwnedFd) -> Result<()> {
    let device = Arc::new(device);
    let what = "carry frames";
    let mut output = std::io::stdout();
    writeln!(output, "{UP}")
        .and_then(|()| output.flush())
        .attempt(what)?;
    // Half a wire is none: the first that ends ends both.
    let (ended, end) = mpsc::channel();
    for (name, way) in [("out", outwards as Way), ("in", inwards)] {
        let (device, ended) = (Arc::clone(&device), ended.clone());
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || ended.send(way(&device)))
            .attempt(what)?;
    }
    end.recv().unwrap_or(Ok(()))
}

/// From the interface to the host.
fn outwards(device: &OwnedFd) -> Result<()> {
    let what = "carry a frame to the host";
    let output = rustix::io::dup(rustix::stdio::stdout()).attempt(what)?;
    let mut output = File::from(output);
    let mut room = vec![0; MAX_FRAME + 4];
    let mut gathered = Vec::with_capacity(CHUNK + MAX_FRAME);
    loop {
        match rustix::io::read(device, &mut room[..]) {
            Ok(length) => {
                put_frame(&mut gathered, room.get(..length).unwrap_or_default());
                if gathered.len() < CHUNK {
                    continue;
                }
            }
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) if gathered.is_empty() => {
                let mut fds = [PollFd::new(device, PollFlags::IN)];
                match rustix::event::poll(&mut fds, None) {
                    Ok(_) | Err(Errno::INTR) => continue,
                    Err(error) => return Err(error).attempt(what),
                }
            }
            Err(Errno::AGAIN) => {}
            Err(error) => return Err(error).attempt(what),
        }
        output.write_all(&gathered).attempt(what)?;
        gathered.clear();
    }
}

/// Waits until the host says something, which it does every few seconds.
pub(crate) fn hears(input: &File) -> Result<()> {
    let what = "hear the host";
    let patience = Timespec::try_from(SILENCE).ok();
    loop {
        let mut fds = [PollFd::new(input, PollFlags::IN)];
        match rustix::event::poll(&mut fds, patience.as_ref()) {
            Ok(0) => {
                let seconds = SILENCE.as_secs();
                return Err(Error::new(format!("{what}: nothing for {seconds} s")));
            }
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).attempt(what),
        }
    }
}

/// From the host to the interface.
fn inwards(device: &OwnedFd) -> Result<()> {
    let what = "carry a frame from the host";
    let input = rustix::io::dup(rustix::stdio::stdin()).attempt(what)?;
    let mut input = File::from(input);
    let mut chunk = vec![0; CHUNK];
    let mut frames = Frames::default();
    loop {
        hears(&input)?;
        let count = input.read(&mut chunk).attempt(what)?;
        if count == 0 {
            return Ok(());
        }
        frames.push(chunk.get(..count).unwrap_or_default());
        while let Some(frame) = frames.next() {
            if frame.is_empty() {
                continue;
            }
            // A frame that the interface does not take is lost.
            while rustix::io::write(device, frame) == Err(Errno::INTR) {}
        }
    }
}
