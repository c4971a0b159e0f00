//! The caller's terminal and signals.
//!
//! Owns: raw mode and its way back (return, error, panic, fatal signal), the
//! size, and one thread that receives every signal. Before a session signals
//! cancel the command; during one they are events for it.

use std::io::{self, IsTerminal, stderr, stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use sbx_engine::command::{
    Canceller, Code, Error, OutputFilter, Prompt, Terminal, TerminalEvent, TerminalMode, Terminals,
    TtySize,
};
use signal_hook::consts::{
    SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2, SIGWINCH,
};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use tokio::sync::mpsc;

use crate::filter::{Passthrough, TerminalFilter};
use crate::render::question::Questions;

/// The terminal whose mode was changed, and the mode it had. One per
/// process, since there is one controlling terminal; reached from a panic
/// and from the signal thread, when nothing else is known any more.
static CHANGED: Mutex<Option<Changed>> = Mutex::new(None);

struct Changed {
    terminal: OwnedFd,
    before: Termios,
    raw: bool,
}

/// Puts the terminal back into the mode it had. Does nothing if the mode is
/// unchanged.
fn put_back() -> io::Result<()> {
    match CHANGED.lock().as_mut() {
        Some(changed) => {
            changed.raw = false;
            Ok(tcsetattr(
                &changed.terminal,
                OptionalActions::Drain,
                &changed.before,
            )?)
        }
        None => Ok(()),
    }
}

/// Makes a panic put the terminal back before it says anything.
pub(crate) fn restore_on_panic() {
    let next = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // The panic itself is what is reported.
        let _ = put_back();
        next(panic);
    }));
}

/// Raw mode of the terminal on standard input, if that is one.
struct RawMode {
    terminal: Option<OwnedFd>,
}

impl TerminalMode for RawMode {
    fn raw(&mut self) -> io::Result<()> {
        let Some(terminal) = &self.terminal else {
            return Ok(());
        };
        let terminal = terminal.try_clone()?;
        let mut changed = CHANGED.lock();
        let before = match changed.take() {
            Some(earlier) => earlier.before,
            None => tcgetattr(&terminal)?,
        };
        let mut mode = before.clone();
        mode.make_raw();
        // Known before it is done, so that whatever interrupts undoes it.
        let changed = changed.insert(Changed {
            terminal,
            before,
            raw: true,
        });
        Ok(tcsetattr(&changed.terminal, OptionalActions::Drain, &mode)?)
    }

    fn restore(&mut self) -> io::Result<()> {
        put_back()
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = put_back();
    }
}

/// The size of the terminal, if there is one.
fn size() -> Option<TtySize> {
    let sizes = [
        tcgetwinsize(stdout()),
        tcgetwinsize(stdin()),
        tcgetwinsize(stderr()),
    ];
    let found = sizes
        .into_iter()
        .flatten()
        .find(|size| size.ws_row > 0 && size.ws_col > 0)?;
    Some(TtySize {
        rows: found.ws_row,
        cols: found.ws_col,
    })
}

/// Receives every signal of this process.
#[derive(Clone, Debug)]
pub(crate) struct SignalThread {
    route: Arc<Mutex<Route>>,
}

/// Where signals go.
#[derive(Debug)]
struct Route {
    canceller: Canceller,
    cancelled: bool,
    session: Option<mpsc::UnboundedSender<TerminalEvent>>,
}

