//! The name server: every valid name has an address, nothing is asked
//! upstream, and no verdict falls here.
//!
//! Owns: the answer to one message. Never: sockets, policy.

use std::net::{Ipv4Addr, Ipv6Addr};

use domain::base::iana::{Class, Opcode, OptRcode, Rtype};
use domain::base::message_builder::AnswerBuilder;
use domain::base::{Message, MessageBuilder, Name, ParsedName, ToName, Ttl};
use domain::rdata::{A, Aaaa, Ptr};
use sbx_spec::DnsName;

use crate::layout;
use crate::limits;
use crate::names::Names;

/// How the question came, and so how long the answer may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Carrier {
    /// One datagram.
    Udp,
    /// A stream; the length prefix is not part of the message.
    Tcp,
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
    Nothing,
}

/// Answers one message. `None` for what is not a query at all: silence.
pub(crate) fn answer(query: &[u8], names: &mut Names, carrier: Carrier) -> Option<Reply> {
    let message = Message::from_octets(query).ok()?;
    if message.header().qr() {
        return None;
    }
    let (rcode, content, refused) = judge(&message, names);
    let message = compose(&message, rcode, content, carrier)?;
    Some(Reply { message, refused })
}

/// Answers REFUSED whatever was asked.
pub(crate) fn refuse(query: &[u8], rule: &'static str) -> Option<Reply> {
    let message = Message::from_octets(query).ok()?;
    if message.header().qr() {
        return None;
    }
    let message = compose(&message, OptRcode::REFUSED, Content::Nothing, Carrier::Udp)?;
    Some(Reply {
        message,
        refused: Some(rule),
    })
}

fn judge(message: &Message<&[u8]>, names: &mut Names) -> (OptRcode, Content, Option<&'static str>) {
    let failed = |rcode| (rcode, Content::Nothing, None);
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
            return (
                OptRcode::REFUSED,
                Content::Nothing,
                Some("dns:malformed-name"),
            );
        }
    };
    about(&name, question.qtype(), names)
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

fn about(
    name: &DnsName,
    kind: Rtype,
    names: &mut Names,
) -> (OptRcode, Content, Option<&'static str>) {
    let found = |content| (OptRcode::NOERROR, content, None);
    if name.is_within("in-addr.arpa") || name.is_within("ip6.arpa") {
        return match (kind, pointer(name, names)) {
            (Rtype::PTR, Some(target)) => found(Content::Pointer(target)),
            (_, Some(_)) => found(Content::Nothing),
            (_, None) => (OptRcode::NXDOMAIN, Content::Nothing, None),
        };
    }
    // RFC 6761; and the name that asks browsers not to go round us.
    if name.is_within("invalid")
        || name.is_within("onion")
        || name.as_str() == "use-application-dns.net"
    {
        return (OptRcode::NXDOMAIN, Content::Nothing, None);
    }
    let fixed = match name.as_str() {
        "host.sbx.internal" | "host.docker.internal" => Some(layout::HOST_V4),
        "gateway.sbx.internal" | "gateway.docker.internal" => Some(layout::GATEWAY_V4),
        _ if name.is_within("localhost") => Some(Ipv4Addr::LOCALHOST),
        _ => None,
    };
    match (kind, fixed) {
        (Rtype::AAAA, Some(address)) if address.is_loopback() => {
            found(Content::Aaaa(Ipv6Addr::LOCALHOST))
        }
        (Rtype::A, Some(address)) => found(Content::A(address)),
        (Rtype::A, None) => match names.address(name) {
            Some(address) => found(Content::A(address)),
            None => (OptRcode::REFUSED, Content::Nothing, Some("limit:names")),
        },
        _ => found(Content::Nothing),
    }
}

/// The name behind one of our own addresses, asked backwards.
fn pointer(name: &DnsName, names: &Names) -> Option<String> {
    let reversed = name.as_str().strip_suffix(".in-addr.arpa")?;
    let mut octets = reversed.split('.').map(|label| label.parse::<u8>().ok());
    let mut next = || octets.next().flatten();
    let (d, c, b, a) = (next()?, next()?, next()?, next()?);
    if octets.next().is_some() {
        return None;
    }
    match Ipv4Addr::new(a, b, c, d) {
        layout::GATEWAY_V4 => Some("gateway.sbx.internal".to_owned()),
        layout::HOST_V4 => Some("host.sbx.internal".to_owned()),
        address => names.name(address).map(|name| name.as_str().to_owned()),
    }
}

fn compose(
    query: &Message<&[u8]>,
    rcode: OptRcode,
    content: Content,
    carrier: Carrier,
) -> Option<Vec<u8>> {
    let mut builder = MessageBuilder::new_vec();
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
    let bytes = additional.finish();
    let room = match (carrier, &edns) {
        (Carrier::Tcp, _) => usize::from(u16::MAX),
        (Carrier::Udp, Some(opt)) => {
            usize::from(opt.udp_payload_size()).clamp(512, limits::DNS_UDP_ANSWER)
        }
        (Carrier::Udp, None) => 512,
    };
    if bytes.len() <= room {
        return Some(bytes);
    }
    // A question and one record do not reach 512 bytes twice over, but two
    // names of 255 bytes nearly do.
    let mut short = MessageBuilder::new_vec();
    *short.header_mut() = header;
    short.header_mut().set_qr(true);
    short.header_mut().set_tc(true);
    Some(short.finish())
}

fn add(
    answer: &mut AnswerBuilder<Vec<u8>>,
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
        Content::Nothing => Some(()),
    }
}
