//! Connections and requests that wait for the user's word.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::thread;

use sbx_net::{layout, limits};
use sbx_spec::{Action, Rule};
use serde_json::{Value, json};
use smoltcp::socket::tcp::State;
use support::web::{World, allowed, rule, world};
use support::{Guest, start_with};

/// A listener on the host's loopback that takes connections; its port.
fn listener() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    port
}

fn host(port: u16) -> SocketAddr {
    (layout::HOST_V4, port).into()
}

fn asks(ports: &[u16]) -> Vec<Rule> {
    let ask = |port: &u16| rule(Action::Ask, &format!("localhost:{port}"));
    ports.iter().map(ask).collect()
}

fn answer(guest: &mut Guest, question: &Value, approve: bool) {
    let order = json!({"answer": {"question": question["question"], "approve": approve}});
    guest.control.order(&format!("{order}\n"));
}

/// A guest that knows its neighbour: what it sends next goes out at once.
fn started(rules: &[Rule]) -> Guest {
    let mut guest = start_with(rules);
    guest.refused(host(u16::MAX));
    assert_eq!(guest.control.next("flow")["verdict"], "deny");
    guest
}

fn question(guest: &mut Guest) -> Value {
    guest.turn();
    guest.control.next("ask")
}

#[test]
fn a_connection_waits_for_a_yes_and_a_moment_later_needs_none() {
    let port = listener();
    let mut guest = started(&asks(&[port]));
    let first = guest.connect(host(port));
    let second = guest.connect(host(port));
    guest.turn();
    let question = question(&mut guest);
    assert_eq!(question["resource"], format!("localhost:{port}"));
    assert_eq!(question["rule"], format!("user ask localhost:{port}"));
    assert_eq!(guest.tcp(first).state(), State::SynSent);
    answer(&mut guest, &question, true);
    let settled = guest.control.next("settled");
    assert_eq!(settled["how"], "approved");
    for waiting in [first, second] {
        guest.until("a connection", |guest| {
            guest.tcp(waiting).state() == State::Established
        });
    }
    guest.established(host(port));
    // What was approved once is not cut where its rule asks still.
    guest.control.order_rules(1, &asks(&[port, 1]));
    assert_eq!(guest.control.next("policy")["cut"], 0);
    guest.control.order_rules(2, &[]);
    assert_eq!(guest.control.next("policy")["cut"], 3);
    guest.end().unwrap();
}

#[test]
fn a_connection_is_refused_after_a_no() {
    let port = listener();
    let mut guest = started(&asks(&[port]));
    let waiting = guest.connect(host(port));
    let question = question(&mut guest);
    answer(&mut guest, &question, false);
    assert_eq!(guest.control.next("settled")["how"], "dismissed");
    assert_eq!(guest.control.next("flow")["verdict"], "deny");
    guest.until("a refusal", |guest| {
        guest.tcp(waiting).state() == State::Closed
    });
    guest.refused(host(port));
    guest.end().unwrap();
}

#[test]
fn new_rules_settle_a_question_either_way() {
    let (first, second) = (listener(), listener());
    let mut guest = started(&asks(&[first, second]));
    let allowed = guest.connect(host(first));
    question(&mut guest);
    let denied = guest.connect(host(second));
    question(&mut guest);
    let approve = rule(Action::Approve, &format!("localhost:{first}"));
    let deny = rule(Action::Deny, "**");
    let mut rules = asks(&[first, second]);
    rules.push(approve);
    guest.control.order_rules(1, &rules);
    assert_eq!(guest.control.next("settled")["how"], "policy");
    guest.until("a connection", |guest| {
        guest.tcp(allowed).state() == State::Established
    });
    rules.push(deny);
    guest.control.order_rules(2, &rules);
    guest.until("a refusal", |guest| {
        guest.tcp(denied).state() == State::Closed
    });
    guest.end().unwrap();
}

#[test]
fn more_questions_than_anyone_answers_are_refused_at_once() {
    let ports = 1..=u16::try_from(limits::QUESTIONS).unwrap();
    let mut guest = started(&asks(&(1..=100).collect::<Vec<_>>()));
    for port in ports {
        guest.connect(host(port));
        question(&mut guest);
    }
    guest.refused(host(100));
    let denied = guest.control.next("flow");
    assert_eq!(denied["rule"], "limit:questions");
    guest.end().unwrap();
}

fn say(world: &mut World, question: &Value, approve: bool) {
    let order = json!({"answer": {"question": question["question"], "approve": approve}});
    world.bed.order(&order);
}

#[test]
fn one_request_waits_while_others_pass_and_its_answer_counts_for_it_alone() {
    let mut rules = allowed(&["www.example:443"]);
    rules.push(rule(Action::Ask, "www.example:443 GET /asked/**"));
    let Some(mut world) = world("asked", &rules) else {
        return;
    };
    for version in ["--http1.1", "--http2"] {
        let free = world.curl(&[version, "https://www.example/free"]);
        assert!(free.contains("200 "), "{free}");
        for (path, approve, status) in [("/asked/yes", true, "200 "), ("/asked/no", false, "403 ")]
        {
            let path = format!("{path}{version}");
            let trusted = world.bed.trusted();
            let url = format!("https://www.example{path}");
            let argv = [
                "/usr/bin/curl",
                "-sS",
                version,
                "-w",
                "%{http_code} ",
                "--cacert",
                trusted.to_str().unwrap(),
                &url,
            ];
            let client = world.bed.start(&argv);
            let question = world.record("ask");
            assert_eq!(
                (
                    &question["resource"],
                    &question["method"],
                    &question["path"]
                ),
                (&json!("www.example:443"), &json!("GET"), &json!(path))
            );
            say(&mut world, &question, approve);
            let output = client.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(text.contains(status), "{text}");
            assert_eq!(text.contains("The user was asked"), !approve, "{text}");
        }
    }
}

#[test]
fn a_yes_to_a_host_counts_for_its_connection_on_every_way_to_it() {
    let rules = [rule(Action::Ask, "www.example")];
    let Some(mut world) = world("askhost", &rules) else {
        return;
    };
    // Nothing is looked into in TLS: the server's own root is what counts.
    let trusted = world.directory.join("root.pem");
    let gateway = format!("http://{}:{}", layout::GATEWAY_V4, layout::HTTP_PROXY);
    for (ways, url, resource) in [
        (&[][..], "https://www.example/x", "www.example:443"),
        (
            &["--proxy", &gateway],
            "http://www.example:8000/x",
            "www.example:8000",
        ),
    ] {
        let mut argv = vec!["/usr/bin/curl", "-sS", "-w", "%{http_code} "];
        argv.extend(["--cacert", trusted.to_str().unwrap()]);
        argv.extend(ways);
        argv.push(url);
        let client = world.bed.start(&argv);
        let question = world.record("ask");
        assert_eq!(question["resource"], resource);
        say(&mut world, &question, true);
        let output = client.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("200 "), "{text}");
    }
    // A request by way of the proxy hears the reason of a no.
    let argv = [
        "/usr/bin/curl",
        "-sS",
        "--proxy",
        &gateway,
        "http://www.example:80/",
    ];
    let client = world.bed.start(&argv);
    let question = world.record("ask");
    say(&mut world, &question, false);
    let output = client.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("rule: user ask www.example\nThe user was asked"),
        "{text}"
    );
}
