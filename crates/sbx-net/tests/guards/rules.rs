//! What rules say together, when they change, and what the user says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Instant;

use sbx_net::{layout, limits};
use sbx_spec::{Action, Publication, Rule};
use serde_json::{Value, json};
use smoltcp::socket::tcp::State;

use super::support::web::{allowed, rule};
use super::support::{self, Guest, start, start_with, syn_frame};
use super::{allowing, net, reaches, stopped};

#[test]
fn without_a_rule_nothing_is_reached() {
    let Some(bed) = allowing("absent", &[], &[], &[]) else {
        return;
    };
    for url in [
        "http://www.example/",
        "http://192.0.2.80/",
        "http://host.sbx.internal:8080/",
    ] {
        stopped(url, reaches(&bed, url));
    }
}

#[test]
fn with_a_rule_each_what_it_names_is_reached() {
    let rules = ["www.example", "192.0.2.80", "localhost:8080"];
    let Some(bed) = allowing("present", &rules, &[], &[]) else {
        return;
    };
    for url in [
        "http://www.example/",
        "http://192.0.2.80/",
        "http://host.sbx.internal:8080/",
    ] {
        assert!(reaches(&bed, url), "{url}");
    }
}

fn with_a_denial(test: &str, url: &str) -> Option<bool> {
    let denied = rule(Action::Deny, "other.example");
    let rules = [allowed(&["**", "other.example"]), vec![denied]].concat();
    Some(reaches(&net(test, &rules, &[], &[])?, url))
}

#[test]
fn what_is_denied_and_allowed_is_not_reached() {
    let Some(reached) = with_a_denial("denied", "http://other.example/") else {
        return;
    };
    stopped("a denied name", reached);
}

#[test]
fn what_is_allowed_beside_a_denial_is_reached() {
    let Some(reached) = with_a_denial("beside", "http://www.example/") else {
        return;
    };
    assert!(reached);
}

/// A server of the host's that says what it hears; its port.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut room = [0; 100];
                while let Ok(count @ 1..) = stream.read(&mut room) {
                    let _gone = stream.write_all(&room[..count]);
                }
            });
        }
    });
    port
}

fn host(port: u16) -> SocketAddr {
    (layout::HOST_V4, port).into()
}

fn about(action: Action, port: u16) -> Rule {
    rule(action, &format!("localhost:{port}"))
}

/// Connects and says what was recorded of it: `ask`, or `flow` where nobody
/// was asked.
fn recorded(guest: &mut Guest, port: u16) -> Value {
    let connection = guest.connect(host(port));
    guest.until("a SYN", |guest| {
        guest.tcp(connection).state() != State::Closed
    });
    // A neighbour has to be found first.
    guest.until("a word of the endpoint's", |guest| {
        guest.control.is_readable()
    });
    guest.control.line()
}

#[test]
fn what_is_asked_about_and_allowed_waits_for_the_user() {
    let port = echo();
    let mut guest = start_with(&[about(Action::Allow, port), about(Action::Ask, port)]);
    let line = recorded(&mut guest, port);
    stopped("unasked", line.get("ask").is_none());
}

#[test]
fn what_is_allowed_beside_a_question_waits_for_nobody() {
    let (asked, open) = (echo(), echo());
    let mut guest = start_with(&[about(Action::Allow, open), about(Action::Ask, asked)]);
    let line = recorded(&mut guest, open);
    assert_eq!(line["flow"]["verdict"], "allow", "{line}");
}

/// What is recorded of a connection to `then`, once the user said yes to one
/// to `first`.
fn after_a_yes(then_is_first: bool) -> Value {
    let (first, second) = (echo(), echo());
    let mut guest = start_with(&[about(Action::Ask, first), about(Action::Ask, second)]);
    let asked = recorded(&mut guest, first);
    let order = json!({"answer": {"question": asked["ask"]["question"], "approve": true}});
    guest.control.order(&format!("{order}\n"));
    assert_eq!(guest.control.next("flow")["verdict"], "allow");
    recorded(&mut guest, if then_is_first { first } else { second })
}

