//! A server of ssh on loopback, with keys, a configuration and a port of the
//! test's own, and a program `ssh` whose configuration knows it.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::call::{host, start};
use crate::environment;
use crate::loopback::free_port;

/// How long it may take to listen.
const START: Duration = Duration::from_secs(20);
/// Where it wants a directory to be, empty and root's.
const EMPTY: &str = "/run/sshd";

/// A server that ends with the test.
pub struct SshServer {
    root: PathBuf,
    port: u16,
    made: bool,
    server: Child,
}

impl SshServer {
    /// Starts it, with a directory of its own below `root`.
    pub fn start(root: &Path) -> Self {
        let root = root.join("ssh");
        fs::create_dir_all(root.join("bin")).unwrap();
        for key in ["host", "caller"] {
            let path = root.join(key).display().to_string();
            let keygen = environment::program("ssh-keygen").display().to_string();
            host(
                &keygen,
                &["-q", "-t", "ed25519", "-N", "", "-f", &path],
                &root,
            );
        }
        fs::copy(root.join("caller.pub"), root.join("authorized")).unwrap();
        let port = free_port();
        let at = |name: &str| root.join(name).display().to_string();
        let of_server = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n\
             PermitRootLogin prohibit-password\nPrintLastLog no\n",
            at("host"),
            at("authorized"),
        );
        fs::write(root.join("server.conf"), of_server).unwrap();
        let of_caller = format!(
            "IdentityFile {}\nIdentitiesOnly yes\nUserKnownHostsFile {}\n\
             GlobalKnownHostsFile /dev/null\nStrictHostKeyChecking ask\n",
            at("caller"),
            at("known"),
        );
        fs::write(root.join("caller.conf"), of_caller).unwrap();
        // It reads the configuration of an account, whatever HOME says.
        let ssh = environment::program("ssh").display().to_string();
        let script = format!("#!/bin/sh\nexec {ssh} -F {} \"$@\"\n", at("caller.conf"));
        fs::write(root.join("bin/ssh"), script).unwrap();
        fs::set_permissions(root.join("bin/ssh"), fs::Permissions::from_mode(0o755)).unwrap();
        let made = fs::create_dir(EMPTY).is_ok();
        let server = start(&environment::program("sshd"))
            .args(["-D", "-f", &at("server.conf"), "-E", &at("log")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server of ssh is installed");
        let started = Self {
            root,
            port,
            made,
            server,
        };
        let until = Instant::now() + START;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = fs::read_to_string(started.root.join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "it does not listen: {log}");
            std::thread::yield_now();
        }
        started
    }

    /// Where a caller's `ssh` finds it.
    pub fn address(&self) -> String {
        format!("root@127.0.0.1:{}", self.port)
    }

    /// The directories in which a caller finds a program `ssh` that knows how
    /// to log in.
    pub fn path(&self) -> String {
        format!("{}:/usr/bin:/bin", self.root.join("bin").display())
    }

    /// Has that program know the server's key.
    pub fn known(&self) {
        let key = fs::read_to_string(self.root.join("host.pub")).unwrap();
        let line = format!("[127.0.0.1]:{} {key}", self.port);
        fs::write(self.root.join("known"), line).unwrap();
    }

    /// Has it know another key of the same server.
    pub fn known_otherwise(&self) {
        let key = fs::read_to_string(self.root.join("caller.pub")).unwrap();
        let line = format!("[127.0.0.1]:{} {key}", self.port);
        fs::write(self.root.join("known"), line).unwrap();
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(i32::try_from(self.server.id()).unwrap_or_default()) {
            kill_process(pid, Signal::TERM).ok();
        }
        self.server.wait().ok();
        if self.made {
            fs::remove_dir(EMPTY).ok();
        }
    }
}
