//! Connections of a host whose network is behind a proxy.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use sbx_net::Proxies;
use smoltcp::socket::tcp::State;
use support::{Guest, address_in, allow, query, start_behind};

/// What a proxy is asked, and what it answers to that.
type Speaks = fn(&mut TcpStream) -> String;

/// A proxy that says what it was asked and then speaks first as a server,
/// and sends back what it hears; its port.
fn proxy(speaks: Speaks) -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, questions) = channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let asked = asked.clone();
            thread::spawn(move || {
                let question = speaks(&mut stream);
                if asked.send(question).is_err() {
                    return;
                }
                let mut from = stream.try_clone().unwrap();
                let _gone = std::io::copy(&mut from, &mut stream);
            });
        }
    });
    (port, questions)
}

fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

fn http(stream: &mut TcpStream) -> String {
    let asked = head(stream);
    // The server's first words come with the proxy's.
    let answer = b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\nhello";
    stream.write_all(answer).unwrap();
    asked
}

fn http_refuses(stream: &mut TcpStream) -> String {
    let asked = head(stream);
    stream.write_all(b"HTTP/1.1 407 No\r\n\r\n").unwrap();
    asked
}

fn socks(stream: &mut TcpStream) -> String {
    let mut greeting = [0; 3];
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting, [5, 1, 2]);
    stream.write_all(&[5, 2]).unwrap();
    let mut login = [0; 3 + 2 + 6];
    stream.read_exact(&mut login).unwrap();
    assert_eq!(&login, b"\x01\x02me\x06secret");
    stream.write_all(&[1, 0]).unwrap();
    let mut request = [0; 5];
    stream.read_exact(&mut request).unwrap();
    assert_eq!(&request[..4], &[5, 1, 0, 3]);
    let mut name = vec![0; usize::from(request[4]) + 2];
    stream.read_exact(&mut name).unwrap();
    stream
        .write_all(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00hello")
        .unwrap();
    let port = u16::from_be_bytes([name[name.len() - 2], name[name.len() - 1]]);
    format!(
        "{}:{port}",
        String::from_utf8_lossy(&name[..name.len() - 2])
    )
}

fn behind(proxy: &str, rules: &[&str]) -> Guest {
    let rules: Vec<_> = rules.iter().map(|rule| allow(rule)).collect();
    let proxies = Proxies {
        https: Some(proxy.to_owned()),
        exceptions: Some("direct.example".to_owned()),
        ..Proxies::default()
    };
    start_behind(&rules, proxies).0
}

fn address(guest: &mut Guest, name: &str, port: u16) -> SocketAddr {
    (address_in(&guest.ask(&query(name, 1))), port).into()
}

#[test]
fn what_is_allowed_is_asked_of_the_proxy_by_name_and_the_server_may_speak_first() {
    for (scheme, speaks, asked) in [
        (
            "http",
            http as Speaks,
            "CONNECT server.example:2222 HTTP/1.1\r\nHost: server.example:2222\r\n\
             Proxy-Authorization: Basic bWU6c2VjcmV0\r\n\r\n",
        ),
        ("socks5h", socks, "server.example:2222"),
    ] {
        let (port, questions) = proxy(speaks);
        let mut guest = behind(
            &format!("{scheme}://me:secret@127.0.0.1:{port}"),
            &["server.example:2222"],
        );
        let server = address(&mut guest, "server.example", 2222);
        let connection = guest.established(server);
        assert_eq!(questions.recv().unwrap(), asked);
        assert_eq!(guest.exchange(connection, b"", 5), b"hello");
        assert_eq!(guest.exchange(connection, b"echo", 4), b"echo");
        let flow = guest.control.next("flow");
        assert_eq!(
            (&flow["verdict"], &flow["host"], &flow["addr"]),
            (&"allow".into(), &"server.example".into(), &().into())
        );
        guest.control.order_rules(1, &[]);
        guest.until("the end", |guest| {
            guest.tcp(connection).state() == State::Closed
        });
        guest.end().unwrap();
    }
}

#[test]
fn what_is_denied_or_excepted_is_not_asked_of_the_proxy() {
    let (port, questions) = proxy(http);
    let proxy = format!("http://127.0.0.1:{port}");
    // Every host resolves its own name to itself or not at all.
    let own = rustix::system::uname();
    let own = own.nodename().to_string_lossy().to_lowercase();
    let mut guest = behind(&proxy, &["direct.example", "server.example:1", &own]);
    let denied = address(&mut guest, "server.example", 2222);
    guest.refused(denied);
    let excepted = address(&mut guest, "direct.example", 2222);
    guest.refused(excepted);
    drop(guest);
    assert!(questions.try_recv().is_err());
}

#[test]
fn a_proxy_that_refuses_or_is_not_there_refuses_the_guest() {
    let (port, _questions) = proxy(http_refuses);
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = gone.local_addr().unwrap().port();
    drop(gone);
    for port in [port, nobody] {
        let mut guest = behind(&format!("http://127.0.0.1:{port}"), &["server.example"]);
        let server = address(&mut guest, "server.example", 2222);
        guest.refused(server);
        let flow = guest.control.next("flow");
        assert_eq!(
            (&flow["verdict"], &flow["failed"]),
            (&"allow".into(), &"refused".into())
        );
        guest.end().unwrap();
    }
}
