//! Questions that only a name's own servers can answer, with a name server of
//! the host's that a stand-in is.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use domain::base::Message;
use domain::base::iana::Rcode;
use domain::rdata::AllRecordData;
use sbx_net::limits;
use sbx_spec::{Action, Origin, Rule};
use support::bed::{Bed, bed_with, python};
use support::{allow, query};

const MX: u16 = 15;
const TXT: u16 = 16;
const SRV: u16 = 33;

/// Says each question that it hears. Over UDP it cuts what is long.
const NAME_SERVER: &str = r"
import socket, socketserver, struct, sys, threading
def name(text): return b''.join(bytes([len(l)]) + l for l in text.encode('latin-1').split(b'.') if l) + b'\0'
def rr(owner, kind, data): return name(owner) + struct.pack('!HHIH', kind, 1, 3600, len(data)) + data
def mx(host): return struct.pack('!H', 10) + name(host)
def txt(text): return bytes([len(text)]) + text.encode()
records = {
    ('mail.example', 15): [rr('mail.example', 5, name('real.example')), rr('real.example', 15, mx('mx.example')), rr('other.example', 15, mx('evil.example'))],
    ('text.example', 16): [rr('text.example', 16, txt('v=spf1 -all') + txt('more'))],
    ('_db._tcp.text.example', 33): [rr('_db._tcp.text.example', 33, struct.pack('!HHH', 0, 5, 27017) + name('db.example'))],
    ('long.example', 16): [rr('long.example', 16, txt('%0200d' % n)) for n in range(30)],
    ('bad.example', 15): [rr('bad.example', 15, mx('e\0vil.example'))],
    ('slow.example', 16): [rr('slow.example', 16, txt('late'))],
    ('go.example', 16): [rr('go.example', 16, txt('gone'))],
}
go = threading.Event()
def answer(query, most):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1:at + 1 + query[at]].decode())
        at += 1 + query[at]
    asked = '.'.join(labels).lower(), struct.unpack('!H', query[at + 1:at + 3])[0]
    print(*asked, flush=True)
    if asked[0] == 'slow.example': go.wait()
    if asked[0] == 'go.example': go.set()
    found = records.get(asked)
    def message(flags, found):
        return query[:2] + struct.pack('!HHHHH', flags, 1, len(found), 0, 0) + query[12:at + 5] + b''.join(found)
    whole = message(0x8183 if found is None else 0x8180, found or [])
    return whole if len(whole) <= most else message(0x8380, [])
class Udp(socketserver.BaseRequestHandler):
    def handle(self): self.request[1].sendto(answer(self.request[0], 512), self.client_address)
class Tcp(socketserver.StreamRequestHandler):
    def handle(self):
        length, = struct.unpack('!H', self.rfile.read(2))
        whole = answer(self.rfile.read(length), 65535)
        self.wfile.write(struct.pack('!H', len(whole)) + whole)
udp = socketserver.ThreadingUDPServer(('127.0.0.1', 53), Udp)
tcp = socketserver.ThreadingTCPServer(('127.0.0.1', 53), Tcp)
threading.Thread(target=tcp.serve_forever, daemon=True).start()
print('up', flush=True)
udp.serve_forever()
";

/// Sends a message to the guest's name server and prints what comes back.
const CLIENT: &str = "
import socket, struct, sys
message = bytes.fromhex(sys.argv[2])
if sys.argv[1] == 'udp':
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(20)
    s.sendto(message, ('198.19.255.1', 53))
    print(s.recv(65535).hex())
else:
    s = socket.create_connection(('198.19.255.1', 53), 20)
    s.sendall(struct.pack('!H', len(message)) + message)
    f = s.makefile('rb')
    print(f.read(struct.unpack('!H', f.read(2))[0]).hex())
";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.trim().as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// The code, whether it is cut, and the records as they are written.
fn understood(answer: &[u8]) -> (Rcode, bool, Vec<String>) {
    let message = Message::from_octets(answer).unwrap();
    let records = message.answer().unwrap();
    let records = records.limit_to::<AllRecordData<_, _>>();
    // Compression may give one name the spelling of another.
    let written = records.map(|record| record.unwrap().to_string().to_lowercase());
    let records = written.collect();
    (message.header().rcode(), message.header().tc(), records)
}

struct Asked {
    bed: Bed,
    heard: BufReader<UnixStream>,
}

impl Asked {
    fn new(test: &str, rules: &[&str]) -> Option<Self> {
        let rule = |rule: &&str| Rule::read(Action::Allow, rule, Origin::User).unwrap();
        let rules: Vec<_> = rules.iter().map(rule).collect();
        let mut bed = bed_with(test, &rules, None)?;
        // What the server holds back is waited for.
        bed.file(
            "host",
            "resolv.conf",
            "nameserver 127.0.0.1\noptions timeout:20 attempts:1\n",
        );
        let python = python().unwrap();
        let heard = bed.server("host", &[python.to_str().unwrap(), "-c", NAME_SERVER]);
        Some(Self { bed, heard })
    }

    fn argv(carrier: &str, name: &str, kind: u16) -> [String; 5] {
        let python = python().unwrap().to_str().unwrap().to_owned();
        let message = hex(&query(name, kind));
        [python, "-c".into(), CLIENT.into(), carrier.into(), message]
    }

    fn ask(&self, carrier: &str, name: &str, kind: u16) -> (Rcode, bool, Vec<String>) {
        let argv = Self::argv(carrier, name, kind);
        let output = self.bed.run(&argv.each_ref().map(String::as_str));
        assert!(output.status.success(), "{output:?}");
        understood(&unhex(&String::from_utf8(output.stdout).unwrap()))
    }

