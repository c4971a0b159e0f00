//! Ports of a sandbox on this host.

use std::io::{ErrorKind, Read};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use e2e::{Home, Isolation, Sandbox, in_each_isolation};

in_each_isolation![
    a_published_port_is_the_hosts_and_comes_back_with_its_sandbox,
    datagrams_to_a_published_port_are_answered_until_it_is_published_no_more,
];

/// Says what it is told, upside down; by the address of a client.
const SERVER: &str = r#"
import http.server
class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"inside " + self.path.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", 80), Server).serve_forever()
"#;

/// How long a server inside may take to listen: emulated, it starts slowly.
const PATIENCE: Duration = Duration::from_secs(100);

pub(super) fn serve(sandbox: &Sandbox<'_>) {
    let serve = ["-d", "-u", "root"];
    sandbox
        .exec_with(serve, ["python3", "-c", SERVER])
        .succeeds();
}

/// What the host reads from one of its ports; nothing while nobody listens
/// behind it.
fn get(address: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    std::io::Write::write_all(&mut stream, b"GET /x HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    (!answer.is_empty()).then_some(answer)
}

pub(super) fn comes(address: &str) -> String {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = get(address) {
            return answer;
        }
        assert!(Instant::now() < until, "nothing came from {address}");
    }
}

fn a_published_port_is_the_hosts_and_comes_back_with_its_sandbox(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox_with("server", &["-p", "80", "-p", "[::1]::80"]);
    let published = || {
        let ports = home.sbx(["ports", "server", "--json"]).succeeds().json();
        let addresses = ports["ports"].as_array().unwrap().iter();
        addresses
            .map(|port| match port["address"].as_str().unwrap() {
                "::1" => format!("[::1]:{}", port["host"]),
                address => format!("{address}:{}", port["host"]),
            })
            .collect::<Vec<_>>()
    };
    let addresses = published();
    let [v4, v6] = addresses.as_slice() else {
        panic!("{addresses:?}");
    };
    let plan = [
        "run",
        "--name",
        "server",
        "--dry-run",
        "-p",
        "80",
        "-p",
        "1:81",
    ];
    let plan = home.sbx(plan).cwd(sandbox.workspace()).succeeds().text();
    for port in [&format!("{v4}->80/tcp"), "127.0.0.1:1->81/tcp"] {
        assert!(plan.contains(port), "{plan}");
    }
    serve(&sandbox);
    for address in [v4, v6] {
        assert!(comes(address).ends_with("inside /x"), "{address}");
    }
    let listed = home.sbx(["ls"]).succeeds().text();
    assert!(listed.contains(&format!("{v4}->80/tcp")), "{listed}");
    let log = home.sbx(["policy", "log", "server"]).succeeds().text();
    assert!(log.contains("published"), "{log}");

    // The host's port stays the same over a restart.
    home.sbx(["stop", "server"]).succeeds();
    assert_eq!(get(v4), None);
    assert_eq!(published(), addresses);
    serve(&sandbox);
    assert!(comes(v4).ends_with("inside /x"));

    // Changes count at once, and none is half made.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("{}:80", taken.local_addr().unwrap().port());
    let change = ["ports", "server", "--unpublish", "80", "--publish"];
    let refused = home.sbx(change).arg(&taken).output().with_code(1);
    assert!(refused.errors().contains("cannot publish port 80"));
    assert!(comes(v4).ends_with("inside /x"));
    home.sbx(change).arg("127.0.0.1:0:80").succeeds();
    assert_eq!(get(v4), None);
    let now = published();
    assert_ne!(now, addresses);
    assert!(comes(&now[1]).ends_with("inside /x"), "{now:?}");
}

/// Says what it hears, upside down.
const ECHO: &str = "
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('0.0.0.0', 53))
while True:
    words, sender = server.recvfrom(2000)
    server.sendto(words[::-1], sender)
";

fn datagrams_to_a_published_port_are_answered_until_it_is_published_no_more(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox_with("server", &["-p", "53/udp", "-p", "[::1]::53/udp"]);
    let serve = || {
        let serve = ["-d", "-u", "root"];
        sandbox.exec_with(serve, ["python3", "-c", ECHO]).succeeds();
    };
    let shown = home.sbx(["ports", "server"]).succeeds().text();
    let ends: Vec<String> = shown
        .split_whitespace()
        .filter_map(|word| Some(word.strip_suffix("->53/udp")?.to_owned()))
        .collect();
    assert_eq!(ends.len(), 2, "{shown}");
    serve();
    for end in &ends {
        assert_eq!(asks(end).unwrap(), "sdrow", "{end}");
    }
    let log = home.sbx(["policy", "log", "server"]).succeeds().text();
    assert!(log.contains("published"), "{log}");
    // A new engine reads from the same socket.
    crate::faults::kill(&home, "sbx net");
    assert_eq!(asks(&ends[0]).unwrap(), "sdrow");
    home.sbx(["stop", "server"]).succeeds();
    serve();
    assert_eq!(asks(&ends[0]).unwrap(), "sdrow");
    home.sbx([
        "ports",
        "server",
        "--unpublish",
        &format!("{}:53/udp", ends[0]),
    ])
    .succeeds();
    assert_eq!(asks(&ends[0]), None);
    assert_eq!(asks(&ends[1]).unwrap(), "sdrow");
}

/// What a server says to some words; `None` where no socket of the host's has
/// its end.
fn asks(server: &str) -> Option<String> {
    let own = if server.starts_with('[') {
        "[::1]:0"
    } else {
        "127.0.0.1:0"
    };
    let socket = UdpSocket::bind(own).unwrap();
    socket.connect(server).unwrap();
    // Datagrams get lost, above all those to a server that just starts.
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let until = Instant::now() + PATIENCE;
    let mut room = [0; 100];
    loop {
        let heard = socket.send(b"words").and_then(|_| socket.recv(&mut room));
        match heard {
            Ok(count) => return Some(String::from_utf8(room[..count].to_vec()).unwrap()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return None,
            Err(_) => assert!(Instant::now() < until, "{server} says nothing"),
        }
    }
}
