//! A sandbox that floods its network: `ls` answers, another sandbox works, and
//! so does this one once the flood is over, or when its network engine dies of
//! it. What a flood costs others in time is measured by `cargo xtask bench net`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use e2e::{Home, Isolation, Running, Sandbox, in_each_isolation};

use crate::faults::kill;
use crate::ports::{comes, serve};

in_each_isolation![
    floods_of_one_sandbox_leave_ls_and_another_sandbox_alone,
    the_death_of_the_network_engine_amid_a_flood_costs_the_open_connection_alone,
];

/// Takes ever new connections and says as much as it may on each; its port.
fn loud() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || while stream.write_all(&[b'x'; 4096]).is_ok() {});
        }
    });
    port
}

/// Sends back the first bytes of each connection; its port.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut said = [0; 5];
                let _gone = stream
                    .read_exact(&mut said)
                    .and_then(|()| stream.write_all(&said));
            });
        }
    });
    port
}

/// Says `on` in the middle of its flood and goes on until it is ended.
const FLOOD: &str = r#"
import itertools, os, socket, struct, sys, time
what, port = sys.argv[1], int(sys.argv[2])
def on(number):
    if number == 200:
        print("on", file=sys.stderr, flush=True)
def names():
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(64)]
    for number in itertools.count():
        label = b"n%08d" % number
        query = struct.pack(">6H", number & 0xffff, 256, 1, 0, 0, 0)
        query += b"\x09" + label + b"\x07example\x00\x00\x01\x00\x01"
        sockets[number % 64].sendto(query, ("198.19.255.1", 53))
        on(number)
def half():
    # From an address of Ethernet that is nobody's, so that nobody answers.
    device = next(name for name in os.listdir("/sys/class/net") if name != "lo")
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind((device, 0))
    ethernet = bytes.fromhex("525400736201" "525400736279" "0800")
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 40, 0, 0x4000, 64, 6, 0,
        socket.inet_aton("198.19.255.2"), socket.inet_aton("198.19.255.254"))
    for number in itertools.count():
        link.send(ethernet + ip + struct.pack(">HHIIBBHHH",
            1024 + number % 60000, port, 1, 0, 0x50, 2, 65535, 0, 0))
        on(number)
def denied():
    for number in itertools.count():
        with socket.socket() as one:
            one.setblocking(False)
            one.connect_ex(("10.0.0.1", 22))
        on(number)
def slow():
    held = []
    for number in itertools.count():
        if number < 300:
            one = socket.socket()
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("host.sbx.internal", port))
            held.append(one)
        held[number % len(held)].recv(1)
        on(number)
dict(names=names, half=half, denied=denied, slow=slow)[what]()
"#;

fn flood(sandbox: &Sandbox<'_>, what: &str, port: u16) -> Running {
    let port = port.to_string();
    let argv = ["python3", "-c", FLOOD, what, &port];
    let running = sandbox.exec_with(["-u", "root"], argv).spawn();
    running.says("on");
    running
}

/// Ends a flood inside, and waits until its own questions have used up no more
/// of a second's.
const END_OF_FLOOD: &str = "sudo pkill -KILL -f 'itertools[.]count'
    until getent hosts host.sbx.internal >&2; do :; done; echo ended";

/// What a sandbox hears of a server that sends everything back.
fn hears(sandbox: &Sandbox<'_>, port: u16) -> String {
    sandbox.sh(&format!(
        "exec 3<>/dev/tcp/host.sbx.internal/{port}; echo hello >&3; head -c 5 <&3"
    ))
}

fn floods_of_one_sandbox_leave_ls_and_another_sandbox_alone(isolation: Isolation) {
    let home = Home::of(isolation);
    let (echo, loud) = (echo(), loud());
    let allow = [echo, loud].map(|port| format!("localhost:{port}"));
    let mut flags = home.memory("512m");
    flags.extend(allow.iter().flat_map(|rule| ["--allow-network", rule]));
    let flooding = home.sandbox_with("flooding", &flags);
    let calm = home.sandbox_with("calm", &flags);
    for (what, port) in [("names", 0), ("half", loud), ("denied", 0), ("slow", loud)] {
        // Packets of its own making only a machine has, or somebody outside.
        if what == "half" && isolation != Isolation::MicroVm {
            continue;
        }
        let running = flood(&flooding, what, port);

        let list = home.sbx(["ls", "--json"]).succeeds().json();
        let sandboxes = list["sandboxes"].as_array().unwrap();
        let up = |one: &serde_json::Value| one["status"] == "running";
        assert_eq!(sandboxes.iter().filter(|one| up(one)).count(), 2, "{list}");
        assert_eq!(hears(&calm, echo), "hello", "beside {what}");

        drop(running);
        assert_eq!(flooding.sh(END_OF_FLOOD), "ended", "after {what}");
        assert_eq!(hears(&flooding, echo), "hello", "after {what}");
    }
    // No endpoint died of it.
    let log = home.sbx(["logs", "flooding"]).succeeds().text();
    assert!(!log.contains("another one is started"), "{log}");
}

/// Reads what a port of the host says without end, says `on`, and prints how
/// that ended after all.
const STREAM: &str = r#"
import socket, sys
stream = socket.create_connection(("host.sbx.internal", int(sys.argv[1])))
read = 0
try:
    while some := stream.recv(65536):
        if read < 1000000 <= read + len(some):
            print("on", file=sys.stderr, flush=True)
        read += len(some)
    print("closed")
except ConnectionResetError:
    print("reset")
"#;

fn the_death_of_the_network_engine_amid_a_flood_costs_the_open_connection_alone(
    isolation: Isolation,
) {
    let home = Home::of(isolation);
    let (echo, loud) = (echo(), loud());
    let allow = [echo, loud].map(|port| format!("localhost:{port}"));
    let flags = [
        "-p",
        "80",
        "--allow-network",
        &allow[0],
        "--allow-network",
        &allow[1],
    ];
    let sandbox = home.sandbox_with("mortal", &flags);
    let address = sandbox.sh("getent hosts one.example");
    let ports = home.sbx(["ports", "mortal", "--json"]).succeeds().json();
    let published = format!("127.0.0.1:{}", ports["ports"][0]["host"]);
    serve(&sandbox);
    assert!(comes(&published).ends_with("inside /x"));
    let mut session = sandbox.exec_with(["-i"], ["cat"]).spawn_open();
    session.send(b"before\n");
    let port = loud.to_string();
    let stream = sandbox.exec(["python3", "-c", STREAM, &port]).spawn();
    stream.says("on");
    let flooding = flood(&sandbox, "denied", 0);

    kill(&home, "sbx net");

    assert_eq!(stream.output().text(), "reset");
    // What it asks beside its own flood may be lost in that.
    drop(flooding);
    assert_eq!(sandbox.sh(END_OF_FLOOD), "ended");
    assert_eq!(hears(&sandbox, echo), "hello");
    assert_eq!(sandbox.sh("getent hosts one.example"), address);
    assert!(comes(&published).ends_with("inside /x"));
    session.send(b"after\n");
    session.end_input();
    assert_eq!(session.output().text(), "before\nafter");
}
