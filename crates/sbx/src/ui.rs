//! What the engine calls back: the console of the command line.

use std::io::{self, IsTerminal, Read};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sbx_engine::command::{
    AuditRecord, Cancel, Code, EndBlock, Error, LogLine, StartBlock, Terminal, Ui, cancellation,
};
use serde::Serialize;

use crate::cli::Format;
use crate::render::progress::Progress;
use crate::render::{Screen, VERSION, audit, block, json_line, reply};
use crate::terminal::SignalThread;

/// Longest answer to a question, in bytes.
const MAX_ANSWER: usize = 64;

/// The console.
#[derive(Debug)]
pub(crate) struct Console {
    screen: Screen,
    progress: Progress,
    signals: SignalThread,
    cancel: Cancel,
    no_input: bool,
    raw_terminal: bool,
    lent: bool,
}

/// What is said around a session, for programs.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Around<'a> {
    Start(&'a StartBlock),
    End(&'a EndBlock),
}

#[derive(Serialize)]
struct Block<'a> {
    version: u32,
    #[serde(flatten)]
    around: Around<'a>,
}

impl Console {
    /// A console, with the thread that receives the signals.
    ///
    /// # Errors
    /// If the signal handlers cannot be installed.
    pub(crate) fn new(screen: Screen, no_input: bool, raw_terminal: bool) -> Result<Self, Error> {
        let (canceller, cancel) = cancellation();
        let signals = SignalThread::start(canceller).map_err(|source| {
            Error::new(Code::Io, "cannot install the signal handlers").because(source)
        })?;
        let progress = Progress::new(screen);
        Ok(Self {
            screen,
            progress,
            signals,
            cancel,
            no_input,
            raw_terminal,
            lent: false,
        })
    }

    fn around(&mut self, around: Around<'_>, text: String) {
        self.progress.clear();
        if self.screen.quiet {
            return;
        }
        if self.screen.format == Format::Json {
            return self.screen.say(&json_line(&Block {
                version: VERSION,
                around,
            }));
        }
        self.screen.say(&text);
    }

    /// Reads a line from the terminal, watching for the wish to stop.
    fn answer(&self) -> Result<String, Error> {
        let mut line = Vec::new();
        let mut byte = [0_u8; 1];
        let tick = Timespec::try_from(Duration::from_millis(200)).ok();
        while line.len() < MAX_ANSWER {
            if self.cancel.is_cancelled() {
                self.screen.say("\n");
                return Err(Error::new(Code::Interrupted, "interrupted at a question"));
            }
            let input = io::stdin();
            match poll(&mut [PollFd::new(&input, PollFlags::IN)], tick.as_ref()) {
                Ok(0) | Err(rustix::io::Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(unread().because(error)),
            }
            // One byte at a time: what follows the line belongs to the
            // session that may follow.
            match input.lock().read(&mut byte) {
                Ok(0) => break,
                Ok(_) if byte == *b"\n" => break,
                Ok(_) => line.extend(byte),
                Err(error) => return Err(unread().because(error)),
            }
        }
        Ok(String::from_utf8_lossy(&line).trim().to_ascii_lowercase())
    }
}

fn unread() -> Error {
    Error::new(Code::Io, "cannot read the answer")
}

impl Ui for Console {
    fn progress(&mut self, step: &str, done: u64, total: u64) {
        if !self.screen.quiet {
            self.progress.moved(step, done, total);
        }
    }

    fn warn(&mut self, text: &str) {
        self.progress.clear();
        self.screen.warn(text);
    }

    fn confirm(&mut self, prompt: &str, flag: &str) -> Result<bool, Error> {
        self.progress.clear();
        if self.no_input || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            let why = if self.no_input {
                "--no-input is given"
            } else {
                "there is no terminal"
            };
            let message = format!("cannot ask “{prompt}”: {why}");
            return Err(Error::new(Code::NoTerminal, message)
                .hint(format!("type `{flag}` to say yes beforehand")));
        }
        self.screen
            .say(&format!("{} [y/N] ", crate::render::escape(prompt)));
        Ok(matches!(self.answer()?.as_str(), "y" | "yes"))
    }

    fn opening(&mut self, block: &StartBlock) {
        let text = block::start(block, self.screen.err());
        self.around(Around::Start(block), text);
    }

    fn closing(&mut self, block: &EndBlock) {
        let text = block::end(block, self.screen.err());
        self.around(Around::End(block), text);
    }

    fn log(&mut self, line: &LogLine) {
        let text = match self.screen.format {
            Format::Table => reply::log(line, self.screen.out()),
            Format::Json | Format::Yaml => json_line(line),
        };
        // A reader that is gone is noticed by the next signal or the end.
        let _ = self.screen.data(text.as_bytes());
    }

    fn audit(&mut self, record: &AuditRecord) {
        let text = match self.screen.format {
            Format::Table => audit::line(record, self.screen.out()),
            Format::Json | Format::Yaml => json_line(record),
        };
        let _ = self.screen.data(text.as_bytes());
    }

    fn terminal(&mut self) -> Result<Terminal, Error> {
        self.progress.clear();
        if std::mem::replace(&mut self.lent, true) {
            return Err(Error::new(
                Code::Internal,
                "the terminal was lent to a session before",
            ));
        }
        self.signals.lend(self.raw_terminal, !self.no_input)
    }

    fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }
}
