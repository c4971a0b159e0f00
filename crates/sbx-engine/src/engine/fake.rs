//! A sandbox that runs as far as commands can tell: its locks and records are
//! there, and its supervisor answers what a test says. No machine, no guest.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use sbx_proto::client::{Reply, Request};
use sbx_proto::frame::{LINK, Side};
use sbx_proto::message::Message;
use sbx_spec::{Config, SensitivePlaces};
use serde_json::Value;

use super::Engine;
use crate::command::{
    AskedGit, AuditRecord, Caller, Cancel, Canceller, EndBlock, Error, LogLine, StartBlock,
    Terminal, Ui, cancellation,
};
use crate::directories::Directories;
use crate::store::{Phase, RunRecord, SandboxDir, Supervising};
use crate::supervisor::{FrameReader, SOCKET, write_frame};

/// An engine whose directories are its own.
pub(super) struct Host {
    _root: tempfile::TempDir,
    pub(super) engine: Engine,
}

/// What a supervisor was asked, in its order.
pub(super) type Calls = Arc<Mutex<Vec<Value>>>;

/// An ordinary user without anything.
pub(crate) fn caller() -> Caller {
    let home = PathBuf::from("/nowhere");
    Caller {
        uid: 1000,
        gid: 1000,
        sensitive: SensitivePlaces::new(&home, 1000, &[]),
        cwd: home.clone(),
        program: home.join("sbx"),
        home,
        terminal: Vec::new(),
        timezone: None,
        git: AskedGit::new(|| None),
        archives: Vec::new(),
        registries: Vec::new(),
        engines: Vec::new(),
    }
}

pub(super) fn host() -> Host {
    let root = tempfile::tempdir().unwrap();
    let below = |name: &str| root.path().join(name);
    let directories = Directories {
        config: below("config"),
        state: below("state"),
        cache: below("cache"),
        runtime: below("runtime"),
    };
    directories.prepare().unwrap();
    let home = below("home");
    let caller = Caller {
        sensitive: SensitivePlaces::new(&home, 1000, &[]),
        cwd: home.clone(),
        home,
        ..caller()
    };
    Host {
        _root: root,
        engine: Engine {
            directories,
            config: Config::default(),
            caller,
        },
    }
}

impl Host {
    pub(super) fn sandbox(&self, name: &str) -> SandboxDir {
        crate::store::tests::made(&self.engine.store(), name)
    }

    /// Runs `sandbox` until the proof is dropped. Its supervisor keeps every
    /// call and answers it as `answer` says, with an error's text or with
    /// JSON.
    pub(super) fn running(
        &self,
        sandbox: &SandboxDir,
        answer: impl Fn(&Value) -> Result<Value, String> + Send + 'static,
    ) -> (Supervising, Calls) {
        let proof = sandbox.supervise().unwrap();
        let mut record = RunRecord::starting();
        record.phase = Phase::Running;
        sandbox.write_run(&record, &proof).unwrap();
        let runtime = self.engine.runtime(sandbox.name());
        std::fs::create_dir_all(&runtime).unwrap();
        let directory = sbx_sys::file::open_dir(&runtime).unwrap();
        let listener = sbx_sys::unix::listen_at(&directory, SOCKET).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::UnixListener::from_std(listener).unwrap();
        let calls = Calls::default();
        let kept = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (reader, mut writer) = stream.into_split();
                let mut reader = FrameReader::new(reader, Side::Client);
                let Ok(Some(frame)) = reader.next().await else {
                    continue;
                };
                let Ok(Request::Call { json }) = Request::from_frame(&frame) else {
                    continue;
                };
                let call: Value = serde_json::from_slice(&json).unwrap();
                let reply = match answer(&call) {
                    Ok(json) => Reply::Answered {
                        json: json.to_string().into_bytes().into(),
                    },
                    Err(message) => Reply::Failed {
                        code: 125,
                        message,
                        hint: None,
                    },
                };
                kept.lock().push(call);
                let frame = reply.to_frame(LINK).unwrap();
                let _left = write_frame(&mut writer, &frame).await;
            }
        });
        (proof, calls)
    }
}

/// Nobody looks.
pub(super) struct Nobody {
    _canceller: Canceller,
    cancel: Cancel,
}

pub(super) fn nobody() -> Nobody {
    let (canceller, cancel) = cancellation();
    Nobody {
        _canceller: canceller,
        cancel,
    }
}

impl Ui for Nobody {
    fn progress(&mut self, _: &str, _: u64, _: u64) {}
    fn warn(&mut self, _: &str) {}
    fn confirm(&mut self, prompt: &str, _: &str) -> Result<bool, Error> {
        panic!("nobody answers {prompt}")
    }
    fn opening(&mut self, _: &StartBlock) {}
    fn closing(&mut self, _: &EndBlock) {}
    fn log(&mut self, _: &LogLine) {}
    fn audit(&mut self, _: &AuditRecord) {}
    fn terminal(&mut self) -> Result<Terminal, Error> {
        panic!("nobody has a terminal")
    }
    fn cancel(&self) -> Cancel {
        self.cancel.clone()
    }
}
