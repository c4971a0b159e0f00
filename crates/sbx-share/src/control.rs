//! The control link to the supervisor: JSON lines both ways.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use parking_lot::Mutex;
use sbx_sys::jail::InForce;
use serde::{Deserialize, Serialize};

use crate::held::{self, HeldEntry, HeldSink};

/// No line is longer, in bytes.
const LINE_MAX: u64 = 64 * 1024;

/// What the supervisor may ask.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Request {
    /// `{"list_held":{}}`: what the shadow holds now.
    ListHeld {},
}

/// What the server says, unasked and asked.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message<'a> {
    /// Once, when the jail is in force and the device waits for its front end.
    Ready { walls: &'a InForce },
    /// The first change of one held path.
    Held(&'a HeldEntry),
    /// The answer to `list_held`: as many entries as fit one line.
    HeldList {
        entries: &'a [HeldEntry],
        complete: bool,
    },
    /// The request was not understood or could not be answered.
    Error { what: &'a str },
}

/// The writing half, shared by all threads.
#[derive(Clone, Debug)]
pub(crate) struct Control(Arc<Mutex<UnixStream>>);

impl Control {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self(Arc::new(Mutex::new(stream)))
    }

    /// Sends one line.
    pub(crate) fn send(&self, message: &Message<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.0.lock().write_all(&line)
    }
}

impl HeldSink for Control {
    fn held(&self, entry: HeldEntry) {
        if let Err(e) = self.send(&Message::Held(&entry)) {
            log::warn!("cannot report a held change: {e}");
        }
    }
}

/// Answers requests until the supervisor hangs up.
pub(crate) fn answer(stream: UnixStream, control: &Control, shadow: &OwnedFd) {
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        match lines.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) => {
                log::warn!("cannot read from the supervisor: {e}");
                return;
            }
        }
        let sent = match serde_json::from_slice(&line) {
            Ok(Request::ListHeld {}) => match held::list(shadow.as_fd()) {
                Ok(entries) => send_list(control, &entries),
                Err(e) => control.send(&Message::Error {
                    what: &format!("cannot list what is held: {e}"),
                }),
            },
            Err(_) => control.send(&Message::Error {
                what: "no such request",
            }),
        };
        if let Err(e) = sent {
            log::warn!("cannot answer the supervisor: {e}");
            return;
        }
    }
}

fn send_list(control: &Control, entries: &[HeldEntry]) -> io::Result<()> {
    // What an entry costs on the line, at most: its path escaped once more, and its frame.
    let mut room = LINE_MAX as usize - 256;
    let fitting = entries
        .iter()
        .take_while(|e| {
            let cost = 2 * e.path.len() + 32;
            let fits = cost <= room;
            room = room.saturating_sub(cost);
            fits
        })
        .count();
    control.send(&Message::HeldList {
        entries: entries.get(..fitting).unwrap_or_default(),
        complete: fitting == entries.len() && entries.len() < held::LIST_MAX,
    })
}
