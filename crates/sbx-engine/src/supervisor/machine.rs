//! The few words of QEMU's machine protocol that a supervisor needs.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Longest answer that is read, in bytes; QEMU's own are a few hundred.
const MAX_ANSWER: usize = 64 * 1024;

/// A machine that can be paused.
#[derive(Debug)]
pub(crate) struct Machine {
    reader: BufReader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    greeted: bool,
}

impl Machine {
    /// The machine behind this socket.
    pub(crate) fn connect(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self {
            reader: BufReader::new(reader),
            writer,
            greeted: false,
        }
    }

    /// Stops (`true`) or continues its processors.
    ///
    /// # Errors
    /// If the monitor is gone or refuses.
    pub(crate) async fn pause(&mut self, pause: bool) -> io::Result<()> {
        if !self.greeted {
            self.read().await?;
            self.ask("qmp_capabilities").await?;
            self.greeted = true;
        }
        self.ask(if pause { "stop" } else { "cont" }).await
    }

    async fn ask(&mut self, word: &str) -> io::Result<()> {
        let line = format!("{{\"execute\":\"{word}\"}}\n");
        self.writer.write_all(line.as_bytes()).await?;
        loop {
            let answer = self.read().await?;
            if answer.get("return").is_some() {
                return Ok(());
            }
            if answer.get("error").is_some() {
                return Err(io::Error::other(format!(
                    "the machine monitor refused `{word}`"
                )));
            }
        }
    }

    async fn read(&mut self) -> io::Result<serde_json::Value> {
        let mut line = Vec::new();
        loop {
            let held = self.reader.fill_buf().await?;
            if held.is_empty() || line.len() + held.len() > MAX_ANSWER {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = held.iter().position(|byte| *byte == b'\n');
            let count = end.map_or(held.len(), |end| end + 1);
            line.extend(held.iter().take(count));
            self.reader.consume(count);
            if end.is_some() {
                return serde_json::from_slice(&line).map_err(io::Error::other);
            }
        }
    }
}
