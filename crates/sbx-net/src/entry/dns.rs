//! The name server: every valid name has an address, and no verdict falls
//! here. For the records that only a name's own servers have, it says what to
//! ask of them.
//!
//! Owns: the answer to one message. Never: sockets, policy.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use domain::base::iana::{Class, Opcode, OptRcode, Rcode, Rtype};
use domain::base::message_builder::{AnswerBuilder, StaticCompressor};
use domain::base::{Message, MessageBuilder, Name, ParsedName, ToName, Ttl};
use domain::rdata::{A, Aaaa, Ptr};
use sbx_spec::{DnsName, name_address, name_address_v6};

use crate::layout;
use crate::limits;
use crate::names::Names;
use crate::records::{Data, Found, Kind, Question, Record};

/// How the question came, and so how long the answer may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carrier {
    /// One datagram.
    Udp,
    /// A stream; the length prefix is not part of the message.
    Tcp,
}

/// What becomes of a query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// Its answer.
    Reply(Reply),
    /// Only the name's own servers know; [`hand_on`] makes the answer.
    Ask(Question),
}

/// An answer, and why it is a refusal if it is one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Reply {
    /// The message for the guest.
    pub(crate) message: Vec<u8>,
    /// The rule that refused, for the record.
    pub(crate) refused: Option<&'static str>,
}

const TTL: Ttl = Ttl::from_secs(60);

/// What the answer section holds.
enum Content {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Pointer(String),
    Records(Vec<Record>),
    Nothing,
}

