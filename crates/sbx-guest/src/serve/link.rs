//! The link's bytes: blocking during set-up, by readiness afterwards.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use sbx_proto::{Decoder, Frame, LINK, Message, encode};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use super::PEER;
use crate::error::{Attempt as _, Error, Result};

/// Bytes of one read. A virtio port hands out at most a page or a few.
const READ: usize = 32 * 1024;
/// Bytes that are gathered for one write.
const GATHER: usize = 64 * 1024;

/// `fd`, waited for by the event loop.
#[expect(
    deprecated,
    reason = "a descriptor that is owned and never swapped is what it is sound for"
)]
pub(crate) fn readiness(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd)
}

/// `file`, whose changes the kernel announces as urgent data.
#[expect(
    deprecated,
    reason = "a descriptor that is owned and never swapped is what it is sound for"
)]
pub(crate) fn announcements(file: File) -> io::Result<AsyncFd<File>> {
    AsyncFd::with_interest(file, Interest::PRIORITY)
}

/// Makes `fd` non-blocking.
pub(crate) fn nonblocking(fd: impl AsFd) -> rustix::io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)
}

/// The link while only one thing happens at a time.
pub(crate) struct BlockingLink {
    fd: OwnedFd,
    decoder: Decoder,
}

impl BlockingLink {
    pub(crate) fn new(fd: OwnedFd) -> Result<Self> {
        nonblocking(&fd).attempt("make the link non-blocking")?;
        Ok(Self {
            fd,
            decoder: Decoder::new(PEER),
        })
    }

    /// Sends one link-level message.
    pub(crate) fn send<M: Message>(&mut self, message: &M) -> Result<()> {
        let frame = message
            .to_frame(LINK)
            .map_err(|error| Error::new(error.to_string()))?;
        let mut wire = Vec::new();
        encode(&frame, &mut wire).map_err(|error| Error::new(error.to_string()))?;
        let mut rest = &wire[..];
        while !rest.is_empty() {
            match rustix::io::write(&self.fd, rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).attempt("write to the link"),
            }
        }
        Ok(())
    }

    /// Receives the next message, which must be an `M`.
    pub(crate) fn receive<M: Message>(&mut self) -> Result<M> {
        let mut buffer = vec![0; READ];
        loop {
            let next = self
                .decoder
                .next()
                .map_err(|error| Error::new(format!("read the link: {error}")))?;
            if let Some(frame) = next {
                return M::from_frame(&frame)
                    .map_err(|error| Error::new(format!("read the link: {error}")));
            }
            match rustix::io::read(&self.fd, &mut buffer[..]) {
                Ok(0) => return Err(Error::new("read the link: closed by the host")),
                Ok(read) => self.decoder.push(buffer.get(..read).unwrap_or_default()),
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error).attempt("read the link"),
            }
        }
    }

    pub(crate) fn into_parts(self) -> (OwnedFd, Decoder) {
        (self.fd, self.decoder)
    }

    fn wait(&self, flags: PollFlags) -> Result<()> {
        let mut fds = [PollFd::new(&self.fd, flags)];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error).attempt("wait for the link"),
        }
    }
}

/// Reads once from a non-blocking descriptor when it is ready.
pub(crate) async fn read_some(fd: &AsyncFd<OwnedFd>, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = fd.readable().await?;
        match ready.try_io(|fd| Ok(rustix::io::read(fd, &mut *buffer)?)) {
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(result) => return result,
            Err(_would_block) => {}
        }
    }
}

/// Writes all of `bytes` to a non-blocking descriptor.
pub(crate) async fn write_all(fd: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let mut ready = fd.writable().await?;
        match ready.try_io(|fd| Ok(rustix::io::write(fd, bytes)?)) {
            Ok(Ok(written)) => bytes = bytes.get(written..).unwrap_or_default(),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_would_block) => {}
        }
    }
    Ok(())
}

/// The link once sessions are served.
pub(crate) struct Link(AsyncFd<OwnedFd>);

impl Link {
    pub(crate) fn new(fd: OwnedFd) -> Result<Self> {
        readiness(fd).map(Self).attempt("watch the link")
    }
}

/// Frames from the host.
pub(crate) struct Reader {
    link: Rc<Link>,
    decoder: Decoder,
    buffer: Vec<u8>,
}

impl Reader {
    pub(crate) fn new(link: Rc<Link>, decoder: Decoder) -> Self {
        Self {
            link,
            decoder,
            buffer: vec![0; READ],
        }
    }

    /// The next frame, `None` when the host is gone.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>> {
        loop {
            let next = self
                .decoder
                .next()
                .map_err(|error| Error::new(format!("read the link: {error}")))?;
            if next.is_some() {
                return Ok(next);
            }
            let read = read_some(&self.link.0, &mut self.buffer)
                .await
                .attempt("read the link")?;
            if read == 0 {
                return Ok(None);
            }
            self.decoder
                .push(self.buffer.get(..read).unwrap_or_default());
        }
    }
}

/// Writes frames until the host is gone, or `finish` comes and what was queued
/// before is written.
pub(crate) async fn write(
    link: Rc<Link>,
    mut queue: mpsc::Receiver<Frame>,
    mut finish: oneshot::Receiver<()>,
) {
    let mut wire = Vec::new();
    loop {
        let mut next = tokio::select! {
            biased;
            frame = queue.recv() => frame,
            _ = &mut finish, if !queue.is_closed() => {
                queue.close();
                continue;
            }
        };
        if next.is_none() {
            return;
        }
        while let Some(frame) = next.take() {
            // A frame over its bound is a mistake of ours; without it the
            // stream stays readable.
            if let Err(error) = encode(&frame, &mut wire) {
                crate::program::log(&error.to_string());
            }
            if wire.len() < GATHER {
                next = queue.try_recv().ok();
            }
        }
        if let Err(error) = write_all(&link.0, &wire).await {
            crate::program::log(&format!("write to the link: {error}"));
            return;
        }
        wire.clear();
    }
}
