//! Runs programs of the host: the only place of this crate that does.
//!
//! A program gets a cleared environment, an absolute path, a process group
//! of its own, and dies with us: by the group when the caller cancels, by
//! the parent-death signal when we are killed.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use sha2::{Digest, Sha256};

use crate::cache::hex;
use crate::error::Error;
use crate::host::find_program;
use crate::progress::Progress;

/// How often a running program's caller is asked whether to stop.
const CANCEL_POLL: Duration = Duration::from_millis(100);
/// Between the request to end and the end.
const TERM_GRACE: Duration = Duration::from_secs(3);
/// Lines kept for an error.
const TAIL_LINES: usize = 12;
/// Lines that wait to be looked at; a program that writes faster waits.
const LINES_AHEAD: usize = 64;
/// Longest line taken as one.
const MAX_LINE: u64 = 16 << 10;

/// A program to run.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    program: PathBuf,
    args: Vec<std::ffi::OsString>,
    env: Vec<(String, String)>,
    directory: PathBuf,
    /// Its standard input; nothing without.
    input: Option<Arc<File>>,
    /// What its arguments name by number: open as long as it is to run.
    held: Option<Arc<OwnedFd>>,
    /// What it does, for errors: `build the guest kernel`.
    task: String,
    /// What stands before the program: see [`Tool::contained`].
    wrapper: &'static [&'static str],
}

/// A process namespace of its own, whose end ends everything in it.
const CONTAIN_AS_ROOT: [&str; 5] = ["/usr/bin/unshare", "--pid", "--fork", "--kill-child", "--"];
const CONTAIN_AS_USER: [&str; 7] = [
    "/usr/bin/unshare",
    "--user",
    "--map-current-user",
    "--pid",
    "--fork",
    "--kill-child",
    "--",
];

/// What a finished program is told to have done.
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    /// Its last lines, escaped.
    pub(crate) tail: Vec<String>,
}

impl Tool {
    /// `program` is a name looked up in the host's own program directories,
    /// or an absolute path.
    pub(crate) fn new(program: &str, task: &str) -> Self {
        Self {
            program: find_program(program).unwrap_or_else(|| Path::new("/usr/bin").join(program)),
            args: Vec::new(),
            env: vec![
                (
                    "PATH".to_owned(),
                    "/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
                ),
                ("LC_ALL".to_owned(), "C.UTF-8".to_owned()),
            ],
            directory: PathBuf::from("/"),
            input: None,
            held: None,
            task: task.to_owned(),
            wrapper: &[],
        }
    }

    /// Puts the program and everything it starts into a process namespace,
    /// so that none of it outlives us even if we are killed. Where the host
    /// refuses that, only the program itself dies with us.
    pub(crate) fn contained(mut self) -> Self {
        let root = rustix::process::geteuid().is_root();
        let wrapper: &[&str] = if root {
            &CONTAIN_AS_ROOT
        } else {
            &CONTAIN_AS_USER
        };
        let mut trial = Self::new("true", "try a process namespace");
        trial.wrapper = wrapper;
        if trial.output(0).is_ok() {
            self.wrapper = wrapper;
        }
        self
    }

