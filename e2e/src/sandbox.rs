//! A sandbox that is up, and goes with its guard.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use sbx_proto::client::{Reply, Request};
use sbx_proto::frame::{Decoder, LINK, Side, encode};
use sbx_proto::message::Message;
use serde_json::Value;

use crate::call::{Output, Sbx};
use crate::home::Home;

/// Memory of a sandbox that nothing is said about: enough for a shell and
/// its tools, little enough for two at a time anywhere.
const MEMORY: &str = "768m";

/// A running sandbox; removed at the end.
pub struct Sandbox<'h> {
    home: &'h Home,
    name: String,
    workspace: PathBuf,
}

impl<'h> Sandbox<'h> {
    pub(crate) fn up(home: &'h Home, name: &str, flags: &[&str]) -> Self {
        let workspace = home.project(name);
        let sandbox = Self {
            home,
            name: name.to_owned(),
            workspace,
        };
        let call = home.sbx(["run", "-d", "--name", name]);
        // Without a control group nothing could hold that for a container.
        let call = if flags.contains(&"--memory") || flags.contains(&"container") {
            call
        } else {
            call.args(home.memory(MEMORY))
        };
        call.args(flags)
            .arg("shell")
            .cwd(&sandbox.workspace)
            .succeeds();
        sandbox
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its workspace on the host.
    pub fn workspace(&self) -> &Path {
        &self.workspace
    }

    /// `sbx exec NAME` with these arguments.
    pub fn exec<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Sbx {
        self.exec_with([], args)
    }

    /// `sbx exec FLAGS NAME` with these arguments.
    pub fn exec_with<'f, S: AsRef<std::ffi::OsStr>>(
        &self,
        flags: impl IntoIterator<Item = &'f str>,
        args: impl IntoIterator<Item = S>,
    ) -> Sbx {
        self.home
            .sbx(["exec"])
            .args(flags)
            .arg(&self.name)
            .args(args)
            .cwd(&self.workspace)
    }

    /// What a script prints inside; it must succeed.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.try_sh(script).with_code(0).text()
    }

    /// A script inside, whatever comes of it.
    pub fn try_sh(&self, script: &str) -> Output {
        self.exec(["bash", "-c", script]).output()
    }

    /// Stops (`true`) or continues its machine, as a host that sleeps does:
    /// the monitor's own `stop` and `cont`, asked of the supervisor.
    pub fn pause(&self, pause: bool) {
        let call = Request::Call {
            json: format!("{{\"pause\":{pause}}}").into_bytes().into(),
        };
        let mut bytes = Vec::new();
        encode(&call.to_frame(LINK).unwrap(), &mut bytes).unwrap();
        let socket = self.home.runtime().join(&self.name).join("supervisor.sock");
        let mut supervisor = UnixStream::connect(socket).unwrap();
        supervisor.write_all(&bytes).unwrap();
        let mut answer = Vec::new();
        supervisor.read_to_end(&mut answer).unwrap();
        let mut decoder = Decoder::new(Side::Supervisor);
        decoder.push(&answer);
        let answer = decoder.next().unwrap().expect("the supervisor answers");
        let answer = Reply::from_frame(&answer).unwrap();
        assert!(matches!(answer, Reply::Answered { .. }), "{answer:?}");
    }

    /// Its answer to `inspect`.
    pub fn inspect(&self) -> Value {
        self.home
            .sbx(["inspect", "--json", &self.name])
            .succeeds()
            .json()
    }
}

impl Drop for Sandbox<'_> {
    fn drop(&mut self) {
        self.home.tell_if_failing();
        // Its failure shows in what the home finds left over.
        self.home.sbx(["rm", "--force", &self.name]).output();
    }
}
