//! Starting a program with exactly the descriptors, identity and limits that
//! were named, and nothing inherited beside them.
//!
//! The child runs only async-signal-safe steps between fork and exec, on
//! memory that was prepared before; a step that fails is reported with its
//! name through a pipe that the exec closes.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
pub use rustix::process::{Resource, Signal};

use crate::error::{Attempt, Error, Result};
use crate::process::{self, Ended};

mod child;
mod fork;

pub use fork::{Fork, fork};

/// What is executed.
#[derive(Debug)]
pub enum Program {
    /// The file at this absolute path.
    Path(PathBuf),
    /// The file behind this descriptor: nothing is looked up by name.
    Fd(OwnedFd),
}

/// Whom a child runs as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ids {
    /// Its real, effective and saved user id.
    pub uid: u32,
    /// Its real, effective and saved group id.
    pub gid: u32,
    /// Its supplementary groups; all others are given up.
    pub groups: Vec<u32>,
}

/// A program about to be started. Everything that is not set is empty: no
/// environment, `/dev/null` as descriptors 0 to 2, `/` as directory.
#[derive(Debug)]
#[must_use]
pub struct Spawn {
    /// What is executed.
    pub program: Program,
    /// Its arguments, its own name first.
    pub argv: Vec<OsString>,
    /// Its environment.
    pub env: Vec<(OsString, OsString)>,
    /// Its descriptors and their numbers there; all others are closed.
    pub fds: Vec<(OwnedFd, RawFd)>,
    /// Whether it leads a session of its own.
    pub new_session: bool,
    /// Whether the terminal at its descriptor 0 becomes its controlling
    /// terminal; needs `new_session`.
    pub controlling_terminal: bool,
    /// The signal it gets when the thread that started it ends. That thread
    /// must therefore live as long as the child should.
    pub parent_death_signal: Option<Signal>,
    /// Whom it runs as; needs privilege.
    pub ids: Option<Ids>,
    /// Its limits, soft and hard, in the unit of each resource.
    pub limits: Vec<(Resource, u64)>,
    /// Whether it and its children can never gain privileges by exec.
    pub no_new_privs: bool,
    /// Its directory.
    pub cwd: PathBuf,
}

/// A started child. Dropping it neither ends nor reaps the process.
#[derive(Debug)]
pub struct Child {
    pid: u32,
    pidfd: OwnedFd,
}

