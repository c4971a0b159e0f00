//! The log of one sandbox: what its parts wrote, bounded in size and rate.
//!
//! Everything that comes in here may have been written by a guest: lines are
//! cut, control characters are escaped, and a part that writes faster than
//! anybody could read loses what is too much, with a note of how much.

use std::path::Path;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::rolling::Rolling;
use crate::command::LogLine;

/// The log, in a sandbox's run directory.
pub(crate) const NAME: &str = "log.jsonl";
/// The one before it.
pub(crate) const OLDER: &str = "log.old";
/// Size at which the log starts anew, keeping one old file, in bytes.
pub(crate) const MAX_FILE: u64 = 1 << 20;
/// Longest line, in bytes; the rest of it is dropped.
const MAX_LINE: usize = 1024;
/// What one source may write at once, in bytes.
const BURST: f64 = 256.0 * 1024.0;
/// What one source may write in the long run, in bytes a second.
const RATE: f64 = 16.0 * 1024.0;

static LOG: OnceLock<Mutex<Rolling>> = OnceLock::new();

/// Opens the log of this process in `directory`, once.
///
/// # Errors
/// If the file cannot be opened, or another supervisor left something else in
/// its place.
pub(crate) fn open(directory: &Path) -> sbx_sys::Result<()> {
    let log = Rolling::open(directory, NAME, OLDER, MAX_FILE)?;
    LOG.set(Mutex::new(log))
        .map_err(|_| sbx_sys::Error::refused("open a second log"))
}

/// Writes a line of the supervisor's own.
pub(crate) fn log(text: &str) {
    line("supervisor", text);
}

/// Writes a line of any source.
pub(crate) fn line(source: &str, text: &str) {
    let Some(log) = LOG.get() else { return };
    let entry = LogLine {
        source: source.to_owned(),
        time_ms: now_ms(),
        text: text.chars().take(MAX_LINE).collect(),
    };
    if let Ok(mut text) = serde_json::to_vec(&entry) {
        text.push(b'\n');
        // A full disk must not stop the sandbox: the line is lost.
        let _ = log.lock().write(&text);
    }
}

/// Milliseconds since 1970, where the clock has a time after it.
pub(crate) fn now_ms() -> Option<u64> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(time.as_millis()).ok()
}

/// Copies what `stream` says into the log until it ends.
pub(crate) async fn copy(source: String, mut stream: impl AsyncRead + Unpin) {
    let mut chunk = vec![0; 4096];
    let mut cut = Lines::default();
    let mut budget = Budget::new();
    while let Ok(count) = stream.read(&mut chunk).await {
        if count == 0 {
            break;
        }
        let bytes = chunk.get(..count).unwrap_or_default();
        if budget.spend(count) {
            cut.push(bytes, |text| line(&source, text));
        }
        if let Some(lost) = budget.settled() {
            line(&source, &dropped(lost));
        }
    }
    cut.finish(|text| line(&source, text));
}

/// What stands in the log for `lost` bytes.
pub(crate) fn dropped(lost: u64) -> String {
    format!("({lost} bytes came too fast and were dropped)")
}

/// Cuts bytes into lines fit for the log.
#[derive(Default)]
pub(crate) struct Lines {
    held: Vec<u8>,
}

impl Lines {
    /// Takes bytes and hands on the lines they complete.
    pub(crate) fn push(&mut self, bytes: &[u8], mut each: impl FnMut(&str)) {
        for &byte in bytes {
            match byte {
                b'\n' => self.finish(&mut each),
                b'\r' => {}
                _ if self.held.len() < MAX_LINE => self.held.push(byte),
                _ => {}
            }
        }
    }

    /// Hands on what is left.
    pub(crate) fn finish(&mut self, mut each: impl FnMut(&str)) {
        if !self.held.is_empty() {
            each(&String::from_utf8_lossy(&self.held));
            self.held.clear();
        }
    }
}

/// How much one source may still write.
#[derive(Debug)]
pub(crate) struct Budget {
    most: f64,
    rate: f64,
    left: f64,
    since: Instant,
    lost: u64,
}

impl Budget {
    /// A whole burst of what a source may write to the log.
    pub(crate) fn new() -> Self {
        Self::of(BURST, RATE)
    }

    /// `most` bytes at once, `rate` a second in the long run.
    pub(crate) fn of(most: f64, rate: f64) -> Self {
        Self {
            most,
            rate,
            left: most,
            since: Instant::now(),
            lost: 0,
        }
    }

    /// Takes `count` bytes of it; false when it does not have as many.
    pub(crate) fn spend(&mut self, count: usize) -> bool {
        let passed = self.since.elapsed().as_secs_f64();
        self.since = Instant::now();
        self.left = (self.left + passed * self.rate).min(self.most);
        let cost = u32::try_from(count).map_or(f64::MAX, f64::from);
        if cost > self.left {
            self.lost += count as u64;
            return false;
        }
        self.left -= cost;
        true
    }

    /// What was lost, once there is room again to say so.
    pub(crate) fn settled(&mut self) -> Option<u64> {
        (self.lost > 0 && self.left > self.most / 4.0).then(|| std::mem::take(&mut self.lost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(input: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut cut = Lines::default();
        for bytes in input {
            cut.push(bytes, |text| lines.push(text.to_owned()));
        }
        cut.finish(|text| lines.push(text.to_owned()));
        lines
    }

    #[test]
    fn lines_come_whole_however_they_were_read() {
        assert_eq!(cut(&[b"a\r\nb", b"c\n\n", b"d"]), ["a", "bc", "d"]);
    }

    #[test]
    fn an_endless_line_is_cut_and_takes_no_memory() {
        let lines = cut(&[&[b'x'; 100_000], b"\nnext"]);
        assert_eq!(lines[0].len(), MAX_LINE);
        assert_eq!(lines[1], "next");
    }

    #[test]
    fn a_flood_is_dropped_and_counted() {
        let mut budget = Budget::new();
        let taken = (0..1000).filter(|_| budget.spend(4096)).count();
        assert!((60..=80).contains(&taken), "{taken}");
        assert!(budget.lost > 900 * 4000);
    }
}