#[test]
fn a_yes_to_one_question_is_none_to_another() {
    let line = after_a_yes(false);
    stopped("unasked", line.get("ask").is_none());
}

#[test]
fn a_yes_counts_for_the_same_a_moment_later() {
    let line = after_a_yes(true);
    assert_eq!(line["flow"]["verdict"], "allow", "{line}");
}

/// What a connection says after rules came that do or do not allow it, and
/// how many were cut.
fn after_new_rules(kept: bool) -> (Value, bool) {
    let port = echo();
    let mut guest = start(&[port]);
    let connection = guest.established(host(port));
    assert_eq!(guest.exchange(connection, b"before", 6), b"before");
    let ports: &[u16] = if kept { &[port] } else { &[] };
    guest.control.order_policy(1, ports);
    let cut = guest.control.next("policy")["cut"].clone();
    // Whichever comes: the end, or an answer.
    let _ended = guest.tcp(connection).send_slice(b"after");
    guest.until("the end or an answer", |guest| {
        let socket = guest.tcp(connection);
        socket.state() == State::Closed || socket.can_recv()
    });
    (cut, guest.tcp(connection).can_recv())
}

#[test]
fn a_connection_that_new_rules_deny_is_cut() {
    let (cut, heard) = after_new_rules(false);
    stopped("a connection", heard || cut != 1);
}

#[test]
fn a_connection_that_new_rules_allow_goes_on() {
    assert_eq!(after_new_rules(true), (0.into(), true));
}

/// Whether an endpoint works on after such a line before new rules.
fn works_on_after(line: &str) -> bool {
    let mut guest = start(&[]);
    let rules = json!({"policy": {"revision": 7, "rules": []}});
    guest.control.order(&format!("{line}{rules}\n"));
    guest
        .control
        .line_or_end()
        .is_some_and(|line| line["policy"]["revision"] == 7)
}

#[test]
fn an_endpoint_that_does_not_understand_its_rules_ends() {
    for line in [
        "{\"policy\":{\"revision\":1}}\n",
        "{\"polici\":{}}\n",
        "x\n",
    ] {
        stopped("the old rules", works_on_after(line));
    }
}

#[test]
fn an_endpoint_that_understands_its_rules_works_on() {
    let rules = json!({"policy": {"revision": 6, "rules": []}});
    let mut guest = start(&[]);
    guest.control.order(&format!("{rules}\n"));
    assert_eq!(guest.control.next("policy")["revision"], 6);
    assert!(works_on_after(""));
}

/// Lines of records and records only counted, for so many denials.
fn denials(many: u64) -> (u64, u64) {
    let mut guest = start(&[]);
    let support::Guest { wire, control, .. } = &mut guest;
    thread::scope(|scope| {
        let counting = scope.spawn(move || {
            let (mut lines, mut summed) = (0, 0);
            while lines + summed < many {
                let line = control.line();
                match line.get("flood") {
                    Some(flood) => summed += flood["denied"].as_u64().unwrap(),
                    None => lines += 1,
                }
            }
            (lines, summed)
        });
        for number in 0..many {
            wire.send(&syn_frame(1 + number as u16, [10, 0, 0, 1].into(), 80));
            wire.read();
            wire.frames.clear();
        }
        counting.join().unwrap()
    })
}

#[test]
fn records_of_a_flood_are_summed_up() {
    let begun = Instant::now();
    let (lines, _) = denials(20_000);
    let seconds = 2 + begun.elapsed().as_secs();
    stopped(
        "a flood of lines",
        lines > seconds * u64::from(limits::RECORD_RATE),
    );
}

#[test]
fn a_few_records_are_written_one_by_one() {
    assert_eq!(denials(50), (50, 0));
}

#[test]
fn a_port_is_published_on_loopback() {
    let published: Publication = "8080:80".parse().unwrap();
    stopped("the network", !published.address.is_loopback());
}

#[test]
fn a_port_is_published_where_the_user_says() {
    let published: Publication = "192.0.2.1:8080:80".parse().unwrap();
    assert_eq!(published.address.to_string(), "192.0.2.1");
}
