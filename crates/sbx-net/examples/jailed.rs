//! Locks itself down as an endpoint does, tries what one must not do and what
//! one must, and prints a JSON object from each act to its outcome. For tests.

use std::fmt::Debug;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let server = arguments.next().ok_or("usage: jailed ADDRESS SOCKET")?;
    let socket = arguments.next().ok_or("usage: jailed ADDRESS SOCKET")?;
    sbx_net::process::lock_down()?;
    let mut outcomes = serde_json::Map::new();
    let mut act = |name: &str, outcome: Result<(), String>| {
        outcomes.insert(
            name.to_owned(),
            outcome.err().unwrap_or_else(|| "ok".to_owned()).into(),
        );
    };
    act("connect", outcome(TcpStream::connect(&server)));
    act("resolve", outcome(("localhost", 0).to_socket_addrs()));
    act("interfaces", outcome(nix::ifaddrs::getifaddrs()));
    act(
        "thread",
        outcome(
            std::thread::Builder::new()
                .spawn(|| ())
                .map(std::thread::JoinHandle::join),
        ),
    );
    act("read hosts", outcome(std::fs::read("/etc/hosts")));
    act("read passwd", outcome(std::fs::read("/etc/passwd")));
    act("read own maps", outcome(std::fs::read("/proc/self/maps")));
    act("list root", outcome(std::fs::read_dir("/")));
    act(
        "write file",
        outcome(std::fs::write("/tmp/sbx-net-was-here", b"")),
    );
    act(
        "write hosts",
        outcome(std::fs::OpenOptions::new().append(true).open("/etc/hosts")),
    );
    act(
        "listen tcp",
        outcome(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))),
    );
    act("udp", outcome(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))));
    act("connect unix", outcome(UnixStream::connect(&socket)));
    act(
        "listen unix",
        outcome(UnixListener::bind("/tmp/sbx-net-was-here.sock")),
    );
    #[expect(clippy::disallowed_methods, reason = "the test is that it fails")]
    act("exec", outcome(Command::new("/bin/true").status()));
    let text = serde_json::Value::Object(outcomes).to_string();
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

fn outcome<T, E: Debug>(result: Result<T, E>) -> Result<(), String> {
    result.map(drop).map_err(|error| format!("{error:?}"))
}
