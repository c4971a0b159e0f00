//! One call of `sbx`, without a terminal: what goes in, what came out, and
//! how it ended, within a deadline.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;

use crate::world::Entrance;

/// How long an ordinary call may take before the test fails.
const DEADLINE: Duration = Duration::from_secs(120);

/// How long the pipes of a call may stay open after its end.
const PIPES: Duration = Duration::from_secs(10);

/// A call that is being put together.
pub struct Sbx {
    command: Command,
    world: Option<Entrance>,
    input: Option<Vec<u8>>,
    deadline: Duration,
}

impl Sbx {
    pub(crate) fn new(program: &Path, cwd: &Path) -> Self {
        let mut command = start(program);
        command.current_dir(cwd);
        Self {
            command,
            world: None,
            input: None,
            deadline: DEADLINE,
        }
    }

    /// Calls it in a world of the test's own.
    #[must_use]
    pub(crate) fn within_world(mut self, world: Option<Entrance>) -> Self {
        self.world = world;
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets a variable of the caller.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Calls it from this directory.
    #[must_use]
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// What comes in on standard input; nothing unless said.
    #[must_use]
    pub fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self
    }

    /// Fails the test when the call takes longer.
    #[must_use]
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs it to its end.
    pub fn output(self) -> Output {
        let deadline = self.deadline;
        self.spawn().wait(deadline)
    }

    /// Runs it to its end, which must be code 0.
    pub fn succeeds(self) -> Output {
        self.output().with_code(0)
    }

    /// Starts it. Standard input is what [`Self::input`] said.
    pub fn spawn(mut self) -> Running {
        let stdin = if self.input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        };
        let input = self.input.take();
        let mut running = self.start(stdin);
        if let (Some(bytes), Some(mut pipe)) = (input, running.child.stdin.take()) {
            // A reader that goes away early is not this side's failure.
            thread::spawn(move || pipe.write_all(&bytes));
        }
        running
    }

    /// Starts it with standard input left open: see [`Running::send`].
    pub fn spawn_open(self) -> Running {
        self.start(Stdio::piped())
    }

    /// Starts it with this file as standard output, which nobody here reads.
    pub fn spawn_into(self, stdout: File) -> Running {
        let deadline = self.deadline;
        let mut command = self.into_command();
        command.stdin(Stdio::null()).stdout(stdout);
        command.stderr(Stdio::piped());
        Running::of(command, deadline)
    }

    fn start(self, stdin: Stdio) -> Running {
        let deadline = self.deadline;
        let mut command = self.into_command();
        command.stdin(stdin);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::of(command, deadline)
    }

    /// Program, arguments, directory and variables as they stand.
    pub(crate) fn into_command(self) -> Command {
        match self.world {
            None => self.command,
            Some(world) => world.lead(&self.command),
        }
    }
}

/// A call under way.
pub struct Running {
    child: Child,
    line: String,
    stdout: Option<Arc<Heard>>,
    stderr: Option<Arc<Heard>>,
    deadline: Duration,
}

/// What came out of a pipe so far.
#[derive(Default)]
struct Heard {
    so_far: Mutex<(Vec<u8>, bool)>,
    changed: Condvar,
}

impl Running {
    fn of(mut command: Command, deadline: Duration) -> Self {
        let line = format!("{command:?}");
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{line}: {e}"));
        Self {
            stdout: child.stdout.take().map(collect),
            stderr: child.stderr.take().map(collect),
            child,
            line,
            deadline,
        }
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the call is still running");
    }

