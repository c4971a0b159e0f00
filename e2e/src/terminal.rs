//! A terminal of the test's own: keys go in, a screen comes out.
//!
//! Waits for what is on the screen, never for time. The program on it is the
//! leader of a session whose controlling terminal this is, so that ^C, ^Z and
//! changes of size reach it as they would from a person.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::call::{Sbx, ends_within, start};

/// How long a screen may take to show what is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program on a terminal.
pub struct Terminal {
    child: Child,
    master: File,
    shared: Arc<Shared>,
}

struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
}

struct Seen {
    screen: vt100::Parser,
    bytes: Vec<u8>,
    open: bool,
}

impl Terminal {
    /// Starts a call on a terminal of 24 rows of 80 columns.
    pub fn start(call: Sbx) -> Self {
        Self::of_size(call, 24, 80)
    }

    /// Starts a call on a terminal of this size.
    pub fn of_size(call: Sbx, rows: u16, columns: u16) -> Self {
        let master =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        tcsetwinsize(&master, size(rows, columns)).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave = rustix::fs::open(
            name.as_c_str(),
            OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();

        let inner = call.into_command();
        // It execs without a fork where it leads no process group.
        let mut command = start(Path::new("/usr/bin/setsid"));
        command
            .arg("--ctty")
            .arg(inner.get_program())
            .args(inner.get_args());
        for (name, value) in inner.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        if let Some(dir) = inner.get_current_dir() {
            command.current_dir(dir);
        }
        let end = || Stdio::from(slave.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
        // Not a group of its own: the session will be.
        command.process_group(rustix::process::getpgrp().as_raw_nonzero().get());
        let child = command.spawn().expect("setsid starts");
        drop((command, slave));

        let shared = Arc::new(Shared {
            seen: Mutex::new(Seen {
                screen: vt100::Parser::new(rows, columns, 2000),
                bytes: Vec::new(),
                open: true,
            }),
            changed: Condvar::new(),
        });
        let master = File::from(master);
        watch(master.try_clone().unwrap(), Arc::clone(&shared));
        Self {
            child,
            master,
            shared,
        }
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Types.
    pub fn send(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Changes its size, as a person drags the window.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.shared
            .seen
            .lock()
            .screen
            .screen_mut()
            .set_size(rows, columns);
        tcsetwinsize(&self.master, size(rows, columns)).unwrap();
    }

    /// What is on the screen.
    pub fn screen(&self) -> String {
        self.shared.seen.lock().screen.screen().contents()
    }

    /// Every byte that arrived, so far.
    pub fn bytes(&self) -> Vec<u8> {
        self.shared.seen.lock().bytes.clone()
    }

    /// Waits until the screen shows this text.
    #[track_caller]
    pub fn shows(&self, text: &str) {
        self.until(&format!("shows {text:?}"), |screen| screen.contains(text));
    }

    /// Waits until the screen is so.
    #[track_caller]
    pub fn until(&self, what: &str, so: impl Fn(&str) -> bool) {
        let until = Instant::now() + PATIENCE;
        let mut seen = self.shared.seen.lock();
        loop {
            let screen = seen.screen.screen().contents();
            if so(&screen) {
                return;
            }
            assert!(seen.open, "ended before its screen {what}:\n{screen}");
            let late = self.shared.changed.wait_until(&mut seen, until).timed_out();
            assert!(!late, "the screen never {what}:\n{screen}");
        }
    }

    /// Waits for the end of the program.
    #[track_caller]
    pub fn ends(mut self) -> ExitStatus {
        assert!(
            ends_within(self.pid(), PATIENCE),
            "not ended; its screen:\n{}",
            self.screen()
        );
        self.child.wait().unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            kill_process(self.pid(), Signal::KILL).ok();
            self.child.wait().ok();
        }
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn watch(mut master: File, shared: Arc<Shared>) {
    thread::spawn(move || {
        let mut buffer = [0; 16384];
        // The end of the last program on it is an error (EIO) on this side.
        while let Ok(read @ 1..) = master.read(&mut buffer) {
            let mut seen = shared.seen.lock();
            seen.screen.process(&buffer[..read]);
            seen.bytes.extend_from_slice(&buffer[..read]);
            shared.changed.notify_all();
        }
        shared.seen.lock().open = false;
        shared.changed.notify_all();
    });
}