impl SignalThread {
    /// Starts the thread. Until a session begins, the first SIGINT, SIGTERM,
    /// SIGHUP or SIGQUIT cancels; the second ends the process as that signal
    /// does.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub(crate) fn start(canceller: Canceller) -> io::Result<Self> {
        let mut signals = Signals::new([
            SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH, SIGTSTP, SIGCONT, SIGUSR1, SIGUSR2,
        ])?;
        let route = Route {
            canceller,
            cancelled: false,
            session: None,
        };
        let this = Self {
            route: Arc::new(Mutex::new(route)),
        };
        let thread = this.clone();
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                for signal in signals.forever() {
                    thread.received(signal);
                }
            })?;
        Ok(this)
    }

    fn received(&self, signal: i32) {
        match signal {
            SIGWINCH => {
                if let Some(size) = size() {
                    self.tell(TerminalEvent::Resized(size));
                }
            }
            SIGTSTP => stop(),
            SIGCONT => {
                resume();
                self.tell(TerminalEvent::Continued);
                if let Some(size) = size() {
                    self.tell(TerminalEvent::Resized(size));
                }
            }
            signal => {
                if !self.tell(TerminalEvent::Signal(signal)) {
                    self.cancel(signal);
                }
            }
        }
    }

    /// Tells the session, if one listens.
    fn tell(&self, event: TerminalEvent) -> bool {
        let mut route = self.route.lock();
        let told = route
            .session
            .as_ref()
            .is_some_and(|session| session.send(event).is_ok());
        if !told {
            route.session = None;
        }
        told
    }

    fn cancel(&self, signal: i32) {
        if matches!(signal, SIGUSR1 | SIGUSR2) {
            return;
        }
        let mut route = self.route.lock();
        route.canceller.cancel();
        if std::mem::replace(&mut route.cancelled, true) {
            let _ = put_back();
            // Ends the process: the user asked twice.
            let _ = emulate_default_handler(signal);
        }
    }

    /// Lends the standard streams to a session, which from now on hears the
    /// signals. `raw_terminal` lets every sequence through; `asks` says whether
    /// the user may be asked during it.
    ///
    /// # Errors
    /// If a descriptor cannot be duplicated.
    pub(crate) fn lend(&self, raw_terminal: bool, asks: bool) -> Result<Terminal, Error> {
        let failed = |source: io::Error| {
            Error::new(Code::Io, "cannot use the standard streams").because(source)
        };
        let (sender, events) = mpsc::unbounded_channel();
        self.route.lock().session = Some(sender);
        let is = Terminals {
            stdin: stdin().is_terminal(),
            stdout: stdout().is_terminal(),
            stderr: stderr().is_terminal(),
        };
        let input = stdin().as_fd().try_clone_to_owned().map_err(failed)?;
        let terminal = is
            .stdin
            .then(|| input.try_clone())
            .transpose()
            .map_err(failed)?;
        Ok(Terminal {
            stdin: input,
            stdout: stdout().as_fd().try_clone_to_owned().map_err(failed)?,
            stderr: stderr().as_fd().try_clone_to_owned().map_err(failed)?,
            is,
            size: size(),
            events,
            mode: Box::new(RawMode { terminal }),
            prompt: (asks && is.stdin && is.stdout).then(|| Box::new(Questions) as Box<dyn Prompt>),
            stdout_filter: filter(is.stdout && !raw_terminal),
            stderr_filter: filter(is.stderr && !raw_terminal),
        })
    }
}

/// What goes into a pipe or a file is passed exactly.
fn filter(needed: bool) -> Box<dyn OutputFilter> {
    if needed {
        Box::new(TerminalFilter::new())
    } else {
        Box::new(Passthrough::default())
    }
}

/// Stops this process as `^Z` does, with the terminal as it was found.
fn stop() {
    let raw = CHANGED.lock().as_ref().is_some_and(|changed| changed.raw);
    let _ = put_back();
    if let Some(changed) = CHANGED.lock().as_mut() {
        // What `resume` reads when this process is continued.
        changed.raw = raw;
    }
    let _ = emulate_default_handler(SIGTSTP);
}

/// Comes back into the mode that a stop left.
fn resume() {
    if let Some(changed) = CHANGED.lock().as_mut()
        && changed.raw
    {
        let mut mode = changed.before.clone();
        mode.make_raw();
        // A terminal that is gone ends the session by itself.
        let _ = tcsetattr(&changed.terminal, OptionalActions::Drain, &mode);
    }
}

#[cfg(test)]
mod tests {
    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::LocalModes;

    use super::*;

    /// A terminal, and its other end that keeps it alive.
    fn terminal() -> (OwnedFd, OwnedFd) {
        let other = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&other).unwrap();
        unlockpt(&other).unwrap();
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        (ioctl_tiocgptpeer(&other, flags).unwrap(), other)
    }

    fn edits_lines(terminal: &OwnedFd) -> bool {
        tcgetattr(terminal)
            .unwrap()
            .local_modes
            .contains(LocalModes::ICANON | LocalModes::ECHO)
    }

    // One test, because a process has one terminal whose mode it changes.
    #[test]
    fn raw_mode_always_finds_its_way_back() {
        let (terminal, _other) = terminal();
        let mut mode = RawMode {
            terminal: terminal.try_clone().ok(),
        };
        mode.raw().unwrap();
        assert!(!edits_lines(&terminal));
        mode.raw().unwrap();
        mode.restore().unwrap();
        assert!(edits_lines(&terminal));

        mode.raw().unwrap();
        drop(mode);
        assert!(edits_lines(&terminal));

        let mut mode = RawMode {
            terminal: terminal.try_clone().ok(),
        };
        mode.raw().unwrap();
        restore_on_panic();
        let panicked = std::thread::spawn(|| panic!("on purpose")).join();
        assert!(panicked.is_err());
        assert!(edits_lines(&terminal));
    }

    #[test]
    fn without_a_terminal_there_is_no_raw_mode() {
        RawMode { terminal: None }.raw().unwrap();
    }

    #[test]
    fn signals_cancel_before_a_session_and_are_events_during_one() {
        let (canceller, cancel) = sbx_engine::command::cancellation();
        let route = Route {
            canceller,
            cancelled: false,
            session: None,
        };
        let signals = SignalThread {
            route: Arc::new(Mutex::new(route)),
        };
        let mut session = signals.lend(false, false).unwrap();
        signals.received(SIGINT);
        assert_eq!(session.events.try_recv(), Ok(TerminalEvent::Signal(SIGINT)));
        assert!(!cancel.is_cancelled());
        drop(session);
        signals.received(SIGUSR1);
        assert!(!cancel.is_cancelled());
        signals.received(SIGINT);
        assert!(cancel.is_cancelled());
    }
}
