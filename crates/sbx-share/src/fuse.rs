//! `/dev/fuse`: serves the file system to a mount of this host's own kernel.
//!
//! The mount was made by whoever opened the device, in a namespace of theirs; this process only
//! answers. What it reads was put together by the host's kernel from what programs of the guest
//! asked for: the form is trusted no more than that of a virtual machine, the contents not at all.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;

use fuse_backend_rs::api::server::{MAX_BUFFER_SIZE, Server};
use fuse_backend_rs::transport::{FsCacheReqHandler, FuseBuf, FuseDevWriter, Reader, Writer};
use rustix::io::Errno;

use crate::error::Error;
use crate::fs::ShareFs;

/// Threads that serve requests: enough that one slow disk operation does not stop the others.
const WORKERS: usize = 4;
/// Room for the longest message: as many bytes of a file as the two sides agree on, and what
/// stands before them.
const MESSAGE: usize = MAX_BUFFER_SIZE as usize + 4096;

/// Serves `fs` to the mount behind `device` until it is gone.
///
/// # Errors
/// If the device cannot be read, as one that nothing was mounted with cannot.
pub(crate) fn serve(fs: ShareFs, device: OwnedFd) -> Result<(), Error> {
    let server = Arc::new(Server::new(Arc::new(fs)));
    let device = Arc::new(device);
    let (ended, first) = mpsc::channel();
    for number in 0..WORKERS {
        let (server, device, ended) = (Arc::clone(&server), Arc::clone(&device), ended.clone());
        thread::Builder::new()
            .name(format!("worker-{number}"))
            .spawn(move || ended.send(answer(&server, &device)))
            .map_err(Error::io("start the file server's threads"))?;
    }
    drop(ended);
    // What ends one of them ends all: the mount is gone, or nobody can be answered any more. The
    // process ends with this, and what still waits for an answer inside gets an error then.
    match first.recv() {
        Ok(how) => how.map_err(Error::io("talk to the mount")),
        Err(error) => Err(Error::new("keep serving", error)),
    }
}

/// Answers one request after the other until the mount is gone.
fn answer(server: &Server<Arc<ShareFs>>, device: &OwnedFd) -> io::Result<()> {
    let mut request = vec![0; MESSAGE];
    let mut reply = vec![0; MESSAGE];
    loop {
        let length = match rustix::io::read(device, &mut *request) {
            Ok(length) => length,
            // ENOENT: whoever asked was killed before the question could be read.
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => continue,
            Err(Errno::NODEV) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let message = request.get_mut(..length).unwrap_or_default();
        let asked = message.get(8..16).and_then(|bytes| bytes.try_into().ok());
        if let Err(error) = respond(server, device, message, &mut reply) {
            log::debug!("a request failed: {error}");
            if let Some(asked) = asked {
                refuse(device, asked);
            }
        }
    }
}

fn respond(
    server: &Server<Arc<ShareFs>>,
    device: &OwnedFd,
    message: &mut [u8],
    reply: &mut [u8],
) -> Result<(), String> {
    let reader =
        Reader::<()>::from_fuse_buffer(FuseBuf::new(message)).map_err(|e| e.to_string())?;
    let writer = FuseDevWriter::new(device.as_raw_fd(), reply).map_err(|e| e.to_string())?;
    let none = None::<&mut dyn FsCacheReqHandler>;
    server
        .handle_message(reader, Writer::FuseDev(writer), none, None)
        .map(drop)
        .map_err(|e| e.to_string())
}

/// Lets nobody wait for an answer that could not be made: they cannot be killed as they wait. To
/// the kernel, an answer to what was answered already is none.
fn refuse(device: &OwnedFd, asked: [u8; 8]) {
    let mut header = Vec::with_capacity(16);
    header.extend_from_slice(&16u32.to_ne_bytes());
    header.extend_from_slice(&(-libc::EIO).to_ne_bytes());
    header.extend_from_slice(&asked);
    let _ = rustix::io::write(device, &header);
}
