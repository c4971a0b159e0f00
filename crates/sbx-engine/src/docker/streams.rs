//! The standard streams of a container: what it writes, told apart, and what
//! is carried between them and our own links.
//!
//! The engine writes each piece of output behind eight bytes: which stream,
//! three zeroes, and the length. Nothing is held of a piece but what was read
//! at once, whatever length it claims.

use std::io;
use std::os::fd::OwnedFd;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use sbx_proto::dock::{Frames, MAX_FRAME, NO_FRAME, SIGN_OF_LIFE, put_frame};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::UnixStream;

/// Bytes of one read.
const CHUNK: usize = 256 * 1024;
/// Bytes of frames that are gathered for one write.
const GATHER: usize = 256 * 1024;
/// Most that a container says on its standard error is logged, in bytes.
const MAX_LOGGED: u64 = 1 << 20;

/// The end of a container's input.
pub(super) type Input = WriteHalf<TokioIo<Upgraded>>;

/// What a container writes.
pub(super) struct Output<R> {
    stream: R,
    chunk: Box<[u8]>,
    at: usize,
    end: usize,
    header: [u8; 8],
    had: usize,
    left: usize,
    logged: u64,
}

/// The two ends of a container.
pub(super) fn split(stream: TokioIo<Upgraded>) -> (Output<ReadHalf<TokioIo<Upgraded>>>, Input) {
    let (reader, writer) = tokio::io::split(stream);
    (Output::new(reader), writer)
}

impl<R: AsyncRead + Unpin> Output<R> {
    pub(super) fn new(stream: R) -> Self {
        Self {
            stream,
            chunk: vec![0; CHUNK].into_boxed_slice(),
            at: 0,
            end: 0,
            header: [0; 8],
            had: 0,
            left: 0,
            logged: 0,
        }
    }

    /// More of its standard output, never empty; `None` when it has ended.
    /// What it wrote to its standard error goes to ours. May be cancelled
    /// without losing bytes.
    pub(super) async fn next(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            if self.at == self.end {
                let count = self.stream.read(&mut self.chunk).await?;
                if count == 0 {
                    return Ok(None);
                }
                (self.at, self.end) = (0, count);
            }
            let held = self.end - self.at;
            if self.left == 0 {
                let count = held.min(self.header.len() - self.had);
                let from = self.chunk.get(self.at..self.at + count).unwrap_or_default();
                if let Some(to) = self.header.get_mut(self.had..self.had + count) {
                    to.copy_from_slice(from);
                }
                self.had += count;
                self.at += count;
                if self.had == self.header.len() {
                    self.had = 0;
                    let [_, _, _, _, a, b, c, d] = self.header;
                    self.left =
                        usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                }
                continue;
            }
            let from = self.at;
            let count = held.min(self.left);
            self.at += count;
            self.left -= count;
            match self.header.first() {
                Some(1) => return Ok(self.chunk.get(from..from + count)),
                Some(2) => {
                    let room = MAX_LOGGED.saturating_sub(self.logged);
                    self.logged += count as u64;
                    let keep = count.min(usize::try_from(room).unwrap_or(usize::MAX));
                    let text = self.chunk.get(from..from + keep).unwrap_or_default();
                    // A pipe that the supervisor reads; without it there is no log.
                    let _ = rustix::io::write(rustix::stdio::stderr(), text);
                }
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "no stream of a container",
                    ));
                }
            }
        }
    }

    /// Whether it writes anything before it ends; what it wrote is still there.
    pub(super) async fn begins(&mut self) -> io::Result<bool> {
        let Some(bytes) = self.next().await? else {
            return Ok(false);
        };
        let count = bytes.len();
        self.at -= count;
        self.left += count;
        Ok(true)
    }

    /// A line of its standard output, of at most `most` bytes.
    pub(super) async fn line(&mut self, most: usize) -> io::Result<String> {
        let mut line = Vec::new();
        loop {
            let Some(bytes) = self.next().await? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            match bytes.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    line.extend(bytes.iter().take(end));
                    // The rest of the piece is for whoever reads next.
                    let rest = bytes.len() - end - 1;
                    self.at -= rest;
                    self.left += rest;
                    return Ok(String::from_utf8_lossy(&line).into_owned());
                }
                None => line.extend(bytes),
            }
            if line.len() > most {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
    }
}

