//! One hostile input through the parsers of what the guest sends, for fuzz
//! targets and the tests that replay their corpora. Nothing is dialled.

use crate::device::packet::{self, Carried};
use crate::entry::dns::{self, Carrier};
use crate::entry::proxy::{Asked, Language};
use crate::entry::{icmp, tcp, udp};
use crate::inspect;
use crate::names::Names;
use crate::opening::{self, Opening};
use crate::records::{self, Found, Kind};

/// Reads an Ethernet frame and what it carries. Returns whether anything of
/// ours would act on it.
pub fn frame(bytes: &[u8]) -> bool {
    match packet::parse(bytes) {
        Some((_, Carried::Ip(packet))) => {
            let datagram = udp::parse(&packet);
            if let Some(datagram) = &datagram {
                let _ = dns(datagram.payload);
            }
            let segment = tcp::parse(&packet);
            datagram.is_some() || segment.is_some() || icmp::is_echo_request(&packet)
        }
        Some((_, Carried::Arp(_))) => true,
        None => false,
    }
}

/// Answers a message to the name server in every way there is. Returns
/// whether it got an answer.
pub fn dns(bytes: &[u8]) -> bool {
    let mut names = Names::default();
    let refusal = dns::refuse(bytes);
    let answers = [Carrier::Udp, Carrier::Tcp].map(|way| dns::answer(bytes, &mut names, way));
    refusal.is_some() || answers.iter().any(Option::is_some)
}

/// Reads an answer of another name server, and hands on what was read in
/// every way there is. Returns whether there was something.
pub fn records(bytes: &[u8]) -> bool {
    let kinds = [Kind::Mx, Kind::Txt, Kind::Srv];
    let found = kinds.map(|kind| records::read(bytes, kind));
    for found in found.iter().flatten() {
        for way in [Carrier::Udp, Carrier::Tcp] {
            // A question may stand where the answer is: its beginning is one.
            let _ = dns::hand_on(bytes, found, way);
        }
    }
    (found.iter().flatten())
        .any(|found| matches!(found, Found::Records(records) if !records.is_empty()))
}

/// Reads what a program says to a proxy, in every language there is. Returns
/// whether it asks for a connection in one of them.
pub fn proxy(bytes: &[u8]) -> bool {
    [
        Language::Http,
        Language::Socks(false),
        Language::Socks(true),
    ]
    .into_iter()
    .any(|language| matches!(language.read(bytes), Asked::Open(_)))
}

/// Looks at the first words of a guest. Returns whether they say what they
/// are and may go on.
pub fn opening(bytes: &[u8]) -> bool {
    matches!(
        opening::read(bytes),
        Opening::Tls(_) | Opening::Http | Opening::Http2
    )
}

/// Reads all that a client or a server says on a connection of HTTP/1.
/// Returns whether it is whole messages that go on.
pub fn http1(bytes: &[u8]) -> bool {
    inspect::replay::http1(bytes)
}

/// Serves a guest that says this on a connection of HTTP/2, and may make some
/// requests. Returns whether one of them goes on.
pub fn http2(bytes: &[u8]) -> bool {
    inspect::replay::http2(bytes)
}
