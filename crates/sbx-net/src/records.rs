//! Mail servers, texts and services of a name: what its own name servers say,
//! asked the way the host asks them.
//!
//! Owns: which records of an answer are handed on. Nothing of the answer's own
//! bytes is: the guest gets a message that is made anew from what was read.
//! Never: policy; whoever asks here was allowed to.

use domain::base::iana::{Rcode, Rtype};
use domain::base::name::ToName;
use domain::base::{Message, Name, ParseRecordData, ParsedName, Ttl};
use domain::rdata::{Mx, Srv, Txt};
use sbx_spec::DnsName;
use sbx_sys::resolver::{self, NoAnswer};

use crate::limits;

/// A type of records that is asked for elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Mail servers.
    Mx,
    /// Texts.
    Txt,
    /// Services.
    Srv,
}

/// What is asked of a name's own servers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Question {
    pub(crate) name: DnsName,
    pub(crate) kind: Kind,
}

/// What they say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// These, possibly none.
    Records(Vec<Record>),
    /// There is no such name.
    NoName,
    /// Nothing that can be handed on.
    Failed,
}

/// One record of the name that was asked, whatever name it is an alias of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    pub(crate) ttl: Ttl,
    pub(crate) data: Data,
}

/// What it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Data {
    Mx(Mx<Name<Vec<u8>>>),
    Txt(Txt<Vec<u8>>),
    Srv(Srv<Name<Vec<u8>>>),
}

impl Found {
    /// How the question ended, in records.
    pub(crate) fn how(&self) -> &'static str {
        match self {
            Self::Records(_) => "answered",
            Self::NoName => "no such name",
            Self::Failed => "no answer",
        }
    }
}

impl Kind {
    /// The one of this number, where there is one.
    pub(crate) fn of(kind: Rtype) -> Option<Self> {
        match kind {
            Rtype::MX => Some(Self::Mx),
            Rtype::TXT => Some(Self::Txt),
            Rtype::SRV => Some(Self::Srv),
            _ => None,
        }
    }

    fn rtype(self) -> Rtype {
        match self {
            Self::Mx => Rtype::MX,
            Self::Txt => Rtype::TXT,
            Self::Srv => Rtype::SRV,
        }
    }

    /// Its name.
    #[cfg(test)]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mx => "MX",
            Self::Txt => "TXT",
            Self::Srv => "SRV",
        }
    }
}

/// Asks, and waits for the answer.
pub(crate) fn look_up(question: &Question) -> Found {
    let kind = question.kind.rtype().to_int();
    match resolver::query(question.name.as_str(), kind, limits::DNS_ANSWER) {
        Ok(answer) => read(&answer, question.kind).unwrap_or(Found::Failed),
        Err(NoAnswer::NoName) => Found::NoName,
        Err(NoAnswer::NoRecords) => Found::Records(Vec::new()),
        Err(NoAnswer::Failed) => Found::Failed,
    }
}

/// Bytes of the shortest record: the root, its type, class and time to live,
/// and the length of no data.
const RECORD: usize = 11;

/// Reads an answer; `None` where something of it is malformed, or names what
/// is no name of a host.
pub(crate) fn read(answer: &[u8], kind: Kind) -> Option<Found> {
    let message = Message::from_octets(answer).ok()?;
    if !message.header().qr() || message.header().rcode() != Rcode::NOERROR {
        return None;
    }
    // Following aliases takes time by the number of records that is claimed,
    // and of 65,535 it has no sum.
    if usize::from(message.header_counts().ancount()) > answer.len() / RECORD {
        return None;
    }
    let question = message.sole_question().ok()?;
    if question.qtype() != kind.rtype() {
        return None;
    }
    let records = match kind {
        Kind::Mx => collect(&message, |mx: Mx<ParsedName<_>>| {
            let exchange = target(mx.exchange())?;
            Some(Data::Mx(Mx::new(mx.preference(), exchange)))
        }),
        Kind::Txt => collect(&message, |txt: Txt<&[u8]>| {
            let mut octets = Vec::with_capacity(txt.len());
            for text in txt.iter() {
                octets.push(u8::try_from(text.len()).ok()?);
                octets.extend_from_slice(text);
            }
            Some(Data::Txt(Txt::from_octets(octets).ok()?))
        }),
        Kind::Srv => collect(&message, |srv: Srv<ParsedName<_>>| {
            let target = target(srv.target())?;
            let (priority, weight, port) = (srv.priority(), srv.weight(), srv.port());
            Some(Data::Srv(Srv::new(priority, weight, port, target)))
        }),
    }?;
    Some(Found::Records(records))
}

