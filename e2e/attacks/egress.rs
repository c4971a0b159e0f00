//! The lines of the network in ATTACKS.md, tried from inside of one sandbox.
//! Its host is behind a proxy that is every server at once, so that whatever
//! got through would be heard, and nothing leaves this machine.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use e2e::{Home, Isolation, Listener, in_each_isolation};

in_each_isolation![nothing_but_what_a_rule_allows_is_heard_outside];

/// What every server answers.
const PAGE: &str = "got through";

/// Says bytes to a server over TCP or UDP, and prints what comes back.
const SAY: &str = r"
import socket, sys
kind, host, port, words = sys.argv[1:]
try:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM if kind == 'udp' else socket.SOCK_STREAM)
    s.settimeout(20)
    s.connect((host, int(port)))
    s.send(words.encode('latin-1').decode('unicode_escape').encode('latin-1'))
    while True:
        heard = s.recv(65536)
        if not heard: break
        sys.stdout.buffer.write(heard)
        if kind == 'udp': break
except OSError as error: print(error)
";

/// The proxy's port, and what each server behind it hears.
fn everybody() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (says, heard) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let says = says.clone();
            thread::spawn(move || serve(stream, &says));
        }
    });
    (port, heard)
}

/// Serves one connection until its other end is gone.
fn serve(mut stream: TcpStream, says: &Sender<String>) -> Option<()> {
    let connect = head(&mut stream)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
    let server = connect.split(' ').nth(1)?;
    loop {
        let request = head(&mut stream)?;
        says.send(format!("{server} {}", request.lines().next()?))
            .ok()?;
        let length = PAGE.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{PAGE}");
        stream.write_all(answer.as_bytes()).ok()?;
    }
}

fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// What is tried, with its script; none may be heard outside.
fn attacks(canary: u16) -> Vec<(&'static str, String)> {
    let curl = |arguments: &str| format!("curl -gsS --max-time 30 {arguments} 2>&1");
    let say = |kind: &str, host: &str, port: u16, words: &str| {
        format!("python3 /tmp/say.py {kind} {host} {port} '{words}'")
    };
    let request = "GET /ok/a HTTP/1.1\\r\\nHost: server.example:8080\\r\\n";
    vec![
        ("another name", curl("http://other.example:8080/ok/a")),
        ("another port", curl("http://server.example:22/")),
        (
            "another name by CONNECT",
            curl("-x http://198.19.255.1:3128 -p http://other.example:8080/ok/a"),
        ),
        (
            "another name by SOCKS",
            curl("--socks5-hostname 198.19.255.1:1080 http://other.example:8080/ok/a"),
        ),
        (
            "a spelled address by CONNECT",
            say(
                "tcp",
                "198.19.255.1",
                3128,
                "CONNECT 3221226064:8080 HTTP/1.1\\r\\n\\r\\nGET / HTTP/1.1\\r\\n\\r\\n",
            ),
        ),
        ("a public address", curl("http://192.0.2.7:8080/ok/a")),
        ("a private address", curl("http://10.1.2.3:8080/ok/a")),
        ("a link-local address", curl("http://169.254.7.7:8080/ok/a")),
        (
            "a unique local address",
            curl("http://[fd00:7::7]:8080/ok/a"),
        ),
        ("IPv4 in IPv6", curl("http://[64:ff9b::a01:203]:8080/ok/a")),
        (
            "a loopback by CONNECT",
            curl(&format!(
                "-x http://198.19.255.1:3128 -p http://127.0.0.1:{canary}/"
            )),
        ),
        (
            "a port of the host",
            curl(&format!("http://host.sbx.internal:{canary}/")),
        ),
        (
            "a port of the gateway",
            curl(&format!("http://198.19.255.1:{canary}/")),
        ),
        (
            "another Host",
            curl("-H 'Host: other.example:8080' http://server.example:8080/ok/a"),
        ),
        (
            "another method",
            curl("-X DELETE http://server.example:8080/ok/a"),
        ),
        ("another path", curl("http://server.example:8080/no")),
        (
            "a path in disguise",
            curl("--path-as-is http://server.example:8080/ok/%2e%2e/no"),
        ),
        (
            "two lengths",
            say(
                "tcp",
                "server.example",
                8080,
                &format!(
                    "{request}Content-Length: 4\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n"
                ),
            ),
        ),
        (
            "a bare LF",
            say(
                "tcp",
                "server.example",
                8080,
                &format!("{request}X: a\\nY: b\\r\\n\\r\\n"),
            ),
        ),
        (
            "another protocol",
            say("tcp", "server.example", 8080, "SSH-2.0-x\\r\\n\\r\\n"),
        ),
        (
            "a name server elsewhere",
            say("tcp", "192.0.2.7", 53, "x\\r\\n\\r\\n"),
        ),
        ("a datagram to one", say("udp", "192.0.2.7", 53, "x")),
        ("QUIC", say("udp", "server.example", 443, "x")),
    ]
}

/// The same where it is allowed, and what is heard of it.
const ALLOWED: [(&str, &str); 3] = [
    (
        "curl -sS --max-time 60 http://server.example:8080/ok/direct",
        "GET /ok/direct",
    ),
    (
        "curl -sS --max-time 60 -x http://198.19.255.1:3128 -p http://server.example:8080/ok/connect",
        "GET /ok/connect",
    ),
    (
        "curl -sS --max-time 60 --socks5-hostname 198.19.255.1:1080 http://server.example:8080/ok/socks",
        "GET /ok/socks",
    ),
];

fn nothing_but_what_a_rule_allows_is_heard_outside(isolation: Isolation) {
    let home = Home::of(isolation);
    let (proxy, heard) = everybody();
    let (canary, open) = (Listener::open(), Listener::open());
    let allow = ["policy", "allow", "network"];
    let rule = "server.example:8080 --method GET --method POST --path /ok/**";
    home.sbx(allow).args(rule.split(' ')).succeeds();
    home.sbx(["run", "-d", "--name", "egress", "--no-workspace"])
        .args(home.memory("768m"))
        .arg("--allow-network")
        .args([&format!("localhost:{}", open.port()), "shell"])
        .env("HTTPS_PROXY", format!("http://127.0.0.1:{proxy}"))
        .succeeds();
    let inside = |script: &str| {
        let call = home.sbx(["exec", "egress", "bash", "-c", script]);
        let output = call.within(Duration::from_secs(200)).output();
        output.with_code(0).text()
    };
    inside(&format!("cat > /tmp/say.py <<'END'\n{SAY}\nEND"));

    for (what, script) in attacks(canary.port()) {
        let said = inside(&format!("{script} || true"));
        let through = said.contains(PAGE) || said.contains("canary-sings");
        assert!(!through, "{what}: {said}");
        // A denial is an answer at once, and no silence.
        assert!(!said.contains("timed out"), "{what}: {said}");
        let outside: Vec<String> = heard.try_iter().collect();
        assert_eq!(outside, [""; 0], "{what}");
    }
    assert_eq!(canary.visits(), 0);

    for (script, request) in ALLOWED {
        assert_eq!(inside(script), PAGE, "{script}");
        let outside = heard.recv().unwrap();
        assert_eq!(outside, format!("server.example:8080 {request} HTTP/1.1"));
    }
    let url = format!("http://host.sbx.internal:{}/", open.port());
    let said = inside(&format!("curl -s --max-time 60 {url}"));
    assert_eq!(said, "canary-sings");

    let log = home.sbx(["policy", "log", "egress"]).succeeds().text();
    for line in ["other.example", "10.1.2.3", "default:private", "/ok/direct"] {
        assert!(log.contains(line), "{line}: {log}");
    }
}
