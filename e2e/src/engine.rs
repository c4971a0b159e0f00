//! A container engine of the tests' own: a daemon with its own socket and
//! directories, which touches no network of the host's.
//!
//! What it has of images stays from one run to the next, as the cache of
//! `sbx` does; one test at a time has it. Its end is checked: no container,
//! volume or network of a sandbox is left in it, and no process, mount or
//! control group of its own on the host.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::call::{ends_within, host, start};
use crate::{environment, leftovers};

/// How long a daemon may take to listen.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end.
const END: Duration = Duration::from_secs(30);

/// Which engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Docker Engine.
    Docker,
    /// Podman, by its service for clients of Docker.
    Podman,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }
}

/// A running engine.
pub struct Engine {
    kind: Kind,
    kept: PathBuf,
    own: PathBuf,
    tcp: Option<u16>,
    daemon: Option<Child>,
    _turn: fs::File,
}

impl Engine {
    /// Starts one with directories of its own below `own`.
    pub(crate) fn start(kind: Kind, own: &Path, tcp: Option<u16>) -> Self {
        let kept = environment::cache_home().join("sbx-e2e").join(kind.name());
        fs::create_dir_all(&kept).unwrap();
        let turn = fs::File::create(kept.with_extension("lock")).unwrap();
        flock(&turn, FlockOperation::LockExclusive).unwrap();
        let own = own.join("engine");
        fs::create_dir(&own).unwrap();
        let mut engine = Self {
            kind,
            kept,
            own,
            tcp,
            daemon: None,
            _turn: turn,
        };
        engine.up();
        // Whatever a run that was killed left would be taken for this one's;
        // what uses another's network goes before that.
        for id in engine.list(&["ps", "-aq"]).iter().rev() {
            engine.cli(&["rm", "-f", "-v", id]);
        }
        engine
    }

    /// What clients find it by.
    pub fn address(&self) -> String {
        match self.tcp {
            Some(port) => format!("tcp://127.0.0.1:{port}"),
            None => self.socket(),
        }
    }

    fn socket(&self) -> String {
        format!("unix://{}", self.own.join("engine.sock").display())
    }

    /// Starts the daemon and waits until it listens.
    pub fn up(&mut self) {
        let at = |name: &str| self.own.join(name).display().to_string();
        let kept = self.kept.display().to_string();
        // Podman writes down where these are, beside its images.
        let beside = |name: &str| self.kept.with_extension(name).display().to_string();
        let mut command = match self.kind {
            Kind::Docker => {
                let mut command = start(&environment::program("dockerd"));
                command
                    .args(["--data-root", &kept, "--exec-root", &at("exec")])
                    .args(["--pidfile", &at("pid"), "--host", &self.socket()])
                    .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
                    .args(["--ip-masq=false", "--storage-driver=overlay2"])
                    .arg(format!("--cgroup-parent={}", self.group()));
                if let Some(port) = self.tcp {
                    command.arg(format!("--host=tcp://127.0.0.1:{port}"));
                }
                command
            }
            Kind::Podman => {
                let mut command = start(&environment::program("podman"));
                command
                    .args(["--root", &kept, "--runroot", &beside("run")])
                    .args(["--tmpdir", &beside("tmp"), "--cgroup-manager=cgroupfs"])
                    .arg(format!(
                        "--runtime={}",
                        environment::program("runc").display()
                    ))
                    .args(["--events-backend=none", "--log-level=info"])
                    .args(["system", "service", "--time=0", &self.socket()]);
                command
            }
        };
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", &self.own)
            // Of Docker in tests over TCP, which it otherwise waits to warn of.
            .env("DOCKER_TLS_VERIFY", "")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut daemon = command.spawn().expect("the engine is installed");
        let mut told = BufReader::new(daemon.stderr.take().expect("it is piped")).lines();
        let until = Instant::now() + START;
        let mut said = Vec::new();
        loop {
            let line = told.next().and_then(Result::ok);
            let line = line.unwrap_or_else(|| panic!("the engine does not listen: {said:?}"));
            let listens =
                line.contains("API listen on") || line.contains("API service listening on");
            said.push(line);
            if listens {
                break;
            }
            assert!(
                Instant::now() < until,
                "the engine does not listen: {said:?}"
            );
        }
        // It goes on to say things, and must not wait for a reader.
        std::thread::spawn(move || told.for_each(drop));
        self.daemon = Some(daemon);
    }

