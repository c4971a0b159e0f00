//! One conversation with a D-Bus daemon: calls, their replies, and signals.
//!
//! Owns: the socket and the frame of messages; their values are encoded by
//! zbus, which is used without its connections, for those start threads, and
//! what a supervisor does before it confines itself is done by one thread.
//! Trusts: the daemon, which is its user's own or the host's, not to lie; not
//! to answer, or to be brief.
//!
//! Source: D-Bus Specification 0.43, Message Protocol and Authentication Protocol.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{LE, to_bytes};
use zbus::{DynamicType, ObjectPath, Signature, Type, Variant};

/// Longest conversation: a manager that is slower than this holds up a start.
const PATIENCE: Duration = Duration::from_secs(20);
/// Longest message that is read, in bytes.
const MAX_MESSAGE: usize = 256 * 1024;
/// Most signals that wait to be looked at.
const MAX_SIGNALS: usize = 1024;
/// Longest line of the greeting, in bytes.
const MAX_LINE: usize = 512;

/// Of a message, before its fields: order of bytes, kind, flags, version,
/// length of the body, serial number, length of the fields.
const FIXED: usize = 16;
const CALL: u8 = 1;
const REPLY: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
const LITTLE: u8 = b'l';

/// Fields of a message.
mod field {
    pub(super) const PATH: u8 = 1;
    pub(super) const INTERFACE: u8 = 2;
    pub(super) const MEMBER: u8 = 3;
    pub(super) const ERROR: u8 = 4;
    pub(super) const REPLY_TO: u8 = 5;
    pub(super) const DESTINATION: u8 = 6;
    pub(super) const SIGNATURE: u8 = 8;
}

type Head<V> = (u8, u8, u8, u8, u32, u32, Vec<(u8, V)>);

/// The value of a field that we send.
enum Value {
    Any(Variant<'static>),
    /// Of a body: its arguments beside each other, which a [`Signature`]
    /// alone would write as one structure.
    Signature(Signature),
}

impl Type for Value {
    const SIGNATURE: &'static Signature = &Signature::Variant;
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any(value) => value.serialize(serializer),
            Self::Signature(signature) => {
                let mut parts = serializer.serialize_struct("Variant", 2)?;
                parts.serialize_field("signature", &Signature::Signature)?;
                parts.serialize_field("value", &signature.to_string_no_parens())?;
                parts.end()
            }
        }
    }
}

/// A connection, authenticated and greeted.
pub(super) struct Bus {
    stream: UnixStream,
    until: Instant,
    serial: u32,
    signals: VecDeque<Message>,
}

/// What is called.
#[derive(Clone, Copy)]
pub(super) struct Object {
    pub(super) service: &'static str,
    pub(super) path: &'static str,
    pub(super) interface: &'static str,
}

const DAEMON: Object = Object {
    service: "org.freedesktop.DBus",
    path: "/org/freedesktop/DBus",
    interface: "org.freedesktop.DBus",
};

/// A message that came.
pub(super) struct Message {
    kind: u8,
    reply_to: Option<u32>,
    error: Option<String>,
    /// The method or signal.
    pub(super) member: String,
    body: Vec<u8>,
}

impl Message {
    /// What it carries.
    ///
    /// # Errors
    /// If it carries something else.
    pub(super) fn body<T: for<'d> Deserialize<'d> + Type>(&self) -> io::Result<T> {
        let data = Data::new(self.body.as_slice(), Context::new(LE, 0));
        let (value, _) = data.deserialize().map_err(invalid)?;
        Ok(value)
    }
}

impl Bus {
    /// Connects to the daemon at `socket` as user `uid`.
    ///
    /// # Errors
    /// If there is none, or it does not let this user in.
    pub(super) fn connect(socket: &Path, uid: u32) -> io::Result<Self> {
        let mut bus = Self {
            stream: UnixStream::connect(socket)?,
            until: Instant::now() + PATIENCE,
            serial: 0,
            signals: VecDeque::new(),
        };
        bus.stream.set_write_timeout(Some(PATIENCE))?;
        let identity: String = uid
            .to_string()
            .bytes()
            .map(|digit| format!("{digit:02x}"))
            .collect();
        let hello = format!("\0AUTH EXTERNAL {identity}\r\n");
        bus.stream.write_all(hello.as_bytes())?;
        let answer = bus.line()?;
        if !answer.starts_with("OK ") {
            return Err(invalid("it does not let this user in"));
        }
        bus.stream.write_all(b"BEGIN\r\n")?;
        bus.call(DAEMON, "Hello", &())?;
        Ok(bus)
    }

    /// Has signals that fit `rule` sent here.
    ///
    /// # Errors
    /// If the daemon refuses.
    pub(super) fn listen(&mut self, rule: &str) -> io::Result<()> {
        self.call(DAEMON, "AddMatch", &(rule,)).map(|_| ())
    }

