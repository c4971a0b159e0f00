//! What lasts on an inspected connection: events, sockets, large bodies and
//! the odd shapes of answers, with real clients in a namespace.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;
use std::io::BufRead;
use std::io::{BufReader, Read, Write};

use sbx_spec::Action;
use support::bed::python;
use support::web::{World, allowed, line, rule, world};

#[test]
fn events_pass_as_they_come_and_a_new_denial_ends_them() {
    let rules = allowed(&["www.example:443 GET /**"]);
    let Some(mut world) = world("events", &rules) else {
        return;
    };
    let trusted = world.bed.trusted();
    let listen = |world: &World, version| {
        let argv = [
            "/usr/bin/curl",
            "-sSN",
            version,
            "--cacert",
            trusted.to_str().unwrap(),
            "https://www.example/events",
        ];
        let mut client = world.bed.start(&argv);
        let mut said = BufReader::new(client.stdout.take().unwrap());
        let mut first = String::new();
        said.read_line(&mut first).unwrap();
        assert_eq!(first, "data: 1\n");
        (client, said)
    };
    for version in ["--http1.1", "--http2"] {
        let (mut client, mut said) = listen(&world, version);
        // The server says the second only once this has reached it.
        world.curl(&["https://www.example/release"]);
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert!(rest.contains("data: 2\n"), "{rest}");
        assert!(client.wait().unwrap().success());
    }
    for (version, revision) in [("--http1.1", 2), ("--http2", 4)] {
        let (mut client, mut said) = listen(&world, version);
        let mut denied = rules.clone();
        denied.push(rule(Action::Deny, "www.example:443 GET /events"));
        world.bed.order_rules(revision, &denied);
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert!(!rest.contains("data: 2"), "{rest}");
        assert!(!client.wait().unwrap().success());
        world.bed.order_rules(revision + 1, &rules);
    }
}

#[test]
fn a_web_socket_carries_bytes_both_ways_and_another_upgrade_does_not() {
    let rules = allowed(&["www.example:8000", "www.example:443 GET /socket"]);
    let Some(world) = world("socket", &rules) else {
        return;
    };
    for (port, tls) in [("8000", ""), ("443", "www.example")] {
        let host = if tls.is_empty() {
            "www.example:8000"
        } else {
            "www.example"
        };
        let ask = |upgrade: &str| {
            format!(
                "GET /socket HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: \
                 {upgrade}\r\n\r\nhello"
            )
        };
        // The echo ends with us, so a client that says no more hears all.
        let client = ECHO_CLIENT;
        let python = python().unwrap();
        let trusted = world.bed.trusted();
        let argv = [
            python.to_str().unwrap(),
            "-c",
            client,
            "www.example",
            port,
            tls,
            trusted.to_str().unwrap(),
        ];
        let mut started = world.bed.start(&argv);
        let bytes = ask("websocket");
        started
            .stdin
            .take()
            .unwrap()
            .write_all(bytes.as_bytes())
            .unwrap();
        let output = started.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.starts_with("HTTP/1.1 101 ") && text.ends_with("hello"),
            "{text}"
        );
        let text = world.raw(port, tls, ask("h2c").as_bytes());
        assert!(!text.contains("hello"), "{text}");
    }
}

/// Hears until its last five bytes came back.
const ECHO_CLIENT: &str = "
import socket, ssl, sys
host, port, tls, trusted = sys.argv[1:5]
stream = socket.create_connection((host, int(port)), 30)
if tls:
    stream = ssl.create_default_context(cafile=trusted).wrap_socket(stream, server_hostname=tls)
said = sys.stdin.buffer.read()
stream.sendall(said)
heard = b''
while not heard.endswith(said[-5:]):
    heard += stream.recv(65536) or sys.exit('ended: %r' % heard)
sys.stdout.buffer.write(heard)
";

