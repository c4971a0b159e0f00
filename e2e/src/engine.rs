//! Container engines of the tests' own: daemons with their own sockets and
//! directories, which touch no network of the host's.
//!
//! What they have of images stays from one run to the next, as the cache of
//! `sbx` does. Tests that only use an engine share one daemon; a test that
//! ends it, or wants it otherwise, has another one to itself. Their end is
//! checked: no container, volume or network of a sandbox is left in them, and
//! no process, mount or control group of theirs on the host.

mod daemon;
mod shared;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Instant;

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

use crate::call::{ends_within, host};
use crate::{environment, leftovers};

use daemon::{END, Places, START};

/// Which engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Docker Engine.
    Docker,
    /// Podman, by its service for clients of Docker.
    Podman,
}

/// A running engine.
pub struct Engine {
    places: Places,
    /// A directory of the test's own.
    own: PathBuf,
    life: Life,
}

/// Whose the daemon is.
enum Life {
    /// This test's, with the lock of its directories.
    Own {
        daemon: Option<Child>,
        _turn: fs::File,
    },
    /// All tests', with the use of it; none once it was let go.
    Shared(Option<fs::File>),
}

impl Engine {
    /// Starts one of the test's own, with directories below `own`.
    pub(crate) fn start(kind: Kind, own: &Path, tcp: Option<u16>) -> Self {
        let own = own.join("engine");
        fs::create_dir(&own).unwrap();
        let id = std::process::id();
        let (kept, group) = match kind {
            Kind::Docker => ("docker-own", format!("sbx-e2e-{id}")),
            Kind::Podman => ("podman", "libpod_parent".to_owned()),
        };
        let places = Places {
            kind,
            kept: Places::kept(kept),
            run: own.clone(),
            group,
            tcp,
        };
        let turn = places.lock("lock", FlockOperation::LockExclusive);
        let mut engine = Self {
            places,
            own,
            life: Life::Own {
                daemon: None,
                _turn: turn,
            },
        };
        engine.up();
        engine.empty();
        engine
    }

    /// The one that tests share, with a directory of the test's below `own`.
    pub(crate) fn shared(own: &Path) -> Self {
        let own = own.join("engine");
        fs::create_dir(&own).unwrap();
        let mut engine = Self {
            places: shared::places(),
            own,
            life: Life::Shared(None),
        };
        engine.life = Life::Shared(Some(shared::enter(&engine)));
        engine
    }

    /// Whether its daemon is the test's own.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self.life, Life::Own { .. })
    }

    /// What clients find it by.
    pub fn address(&self) -> String {
        match self.places.tcp {
            Some(port) => format!("tcp://127.0.0.1:{port}"),
            None => self.socket(),
        }
    }

    /// Its socket on this host, as an address.
    pub fn socket(&self) -> String {
        format!("unix://{}", self.places.socket().display())
    }

    /// Starts the daemon of the test's own and waits until it listens.
    pub fn up(&mut self) {
        let mut command = self.places.command();
        let mut daemon = command
            .stderr(Stdio::piped())
            .spawn()
            .expect("the engine is installed");
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
        *self.daemon() = Some(daemon);
    }

    #[track_caller]
    fn daemon(&mut self) -> &mut Option<Child> {
        match &mut self.life {
            Life::Own { daemon, .. } => daemon,
            Life::Shared(_) => panic!("the daemon is not this test's to start or end"),
        }
    }

    /// Ends the daemon of the test's own, and whatever runs in it.
    pub fn down(&mut self) {
        self.end(Signal::TERM);
    }

    /// Kills that daemon alone.
    pub fn crash(&mut self) {
        // Its helper ends with it, and would be taken for a living one.
        let helper = leftovers::find(leftovers::descendants(), "containerd --config");
        self.end(Signal::KILL);
        let helper = helper.and_then(|helper| Pid::from_raw(helper.id()));
        if let Some(helper) = helper {
            ends_within(helper, END);
            waitpid(Some(helper), WaitOptions::NOHANG).ok();
        }
        // Version 20.10 may count a root that it finds mounted one time too
        // often, and then cannot remove its container.
        self.places.unmount();
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut daemon) = self.daemon().take() else {
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

    /// First processes of the running containers of the state directory whose
    /// mark is `owner`; of an engine of the test's own they are its
    /// descendants anyway.
    pub(crate) fn processes(&self, owner: &str) -> Vec<Pid> {
        if self.is_own() {
            return Vec::new();
        }
        let label = format!("%7B%22label%22%3A%5B%22dev.sbx.owner%3D{owner}%22%5D%7D");
        let path = format!("/containers/json?filters={label}");
        let running = shared::ask(&self.places, &path).unwrap_or_default();
        let ids = running.as_array().into_iter().flatten();
        let pid = |container: &serde_json::Value| {
            let path = format!("/containers/{}/json", container["Id"].as_str()?);
            let pid = shared::ask(&self.places, &path)?["State"]["Pid"].as_i64()?;
            Pid::from_raw(i32::try_from(pid).ok()?)
        };
        ids.filter_map(pid).collect()
    }

    /// What the sandboxes of the state directory whose mark is `owner` left
    /// in it, in words.
    pub(crate) fn left_by(&self, owner: &str) -> Vec<String> {
        if self.is_own() {
            return self.left_by_anybody();
        }
        self.left(&["--filter", &format!("label=dev.sbx.owner={owner}")])
    }

    /// What anybody left in it. Images are kept that no sandbox owns.
    fn left_by_anybody(&self) -> Vec<String> {
        let mut left = self.left(&["--filter", "label=dev.sbx.owner"]);
        let all = ["ps", "-a", "--format", "{{.Names}}"];
        let of_nobody = self.list(&all).into_iter();
        left.extend(of_nobody.map(|name| format!("container of the engine: {name}")));
        left
    }

    fn left(&self, filter: &[&str]) -> Vec<String> {
        let mut left = Vec::new();
        for (what, list) in [
            (
                "container",
                &["ps", "-a", "--format", "{{.Names}} {{.Status}}"][..],
            ),
            ("volume", &["volume", "ls", "-q"]),
            ("image", &["images", "-aq"]),
            ("network", &["network", "ls", "-q"]),
        ] {
            let found = self.list(&[list, filter].concat()).into_iter();
            left.extend(found.map(|one| format!("{what} of the engine: {one}")));
        }
        left
    }

    /// Removes what a run that was killed left: it would be taken for that of
    /// whoever comes next.
    fn empty(&self) {
        // What uses another's network goes before that.
        for id in self.list(&["ps", "-aq"]).iter().rev() {
            self.cli(&["rm", "-f", "-v", id]);
        }
        for volume in self.list(&["volume", "ls", "-q"]) {
            self.cli(&["volume", "rm", "-f", &volume]);
        }
    }

    /// Lets it go, and says what is left of it where nobody else uses it.
    pub(crate) fn let_go(&mut self) -> Vec<String> {
        if let Life::Shared(uses) = &mut self.life {
            let uses = uses.take();
            return uses.map_or_else(Vec::new, |uses| shared::let_go(self, &uses));
        }
        self.down();
        self.places.clear()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// A number for a text, the same in every run.
fn digest(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}
