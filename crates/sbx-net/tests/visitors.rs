//! Datagrams of the host into published ports of the guest.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use sbx_net::{layout, limits};
use support::{Guest, PATIENCE, start, udp_frame};

/// A published socket that the endpoint has, and its end.
fn published(guest: &Guest, address: &str, port: u16) -> SocketAddr {
    let socket = UdpSocket::bind((address, 0)).unwrap();
    guest.control.publish(&socket, port);
    socket.local_addr().unwrap()
}

/// Somebody of the host's who sends to `to`.
fn client(to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((to.ip(), 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// What comes to the guest's `port`: the gateway's port and the words.
fn heard(guest: &mut Guest, port: u16) -> (u16, Vec<u8>) {
    let mut came = None;
    guest.until_raw("a datagram", |frame| {
        let is = frame.get(23) == Some(&17) && frame.get(36..38) == Some(&port.to_be_bytes());
        if is {
            assert_eq!(frame[26..30], layout::GATEWAY_V4.octets());
            let from = u16::from_be_bytes([frame[34], frame[35]]);
            came = Some((from, frame[42..].to_vec()));
        }
        is
    });
    came.unwrap()
}

fn say(guest: &mut Guest, from: u16, to: u16, words: &[u8]) {
    let gateway = IpAddr::V4(layout::GATEWAY_V4);
    guest.wire.send(&udp_frame(from, gateway, to, words));
}

fn read(client: &UdpSocket) -> Vec<u8> {
    let mut room = [0; 2_000];
    let count = client.recv(&mut room).unwrap();
    room[..count].to_vec()
}

/// The next flow that is denied.
fn denied(guest: &mut Guest) -> serde_json::Value {
    loop {
        let flow = guest.control.next("flow");
        if flow["verdict"] == "deny" {
            return flow;
        }
    }
}

#[test]
fn datagrams_reach_the_guest_and_its_answers_whoever_sent_them() {
    let mut guest = start(&[]);
    for address in ["127.0.0.1", "::1"] {
        let at = published(&guest, address, 53);
        let (one, two) = (client(at), client(at));
        let mut ends = Vec::new();
        for (client, words) in [(&one, b"first"), (&two, b"other"), (&one, b"again")] {
            client.send(words).unwrap();
            let (from, came) = heard(&mut guest, 53);
            assert_eq!(came, words);
            ends.push(from);
        }
        assert_eq!(ends[0], ends[2]);
        assert_ne!(ends[0], ends[1]);
        say(&mut guest, 53, ends[1], b"to the other");
        say(&mut guest, 53, ends[0], b"to the first");
        assert_eq!(read(&one), b"to the first");
        assert_eq!(read(&two), b"to the other");
        for client in [&one, &two] {
            let flow = guest.control.next("flow");
            let peer = client.local_addr().unwrap().ip().to_string();
            let told = [&flow["proto"], &flow["rule"], &flow["addr"]];
            assert_eq!(told, ["udp", "published", &peer]);
            assert_eq!(
                (&flow["verdict"], &flow["port"]),
                (&"allow".into(), &53.into())
            );
        }
    }
    guest.end().unwrap();
}

#[test]
fn a_port_that_is_shut_is_read_no_more_and_the_guest_reaches_nobody_there() {
    let mut guest = start(&[]);
    let (at, other) = (
        published(&guest, "127.0.0.1", 53),
        published(&guest, "127.0.0.1", 54),
    );
    let (known, stays) = (client(at), client(other));
    known.send(b"before").unwrap();
    let (from, _) = heard(&mut guest, 53);
    guest.control.shut(at);
    let end = guest.control.next("end");
    assert_eq!(
        (&end["how"], &end["sent"], &end["received"]),
        (&"closed".into(), &0.into(), &6.into())
    );
    // Nobody has the port any more, which a client is told.
    known.send(b"after").unwrap();
    let refused = known.recv(&mut [0; 10]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    // Its end is the gateway's again, which takes nothing.
    say(&mut guest, 53, from, b"late");
    let flow = denied(&mut guest);
    assert_ne!(flow["rule"], "published", "{flow}");
    stays.send(b"still").unwrap();
    assert_eq!(heard(&mut guest, 54).1, b"still");
    // What is published again is a port like the first.
    let again = client(published(&guest, "127.0.0.1", 53));
    again.send(b"anew").unwrap();
    let (from, words) = heard(&mut guest, 53);
    assert_eq!(words, b"anew");
    say(&mut guest, 53, from, b"answer");
    assert_eq!(read(&again), b"answer");
    guest.end().unwrap();
}

#[test]
fn no_guest_reaches_a_sender_that_sent_nothing() {
    let mut guest = start(&[]);
    let at = published(&guest, "127.0.0.1", 53);
    let sender = client(at);
    sender.send(b"here").unwrap();
    let (from, _) = heard(&mut guest, 53);
    // From another port of the guest's, and to another of the gateway's.
    say(&mut guest, 54, from, b"not mine");
    say(&mut guest, 53, from.wrapping_add(1).max(49_152), b"nobody");
    for _ in 0..2 {
        let flow = denied(&mut guest);
        assert_ne!(flow["rule"], "published", "{flow}");
    }
    say(&mut guest, 53, from, b"mine");
    assert_eq!(read(&sender), b"mine");
    guest.end().unwrap();
}

#[test]
fn only_so_many_senders_are_known_at_once() {
    let mut guest = start(&[]);
    let at = published(&guest, "127.0.0.1", 53);
    // No two have the same end.
    let senders: Vec<_> = (0..=limits::PUBLISHED).map(|_| client(at)).collect();
    let (more, known) = senders.split_last().unwrap();
    for sender in known {
        sender.send(b"x").unwrap();
        heard(&mut guest, 53);
    }
    more.send(b"x").unwrap();
    assert_eq!(denied(&mut guest)["rule"], "limit:published");
    guest.end().unwrap();
}