    pub(crate) fn arg(mut self, arg: impl Into<std::ffi::OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<S: Into<std::ffi::OsString>>(
        mut self,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn directory(mut self, path: &Path) -> Self {
        self.directory = path.to_path_buf();
        self
    }

    /// Gives it the file at `path` to read, which it may not reach itself.
    pub(crate) fn input(mut self, path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::file("open", path))?;
        self.input = Some(Arc::new(file));
        Ok(self)
    }

    /// Keeps a descriptor of ours open until it has run; it does not inherit
    /// it, but may open it through our `/proc`.
    pub(crate) fn holding(mut self, fd: Arc<OwnedFd>) -> Self {
        self.held = Some(fd);
        self
    }

    /// Runs it to a good end; each line it writes goes to `on_line`.
    pub(crate) fn run(
        self,
        progress: &dyn Progress,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<(), Error> {
        let task = self.task.clone();
        let finished = self.finish(progress, on_line)?;
        if finished.status.success() {
            return Ok(());
        }
        Err(Error::Program {
            task,
            outcome: finished.status.to_string(),
            tail: finished.tail,
        })
    }

    /// Runs it to its end, good or bad.
    pub(crate) fn finish(
        self,
        progress: &dyn Progress,
        on_line: &mut dyn FnMut(&str),
    ) -> Result<Finished, Error> {
        let task = self.task.clone();
        let (reader, mut child) = self.start()?;
        let (send, lines) = mpsc::sync_channel(LINES_AHEAD);
        let pump = thread::spawn(move || {
            let mut reader = BufReader::new(reader);
            while let Some(line) = next_line(&mut reader) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let mut tail = Vec::new();
        let watched = watch(&lines, progress, &mut |line| {
            on_line(line);
            if tail.len() == TAIL_LINES {
                tail.remove(0);
            }
            tail.push(line.escape_debug().to_string());
        });
        if watched.is_err() {
            end_group(&mut child);
        }
        let status = child.wait().map_err(|error| Error::Program {
            task,
            outcome: error.to_string(),
            tail: Vec::new(),
        })?;
        drop(lines);
        // The pump ends when the last holder of the pipe is gone, which the
        // parent-death chain sees to.
        let _ = pump.join();
        watched.map(|()| Finished { status, tail })
    }

    /// Everything it writes to standard output, at most `limit` bytes.
    pub(crate) fn output(self, limit: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.read(|stdout| stdout.take(limit).read_to_end(&mut bytes).map(|_| ()))?;
        Ok(bytes)
    }

    /// Hands what it writes to standard output to `take`, piece by piece.
    pub(crate) fn stream(self, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), Error> {
        let mut buffer = vec![0; 1 << 18];
        self.read(|mut stdout| {
            loop {
                match stdout.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => take(buffer.get(..count).unwrap_or_default())?,
                }
            }
        })
    }

    /// SHA-256 of everything it writes to standard output: 64 hexadecimal
    /// digits.
    pub(crate) fn digest(self, progress: &dyn Progress) -> Result<String, Error> {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        let read = self.read(|mut stdout| {
            loop {
                let n = stdout.read(&mut buffer)?;
                let Some(chunk) = buffer.get(..n).filter(|chunk| !chunk.is_empty()) else {
                    return Ok(());
                };
                hash.update(chunk);
                if progress.cancelled() {
                    return Err(io::ErrorKind::Interrupted.into());
                }
            }
        });
        if read.is_err() && progress.cancelled() {
            return Err(Error::Cancelled);
        }
        read.map(|()| hex(&hash.finalize()))
    }

    /// Runs it to a good end while `take` reads what it writes; ends it when
    /// that fails.
    fn read(
        self,
        take: impl FnOnce(std::process::ChildStdout) -> io::Result<()>,
    ) -> Result<(), Error> {
        let failed = |outcome: String| Error::Program {
            task: self.task.clone(),
            outcome,
            tail: Vec::new(),
        };
        let mut child = self
            .command()
            .and_then(|mut command| command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn())
            .map_err(|error| failed(error.to_string()))?;
        let taken = child.stdout.take().map_or(Ok(()), take);
        if taken.is_err() {
            end_group(&mut child);
        }
        let status = child.wait().map_err(|error| failed(error.to_string()))?;
        taken.map_err(|error| failed(error.to_string()))?;
        if status.success() {
            Ok(())
        } else {
            Err(failed(status.to_string()))
        }
    }

    fn start(&self) -> Result<(std::io::PipeReader, Child), Error> {
        let failed = |error: std::io::Error| Error::Program {
            task: self.task.clone(),
            outcome: format!("`{}` does not start: {error}", self.program.display()),
            tail: Vec::new(),
        };
        let (reader, writer) = std::io::pipe().map_err(failed)?;
        let both = writer.try_clone().map_err(failed)?;
        let child = self
            .command()
            .and_then(|mut command| command.stdout(writer).stderr(both).spawn())
            .map_err(failed)?;
        Ok((reader, child))
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the home of this crate's child processes"
    )]
    fn command(&self) -> io::Result<Command> {
        let mut command = Command::new("/usr/bin/setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .args(self.wrapper)
            .arg(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .process_group(0);
        if let Some(file) = &self.input {
            command.stdin(file.try_clone()?);
        }
        Ok(command)
    }
}

fn watch(
    lines: &mpsc::Receiver<String>,
    progress: &dyn Progress,
    on_line: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    loop {
        match lines.recv_timeout(CANCEL_POLL) {
            Ok(line) => on_line(&line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        if progress.cancelled() {
            return Err(Error::Cancelled);
        }
    }
}

/// Ends a process group: asked first, so that `make` removes half-made
/// files, then forced.
fn end_group(child: &mut Child) {
    let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
        return;
    };
    let _ = rustix::process::kill_process_group(group, Signal::TERM);
    let deadline = Instant::now() + TERM_GRACE;
    while Instant::now() < deadline && matches!(child.try_wait(), Ok(None)) {
        thread::sleep(Duration::from_millis(20));
    }
    let _ = rustix::process::kill_process_group(group, Signal::KILL);
}

/// The next line, ended by `\n` or `\r`, lossy and without its end; `None`
/// at the end.
fn next_line(reader: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    let n = reader
        .by_ref()
        .take(MAX_LINE)
        .read_until(b'\n', &mut line)
        .ok()?;
    (n > 0).then(|| String::from_utf8_lossy(&line).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use rustix::event::{PollFd, PollFlags, Timespec};
    use rustix::process::PidfdFlags;

    use super::*;
    use crate::progress::Silent;

    fn shell(script: &str) -> Tool {
        Tool::new("sh", "run a test").args(["-c", script])
    }

    struct StopWhen<'a>(&'a AtomicBool);

    impl Progress for StopWhen<'_> {
        fn step(&self, _: &str, _: u64, _: u64) {}
        fn note(&self, _: &str) {}
        fn cancelled(&self) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn lines_of_both_streams_arrive_and_a_failure_shows_the_last() {
        let mut seen = Vec::new();
        let result = shell("echo a; echo b >&2; exit 3")
            .run(&Silent, &mut |line| seen.push(line.to_owned()));
        assert_eq!(seen, ["a", "b"]);
        let Err(Error::Program { outcome, tail, .. }) = result else {
            panic!("no failure")
        };
        assert!(outcome.contains('3'));
        assert_eq!(tail, ["a", "b"]);
    }

    #[test]
    fn nothing_of_our_environment_is_passed_on() {
        let mut seen = Vec::new();
        Tool::new("env", "print the environment")
            .run(&Silent, &mut |line| {
                seen.push(line.split('=').next().unwrap_or("").to_owned())
            })
            .unwrap();
        seen.sort();
        assert_eq!(seen, ["LC_ALL", "PATH"]);
    }

    #[test]
    fn a_cancelled_program_ends_with_its_children() {
        let stop = AtomicBool::new(false);
        let mut child = 0;
        let result = shell("sleep 1000 & echo $!; wait").run(&StopWhen(&stop), &mut |line| {
            child = line.parse().unwrap();
            stop.store(true, Ordering::SeqCst);
        });
        assert!(matches!(result, Err(Error::Cancelled)));
        // On its way out, if it is not gone yet.
        let pid = Pid::from_raw(child).unwrap();
        if let Ok(watched) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            let mut ended = [PollFd::new(&watched, PollFlags::IN)];
            let patience = Timespec::try_from(Duration::from_secs(10)).unwrap();
            assert_eq!(rustix::event::poll(&mut ended, Some(&patience)), Ok(1));
        }
    }
}
