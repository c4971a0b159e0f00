//! A file system as one test wants it: mounts that nobody else sees.
//!
//! A shell waits in a mount namespace of its own (as an ordinary user, in a
//! user namespace besides) and mounts what it is told; `sbx` is then called
//! in that namespace. When the shell ends and the last process in there, the
//! mounts are gone.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::geteuid;

use crate::call::start;

/// Answers each line with how it went.
const SHELL: &str = r#"while read -r line; do
    if said=$(eval "$line" 2>&1); then echo done; else echo "failed: $said" | tr '\n' ' '; echo; fi
done"#;

/// The namespace and the shell that keeps it.
pub(crate) struct World {
    shell: Child,
    tell: ChildStdin,
    hear: BufReader<ChildStdout>,
}

/// The way into a world.
#[derive(Clone, Copy)]
pub(crate) struct Entrance {
    shell: u32,
}

impl World {
    /// A world that looks like the host still.
    pub(crate) fn new() -> Self {
        let mut command = start(Path::new("/usr/bin/unshare"));
        if !geteuid().is_root() {
            command.args(["--user", "--map-current-user", "--keep-caps"]);
        }
        let mut shell = command
            .args(["--mount", "--propagation", "private", "--", "/bin/sh", "-c"])
            .arg(SHELL)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare starts");
        let (tell, hear) = (shell.stdin.take(), shell.stdout.take());
        let mut world = Self {
            shell,
            tell: tell.expect("its input is a pipe"),
            hear: BufReader::new(hear.expect("its output is a pipe")),
        };
        // Its answer says that the namespace stands.
        world.sh("true");
        world
    }

    /// Runs a line in it, as root of it.
    #[track_caller]
    pub(crate) fn sh(&mut self, line: &str) {
        writeln!(self.tell, "{line}").expect("the world listens");
        let mut answer = String::new();
        self.hear.read_line(&mut answer).expect("the world answers");
        assert_eq!(answer.trim(), "done", "{line}");
    }

    /// How to call something in it.
    pub(crate) fn entrance(&self) -> Entrance {
        Entrance {
            shell: self.shell.id(),
        }
    }

    /// Where a path of it is to be found from outside.
    pub(crate) fn outside(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.shell.id()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shell.kill().ok();
        self.shell.wait().ok();
    }
}

impl Entrance {
    /// The same call, made in the world: by the same process, which enters
    /// before it becomes the program.
    pub(crate) fn lead(self, call: &Command) -> Command {
        let mut led = start(Path::new("/usr/bin/nsenter"));
        led.arg(format!("--target={}", self.shell)).arg("--mount");
        if !geteuid().is_root() {
            led.args(["--user", "--preserve-credentials"]);
        }
        if let Some(dir) = call.get_current_dir() {
            // Looked up inside, where it may be another directory.
            let mut wdns = OsString::from("--wdns=");
            wdns.push(dir);
            led.arg(wdns);
        }
        led.arg("--").arg(call.get_program()).args(call.get_args());
        for (name, value) in call.get_envs() {
            if let Some(value) = value {
                led.env(name, value);
            }
        }
        led
    }
}
