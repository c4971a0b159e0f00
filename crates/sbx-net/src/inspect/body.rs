//! Bodies of HTTP/1 messages on their way: bounded memory, sent on as they
//! come, and written anew so that their ends are where we saw them.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::head::{self, Length, Refused};
use crate::limits;

/// Why a message did not get through.
#[derive(Debug)]
pub(super) enum Fault {
    /// Whoever says it is gone, or ended in its midst.
    Speaker,
    /// It is refused.
    Shape(Refused),
    /// Whoever should hear it is gone.
    Hearer,
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        Self::Shape(refused)
    }
}

/// One direction of a connection, with what was read and not used yet.
#[derive(Debug)]
pub(super) struct Input<R> {
    source: R,
    buffer: Vec<u8>,
    start: usize,
}

impl<R: AsyncRead + Unpin> Input<R> {
    pub(super) fn new(source: R) -> Self {
        Self {
            source,
            buffer: Vec::new(),
            start: 0,
        }
    }

    fn waiting(&self) -> &[u8] {
        self.buffer.get(self.start..).unwrap_or_default()
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting().is_empty()
    }

    fn used(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    /// Reads more; 0 at the end. Nothing is lost where this is given up.
    pub(super) async fn more(&mut self) -> io::Result<usize> {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.reserve(limits::HTTP_READ);
        (&mut self.source)
            .take(limits::HTTP_READ as u64)
            .read_buf(&mut self.buffer)
            .await
    }

    /// Forgets what waits, or what comes next; how much that was.
    pub(super) async fn forget(&mut self) -> io::Result<usize> {
        let waiting = self.waiting().len();
        let count = if waiting > 0 {
            waiting
        } else {
            self.more().await?
        };
        self.used(self.waiting().len());
        Ok(count)
    }

    async fn grow(&mut self) -> Result<(), Fault> {
        match self.more().await {
            Ok(0) => Err(Fault::Speaker),
            Ok(_) => Ok(()),
            Err(_) => Err(Fault::Speaker),
        }
    }

    /// The next head, its empty line included; `None` at an end before it.
    pub(super) async fn head(&mut self) -> Result<Option<Vec<u8>>, Fault> {
        let mut looked: usize = 0;
        loop {
            let waiting = self.waiting();
            let from = looked.saturating_sub(3);
            let found = waiting
                .get(from..)
                .and_then(|new| new.windows(4).position(|four| four == b"\r\n\r\n"));
            if let Some(at) = found {
                let end = from + at + 4;
                let head = waiting.get(..end).unwrap_or_default().to_vec();
                self.used(end);
                return Ok(Some(head));
            }
            looked = waiting.len();
            if looked >= limits::HTTP_HEAD {
                return Err(Fault::Shape("a head that is too long"));
            }
            match self.more().await {
                Ok(0) if self.is_empty() => return Ok(None),
                Ok(0) => return Err(Fault::Speaker),
                Ok(_) => {}
                Err(_) => return Err(Fault::Speaker),
            }
        }
    }

    /// The next line without its end.
    async fn line(&mut self, most: usize) -> Result<Vec<u8>, Fault> {
        loop {
            let waiting = self.waiting();
            if let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
                let line = waiting.get(..end).unwrap_or_default().to_vec();
                self.used(end + 1);
                return match line.strip_suffix(b"\r") {
                    Some(line) if !line.contains(&b'\r') => Ok(line.to_vec()),
                    _ => Err(Fault::Shape("a line that does not end in CR LF")),
                };
            }
            if waiting.len() > most {
                return Err(Fault::Shape("a line that is too long"));
            }
            self.grow().await?;
        }
    }

    /// Whether the other side ends, or says what nobody asked for.
    pub(super) async fn stirs(&mut self) -> io::Result<usize> {
        if self.is_empty() {
            self.more().await
        } else {
            Ok(1)
        }
    }

    /// Adds to a head what has come of its body by now, so that both go on at
    /// once; the length of what has not.
    pub(super) fn begin(&mut self, length: Length, head: &mut Vec<u8>) -> Length {
        let Length::Bytes(count) = length else {
            return length;
        };
        let waiting = self.waiting();
        let take = usize::try_from(count).map_or(waiting.len(), |most| most.min(waiting.len()));
        head.extend_from_slice(waiting.get(..take).unwrap_or_default());
        self.used(take);
        Length::Bytes(count - take as u64)
    }

    /// Hands a body on.
    pub(super) async fn body<W: AsyncWrite + Unpin>(
        &mut self,
        length: Length,
        to: &mut W,
    ) -> Result<(), Fault> {
        match length {
            Length::None => Ok(()),
            Length::Bytes(count) => self.bytes(count, to, false).await,
            Length::UntilEnd => self.rest(to).await,
            Length::Chunks => self.chunks(to).await,
        }
    }

    /// `count` bytes, as they are or in chunks.
    async fn bytes<W: AsyncWrite + Unpin>(
        &mut self,
        mut count: u64,
        to: &mut W,
        chunked: bool,
    ) -> Result<(), Fault> {
        while count > 0 {
            if self.is_empty() {
                to.flush().await.map_err(|_| Fault::Hearer)?;
                self.grow().await?;
            }
            let waiting = self.waiting();
            let take = usize::try_from(count).map_or(waiting.len(), |most| most.min(waiting.len()));
            let part = waiting.get(..take).unwrap_or_default();
            if chunked {
                let line = format!("{take:x}\r\n");
                to.write_all(line.as_bytes())
                    .await
                    .map_err(|_| Fault::Hearer)?;
            }
            to.write_all(part).await.map_err(|_| Fault::Hearer)?;
            if chunked {
                to.write_all(b"\r\n").await.map_err(|_| Fault::Hearer)?;
            }
            self.used(take);
            count -= take as u64;
        }
        Ok(())
    }