    /// Ends the daemon, and whatever runs in it.
    pub fn down(&mut self) {
        self.end(Signal::TERM);
    }

    /// Kills the daemon alone.
    pub fn crash(&mut self) {
        // Its helper ends with it, and would be taken for a living one.
        let helper = leftovers::find("containerd --config");
        self.end(Signal::KILL);
        let helper = helper.and_then(|helper| Pid::from_raw(helper.id()));
        if let Some(helper) = helper {
            ends_within(helper, END);
            waitpid(Some(helper), WaitOptions::NOHANG).ok();
        }
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut daemon) = self.daemon.take() else {
            return;
        };
        let pid = Pid::from_raw(i32::try_from(daemon.id()).unwrap()).unwrap();
        kill_process(pid, signal).ok();
        if !ends_within(pid, END) {
            kill_process(pid, Signal::KILL).ok();
        }
        daemon.wait().unwrap();
    }

    /// What a client of it prints for these arguments; it must succeed.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> String {
        let own = self.own.display().to_string();
        let socket = self.socket();
        let docker = environment::program("docker").display().to_string();
        let all = [&["-H", &socket, "--config", &own][..], args].concat();
        host(&docker, &all, &self.own)
    }

    /// The lines of that.
    #[track_caller]
    pub fn list(&self, args: &[&str]) -> Vec<String> {
        self.cli(args).lines().map(str::to_owned).collect()
    }

    /// Makes an image called `name` of a shell script that fills the directory
    /// it is in, once for each text of the script.
    #[track_caller]
    pub fn image(&self, name: &str, script: &str) {
        let mark = format!("LABEL made-by={:016x}", digest(script));
        let label = mark.trim_start_matches("LABEL ");
        let there = format!("label={label}");
        if !self
            .list(&["images", "-q", "--filter", &there, name])
            .is_empty()
        {
            return;
        }
        let tree = self.own.join("tree");
        fs::create_dir(&tree).unwrap();
        host("/bin/sh", &["-ec", script], &tree);
        let archive = self.own.join("tree.tar").display().to_string();
        host(
            "/bin/tar",
            &["--create", "--numeric-owner", "--file", &archive, "."],
            &tree,
        );
        self.cli(&["import", "--change", &mark, &archive, name]);
        host(
            "/bin/rm",
            &["-rf", "--one-file-system", "tree", "tree.tar"],
            &self.own,
        );
    }

    /// What sandboxes left in it, in words.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (what, args) in [
            (
                "container",
                &["ps", "-a", "--format", "{{.Names}} {{.Status}}"][..],
            ),
            (
                "volume",
                &["volume", "ls", "-q", "--filter", "label=dev.sbx.owner"],
            ),
            (
                "image",
                &["images", "-aq", "--filter", "label=dev.sbx.owner"],
            ),
            (
                "network",
                &["network", "ls", "-q", "--filter", "label=dev.sbx.owner"],
            ),
        ] {
            left.extend(
                self.list(args)
                    .into_iter()
                    .map(|one| format!("{what} of the engine: {one}")),
            );
        }
        left
    }

    fn group(&self) -> String {
        format!("/sbx-e2e-{}", std::process::id())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.down();
        // Daemons leave the network namespace of their own mounted.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let places = [&self.own, &self.kept].map(|place| place.display().to_string());
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(|point| places.iter().any(|place| point.starts_with(place))) {
            rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).ok();
        }
        let group = match self.kind {
            Kind::Docker => self.group().trim_start_matches('/').to_owned(),
            Kind::Podman => "libpod_parent".to_owned(),
        };
        let groups = fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten();
        for controller in groups {
            let group = controller.path().join(&group);
            // Those of containers too, whose daemon was killed.
            for inner in fs::read_dir(&group).into_iter().flatten().flatten() {
                fs::remove_dir(inner.path()).ok();
            }
            fs::remove_dir(group).ok();
        }
        for gone in ["run", "tmp"].map(|name| self.kept.with_extension(name)) {
            fs::remove_dir_all(gone).ok();
        }
        fs::remove_dir_all(&self.own).ok();
    }
}

/// A number for a text, the same in every run.
fn digest(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}