    /// The next question that the host's name server heard.
    fn heard(&mut self) -> String {
        let mut line = String::new();
        self.heard.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

#[test]
fn records_of_allowed_names_come_from_a_stand_in_for_their_servers_and_are_made_anew() {
    let rules = [
        "mail.example:25",
        "**.text.example GET /x",
        "long.example",
        "bad.example",
        "none.example",
    ];
    let Some(mut asked) = Asked::new("mx", &rules) else {
        return;
    };
    for (carrier, name, kind, expected) in [
        (
            "udp",
            "Mail.Example",
            MX,
            &["mail.example. 60 in mx 10 mx.example."][..],
        ),
        (
            "tcp",
            "mail.example",
            MX,
            &["mail.example. 60 in mx 10 mx.example."],
        ),
        (
            "udp",
            "_db._tcp.text.example",
            SRV,
            &["_db._tcp.text.example. 60 in srv 0 5 27017 db.example"],
        ),
    ] {
        let (code, cut, records) = asked.ask(carrier, name, kind);
        assert_eq!((code, cut), (Rcode::NOERROR, false), "{name}");
        assert_eq!(records, expected);
        assert_eq!(asked.heard(), format!("{} {kind}", name.to_lowercase()));
        let flow = asked.bed.flow();
        assert_eq!(flow["verdict"], "allow");
        assert_eq!(
            (&flow["proto"], &flow["host"]),
            (&"dns".into(), &name.to_lowercase().into())
        );
        let end = loop {
            if let Some(end) = asked.bed.line().get("end") {
                break end.clone();
            }
        };
        assert_eq!((&end["id"], &end["how"]), (&flow["id"], &"answered".into()));
    }
    // Longer than a datagram, from the server to the host and on to the guest.
    assert_eq!(
        asked.ask("udp", "long.example", TXT),
        (Rcode::NOERROR, true, vec![])
    );
    let (code, cut, records) = asked.ask("tcp", "long.example", TXT);
    assert_eq!((code, cut, records.len()), (Rcode::NOERROR, false, 30));
    assert_eq!(
        asked.ask("udp", "bad.example", MX),
        (Rcode::SERVFAIL, false, vec![])
    );
    assert_eq!(
        asked.ask("udp", "none.example", MX),
        (Rcode::NXDOMAIN, false, vec![])
    );
}

#[test]
fn a_question_about_a_name_that_no_rule_allows_leaves_for_no_stand_in() {
    let Some(mut asked) = Asked::new("secret", &["go.example"]) else {
        return;
    };
    for (carrier, name) in [("udp", "c2VjcmV0.text.example"), ("tcp", "text.example")] {
        for kind in [MX, TXT, SRV] {
            assert_eq!(
                asked.ask(carrier, name, kind),
                (Rcode::REFUSED, false, vec![])
            );
            let flow = asked.bed.flow();
            assert_eq!(flow["verdict"], "deny");
            assert_eq!(
                (&flow["host"], &flow["rule"]),
                (&name.to_lowercase().into(), &"default:unlisted".into())
            );
        }
    }
    let (code, _, records) = asked.ask("udp", "go.example", TXT);
    assert_eq!((code, records.len()), (Rcode::NOERROR, 1));
    assert_eq!(
        asked.heard(),
        format!("go.example {TXT}"),
        "the first that it hears"
    );
}

#[test]
fn an_answer_that_comes_when_its_name_is_denied_by_then_is_thrown_away() {
    for denied in [false, true] {
        let Some(mut asked) = Asked::new("late", &["slow.example", "go.example"]) else {
            return;
        };
        let argv = Asked::argv("tcp", "slow.example", TXT);
        let client = asked.bed.start(&argv.each_ref().map(String::as_str));
        assert_eq!(asked.heard(), format!("slow.example {TXT}"));
        if denied {
            asked.bed.order_rules(2, &[allow("go.example")]);
        }
        let (code, _, records) = asked.ask("udp", "go.example", TXT);
        assert_eq!((code, records.len()), (Rcode::NOERROR, 1));
        let output = client.wait_with_output().unwrap();
        let (code, _, records) = understood(&unhex(&String::from_utf8(output.stdout).unwrap()));
        match denied {
            true => assert_eq!((code, records.len()), (Rcode::REFUSED, 0)),
            false => assert_eq!((code, records.len()), (Rcode::NOERROR, 1)),
        }
    }
}

#[test]
fn the_next_question_of_a_flood_is_refused_and_not_held() {
    let Some(mut asked) = Asked::new("held", &["slow.example", "go.example"]) else {
        return;
    };
    let most = limits::RECORD_QUESTIONS;
    let flood = format!(
        "
import socket
message = bytes.fromhex('{}')
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(20)
for n in range({}):
    s.sendto(message, ('198.19.255.1', 53))
print(s.recv(65535).hex(), flush=True)
input()
",
        hex(&query("slow.example", TXT)),
        2 * most
    );
    let python = python().unwrap();
    let mut client = asked.bed.start(&[python.to_str().unwrap(), "-c", &flood]);
    let mut answer = String::new();
    let mut said = BufReader::new(client.stdout.take().unwrap());
    said.read_line(&mut answer).unwrap();
    assert_eq!(understood(&unhex(&answer)).0, Rcode::REFUSED);
    loop {
        let flow = asked.bed.flow();
        if flow["verdict"] == "deny" {
            assert_eq!(flow["rule"], "limit:dns-rate");
            break;
        }
    }
    // Connections have a resolver of their own meanwhile.
    asked.bed.order_rules(2, &[allow("www.example")]);
    assert_eq!(asked.bed.get("http://www.example/").unwrap(), "xxxxx");
    client.stdin.take().unwrap().write_all(b"\n").unwrap();
    assert!(client.wait().unwrap().success());
}
