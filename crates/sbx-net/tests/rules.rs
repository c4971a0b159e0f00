//! Rules that change while connections stand.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::thread;

use sbx_net::layout;
use support::start;

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