    /// Writes to its standard input.
    pub fn send(&mut self, bytes: &[u8]) {
        let pipe = self.child.stdin.as_mut().expect("standard input is open");
        pipe.write_all(bytes).expect("the call reads its input");
        pipe.flush().expect("the call reads its input");
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end within the deadline of the call.
    pub fn output(self) -> Output {
        let deadline = self.deadline;
        self.wait(deadline)
    }

    /// Waits until it has said this on standard error; it must say it before
    /// it ends.
    #[track_caller]
    pub fn says(&self, text: &str) {
        let pipe = self.stderr.as_ref().expect("standard error is a pipe");
        let until = Instant::now() + self.deadline;
        let mut heard = pipe.so_far.lock();
        loop {
            let said = String::from_utf8_lossy(&heard.0);
            if said.contains(text) {
                return;
            }
            assert!(!heard.1, "ended before it said {text:?}:\n{said}");
            let late = pipe.changed.wait_until(&mut heard, until).timed_out();
            let said = String::from_utf8_lossy(&heard.0);
            assert!(!late, "never said {text:?}:\n{said}");
        }
    }

    /// Waits for its end within another deadline than that of the call.
    pub fn output_within(self, deadline: Duration) -> Output {
        self.wait(deadline)
    }

    fn wait(mut self, deadline: Duration) -> Output {
        let ended = ends_within(self.pid(), deadline);
        if !ended {
            // The call has not been waited for: the number is still its own.
            kill_process(self.pid(), Signal::KILL).ok();
        }
        let status = self.child.wait().expect("the call is a child of this test");
        let receive = |pipe: Option<Arc<Heard>>| pipe.map_or(Some(Vec::new()), |pipe| pipe.all());
        let (stdout, stderr) = (receive(self.stdout.take()), receive(self.stderr.take()));
        let held = stdout.is_none() || stderr.is_none();
        let output = Output {
            line: std::mem::take(&mut self.line),
            status,
            stdout: stdout.unwrap_or_default(),
            stderr: stderr.unwrap_or_default(),
        };
        assert!(ended, "not ended within {deadline:?}: {output}");
        assert!(
            !held,
            "ended, but something still holds its pipes: {output}"
        );
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            kill_process(self.pid(), Signal::KILL).ok();
            self.child.wait().ok();
        }
    }
}

/// What a call left.
pub struct Output {
    line: String,
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Output {
    /// Its exit code; of a death by signal there is none.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Itself, if that was its exit code.
    #[track_caller]
    pub fn with_code(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{self}");
        self
    }

    /// Standard output, byte for byte.
    pub fn bytes(&self) -> &[u8] {
        &self.stdout
    }

    /// Standard output as text, without the last line's end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// Standard error as text.
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {self}"))
    }

    /// The object `error` that a call with `--json` leaves on standard error.
    #[track_caller]
    pub fn json_error(&self) -> Value {
        self.errors()
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .find_map(|mut line| line.get_mut("error").map(Value::take))
            .unwrap_or_else(|| panic!("no JSON error: {self}"))
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}\n{}", self.line, self.status)?;
        let shown = &self.stdout[..self.stdout.len().min(8192)];
        writeln!(f, "--- stdout\n{}", String::from_utf8_lossy(shown))?;
        writeln!(f, "--- stderr\n{}", self.errors())
    }
}

/// A program with nothing of this process's environment.
#[expect(
    clippy::disallowed_methods,
    reason = "programs are started here, with a cleared environment"
)]
pub(crate) fn start(program: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    // ^C at the test run is for the test run.
    command.process_group(0);
    command
}

/// A program of the host to its end, which must be success: its output. It
/// gets nothing of this process's environment.
pub fn host(program: &str, args: &[&str], cwd: &Path) -> String {
    let output = start(&PathBuf::from(program))
        .args(args)
        .current_dir(cwd)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Whether a process ends in time.
pub(crate) fn ends_within(pid: Pid, time: Duration) -> bool {
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
        return true;
    };
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("a deadline is short");
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
            Ok(0) => return false,
            Ok(_) => return true,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("poll: {e}"),
        }
    }
}

impl Heard {
    /// Everything, once the last holder of the pipe is gone.
    fn all(&self) -> Option<Vec<u8>> {
        let until = Instant::now() + PIPES;
        let mut heard = self.so_far.lock();
        while !heard.1 {
            if self.changed.wait_until(&mut heard, until).timed_out() {
                return None;
            }
        }
        Some(std::mem::take(&mut heard.0))
    }
}

fn collect(mut pipe: impl Read + Send + 'static) -> Arc<Heard> {
    let heard = Arc::new(Heard::default());
    let sink = Arc::clone(&heard);
    thread::spawn(move || {
        let mut buffer = [0; 65536];
        while let Ok(read @ 1..) = pipe.read(&mut buffer) {
            sink.so_far.lock().0.extend_from_slice(&buffer[..read]);
            sink.changed.notify_all();
        }
        sink.so_far.lock().1 = true;
        sink.changed.notify_all();
    });
    heard
}

/// Whether the process of this number ends within so many seconds.
pub fn ends(pid: i64, seconds: u64) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_none_or(|pid| ends_within(pid, Duration::from_secs(seconds)))
}
