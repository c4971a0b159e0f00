//! The first words of a guest on a connection to a name: what they are, and
//! for TLS which server they ask for.
//!
//! Owns: reading. Never: answers, judges, keeps bytes. What is said here is
//! looked at once, before any of it goes on.

mod server_name;

use rustls::server::Acceptor;

use crate::limits;
use server_name::Asked;

/// What the first bytes are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Opening {
    /// Not to be told yet.
    Unclear,
    /// A TLS hello, whole; the server name that it asks for.
    Tls(Option<String>),
    /// The first line of a request of HTTP/1.
    Http,
    /// The preface of HTTP/2.
    Http2,
    /// Anything else.
    Other,
    /// Begins like one of those and goes on like none.
    Malformed(&'static str),
}

/// The first byte of TLS from a client (RFC 8446, 5.1).
pub(crate) const HANDSHAKE: u8 = 0x16;
const MAJOR: u8 = 3;

/// Looks at everything that the guest has said so far.
pub(crate) fn read(bytes: &[u8]) -> Opening {
    match bytes {
        [] | [HANDSHAKE] => Opening::Unclear,
        [HANDSHAKE, MAJOR, ..] => hello(bytes),
        _ => request(bytes),
    }
}

fn hello(bytes: &[u8]) -> Opening {
    const MALFORMED: Opening = Opening::Malformed("default:tls-hello");
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    loop {
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let known = accepted.client_hello().server_name().map(str::to_owned);
                return match server_name::read(bytes) {
                    Asked::Nobody => Opening::Tls(None),
                    Asked::Host(name) if is_address(&name) => Opening::Tls(None),
                    // What only one of two readers takes for a name is none.
                    Asked::Host(name) if is_same(known, &name) => Opening::Tls(Some(name)),
                    Asked::Host(_) | Asked::Unclear => Opening::Malformed(UNCLEAR_NAME),
                };
            }
            Ok(None) if rest.is_empty() => break,
            Ok(None) => {}
            Err(_) => return MALFORMED,
        }
        if acceptor.read_tls(&mut rest).is_err() {
            return MALFORMED;
        }
    }
    if bytes.len() >= limits::OPENING {
        MALFORMED
    } else {
        Opening::Unclear
    }
}

/// The hello names its server in a way that servers read in more than one.
const UNCLEAR_NAME: &str = "default:tls-server-name";

/// Some clients name an address, which servers ignore.
fn is_address(name: &str) -> bool {
    name.parse::<std::net::IpAddr>().is_ok()
}

fn is_same(known: Option<String>, name: &str) -> bool {
    let plain = |name: &str| name.trim_end_matches('.').to_ascii_lowercase();
    known.is_some_and(|known| plain(&known) == plain(name))
}

/// Empty lines before a request are skipped, as servers do.
fn request(bytes: &[u8]) -> Opening {
    let start = bytes.iter().position(|byte| !b"\r\n".contains(byte));
    let text = start.and_then(|start| bytes.get(start..)).unwrap_or(&[]);
    let method = text.iter().position(|byte| !is_token(*byte));
    let line = text.iter().position(|byte| *byte == b'\n');
    let limit = |open| match open {
        true if bytes.len() >= limits::OPENING => Opening::Malformed("default:http-opening"),
        true => Opening::Unclear,
        false => Opening::Other,
    };
    match (method, line) {
        (None, _) => limit(text.len() <= LONGEST_METHOD),
        (Some(end), _) if end == 0 || end > LONGEST_METHOD || text.get(end) != Some(&b' ') => {
            Opening::Other
        }
        // Other protocols begin with a word, too, and wait for an answer to
        // what is no line (git's own does).
        (Some(_), None) => limit(!text.iter().any(|byte| is_binary(*byte))),
        (Some(_), Some(end)) => {
            let line = text.get(..end).unwrap_or_default().trim_ascii_end();
            let version = line.rsplit(|byte| *byte == b' ').next();
            if line == b"PRI * HTTP/2.0" {
                Opening::Http2
            } else if version.is_some_and(|version| version.starts_with(b"HTTP/")) {
                Opening::Http
            } else {
                Opening::Other
            }
        }
    }
}

/// Beyond any registered method.
const LONGEST_METHOD: usize = 32;

fn is_binary(byte: u8) -> bool {
    byte < b' ' && !b"\t\r\n".contains(&byte)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// What a client of rustls says first.
    fn hello_for(name: &'static str) -> Vec<u8> {
        let config =
            ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth();
        let name = ServerName::try_from(name).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_hello_tells_its_server_once_it_is_whole() {
        let bytes = hello_for("a.example");
        for end in 0..bytes.len() {
            assert_eq!(read(&bytes[..end]), Opening::Unclear, "{end}");
        }
        let whole = Opening::Tls(Some("a.example".to_owned()));
        assert_eq!(read(&bytes), whole);
        let more = [&bytes[..], b"more"].concat();
        assert_eq!(read(&more), whole);
    }

    #[test]
    fn a_hello_in_two_records_tells_its_server_too() {
        let bytes = hello_for("a.example");
        let (body, header) = (&bytes[5..], &bytes[..3]);
        let record = |part: &[u8]| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [header, &length, part].concat()
        };
        let (first, second) = body.split_at(60);
        let cut = [record(first), record(second)].concat();
        assert_eq!(read(&cut), Opening::Tls(Some("a.example".to_owned())));
    }

    #[test]
    fn a_hello_to_an_address_names_no_server() {
        assert_eq!(read(&hello_for("192.0.2.1")), Opening::Tls(None));
    }

    #[test]
    fn what_only_begins_like_a_hello_is_malformed() {
        let mut bytes = hello_for("a.example");
        bytes[5] = 2;
        assert!(matches!(read(&bytes), Opening::Malformed(_)));
        let endless = [
            &[HANDSHAKE, MAJOR, 1, 0x40, 0, 1, 0, 0xff, 0xff][..],
            &[0; 70_000],
        ]
        .concat();
        assert!(matches!(read(&endless), Opening::Malformed(_)));
    }

    #[test]
    fn a_request_is_known_by_its_line() {
        for text in [
            "GET / HTTP/1.1\r\n",
            "\r\n\r\nGET / HTTP/1.0\n",
            "X-Y a b HTTP/1.1 \r\n",
        ] {
            assert_eq!(read(text.as_bytes()), Opening::Http, "{text}");
        }
        assert_eq!(read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), Opening::Http2);
        for text in ["", "\r\n", "GET", "GET / HTT", "PING"] {
            assert_eq!(read(text.as_bytes()), Opening::Unclear, "{text}");
        }
        for text in [
            "PING\r\n",
            "0032git-upload-pack /a.git\0host=a.example\0",
            "NICK a\r\n",
            "SSH-2.0-x\r\n",
            "\0\0",
            "{\"a\":1}",
            "GET\t/ HTTP/1.1\n",
        ] {
            assert_eq!(read(text.as_bytes()), Opening::Other, "{text}");
        }
        let endless = [&b"GET /"[..], &[b'a'; 70_000]].concat();
        assert!(matches!(read(&endless), Opening::Malformed(_)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let _any = read(&bytes);
            let _any = read(&[&[HANDSHAKE, MAJOR, 1][..], &bytes].concat());
        }
    }
}