/// Carries the link between the supervisor and the agent's container until
/// either is gone.
pub(super) async fn carry_link<R: AsyncRead + Unpin>(
    link: UnixStream,
    mut output: Output<R>,
    mut input: Input,
) -> io::Result<()> {
    let (mut from, mut to) = link.into_split();
    let inwards = async {
        let mut chunk = vec![0; CHUNK];
        loop {
            let count = from.read(&mut chunk).await?;
            if count == 0 {
                input.shutdown().await?;
                return Ok::<(), io::Error>(());
            }
            input
                .write_all(chunk.get(..count).unwrap_or_default())
                .await?;
            input.flush().await?;
        }
    };
    let outwards = async {
        while let Some(bytes) = output.next().await? {
            to.write_all(bytes).await?;
        }
        Ok::<(), io::Error>(())
    };
    tokio::pin!(inwards, outwards);
    let mut closed = false;
    loop {
        tokio::select! {
            // The container may have more to say after it was told to end.
            done = &mut inwards, if !closed => {
                done?;
                closed = true;
            }
            done = &mut outwards => return done,
        }
    }
}

/// Carries frames between the network engine and the keeper of the network
/// until either is gone. A frame that finds no room is lost, as on any wire.
pub(super) async fn carry_frames<R: AsyncRead + Unpin>(
    wire: OwnedFd,
    mut output: Output<R>,
    mut input: Input,
) -> io::Result<()> {
    rustix::io::ioctl_fionbio(&wire, true)?;
    let wire = readiness(wire)?;
    let inwards = async {
        let mut room = vec![0; MAX_FRAME];
        let mut gathered = Vec::new();
        loop {
            let ready = tokio::time::timeout(SIGN_OF_LIFE, wire.readable()).await;
            let Ok(ready) = ready else {
                input.write_all(&NO_FRAME).await?;
                input.flush().await?;
                continue;
            };
            let mut ready = ready?;
            while gathered.len() < GATHER {
                match rustix::net::recv(wire.get_ref(), &mut room[..], RecvFlags::empty()) {
                    // The supervisor is gone, and the network with it.
                    Ok((_, 0)) => return Ok(()),
                    Ok((_, length)) => {
                        put_frame(&mut gathered, room.get(..length).unwrap_or_default())
                    }
                    Err(Errno::AGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            input.write_all(&gathered).await?;
            input.flush().await?;
            gathered.clear();
        }
    };
    let outwards = async {
        let mut frames = Frames::default();
        while let Some(bytes) = output.next().await? {
            frames.push(bytes);
            while let Some(frame) = frames.next() {
                // An empty message would be the end of the wire.
                if !frame.is_empty() {
                    send(&wire, frame).await?;
                }
            }
        }
        Ok::<(), io::Error>(())
    };
    tokio::select! {
        done = inwards => done,
        done = outwards => done,
    }
}

/// `wire`, waited for by the event loop.
#[expect(
    deprecated,
    reason = "a descriptor that is owned and never swapped is what it is sound for"
)]
pub(crate) fn readiness(wire: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(wire)
}

async fn send(wire: &AsyncFd<OwnedFd>, frame: &[u8]) -> io::Result<()> {
    loop {
        match rustix::net::send(wire.get_ref(), frame, SendFlags::NOSIGNAL) {
            Err(Errno::AGAIN) => wire.writable().await?.clear_ready(),
            Err(Errno::INTR) => {}
            // Nobody reads for a moment, or there is no memory: lost.
            Ok(_) | Err(Errno::NOBUFS | Errno::MSGSIZE | Errno::CONNREFUSED) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(stream: u8, bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&[stream, 0, 0, 0][..], &length, bytes].concat()
    }

    #[tokio::test]
    async fn output_is_told_from_what_else_is_said_however_it_is_cut() {
        let wire = [
            piece(1, b"up\nab"),
            piece(2, b""),
            piece(1, b""),
            piece(1, b"c"),
        ]
        .concat();
        let (mut near, far) = tokio::io::duplex(4);
        tokio::spawn(async move { near.write_all(&wire).await });
        let mut output = Output::new(far);
        assert!(output.begins().await.unwrap());
        assert_eq!(output.line(10).await.unwrap(), "up");
        let mut all = Vec::new();
        while let Some(bytes) = output.next().await.unwrap() {
            all.extend_from_slice(bytes);
        }
        assert_eq!(all, b"abc");
    }

    #[tokio::test]
    async fn what_is_no_stream_and_what_has_no_end_is_refused() {
        let (wrong, endless) = (piece(7, b"x"), piece(1, &[b'x'; 100]));
        let mut output = Output::new(&wrong[..]);
        assert!(output.next().await.is_err());
        let mut output = Output::new(&endless[..]);
        assert!(output.line(50).await.is_err());
        // A length that nothing follows takes no memory.
        let claimed = [1, 0, 0, 0, 255, 255, 255, 255, b'y'];
        let mut output = Output::new(&claimed[..]);
        assert_eq!(output.next().await.unwrap(), Some(&b"y"[..]));
        assert_eq!(output.next().await.unwrap(), None);
    }
}
