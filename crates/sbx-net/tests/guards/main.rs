//! Attacks on each guard between a sandbox and the network, and beside each
//! the same act where it is allowed, on a running endpoint. `cargo xtask
//! guards` runs both with the guard out: the attack has to get through then,
//! and the other one to pass as ever. ATTACKS.md has the pairs.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod names;
mod requests;
mod rules;

use std::io::Write;

use sbx_spec::Rule;
use support::bed::{Bed, bed_with, python};
use support::web::allowed;

/// What a server says that was reached.
const PAGE: &str = "xxxxx";

/// Serves what its arguments say: `http`, `echo` (TCP) or `udp` (an echo), an
/// address and a port each.
const SERVERS: &str = r"
import socket, sys, threading
def http(s):
    while True:
        c = s.accept()[0]
        c.recv(65536)
        c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nxxxxx')
        c.close()
def echo(s):
    while True:
        c = s.accept()[0]
        c.sendall(c.recv(65536))
        c.close()
def udp(s):
    while True: s.sendto(*s.recvfrom(65536))
for kind, address, port in (one.split(',') for one in sys.argv[1:]):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    s = socket.socket(family, socket.SOCK_DGRAM if kind == 'udp' else socket.SOCK_STREAM)
    if ':' in address: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, int(port)))
    if kind != 'udp': s.listen(16)
    threading.Thread(target=globals()[kind], args=(s,), daemon=True).start()
print('up', flush=True)
threading.Event().wait()
";

/// Says what it is given to a server and prints what comes back.
const SAY: &str = r"
import socket, sys
kind, host, port = sys.argv[1:4]
try:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == 'udp' else socket.SOCK_STREAM)
    s.settimeout(10)
    s.connect((host, int(port)))
    s.send(sys.stdin.buffer.read())
    while True:
        heard = s.recv(65536)
        if not heard: break
        sys.stdout.buffer.write(heard)
        sys.stdout.buffer.flush()
        if kind == 'udp': break
except OSError as error: sys.stderr.write(str(error))
";

/// A bed with these rules and servers beside those of every bed.
fn net(test: &str, rules: &[Rule], public: &[&str], host: &[&str]) -> Option<Bed> {
    let mut bed = bed_with(test, rules, None)?;
    let python = python().unwrap();
    let program = [python.to_str().unwrap(), "-c", SERVERS];
    for (space, servers) in [("public", public), ("host", host)] {
        if !servers.is_empty() {
            drop(bed.server(space, &[&program, servers].concat()));
        }
    }
    Some(bed)
}

/// The same with rules that allow this.
fn allowing(test: &str, rules: &[&str], public: &[&str], host: &[&str]) -> Option<Bed> {
    net(test, &allowed(rules), public, host)
}

/// Whether a page came from its server.
fn reaches(bed: &Bed, url: &str) -> bool {
    bed.get(url).as_deref() == Ok(PAGE)
}

/// What comes back for these bytes.
fn say(bed: &Bed, (kind, host, port): (&str, &str, &str), bytes: &[u8]) -> String {
    let python = python().unwrap();
    let mut client = bed.start(&[python.to_str().unwrap(), "-c", SAY, kind, host, port]);
    client.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = client.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Fails with the words that `cargo xtask guards` looks for.
fn stopped(attack: &str, got_through: bool) {
    assert!(!got_through, "got through: {attack}");
}
