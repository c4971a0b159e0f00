//! One daemon for all tests that only use an engine.
//!
//! Each has a lock as one of many. Whoever comes first starts the daemon, as
//! nobody's child; whoever goes last, and so gets the lock alone, ends it.
//! A test that was killed has no lock any more: whoever comes to a daemon that
//! nobody uses ends it first.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use rustix::fs::{FlockOperation, flock};
use serde_json::Value;

use super::daemon::{Places, START};
use super::{Engine, Kind};

/// The places of the one daemon.
pub(super) fn places() -> Places {
    let kept = Places::kept("docker");
    Places {
        kind: Kind::Docker,
        run: kept.with_extension("run"),
        kept,
        group: "sbx-e2e-docker".to_owned(),
        tcp: None,
    }
}

/// Comes to use the daemon; the file is the use.
pub(super) fn enter(engine: &Engine) -> File {
    let places = &engine.places;
    let uses = File::create(places.kept.with_extension("lock")).unwrap();
    if flock(&uses, FlockOperation::NonBlockingLockExclusive).is_ok() {
        end(places);
    }
    flock(&uses, FlockOperation::LockShared).unwrap();
    let _turn = places.lock("turn", FlockOperation::LockExclusive);
    if ask(places, "/_ping").is_none() {
        end(places);
        places.start_apart();
        engine.empty();
    }
    uses
}

/// Goes. Whoever goes last ends the daemon and says what is left.
pub(super) fn let_go(engine: &Engine, uses: &File) -> Vec<String> {
    if flock(uses, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Vec::new();
    }
    let mut left = engine.left_by_anybody();
    if !left.is_empty() {
        engine.empty();
    }
    left.extend(end(&engine.places));
    left
}

fn end(places: &Places) -> Vec<String> {
    places.end_apart();
    places.clear()
}

/// What the daemon answers to a GET; none if it does not.
pub(super) fn ask(places: &Places, path: &str) -> Option<Value> {
    let mut stream = UnixStream::connect(places.socket()).ok()?;
    stream.set_read_timeout(Some(START)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let well = head.split(' ').nth(1) == Some("200");
    well.then(|| serde_json::from_str(body).unwrap_or(Value::Null))
}