impl Spawn {
    /// The program at an absolute path, with its path as only argument.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = path.clone().into_os_string();
        Self::new(Program::Path(path), name)
    }

    /// The program behind a descriptor, which is told that its name is `name`.
    pub fn fd(fd: OwnedFd, name: impl Into<OsString>) -> Self {
        Self::new(Program::Fd(fd), name.into())
    }

    fn new(program: Program, name: OsString) -> Self {
        Self {
            program,
            argv: vec![name],
            env: Vec::new(),
            fds: Vec::new(),
            new_session: false,
            controlling_terminal: false,
            parent_death_signal: None,
            ids: None,
            limits: Vec::new(),
            no_new_privs: false,
            cwd: PathBuf::from("/"),
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.argv.push(arg.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.argv.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Adds a descriptor under the number `number`.
    pub fn with_fd(mut self, fd: impl Into<OwnedFd>, number: RawFd) -> Self {
        self.fds.push((fd.into(), number));
        self
    }

    /// Starts it. Returns when the program runs or a step before it failed.
    ///
    /// # Errors
    /// Names the step that failed: of ours, or of the child before its exec.
    pub fn spawn(self) -> Result<Child> {
        let name = self.argv.first().map_or_else(
            || "a program without a name".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        );
        let ready = self.prepare()?;
        let (report, failed) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).attempt("make a pipe")?;
        let failed = above(failed, ready.first_free)?;
        let pid =
            child::fork(&ready, failed.as_fd()).attempt_with(|| format!("start `{name}`: fork"))?;
        drop(failed);
        let child = Child {
            pid,
            // Nobody else reaps our children, so the number is still its own.
            pidfd: process::open(pid)?
                .ok_or_else(|| Error::refused(format!("start `{name}`: it is gone")))?,
        };
        match child::failure(&report)? {
            None => Ok(child),
            Some((step, errno)) => {
                child.wait()?;
                Err(Error::new(
                    format!("start `{name}`: {step}"),
                    std::io::Error::from_raw_os_error(errno),
                ))
            }
        }
    }

    /// Becomes it: this process executes the program, with the descriptors
    /// that were named and no others. Returns only the step that failed, and
    /// the process has to exit then: some of its descriptors are others.
    #[must_use]
    pub fn exec(self) -> Error {
        match self.prepare() {
            Ok(ready) => child::replace(&ready),
            Err(error) => error,
        }
    }

    fn prepare(self) -> Result<child::Ready> {
        let mut fds = self.fds;
        for number in 0..3 {
            if !fds.iter().any(|(_, taken)| *taken == number) {
                fds.push((null()?, number));
            }
        }
        fds.sort_by_key(|(_, number)| *number);
        if fds.first().is_some_and(|(_, number)| *number < 0)
            || fds
                .windows(2)
                .any(|two| two.first().map(|f| f.1) == two.last().map(|f| f.1))
        {
            return Err(Error::refused("give a child two descriptors of one number"));
        }
        let first_free = fds.last().map_or(3, |(_, number)| number.saturating_add(1));
        // Copies above every target, so that filling one target never
        // overwrites the source of another.
        let sources = fds
            .into_iter()
            .map(|(fd, number)| Ok((above(fd, first_free)?, number)))
            .collect::<Result<Vec<_>>>()?;
        let program = match self.program {
            Program::Path(path) if path.is_absolute() => {
                child::Exec::Path(text(path.into_os_string())?)
            }
            Program::Path(path) => {
                return Err(Error::refused(format!(
                    "start `{}`, which is not an absolute path",
                    path.display()
                )));
            }
            Program::Fd(fd) => child::Exec::Fd(above(fd, first_free)?),
        };
        let env = self
            .env
            .into_iter()
            .map(|(name, value)| {
                if name.is_empty() || name.as_bytes().contains(&b'=') {
                    return Err(Error::refused(format!(
                        "set the variable `{}`",
                        name.to_string_lossy().escape_default()
                    )));
                }
                let mut both = name;
                both.push("=");
                both.push(value);
                text(both)
            })
            .collect::<Result<Vec<_>>>()?;
        let argv = self
            .argv
            .into_iter()
            .map(text)
            .collect::<Result<Vec<_>>>()?;
        Ok(child::Ready {
            program,
            argv: child::Strings::new(argv),
            env: child::Strings::new(env),
            fds: sources,
            first_free,
            new_session: self.new_session,
            controlling_terminal: self.controlling_terminal,
            parent: std::process::id(),
            parent_death_signal: self.parent_death_signal,
            ids: self.ids.map(child::Identity::from),
            limits: self.limits,
            no_new_privs: self.no_new_privs,
            cwd: text(self.cwd.into_os_string())?,
        })
    }
}

impl Child {
    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its pidfd, readable once it has ended.
    #[must_use]
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Keeps only the pidfd.
    #[must_use]
    pub fn into_pidfd(self) -> OwnedFd {
        self.pidfd
    }

    /// Sends it a signal; when it has ended already, that is fine.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        process::signal(&self.pidfd, signal)
    }

    /// Waits for its end and reaps it.
    ///
    /// # Errors
    /// When it was reaped already.
    pub fn wait(&self) -> Result<Ended> {
        process::wait(&self.pidfd)
    }

    /// Reaps it if it has ended.
    ///
    /// # Errors
    /// When it was reaped already.
    pub fn try_wait(&self) -> Result<Option<Ended>> {
        process::try_wait(&self.pidfd)
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn null() -> Result<OwnedFd> {
    rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .attempt("open `/dev/null`")
}

fn above(fd: OwnedFd, first_free: RawFd) -> Result<OwnedFd> {
    if fd.as_raw_fd() >= first_free {
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)
            .attempt("set a descriptor's flags")?;
        return Ok(fd);
    }
    rustix::io::fcntl_dupfd_cloexec(&fd, first_free).attempt("copy a descriptor")
}

fn text(text: OsString) -> Result<CString> {
    CString::new(text.into_vec()).map_err(|_| Error::refused("pass a text that holds a zero byte"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Read;

    /// Runs a shell script as a child and returns what it wrote and how it ended.
    fn shell(script: &str, change: impl FnOnce(Spawn) -> Spawn) -> (String, Ended) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let spawn = Spawn::path("/bin/sh").arg("-c").arg(script);
        let child = change(spawn.with_fd(write, 1)).spawn().unwrap();
        let mut said = String::new();
        File::from(read).read_to_string(&mut said).unwrap();
        (said, child.wait().unwrap())
    }

    #[test]
    fn a_child_has_no_descriptors_but_those_named() {
        let file = tempfile::tempfile().unwrap();
        let (said, _) = shell("cd /proc/self/fd && echo *", |spawn| spawn.with_fd(file, 7));
        // Entry 3 is what the shell itself opens to read the directory.
        assert_eq!(said.trim(), "0 1 2 3 7");
    }

    #[test]
    fn descriptors_swap_places_without_overwriting_each_other() {
        let first = crate::memfd::sealed("a", b"a").unwrap();
        let second = crate::memfd::sealed("b", b"b").unwrap();
        let (a, b) = (first.as_raw_fd(), second.as_raw_fd());
        let (said, _) = shell(
            &format!("cat /proc/self/fd/{b} /proc/self/fd/{a}"),
            |spawn| spawn.with_fd(first, b).with_fd(second, a),
        );
        assert_eq!(said, "ab");
    }

    #[test]
    fn two_descriptors_of_one_number_are_refused() {
        let spawn = Spawn::path("/bin/true")
            .with_fd(tempfile::tempfile().unwrap(), 5)
            .with_fd(tempfile::tempfile().unwrap(), 5);
        assert!(spawn.spawn().is_err());
    }

    #[test]
    fn a_child_has_only_the_environment_named() {
        let (said, _) = shell("exec /usr/bin/env", |spawn| spawn.env("A", "b=c"));
        let mut lines: Vec<_> = said.lines().collect();
        lines.retain(|line| !line.starts_with("PWD=") && !line.starts_with("_="));
        lines.retain(|line| !line.starts_with("OLDPWD") && !line.starts_with("SHLVL="));
        assert_eq!(lines, ["A=b=c"]);
    }

    #[test]
    fn signals_are_neither_ignored_nor_blocked_in_a_child() {
        // The Rust runtime ignores SIGPIPE; a program must not inherit that.
        let (said, _) = shell("grep -E '^Sig(Blk|Ign)' /proc/self/status", |spawn| spawn);
        for line in said.lines() {
            assert!(line.ends_with("0000000000000000"), "{line}");
        }
        assert_eq!(said.lines().count(), 2);
    }

    #[test]
    fn the_way_a_child_ended_is_known() {
        assert_eq!(shell("exit 3", |spawn| spawn).1, Ended::Exit(3));
        assert_eq!(shell("kill -9 $$", |spawn| spawn).1, Ended::Signal(9));
    }

    #[test]
    fn a_missing_program_is_reported_with_its_step() {
        let error = Spawn::path("/no/such/program").spawn().unwrap_err();
        assert_eq!(error.to_string(), "start `/no/such/program`: execute it");
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn a_missing_directory_is_reported_with_its_step() {
        let mut spawn = Spawn::path("/bin/true");
        spawn.cwd = "/no/such/directory".into();
        let error = spawn.spawn().unwrap_err();
        assert_eq!(error.to_string(), "start `/bin/true`: enter its directory");
    }

    #[test]
    fn a_relative_program_is_refused() {
        assert!(Spawn::path("true").spawn().is_err());
    }

    #[test]
    fn a_program_is_started_from_its_descriptor() {
        let fd = rustix::fs::open("/bin/true", OFlags::PATH, Mode::empty()).unwrap();
        let child = Spawn::fd(fd, "true").spawn().unwrap();
        assert_eq!(child.wait().unwrap(), Ended::Exit(0));
    }

    #[test]
    fn a_killed_child_makes_its_descriptor_readable() {
        let child = Spawn::path("/bin/sleep").arg("600").spawn().unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        assert!(!process::has_ended(&child).unwrap());
        child.signal(Signal::KILL).unwrap();
        assert_eq!(child.wait().unwrap(), Ended::Signal(9));
        child.signal(Signal::KILL).unwrap();
    }

    #[test]
    fn limits_and_no_new_privs_are_set() {
        let (said, _) = shell(
            "ulimit -n; grep NoNewPrivs /proc/self/status",
            |mut spawn| {
                spawn.limits.push((Resource::Nofile, 64));
                spawn.no_new_privs = true;
                spawn
            },
        );
        assert_eq!(said, "64\nNoNewPrivs:\t1\n");
    }

    #[test]
    fn a_child_leads_its_own_session_when_asked() {
        let (said, _) = shell("cut -d' ' -f6 /proc/self/stat; echo $$", |mut spawn| {
            spawn.new_session = true;
            spawn
        });
        let mut lines = said.lines();
        assert_eq!(lines.next(), lines.next());
    }

    #[test]
    fn root_can_start_a_child_as_another_user() {
        if !rustix::process::geteuid().is_root() {
            let spawn = Spawn {
                ids: Some(Ids {
                    uid: 65534,
                    gid: 65534,
                    groups: vec![],
                }),
                ..Spawn::path("/bin/true")
            };
            let error = spawn.spawn().unwrap_err();
            assert_eq!(error.to_string(), "start `/bin/true`: change its user");
            return;
        }
        let (said, _) = shell("id -u; id -g; id -G", |mut spawn| {
            spawn.ids = Some(Ids {
                uid: 65534,
                gid: 65533,
                groups: vec![],
            });
            spawn.parent_death_signal = Some(Signal::KILL);
            spawn
        });
        assert_eq!(said, "65534\n65533\n65533\n");
    }
}