/// What a query comes to.
enum Judged {
    Known(OptRcode, Content, Option<&'static str>),
    Elsewhere(Question),
}

/// Answers one message. `None` for what is not a query at all: silence.
pub(crate) fn answer(query: &[u8], names: &mut Names, carrier: Carrier) -> Option<Outcome> {
    let message = Message::from_octets(query).ok()?;
    if message.header().qr() {
        return None;
    }
    Some(match judge(&message, names) {
        Judged::Known(rcode, content, refused) => Outcome::Reply(Reply {
            message: compose(&message, rcode, content, carrier)?,
            refused,
        }),
        Judged::Elsewhere(question) => Outcome::Ask(question),
    })
}

/// Answers a query by what the name's own servers said.
pub(crate) fn hand_on(query: &[u8], found: &Found, carrier: Carrier) -> Option<Vec<u8>> {
    let message = Message::from_octets(query).ok()?;
    let (rcode, content) = match found {
        Found::Records(records) => (OptRcode::NOERROR, Content::Records(records.clone())),
        Found::NoName => (OptRcode::NXDOMAIN, Content::Nothing),
        Found::Failed => (OptRcode::SERVFAIL, Content::Nothing),
    };
    compose(&message, rcode, content, carrier)
}

/// Answers REFUSED whatever was asked.
pub(crate) fn refuse(query: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_octets(query).ok()?;
    if message.header().qr() {
        return None;
    }
    compose(&message, OptRcode::REFUSED, Content::Nothing, Carrier::Udp)
}

fn judge(message: &Message<&[u8]>, names: &mut Names) -> Judged {
    let failed = |rcode| Judged::Known(rcode, Content::Nothing, None);
    if message.header().opcode() != Opcode::QUERY {
        return failed(OptRcode::NOTIMP);
    }
    let Ok(question) = message.sole_question() else {
        return failed(OptRcode::FORMERR);
    };
    if message.opt().is_some_and(|opt| opt.version() != 0) {
        return failed(OptRcode::BADVERS);
    }
    if question.qclass() != Class::IN {
        return failed(OptRcode::REFUSED);
    }
    if matches!(
        question.qtype(),
        Rtype::ANY | Rtype::AXFR | Rtype::IXFR | Rtype::MAILA | Rtype::MAILB
    ) {
        return failed(OptRcode::NOTIMP);
    }
    if question.qname().is_root() {
        return failed(OptRcode::NOERROR);
    }
    let name = match name_of(question.qname()) {
        Ok(name) => name,
        Err(_) => {
            let rule = Some("dns:malformed-name");
            return Judged::Known(OptRcode::REFUSED, Content::Nothing, rule);
        }
    };
    about(name, question.qtype(), names)
}

fn name_of(name: &ParsedName<&[u8]>) -> Result<DnsName, sbx_spec::HostError> {
    DnsName::from_labels(
        name.iter()
            .filter(|label| !label.is_root())
            .collect::<Vec<_>>()
            .iter()
            .map(|l| l.as_slice()),
    )
}

fn about(name: DnsName, kind: Rtype, names: &mut Names) -> Judged {
    let found = |content| Judged::Known(OptRcode::NOERROR, content, None);
    let no_name = || Judged::Known(OptRcode::NXDOMAIN, Content::Nothing, None);
    if name.is_within("in-addr.arpa") || name.is_within("ip6.arpa") {
        return match (kind, pointer(&name, names)) {
            (Rtype::PTR, Some(target)) => found(Content::Pointer(target)),
            (_, Some(_)) => found(Content::Nothing),
            (_, None) => no_name(),
        };
    }
    // RFC 6761; and the name that asks browsers not to go round us.
    if name.is_within("invalid")
        || name.is_within("onion")
        || name.as_str() == "use-application-dns.net"
    {
        return no_name();
    }
    let fixed = match name.as_str() {
        "host.sbx.internal" | "host.docker.internal" => Some((layout::HOST_V4, layout::HOST_V6)),
        "gateway.sbx.internal" | "gateway.docker.internal" => {
            Some((layout::GATEWAY_V4, layout::GATEWAY_V6))
        }
        _ if name.is_within("localhost") => Some((Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST)),
        _ => None,
    };
    if let (Some(kind), None) = (Kind::of(kind), fixed) {
        return Judged::Elsewhere(Question { name, kind });
    }
    if !matches!(kind, Rtype::A | Rtype::AAAA) {
        return found(Content::Nothing);
    }
    let both = fixed.or_else(|| {
        let v4 = names.address(&name)?;
        Some((v4, name_address_v6(v4)))
    });
    match both {
        Some((v4, _)) if kind == Rtype::A => found(Content::A(v4)),
        Some((_, v6)) => found(Content::Aaaa(v6)),
        None => Judged::Known(OptRcode::REFUSED, Content::Nothing, Some("limit:names")),
    }
}

/// The name behind one of our own addresses, asked backwards.
fn pointer(name: &DnsName, names: &Names) -> Option<String> {
    let address = reversed_v4(name).map(IpAddr::V4);
    let address = address.or_else(|| reversed_v6(name).map(IpAddr::V6))?;
    if layout::is_gateway(address) {
        return Some("gateway.sbx.internal".to_owned());
    }
    if layout::is_host(address) {
        return Some("host.sbx.internal".to_owned());
    }
    let name = name_address(address).and_then(|address| names.name(address));
    name.map(|name| name.as_str().to_owned())
}

fn reversed_v4(name: &DnsName) -> Option<Ipv4Addr> {
    let reversed = name.as_str().strip_suffix(".in-addr.arpa")?;
    let octets = reversed.split('.').map(|label| label.parse::<u8>().ok());
    let octets: Vec<u8> = octets.rev().collect::<Option<_>>()?;
    <[u8; 4]>::try_from(octets).ok().map(Ipv4Addr::from)
}

/// RFC 3596, 2.5.
fn reversed_v6(name: &DnsName) -> Option<Ipv6Addr> {
    let reversed = name.as_str().strip_suffix(".ip6.arpa")?;
    let mut count = 0;
    let bits = reversed.split('.').rev().try_fold(0_u128, |bits, label| {
        count += 1;
        let nibble = u128::from_str_radix(label, 16).ok()?;
        (label.len() == 1 && count <= 32).then_some(bits << 4 | nibble)
    })?;
    (count == 32).then_some(Ipv6Addr::from(bits))
}

fn compose(
    query: &Message<&[u8]>,
    rcode: OptRcode,
    content: Content,
    carrier: Carrier,
) -> Option<Vec<u8>> {
    let mut builder =
        MessageBuilder::from_target(StaticCompressor::new(Vec::with_capacity(512))).ok()?;
    let header = query.header();
    let out = builder.header_mut();
    out.set_id(header.id());
    out.set_opcode(header.opcode());
    out.set_qr(true);
    out.set_rd(header.rd());
    out.set_ra(true);
    out.set_rcode(rcode.rcode());
    let mut question = builder.question();
    let asked = query.sole_question().ok();
    if let Some(asked) = &asked {
        question.push(asked).ok()?;
    }
    let mut answer = question.answer();
    if let Some(asked) = &asked {
        add(&mut answer, asked.qname(), &content)?;
    }
    let mut additional = answer.additional();
    let edns = query.opt();
    if edns.is_some() {
        additional
            .opt(|opt| {
                opt.set_udp_payload_size(u16::try_from(limits::DNS_UDP_ANSWER).unwrap_or(512));
                opt.set_rcode(rcode);
                Ok(())
            })
            .ok()?;
    }
    let bytes = additional.finish().into_target();
    let room = match (carrier, &edns) {
        (Carrier::Tcp, _) => limits::DNS_ANSWER,
        (Carrier::Udp, Some(opt)) => {
            usize::from(opt.udp_payload_size()).clamp(512, limits::DNS_UDP_ANSWER)
        }
        (Carrier::Udp, None) => 512,
    };
    if bytes.len() <= room {
        return Some(bytes);
    }
    let mut short = MessageBuilder::new_vec();
    let out = short.header_mut();
    *out = header;
    out.set_qr(true);
    match carrier {
        Carrier::Udp => out.set_tc(true),
        // There is no larger carrier to ask again by.
        Carrier::Tcp => out.set_rcode(Rcode::SERVFAIL),
    }
    Some(short.finish())
}

fn add(
    answer: &mut AnswerBuilder<StaticCompressor<Vec<u8>>>,
    name: &ParsedName<&[u8]>,
    content: &Content,
) -> Option<()> {
    let owner: Name<Vec<u8>> = name.to_name();
    match content {
        Content::A(address) => answer.push((&owner, Class::IN, TTL, A::new(*address))).ok(),
        Content::Aaaa(address) => answer
            .push((&owner, Class::IN, TTL, Aaaa::new(*address)))
            .ok(),
        Content::Pointer(target) => {
            let target: Name<Vec<u8>> = target.parse().ok()?;
            answer.push((&owner, Class::IN, TTL, Ptr::new(target))).ok()
        }
        Content::Records(records) => {
            for Record { ttl, data } in records {
                // As long as an address counts: rules may change.
                let ttl = TTL.min(*ttl);
                match data {
                    Data::Mx(mx) => answer.push((&owner, Class::IN, ttl, mx)),
                    Data::Txt(txt) => answer.push((&owner, Class::IN, ttl, txt)),
                    Data::Srv(srv) => answer.push((&owner, Class::IN, ttl, srv)),
                }
                .ok()?;
            }
            Some(())
        }
        Content::Nothing => Some(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A query: header counts, question, and whatever follows.
    fn query(name: &[&[u8]], kind: u16, tail: &[u8]) -> Vec<u8> {
        let extra = u8::from(!tail.is_empty());
        let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, extra];
        for label in name {
            message.push(label.len() as u8);
            message.extend_from_slice(label);
        }
        message.push(0);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&[0, 1]);
        message.extend_from_slice(tail);
        message
    }

    /// An OPT record that offers 4096 bytes, of this EDNS version.
    fn opt(version: u8) -> [u8; 11] {
        [0, 0, 41, 0x10, 0, 0, version, 0, 0, 0, 0]
    }

    fn ask(message: &[u8]) -> Reply {
        ask_with(message, &mut Names::default())
    }

    fn ask_with(message: &[u8], names: &mut Names) -> Reply {
        match answer(message, names, Carrier::Udp) {
            Some(Outcome::Reply(reply)) => reply,
            other => panic!("{other:?}"),
        }
    }

    fn rcode(reply: &Reply) -> u8 {
        reply.message[3] & 15
    }

    const A: u16 = 1;
    const PTR: u16 = 12;
    const AAAA: u16 = 28;

    #[test]
    fn an_answer_byte_for_byte() {
        let reply = ask(&query(&[b"LocalHost"], A, b""));
        let golden = [
            &[0x12, 0x34, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0, 9][..],
            b"LocalHost",
            &[
                0, 0, 1, 0, 1, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1,
            ],
        ]
        .concat();
        assert_eq!(
            reply,
            Reply {
                message: golden,
                refused: None
            }
        );
    }

    #[test]
    fn a_name_has_one_address_of_each_family_and_nothing_where_neither_is_asked() {
        let mut names = Names::default();
        let v4 = ask_with(&query(&[b"a", b"io"], A, b""), &mut names).message;
        let v6 = ask_with(&query(&[b"a", b"io"], AAAA, b""), &mut names).message;
        let prefix = [0xfd, 0x73, 0x62, 0x78, 0x78, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let (rest, place) = v6.split_at(v6.len() - 2);
        assert!(rest.ends_with(&prefix), "{v6:02x?}");
        assert!(v4.ends_with(&[&[198, 18][..], place].concat()), "{v4:02x?}");
        for (name, last) in [(&b"host"[..], 0xfe), (b"gateway", 1)] {
            let fixed = ask(&query(&[name, b"sbx", b"internal"], AAAA, b"")).message;
            assert!(fixed.starts_with(&v4[..4]) && fixed.ends_with(&[0, 0, last]));
        }
        let golden = [
            &[0x12, 0x34, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0, 1][..],
            &[b'a', 2, b'i', b'o', 0, 0, 65, 0, 1],
        ]
        .concat();
        // HTTPS, which could bring keys that hide a server's name.
        assert_eq!(ask(&query(&[b"a", b"io"], 65, b"")).message, golden);
    }

    #[test]
    fn names_that_are_no_host_names_are_refused_and_recorded() {
        for name in [
            &[b"a\0b".as_slice(), b"com"][..],
            &[b"a.b", b"com"],
            &[b"\xc3\xa9", b"com"],
            &[b"-a", b"com"],
            &[b"127", b"0", b"0", b"1"],
            &[b"0x7f", b"1"],
        ] {
            let reply = ask(&query(name, A, b""));
            assert_eq!(
                (rcode(&reply), reply.refused),
                (5, Some("dns:malformed-name")),
                "{name:?}"
            );
        }
        assert_eq!(rcode(&ask(&query(&[b"a_b", b"com"], A, b""))), 0);
    }

    #[test]
    fn what_is_not_a_plain_question_is_an_error_of_its_own_kind() {
        let mut two = query(&[b"a", b"io"], A, b"");
        two[5] = 2;
        let mut update = query(&[b"a", b"io"], A, b"");
        update[2] = 5 << 3;
        let mut chaos = query(&[b"a", b"io"], A, b"");
        *chaos.last_mut().unwrap() = 3;
        let mut looping = query(&[b"a"], A, b"");
        looping[12..14].copy_from_slice(&[0xc0, 12]);
        for (message, expected) in [
            (two, 1),
            (looping, 1),
            (update, 4),
            (chaos, 5),
            (query(&[b"a", b"io"], 255, b""), 4),
            (query(&[b"a", b"io"], 252, b""), 4),
            (query(&[b"a", b"io"], 6, b""), 0),
            (query(&[b"localhost"], 16, b""), 0),
            (query(&[b"a", b"io"], 65, b""), 0),
            (query(&[], A, b""), 0),
            (query(&[b"x", b"invalid"], A, b""), 3),
            (query(&[b"use-application-dns", b"net"], A, b""), 3),
        ] {
            assert_eq!(rcode(&ask(&message)), expected, "{message:02x?}");
        }
        let mut response = query(&[b"a", b"io"], A, b"");
        response[2] |= 0x80;
        assert_eq!(answer(&response, &mut Names::default(), Carrier::Udp), None);
    }

    #[test]
    fn what_only_other_servers_know_is_asked_of_them() {
        for (kind, name) in [(15, "MX"), (16, "TXT"), (33, "SRV")] {
            let message = query(&[b"_a", b"B", b"io"], kind, b"");
            match answer(&message, &mut Names::default(), Carrier::Udp) {
                Some(Outcome::Ask(question)) => {
                    assert_eq!(question.name.as_str(), "_a.b.io");
                    assert_eq!(question.kind.name(), name);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_answer_of_others_that_does_not_fit_is_cut_or_a_failure() {
        let record = |length: usize| Record {
            ttl: Ttl::from_secs(3_600),
            data: Data::Txt(domain::rdata::Txt::build_from_slice(&vec![b'x'; length]).unwrap()),
        };
        let question = query(&[b"A", b"io"], 16, b"");
        for (found, carrier, rcode, cut, answers) in [
            (Found::Records(vec![record(300)]), Carrier::Udp, 0, 0, 1),
            (Found::Records(vec![record(600)]), Carrier::Udp, 0, 2, 0),
            (
                Found::Records(vec![record(600); 20]),
                Carrier::Tcp,
                0,
                0,
                20,
            ),
            (Found::Records(vec![record(600); 40]), Carrier::Tcp, 2, 0, 0),
            (Found::Records(vec![]), Carrier::Udp, 0, 0, 0),
            (Found::NoName, Carrier::Udp, 3, 0, 0),
            (Found::Failed, Carrier::Udp, 2, 0, 0),
        ] {
            let reply = hand_on(&question, &found, carrier).unwrap();
            let seen = (reply[3] & 15, reply[2] & 2, reply[7]);
            assert_eq!(seen, (rcode, cut, answers), "{found:?}");
            if answers > 0 {
                // Type, class and a time to live that is no longer than ours.
                assert_eq!(reply[24..32], [0, 16, 0, 1, 0, 0, 0, 60]);
            }
        }
    }

    #[test]
    fn edns_is_answered_and_an_unknown_version_is_refused() {
        let reply = ask(&query(&[b"a", b"io"], A, &opt(0)));
        assert_eq!(reply.message[10..12], [0, 1]);
        assert_eq!(
            reply.message[reply.message.len() - 11..][..5],
            [0, 0, 41, 4, 0xd0]
        );
        let reply = ask(&query(&[b"a", b"io"], A, &opt(1)));
        assert_eq!(
            (rcode(&reply), reply.message[reply.message.len() - 6]),
            (0, 1),
            "BADVERS"
        );
    }

    #[test]
    fn our_own_addresses_have_names_and_others_have_none() {
        let mut names = Names::default();
        let name: DnsName = "www.example.com".parse().unwrap();
        let [_, _, c, d] = names.address(&name).unwrap().octets();
        let labels = [
            d.to_string(),
            c.to_string(),
            "18".into(),
            "198".into(),
            "in-addr".into(),
            "arpa".into(),
        ];
        let labels: Vec<&[u8]> = labels
            .iter()
            .map(|label: &String| label.as_bytes())
            .collect();
        let reply = ask_with(&query(&labels, PTR, b""), &mut names);
        let expected = b"\x03www\x07example\x03com\0";
        assert!(
            reply
                .message
                .windows(expected.len())
                .any(|window| window == expected)
        );
        let v6 = name_address_v6([198, 18, c, d].into());
        let nibbles = v6.octets().into_iter().rev();
        let nibbles = nibbles.flat_map(|octet| [octet & 15, octet >> 4]);
        let nibbles: Vec<String> = nibbles.map(|nibble| format!("{nibble:x}")).collect();
        let mut labels: Vec<&[u8]> = nibbles.iter().map(|label| label.as_bytes()).collect();
        labels.extend([&b"ip6"[..], b"arpa"]);
        let reply = ask_with(&query(&labels, PTR, b""), &mut names);
        assert!(
            reply
                .message
                .windows(expected.len())
                .any(|window| window == expected)
        );
        labels.remove(0);
        assert_eq!(rcode(&ask_with(&query(&labels, PTR, b""), &mut names)), 3);
        let stranger: [&[u8]; 6] = [b"8", b"8", b"8", b"8", b"in-addr", b"arpa"];
        assert_eq!(rcode(&ask(&query(&stranger, PTR, b""))), 3);
    }

    #[test]
    fn a_full_table_refuses_new_names_and_answers_known_ones() {
        let mut names = Names::default();
        let mut last = None;
        for n in 0..=limits::NAMES {
            let label = format!("n{n}");
            last = Some(ask_with(
                &query(&[label.as_bytes(), b"io"], A, b""),
                &mut names,
            ));
        }
        let last = last.unwrap();
        assert_eq!((rcode(&last), last.refused), (5, Some("limit:names")));
        let known = ask_with(&query(&[b"n0", b"io"], A, b""), &mut names);
        assert_eq!(rcode(&known), 0);
    }

    proptest! {
        #[test]
        fn random_bytes_are_answered_within_bounds_or_not_at_all(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            edns: bool,
        ) {
            let mut names = Names::default();
            let mut message = query(&[b"a", b"io"], A, if edns { &[] } else { &[1] });
            let keep = bytes.len().min(message.len());
            for (at, byte) in bytes.iter().enumerate().take(keep) {
                if byte % 3 == 0 {
                    message[at] ^= byte;
                }
            }
            message.extend_from_slice(&bytes[keep..]);
            for input in [&bytes, &message] {
                if let Some(Outcome::Reply(reply)) = answer(input, &mut names, Carrier::Udp) {
                    prop_assert!(reply.message.len() <= limits::DNS_UDP_ANSWER);
                    prop_assert_eq!(&reply.message[..2], &input[..2]);
                }
            }
        }
    }
}
