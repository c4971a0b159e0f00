//! A daemon of the test on a socket, which says what it is told to.

use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use super::*;

const MANAGER: Object = Object {
    service: "org.example.Manager",
    path: "/org/example/manager",
    interface: "org.example.Manager",
};

/// A message of a daemon: its kind, whom it answers, and an argument.
fn said(kind: u8, to: Option<u32>, member: &'static str, argument: &str) -> Vec<u8> {
    let mut fields = vec![(field::MEMBER, Value::Any(Variant::from(member)))];
    if let Some(serial) = to {
        fields.push((field::REPLY_TO, Value::Any(Variant::from(serial))));
    }
    let body = to_bytes(Context::new(LE, 0), &(argument,)).unwrap();
    let length = u32::try_from(body.len()).unwrap();
    let head: Head<Value> = (LITTLE, kind, 0, 1, length, 1, fields);
    let mut bytes = to_bytes(Context::new(LE, 0), &head).unwrap().to_vec();
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend_from_slice(&body);
    bytes
}

/// A daemon that greets and lets in, then says `script` whatever it is told;
/// at the end it gives back what it was told after the greeting.
fn daemon(script: Vec<u8>) -> (tempfile::TempDir, JoinHandle<Vec<u8>>) {
    let directory = tempfile::tempdir().unwrap();
    let socket = UnixListener::bind(directory.path().join("bus")).unwrap();
    let daemon = std::thread::spawn(move || {
        let (mut stream, _) = socket.accept().unwrap();
        let mut greeting = [0; 25];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"\0AUTH EXTERNAL 31303030\r\n");
        stream.write_all(b"OK 0123\r\n").unwrap();
        stream.write_all(&said(REPLY, Some(1), "", ":1.1")).unwrap();
        // Who listens may be gone by now.
        let _ = stream.write_all(&script);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut told = Vec::new();
        stream.read_to_end(&mut told).unwrap();
        told
    });
    (directory, daemon)
}

fn connect(directory: &tempfile::TempDir) -> io::Result<Bus> {
    Bus::connect(&directory.path().join("bus"), 1000)
}

#[test]
fn a_call_has_its_reply_and_signals_before_it_are_kept() {
    let script = [
        said(SIGNAL, None, "JobRemoved", "first"),
        said(REPLY, Some(99), "", "of another call"),
        said(REPLY, Some(2), "", "answer"),
        said(SIGNAL, None, "JobNew", "second"),
    ];
    let (directory, daemon) = daemon(script.concat());
    let mut bus = connect(&directory).unwrap();
    let reply = bus.call(MANAGER, "Start", &("unit", 7_u32)).unwrap();
    assert_eq!(reply.body::<(String,)>().unwrap().0, "answer");
    assert!(reply.body::<(u64, u64)>().is_err(), "another type");
    for (member, argument) in [("JobRemoved", "first"), ("JobNew", "second")] {
        let signal = bus.signal().unwrap();
        assert_eq!(signal.member, member);
        assert_eq!(signal.body::<(String,)>().unwrap().0, argument);
    }
    let end = bus.signal().err().map(|error| error.kind());
    assert_eq!(end, Some(io::ErrorKind::UnexpectedEof));
    drop(bus);
    let told = daemon.join().unwrap();
    assert!(told.starts_with(b"BEGIN\r\nl\x01"), "{told:?}");
    // Arguments beside each other, in no structure.
    let signature = b"\x08\x01g\0\x02su\0";
    assert!(
        told.windows(signature.len())
            .any(|found| found == signature)
    );
}

#[test]
fn a_refusal_has_the_words_of_the_other_side() {
    let script = said(ERROR, Some(2), "", "Unit sbx.scope already exists.");
    let (directory, _daemon) = daemon(script);
    let mut bus = connect(&directory).unwrap();
    let refused = bus.call(MANAGER, "Start", &("unit",)).err().unwrap();
    assert_eq!(refused.to_string(), "Unit sbx.scope already exists.");
}

#[test]
fn a_message_that_is_no_message_ends_the_conversation() {
    let endless = [vec![LITTLE, SIGNAL, 0, 1], vec![0xff; 12]].concat();
    let foreign = [vec![b'B', SIGNAL, 0, 1], vec![0; 12]].concat();
    let cut = said(REPLY, Some(2), "", "answer").split_off(4);
    for script in [endless, foreign, cut, vec![LITTLE; 8]] {
        let (directory, _daemon) = daemon(script);
        let mut bus = connect(&directory).unwrap();
        assert!(bus.call(MANAGER, "Start", &("unit",)).is_err());
    }
}

#[test]
fn no_daemon_is_an_error_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let missing = connect(&directory).err().unwrap();
    assert_eq!(missing.kind(), io::ErrorKind::NotFound);
}