    /// Calls a method and waits for its reply; signals that come before it
    /// are kept.
    ///
    /// # Errors
    /// With the words of the other side if it refuses.
    pub(super) fn call<B>(
        &mut self,
        object: Object,
        method: &'static str,
        body: &B,
    ) -> io::Result<Message>
    where
        B: Serialize + DynamicType,
    {
        self.serial += 1;
        let serial = self.serial;
        self.stream
            .write_all(&encoded(serial, object, method, body)?)?;
        loop {
            let message = self.receive()?;
            if message.kind == SIGNAL {
                if self.signals.len() < MAX_SIGNALS {
                    self.signals.push_back(message);
                }
                continue;
            }
            match (message.kind, message.reply_to) {
                (REPLY, Some(to)) if to == serial => return Ok(message),
                (ERROR, Some(to)) if to == serial => return Err(refusal(&message)),
                _ => {}
            }
        }
    }

    /// The next signal, waited for.
    ///
    /// # Errors
    /// If none comes in time.
    pub(super) fn signal(&mut self) -> io::Result<Message> {
        if let Some(message) = self.signals.pop_front() {
            return Ok(message);
        }
        loop {
            let message = self.receive()?;
            if message.kind == SIGNAL {
                return Ok(message);
            }
        }
    }

    fn receive(&mut self) -> io::Result<Message> {
        let mut bytes = vec![0; FIXED];
        self.fill(&mut bytes, 0)?;
        let (head, _): ((u8, u8, u8, u8, u32, u32, u32), _) =
            Data::new(bytes.as_slice(), Context::new(LE, 0))
                .deserialize()
                .map_err(invalid)?;
        let (order, kind, _, _, body, _, fields) = head;
        if order != LITTLE {
            return Err(invalid("a message in another order of bytes"));
        }
        let length = |claimed: u32| usize::try_from(claimed).unwrap_or(usize::MAX);
        let start = FIXED
            .saturating_add(length(fields))
            .checked_next_multiple_of(8)
            .unwrap_or(usize::MAX);
        let whole = start.saturating_add(length(body));
        if whole > MAX_MESSAGE {
            return Err(invalid("a message that is too long"));
        }
        bytes.resize(whole, 0);
        self.fill(&mut bytes, FIXED)?;
        let body = bytes.split_off(start);
        let data = Data::new(bytes.as_slice(), Context::new(LE, 0));
        let (head, _): (Head<Variant<'_>>, _) = data.deserialize().map_err(invalid)?;
        let mut message = Message {
            kind,
            reply_to: None,
            error: None,
            member: String::new(),
            body,
        };
        for (code, value) in head.6 {
            match (code, value) {
                (field::REPLY_TO, Variant::U32(serial)) => message.reply_to = Some(serial),
                (field::ERROR, Variant::Str(name)) => message.error = Some(name.to_string()),
                (field::MEMBER, Variant::Str(name)) => message.member = name.to_string(),
                _ => {}
            }
        }
        Ok(message)
    }

    /// Fills `bytes` from `at` on.
    fn fill(&mut self, bytes: &mut [u8], at: usize) -> io::Result<()> {
        let mut rest = bytes.get_mut(at..).unwrap_or_default();
        while !rest.is_empty() {
            let left = self.until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(rest) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => rest = rest.get_mut(read..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.fill(&mut byte, 0)?;
            line.extend(byte);
            if line.len() > MAX_LINE {
                return Err(invalid("a greeting that is too long"));
            }
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }
}

fn encoded<B>(serial: u32, object: Object, method: &'static str, body: &B) -> io::Result<Vec<u8>>
where
    B: Serialize + DynamicType,
{
    let content = to_bytes(Context::new(LE, 0), body).map_err(invalid)?;
    let length = u32::try_from(content.len()).map_err(invalid)?;
    let path = ObjectPath::try_from(object.path).map_err(invalid)?;
    let mut fields = vec![
        (field::PATH, Value::Any(Variant::from(path))),
        (
            field::INTERFACE,
            Value::Any(Variant::from(object.interface)),
        ),
        (field::MEMBER, Value::Any(Variant::from(method))),
        (
            field::DESTINATION,
            Value::Any(Variant::from(object.service)),
        ),
    ];
    if length > 0 {
        fields.push((field::SIGNATURE, Value::Signature(body.signature())));
    }
    let head: Head<Value> = (LITTLE, CALL, 0, 1, length, serial, fields);
    let mut bytes = to_bytes(Context::new(LE, 0), &head)
        .map_err(invalid)?
        .to_vec();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend_from_slice(&content);
    Ok(bytes)
}

/// An error of the other side: its words, or else its name.
fn refusal(message: &Message) -> io::Error {
    let words: io::Result<(String,)> = message.body();
    let name = message.error.clone().unwrap_or_default();
    io::Error::other(words.map_or(name, |(words,)| words))
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