    async fn rest<W: AsyncWrite + Unpin>(&mut self, to: &mut W) -> Result<(), Fault> {
        loop {
            let waiting = self.waiting();
            to.write_all(waiting).await.map_err(|_| Fault::Hearer)?;
            let count = waiting.len();
            self.used(count);
            to.flush().await.map_err(|_| Fault::Hearer)?;
            match self.more().await {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(_) => return Err(Fault::Speaker),
            }
        }
    }

    async fn chunks<W: AsyncWrite + Unpin>(&mut self, to: &mut W) -> Result<(), Fault> {
        loop {
            if self.is_empty() {
                to.flush().await.map_err(|_| Fault::Hearer)?;
            }
            let line = self.line(limits::HTTP_CHUNK_LINE).await?;
            let size = head::chunk_size(&line)?;
            if size == 0 {
                break;
            }
            self.bytes(size, to, true).await?;
            if !self.line(0).await?.is_empty() {
                return Err(Fault::Shape("a chunk that does not end where it said"));
            }
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.line(limits::HTTP_HEAD).await?;
            trailers.extend_from_slice(&line);
            trailers.extend_from_slice(b"\r\n");
            if line.is_empty() {
                break;
            }
            if trailers.len() > limits::HTTP_HEAD {
                return Err(Fault::Shape("trailers that are too long"));
            }
        }
        let trailers = head::trailers(&trailers)?;
        to.write_all(b"0\r\n").await.map_err(|_| Fault::Hearer)?;
        to.write_all(&trailers).await.map_err(|_| Fault::Hearer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(work)
    }

    fn hand_on(bytes: &[u8], length: Length) -> Result<Vec<u8>, Fault> {
        run(async {
            let mut to = Vec::new();
            Input::new(bytes).body(length, &mut to).await.map(|()| to)
        })
    }

    #[test]
    fn a_body_ends_where_its_head_said() {
        assert_eq!(hand_on(b"abcdef", Length::Bytes(3)).unwrap(), b"abc");
        assert_eq!(hand_on(b"abcdef", Length::UntilEnd).unwrap(), b"abcdef");
        assert_eq!(hand_on(b"abcdef", Length::None).unwrap(), b"");
        assert!(matches!(
            hand_on(b"ab", Length::Bytes(3)),
            Err(Fault::Speaker)
        ));
    }

    #[test]
    fn a_head_takes_along_of_its_body_what_is_there_and_nothing_behind_it() {
        run(async {
            let mut input = Input::new(&b"abcdef"[..]);
            let mut head = b"head ".to_vec();
            assert_eq!(input.begin(Length::Bytes(4), &mut head), Length::Bytes(4));
            input.grow().await.unwrap();
            assert_eq!(input.begin(Length::Chunks, &mut head), Length::Chunks);
            assert_eq!(input.begin(Length::Bytes(4), &mut head), Length::Bytes(0));
            assert_eq!(
                (&head[..], input.waiting()),
                (&b"head abcd"[..], &b"ef"[..])
            );
            assert_eq!(input.begin(Length::Bytes(9), &mut head), Length::Bytes(7));
            assert_eq!(head, b"head abcdef");
        });
    }

    #[test]
    fn chunks_are_written_anew_with_their_trailers() {
        let body = b"3;x=y\r\nabc\r\n02\r\nde\r\n0\r\nDigest: f\r\n\r\nnext";
        assert_eq!(
            hand_on(body, Length::Chunks).unwrap(),
            b"3\r\nabc\r\n2\r\nde\r\n0\r\nDigest: f\r\n\r\n"
        );
    }

    #[test]
    fn chunks_of_another_shape_are_refused() {
        for body in [
            &b"3\nabc\r\n0\r\n\r\n"[..],
            b"3\r\nabcd\r\n0\r\n\r\n",
            b"3\r\nabc\n0\r\n\r\n",
            b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
            b"+3\r\nabc\r\n0\r\n\r\n",
            b"3\r\r\nabc\r\n0\r\n\r\n",
        ] {
            let text = String::from_utf8_lossy(body);
            assert!(
                matches!(hand_on(body, Length::Chunks), Err(Fault::Shape(_))),
                "{text:?}"
            );
        }
        let line = [
            &b"3;"[..],
            &vec![b'x'; limits::HTTP_CHUNK_LINE + limits::HTTP_READ + 2],
        ]
        .concat();
        assert!(matches!(
            hand_on(&line, Length::Chunks),
            Err(Fault::Shape(_))
        ));
    }

    #[test]
    fn heads_are_cut_where_they_end_and_are_bounded() {
        run(async {
            let mut input = Input::new(&b"GET / HTTP/1.1\r\n\r\nrest"[..]);
            assert_eq!(
                input.head().await.unwrap().unwrap(),
                b"GET / HTTP/1.1\r\n\r\n"
            );
            assert_eq!(input.waiting(), b"rest");
            assert!(Input::new(&b""[..]).head().await.unwrap().is_none());
            let cut = Input::new(&b"GET / HT"[..]).head().await;
            assert!(matches!(cut, Err(Fault::Speaker)));
            let long = vec![b'a'; limits::HTTP_HEAD + limits::HTTP_READ];
            let long = Input::new(&long[..]).head().await;
            assert!(matches!(long, Err(Fault::Shape(_))));
        });
    }
}