/// The records of one type that belong to the name that was asked.
fn collect<'a, T: ParseRecordData<'a, &'a [u8]>>(
    message: &'a Message<&'a [u8]>,
    read: impl Fn(T) -> Option<Data>,
) -> Option<Vec<Record>> {
    let owner = message.canonical_name()?;
    let mut records = Vec::new();
    for record in message.answer().ok()?.limit_to_in::<T>() {
        let record = record.ok()?;
        if record.owner() == &owner {
            records.push(Record {
                ttl: record.ttl(),
                data: read(record.into_data())?,
            });
        }
    }
    Some(records)
}

/// The name of a host, or the root, which says that there is none.
fn target(name: &ParsedName<&[u8]>) -> Option<Name<Vec<u8>>> {
    if !name.is_root() {
        DnsName::from_labels(
            name.iter()
                .filter(|label| !label.is_root())
                .collect::<Vec<_>>()
                .iter()
                .map(|label| label.as_slice()),
        )
        .ok()?;
    }
    Some(name.to_name())
}

#[cfg(test)]
mod tests {
    use domain::base::MessageBuilder;
    use domain::base::iana::Class;
    use domain::rdata::Cname;
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Name<Vec<u8>> {
        text.parse().unwrap()
    }

    /// An answer about `a.example`, which is an alias of `b.example`.
    fn answer(kind: Rtype, records: &[(&str, Data)]) -> Vec<u8> {
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_qr(true);
        let mut builder = builder.question();
        builder.push((name("a.example"), kind, Class::IN)).unwrap();
        let mut builder = builder.answer();
        let ttl = Ttl::from_secs(7);
        let alias = Cname::new(name("b.example"));
        builder
            .push((name("A.example"), Class::IN, ttl, alias))
            .unwrap();
        for (owner, data) in records {
            let owner = name(owner);
            match data {
                Data::Mx(mx) => builder.push((owner, Class::IN, ttl, mx)),
                Data::Txt(txt) => builder.push((owner, Class::IN, ttl, txt)),
                Data::Srv(srv) => builder.push((owner, Class::IN, ttl, srv)),
            }
            .unwrap();
        }
        builder.finish()
    }

    fn mx(host: &str) -> Data {
        Data::Mx(Mx::new(10, name(host)))
    }

    fn text(bytes: &[u8]) -> Data {
        Data::Txt(Txt::build_from_slice(bytes).unwrap())
    }

    fn said(answer: &[u8], kind: Kind) -> Vec<Data> {
        match read(answer, kind) {
            Some(Found::Records(records)) => {
                records.into_iter().map(|record| record.data).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn records_of_the_name_and_what_it_is_an_alias_of_are_read_and_no_others() {
        let service = Data::Srv(Srv::new(1, 2, 3, name("db.example")));
        for (rtype, kind, own) in [
            (Rtype::MX, Kind::Mx, mx("mail.example")),
            (Rtype::MX, Kind::Mx, mx(".")),
            (Rtype::TXT, Kind::Txt, text(&[0xff; 700])),
            (Rtype::TXT, Kind::Txt, text(b"")),
            (Rtype::SRV, Kind::Srv, service),
        ] {
            let records = [
                ("B.Example", own.clone()),
                ("c.example", mx("evil.example")),
                ("c.example", text(b"evil")),
                ("a.example", text(b"beside an alias")),
            ];
            assert_eq!(said(&answer(rtype, &records), kind), [own]);
        }
    }

    #[test]
    fn an_answer_to_something_else_or_with_a_name_that_is_none_is_no_answer() {
        let good = answer(Rtype::MX, &[("b.example", mx("mail.example"))]);
        assert!(read(&good, Kind::Mx).is_some());
        assert_eq!(read(&good, Kind::Txt), None);
        let mut query = good.clone();
        query[2] &= 0x7f;
        assert_eq!(read(&query, Kind::Mx), None);
        let mut failed = good.clone();
        failed[3] |= 2;
        assert_eq!(read(&failed, Kind::Mx), None);
        assert_eq!(read(&good[..good.len() - 1], Kind::Mx), None);
        for host in [
            "a\\000b.example",
            "a\\.b.example",
            "127.0.0.1",
            "-a.example",
        ] {
            let bad = answer(Rtype::MX, &[("b.example", mx(host))]);
            assert_eq!(read(&bad, Kind::Mx), None, "{host}");
        }
    }

    proptest! {
        #[test]
        fn random_answers_are_read_or_not(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = answer(Rtype::MX, &[("b.example", mx("mail.example"))]);
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(1 + cut.index(bytes.len() * 2));
            crate::replay::records(&bytes);
        }
    }
}
