//! An endpoint that takes the place of a dead one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::{Ipv4Addr, TcpListener};
use std::thread;

use sbx_net::layout;
use sbx_spec::Rule;
use smoltcp::socket::tcp;
use support::{address_in, query, rules, start_kept};

/// A server that sends back what comes; its port.
fn echo() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
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

fn opened(port: u16) -> Vec<Rule> {
    rules(&[port])
}

#[test]
fn the_endpoint_after_a_dead_one_ends_its_connections_and_serves_new_ones() {
    let port = echo();
    let (mut guest, kept) = start_kept(&opened(port));
    let waiting = [
        guest.established((layout::HOST_V4, port)),
        guest.established((layout::HOST_V6, port)),
    ];
    for connection in waiting {
        assert_eq!(guest.exchange(connection, b"hello", 5), b"hello");
    }
    guest.followed(&opened(port), &kept);
    // Neither side says anything: they are told.
    guest.until("the end of both", |guest| {
        waiting.map(|old| guest.tcp(old).state()) == [tcp::State::Closed; 2]
    });
    let connection = guest.established((layout::HOST_V4, port));
    assert_eq!(guest.exchange(connection, b"again", 5), b"again");
    guest.end().unwrap();
}

#[test]
fn a_name_has_its_address_in_the_endpoint_after_a_dead_one() {
    // Every host resolves its own name to itself or not at all.
    let own = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_lowercase();
    let (mut guest, mut kept) = start_kept(&opened(1));
    let address = address_in(&guest.ask(&query(&own, 1)));
    let told = serde_json::from_value(guest.control.next("name")).unwrap();
    kept.names.push(told);
    guest.followed(&opened(1), &kept);
    // Not asked again: the address alone says which name is meant.
    guest.refused((address, 443));
    let flow = guest.control.next("flow");
    assert_eq!(flow["host"], own);
    guest.end().unwrap();
}
