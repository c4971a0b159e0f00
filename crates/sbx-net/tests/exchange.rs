//! Datagrams that a rule lets out.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::net::{IpAddr, UdpSocket};
use std::thread;

use sbx_net::{layout, limits};
use sbx_spec::Action;
use support::web::rule;
use support::{Guest, start_with, udp_frame};

/// A server on the host's loopback that sends what it hears back twice; its
/// port.
fn echo() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut heard = [0; 2_000];
        while let Ok((count, from)) = socket.recv_from(&mut heard) {
            for _ in 0..2 {
                let _gone = socket.send_to(&heard[..count], from);
            }
        }
    });
    port
}

/// What comes back from `to` at the guest's `port`: the datagram's bytes, or
/// `None` for the news that nobody is there.
fn answer(guest: &mut Guest, port: u16) -> Option<Vec<u8>> {
    let mut came = None;
    guest.until_raw("an answer", |frame| {
        let protocol = frame.get(23).copied();
        let to = frame.get(36..38) == Some(&port.to_be_bytes());
        came = match protocol {
            Some(17) if to => Some(Some(frame[42..].to_vec())),
            Some(1) if frame.get(34) == Some(&3) => Some(None),
            _ => return false,
        };
        true
    });
    came.unwrap()
}

fn say(guest: &mut Guest, from: u16, to: u16, words: &[u8]) {
    let host = IpAddr::V4(layout::HOST_V4);
    guest.wire.send(&udp_frame(from, host, to, words));
}

#[test]
fn a_question_goes_out_by_a_rule_about_datagrams_and_all_answers_come_back() {
    let (open, closed) = (echo(), echo());
    let mut guest = start_with(&[
        rule(Action::Allow, &format!("localhost:{open} udp")),
        rule(Action::Allow, &format!("localhost:{closed}")),
    ]);
    for words in [&b"what time is it"[..], b"and now"] {
        say(&mut guest, 5_000, open, words);
        for _ in 0..2 {
            assert_eq!(answer(&mut guest, 5_000).unwrap(), words);
        }
    }
    let flow = guest.control.next("flow");
    assert_eq!(
        (&flow["verdict"], &flow["proto"], &flow["rule"]),
        (
            &"allow".into(),
            &"udp".into(),
            &format!("user allow localhost:{open} udp").into()
        )
    );
    // A rule about connections lets no datagram out.
    say(&mut guest, 5_001, closed, b"hello");
    assert_eq!(answer(&mut guest, 5_001), None);
    let flow = guest.control.next("flow");
    assert_eq!(flow["verdict"], "deny");
    guest.control.order_rules(1, &[]);
    assert_eq!(guest.control.next("policy")["cut"], 1);
    say(&mut guest, 5_000, open, b"still there");
    assert_eq!(answer(&mut guest, 5_000), None);
    guest.end().unwrap();
}

#[test]
fn quic_and_name_servers_are_refused_whatever_a_rule_says() {
    let rules = [443, 53, 853].map(|port| rule(Action::Allow, &format!("192.0.2.1:{port} udp")));
    let mut guest = start_with(&rules);
    for port in [443, 53, 853] {
        let server = IpAddr::from([192, 0, 2, 1]);
        guest.wire.send(&udp_frame(6_000, server, port, b"hello"));
        assert_eq!(answer(&mut guest, 6_000), None);
        let flow = guest.control.next("flow");
        let line = if port == 443 { "quic" } else { "dns-port" };
        assert_eq!(flow["rule"], format!("default:{line}"));
    }
    guest.end().unwrap();
}

#[test]
fn a_port_where_nobody_listens_is_told_and_only_so_many_are_kept() {
    let port = echo();
    let mut guest = start_with(&[rule(Action::Allow, &format!("localhost:{port} udp"))]);
    for number in 0..limits::EXCHANGES {
        say(
            &mut guest,
            7_000 + u16::try_from(number).unwrap(),
            port,
            b"x",
        );
    }
    say(&mut guest, 6_999, port, b"one more");
    assert_eq!(answer(&mut guest, 6_999), None);
    loop {
        let flow = guest.control.next("flow");
        if flow["verdict"] == "deny" {
            assert_eq!(flow["rule"], "limit:exchanges");
            break;
        }
    }
    guest.end().unwrap();
}

#[test]
fn a_datagram_waits_for_the_users_word_where_a_rule_asks() {
    let port = echo();
    let mut guest = start_with(&[rule(Action::Ask, &format!("localhost:{port} udp"))]);
    say(&mut guest, 8_000, port, b"may I");
    let question = guest.control.next("ask");
    assert_eq!(question["proto"], "udp");
    let number = &question["question"];
    let order = serde_json::json!({"answer": {"question": number, "approve": true}});
    guest.control.order(&format!("{order}\n"));
    assert_eq!(answer(&mut guest, 8_000).unwrap(), b"may I");
    guest.end().unwrap();
}
