//! Frames over a Unix stream, both ways.

use std::io;

use sbx_proto::frame::{Decoder, Frame, FrameError, Side, encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes asked for in one read.
const CHUNK: usize = 64 * 1024;

/// The reading half of a peer.
#[derive(Debug)]
pub(crate) struct FrameReader<R> {
    stream: R,
    decoder: Decoder,
    chunk: Vec<u8>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads what `side` writes.
    pub(crate) fn new(stream: R, side: Side) -> Self {
        Self {
            stream,
            decoder: Decoder::new(side),
            chunk: vec![0; CHUNK],
        }
    }

    /// What is read from.
    pub(crate) fn stream(&self) -> &R {
        &self.stream
    }

    /// The next frame; `None` when the peer has closed. May be cancelled
    /// without losing bytes.
    ///
    /// # Errors
    /// If reading fails, or the bytes are no frames (kind `InvalidData`).
    pub(crate) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.decoder.next().map_err(invalid)? {
                return Ok(Some(frame));
            }
            let count = self.stream.read(&mut self.chunk).await?;
            if count == 0 {
                return match self.decoder.pending() {
                    0 => Ok(None),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                };
            }
            self.decoder
                .push(self.chunk.get(..count).unwrap_or_default());
        }
    }
}

/// Writes one frame.
///
/// # Errors
/// If the peer is gone, or the frame is larger than its kind allows.
pub(crate) async fn write<W: AsyncWrite + Unpin>(stream: &mut W, frame: &Frame) -> io::Result<()> {
    let mut bytes = Vec::new();
    encode(frame, &mut bytes).map_err(invalid)?;
    stream.write_all(&bytes).await
}

fn invalid(error: FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
