//! A daemon of an engine: where it has its things, how it starts, and what is
//! taken away behind it.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

use super::Kind;
use crate::call::{ends_within, start};
use crate::{environment, leftovers};

/// How long a daemon may take to listen.
pub(super) const START: Duration = Duration::from_secs(60);
/// How long it may take to end.
pub(super) const END: Duration = Duration::from_secs(30);

/// Where a daemon has its things.
pub(super) struct Places {
    pub(super) kind: Kind,
    /// Images and whatever else stays from one run to the next.
    pub(super) kept: PathBuf,
    /// What goes with the daemon.
    pub(super) run: PathBuf,
    /// The control group of its containers.
    pub(super) group: String,
    /// The port that it listens on as well.
    pub(super) tcp: Option<u16>,
}

impl Places {
    /// What is kept under this name.
    pub(super) fn kept(name: &str) -> PathBuf {
        let kept = environment::cache_home().join("sbx-e2e").join(name);
        fs::create_dir_all(&kept).unwrap();
        kept
    }

    /// The socket that it listens on.
    pub(super) fn socket(&self) -> PathBuf {
        self.run.join("engine.sock")
    }

    /// A lock beside what is kept.
    pub(super) fn lock(&self, name: &str, operation: FlockOperation) -> fs::File {
        let file = fs::File::create(self.kept.with_extension(name)).unwrap();
        flock(&file, operation).unwrap();
        file
    }

    fn at(&self, name: &str) -> String {
        self.run.join(name).display().to_string()
    }

    /// The daemon's program and arguments.
    pub(super) fn command(&self) -> Command {
        let kept = self.kept.display().to_string();
        let socket = format!("unix://{}", self.socket().display());
        // Podman writes down where these are, beside its images.
        let beside = |name: &str| self.kept.with_extension(name).display().to_string();
        let mut command = match self.kind {
            Kind::Docker => {
                let mut command = start(&environment::program("dockerd"));
                command
                    .args(["--data-root", &kept, "--exec-root", &self.at("exec")])
                    .args(["--pidfile", &self.at("pid"), "--host", &socket])
                    .args(["--bridge=none", "--iptables=false", "--ip6tables=false"])
                    .args(["--ip-masq=false", "--storage-driver=overlay2"])
                    .arg(format!("--cgroup-parent=/{}", self.group));
                if let Some(port) = self.tcp {
                    command.arg(format!("--host=tcp://127.0.0.1:{port}"));
                    // Once the test has put keys there.
                    let keys = self.run.with_file_name("tls");
                    if keys.exists() {
                        let key = |name: &str| keys.join(name).display().to_string();
                        command.args(["--tlsverify", "--tlscacert", &key("ca.pem")]);
                        command.args(["--tlscert", &key("cert.pem"), "--tlskey", &key("key.pem")]);
                    }
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
                    .args(["system", "service", "--time=0", &socket]);
                command
            }
        };
        self.surround(&mut command);
        command
    }

    fn surround(&self, command: &mut Command) {
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", &self.run)
            // Of Docker in tests over TCP, which it otherwise waits to warn of.
            .env("DOCKER_TLS_VERIFY", "")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
    }

    /// Starts Docker as nobody's child, and waits until it answers.
    pub(super) fn start_apart(&self) {
        fs::create_dir_all(&self.run).unwrap();
        let ready = self.run.join("ready.sock");
        let told = UnixDatagram::bind(&ready).unwrap();
        told.set_read_timeout(Some(START)).unwrap();
        let log = fs::File::create(self.run.join("log")).unwrap();
        let daemon = self.command();
        let mut command = start(Path::new("/usr/bin/setsid"));
        command
            .arg("--fork")
            .arg(daemon.get_program())
            .args(daemon.get_args());
        self.surround(&mut command);
        command.env("NOTIFY_SOCKET", &ready).stderr(log);
        let status = leftovers::apart(|| command.status());
        assert!(status.is_ok_and(|status| status.success()), "setsid starts");
        if let Err(error) = told.recv(&mut [0; 256]) {
            let said = fs::read_to_string(self.run.join("log")).unwrap_or_default();
            panic!("the engine does not listen: {error}: {said}");
        }
    }

    /// Ends what [`Self::start_apart`] started, if it is there.
    pub(super) fn end_apart(&self) {
        let pid = fs::read_to_string(self.run.join("pid")).unwrap_or_default();
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw);
        let kept = self.kept.display().to_string();
        // The number may be another's by now.
        let Some(pid) = pid.filter(|pid| leftovers::command_line(*pid).contains(&kept)) else {
            return;
        };
        kill_process(pid, Signal::TERM).ok();
        if !ends_within(pid, END) {
            kill_process(pid, Signal::KILL).ok();
            ends_within(pid, END);
        }
    }

    /// Takes away what is still mounted for it: a network namespace after each
    /// end, and the roots of containers after that of a daemon that was killed.
    pub(super) fn unmount(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let ours = [&self.run, &self.kept];
        for point in points.filter(|point| ours.iter().any(|at| Path::new(point).starts_with(at))) {
            rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH).ok();
        }
    }

    /// Takes away what daemons leave, and says what would not go.
    pub(super) fn clear(&self) -> Vec<String> {
        self.unmount();
        let mut left = Vec::new();
        let controllers = fs::read_dir("/sys/fs/cgroup").into_iter().flatten();
        for controller in controllers.flatten() {
            let group = controller.path().join(&self.group);
            // Those of containers too, whose daemon was killed.
            for inner in fs::read_dir(&group).into_iter().flatten().flatten() {
                fs::remove_dir(inner.path()).ok();
            }
            fs::remove_dir(&group).ok();
            if group.exists() {
                left.push(format!("control group: {}", group.display()));
            }
        }
        for gone in ["run", "tmp"].map(|name| self.kept.with_extension(name)) {
            fs::remove_dir_all(gone).ok();
        }
        fs::remove_dir_all(&self.run).ok();
        left
    }
}