#[test]
fn interim_answers_trailers_and_bodies_of_every_shape_pass() {
    let rules = allowed(&["www.example:443 GET,PUT,POST,HEAD /**"]);
    let Some(world) = world("shapes", &rules) else {
        return;
    };
    for version in ["--http1.1", "--http2"] {
        let text = world.curl(&[version, "-i", "https://www.example/hints"]);
        assert!(
            text.contains(" 103") && text.contains(" 200"),
            "{version}: {text}"
        );
        let text = world.curl(&[version, "-i", "https://www.example/trailers"]);
        assert!(
            text.to_lowercase().contains("digest: x"),
            "{version}: {text}"
        );
        let text = world.curl(&[version, "-d", "12345", "https://www.example/post"]);
        assert!(text.contains(" 5\n200"), "{version}: {text}");
        let text = world.curl(&[version, "-I", "https://www.example/bytes/7"]);
        assert!(
            text.ends_with("200 1.1") || text.ends_with("200 2"),
            "{version}: {text}"
        );
    }
    let chunked = [
        "--http1.1",
        "-H",
        "Transfer-Encoding: chunked",
        "-d",
        "12345",
    ];
    let text = world.curl(&[&chunked[..], &["https://www.example/post"]].concat());
    assert!(text.contains(" 5\n200"), "{text}");
    let expect = [
        "--http1.1",
        "-H",
        "Expect: 100-continue",
        "-d",
        "12345",
        "-i",
    ];
    let text = world.curl(&[&expect[..], &["https://www.example/post"]].concat());
    assert!(
        text.contains("100 Continue") && text.contains(" 5\n200"),
        "{text}"
    );
}

#[test]
fn large_bodies_pass_both_ways_without_growing_the_endpoint() {
    let rules = allowed(&["www.example:443 GET,PUT /**"]);
    let Some(world) = world("large", &rules) else {
        return;
    };
    let size = 40_000_000;
    let file = world.directory.join("body");
    fs::write(&file, vec![7; size]).unwrap();
    let peak = || {
        let status = fs::read_to_string(format!("/proc/{}/status", world.bed.endpoint())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .unwrap();
        let digits: String = line.chars().filter(char::is_ascii_digit).collect();
        digits.parse::<usize>().unwrap() * 1024
    };
    world.curl(&["https://www.example/warm"]);
    let before = peak();
    for version in ["--http1.1", "--http2"] {
        let down = format!("https://www.example/bytes/{size}");
        let form = "%{http_code} %{size_download} %{size_upload}";
        let text = world.curl(&[version, "-w", form, "-o", "/dev/null", &down]);
        assert_eq!(text, format!("200 {size} 0"), "{version}");
        let upload = file.to_str().unwrap();
        let text = world.curl(&[version, "-w", form, "-T", upload, "https://www.example/up"]);
        assert!(text.contains(&format!(" {size}\n")), "{version}: {text}");
        assert!(text.ends_with(&format!(" {size}")), "{version}: {text}");
    }
    let grown = peak() - before;
    assert!(grown < 16 * 1024 * 1024, "{grown} bytes more for {size}");
}

/// Asks for what never comes, and is gone without a goodbye once it is told.
const GONE: &str = "
import socket, ssl, struct, sys
stream = socket.create_connection(('www.example', 443), 30)
stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
context = ssl.create_default_context(cafile=sys.argv[1])
context.set_alpn_protocols(['http/1.1'])
stream = context.wrap_socket(stream, server_hostname='www.example')
stream.sendall(b'GET /hang HTTP/1.1\\r\\nHost: www.example\\r\\n\\r\\n')
input()
stream.close()
";

#[test]
fn a_request_whose_client_is_gone_ends_at_its_silent_server_too() {
    let Some(mut world) = world("gone", &allowed(&["www.example:443 GET /**"])) else {
        return;
    };
    let (python, trusted) = (python().unwrap(), world.bed.trusted());
    let argv = [
        python.to_str().unwrap(),
        "-c",
        GONE,
        trusted.to_str().unwrap(),
    ];
    let mut client = world.bed.start(&argv);
    assert!(line(&mut world.tls).starts_with("GET /hang"));
    assert_eq!(line(&mut world.tls), "hangs");
    client.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(client.wait().unwrap().success());
    assert_eq!(line(&mut world.tls), "left");
}
