//! Rules that change while connections stand.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::thread;

use sbx_net::{layout, limits};
use support::{address_in, allow, query, start, start_with};

/// A listener on the host's loopback that sends back what comes; its port.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut from = stream.try_clone().unwrap();
                let mut to = stream;
                let _gone = std::io::copy(&mut from, &mut to);
            });
        }
    });
    port
}

fn host(port: u16) -> SocketAddr {
    (layout::HOST_V4, port).into()
}

#[test]
fn new_rules_count_at_once_and_cut_what_they_deny() {
    let (first, second) = (echo(), echo());
    let mut guest = start(&[first]);
    let kept = guest.established(host(first));
    guest.refused(host(second));
    guest.control.order_policy(1, &[first, second]);
    assert_eq!(guest.control.next("policy")["cut"], 0);
    let cut = guest.established(host(second));
    assert_eq!(guest.exchange(cut, b"before", 6), b"before");

    guest.control.order_policy(2, &[first]);
    let answer = guest.control.next("policy");
    assert_eq!(
        (&answer["revision"], &answer["cut"]),
        (&2.into(), &1.into())
    );
    guest.until("the end of what is denied now", |guest| {
        guest.tcp(cut).state() == smoltcp::socket::tcp::State::Closed
    });
    guest.refused(host(second));
    assert_eq!(guest.exchange(kept, b"still", 5), b"still");
    guest.end().unwrap();
}

/// A name that no rule is about, and its address.
fn unlisted(guest: &mut support::Guest) -> SocketAddr {
    let answer = guest.ask(&query("unlisted.example", 1));
    (address_in(&answer), 80).into()
}

#[test]
fn a_denied_request_is_told_which_rule_and_what_would_allow_it() {
    let mut guest = start_with(&[allow("listed.example")]);
    let address = unlisted(&mut guest);
    for (method, body) in [("GET", true), ("HEAD", false)] {
        let connection = guest.established(address);
        let flow = guest.control.next("flow");
        assert_eq!(
            (flow["verdict"].as_str(), flow["host"].as_str()),
            (Some("deny"), Some("unlisted.example"))
        );
        let request = format!("{method} / HTTP/1.1\r\nHost: unlisted.example\r\n\r\n");
        let mut answer = guest.exchange(connection, request.as_bytes(), 1);
        guest.until("the end of the answer", |guest| {
            let socket = guest.tcp(connection);
            let _all = socket.recv(|bytes| {
                answer.extend_from_slice(bytes);
                (bytes.len(), ())
            });
            !socket.may_recv()
        });
        let text = String::from_utf8(answer).unwrap();
        assert!(text.starts_with("HTTP/1.1 403 Forbidden ("), "{text}");
        assert!(text.contains("\r\nX-Sbx-Verdict: deny\r\n"), "{text}");
        let command = "sbx policy allow network unlisted.example:80\n";
        assert_eq!(text.ends_with(command), body, "{text}");
        guest.tcp(connection).close();
    }
    guest.end().unwrap();
}

#[test]
fn what_is_not_http_is_reset_where_http_is_explained() {
    let mut guest = start_with(&[]);
    let address = unlisted(&mut guest);
    let connection = guest.established(address);
    let hello = [0x16, 3, 1, 0, 5];
    guest.tcp(connection).send_slice(&hello).unwrap();
    guest.until("a reset", |guest| {
        guest.tcp(connection).state() == smoltcp::socket::tcp::State::Closed
    });
    guest.end().unwrap();
}

#[test]
fn explanations_are_bounded_and_the_next_denial_is_a_reset() {
    let mut guest = start_with(&[]);
    let address = unlisted(&mut guest);
    let told: Vec<_> = (0..limits::REFUSALS)
        .map(|_| guest.established(address))
        .collect();
    guest.refused(address);
    // An ended one makes room.
    guest.tcp(told[0]).abort();
    // What was sent at once may be judged before that is noticed.
    loop {
        let next = guest.connect(address);
        guest.until("an answer", |guest| {
            guest.tcp(next).state() != smoltcp::socket::tcp::State::SynSent
        });
        if guest.tcp(next).state() == smoltcp::socket::tcp::State::Established {
            break;
        }
    }
    guest.end().unwrap();
}

#[test]
fn an_order_that_is_not_understood_ends_the_endpoint() {
    for line in [
        "{\"policy\":{\"revision\":1}}\n",
        "{\"polici\":{}}\n",
        "\n",
        "x\n",
    ] {
        let mut guest = start(&[]);
        guest.control.order(line);
        guest.joined().unwrap();
    }
}

#[test]
fn an_echo_is_answered_for_hosts_that_may_be_reached_and_prohibited_for_others() {
    let rules = [support::allow("a.example"), support::allow("192.0.2.0/24")];
    let mut guest = start_with(&rules);
    let mut address = |name: &str| support::address_in(&guest.ask(&query(name, 1)));
    let (allowed, denied) = (address("a.example"), address("b.example"));
    let mut answer = |to| {
        guest.wire.send(&support::echo_frame(to));
        guest.wire.wait(support::PATIENCE);
        guest.wire.read();
        let frame = guest.wire.frames.pop_front().unwrap();
        assert_eq!(frame[23], 1, "ICMP");
        (frame[34], frame[35])
    };
    let (reply, prohibited) = ((0, 0), (3, 13));
    assert_eq!(answer(allowed), reply);
    assert_eq!(answer([192, 0, 2, 7].into()), reply);
    assert_eq!(answer(denied), prohibited);
    assert_eq!(answer([10, 0, 0, 1].into()), prohibited);
}
