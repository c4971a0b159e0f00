//! What programs say that want a proxy: HTTP's CONNECT and absolute targets,
//! and SOCKS 5. Both only name where to go; the gate judges it like any other
//! connection.

use std::net::IpAddr;

use httparse::{EMPTY_HEADER, Status};
use sbx_spec::{Host, HostPort};

use crate::limits;

/// How a proxy is spoken with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Language {
    /// HTTP/1.
    Http,
    /// SOCKS 5; whether the methods have been agreed on.
    Socks(bool),
}

/// What was asked of a proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    /// Nothing whole yet.
    More,
    /// To be answered with this, and then there is more. So many bytes of
    /// what was heard are used.
    Greeted(&'static [u8], usize),
    /// A connection.
    Open(Opened),
    /// Nothing that is done: to be answered with this and closed.
    Refused(&'static [u8]),
}

/// A connection that a proxy is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Opened {
    pub(crate) target: HostPort,
    /// The answer once it stands.
    pub(crate) ready: &'static [u8],
    /// What the server is to hear first.
    pub(crate) first: Vec<u8>,
}

const CONNECTED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";
const NO_REQUEST: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: \
    50\r\nConnection: close\r\n\r\nsbx: this is a proxy: CONNECT or http://HOST/PATH\n";
/// Version 5, no method of those offered.
const NO_METHOD: &[u8] = &[5, 0xff];
/// Version 5, no authentication.
const NO_AUTHENTICATION: &[u8] = &[5, 0];
const SOCKS_READY: &[u8] = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0];
const SOCKS_NO_COMMAND: &[u8] = &[5, 7, 0, 1, 0, 0, 0, 0, 0, 0];
const SOCKS_NO_ADDRESS: &[u8] = &[5, 8, 0, 1, 0, 0, 0, 0, 0, 0];

impl Language {
    /// Reads what was heard so far.
    pub(crate) fn read(self, heard: &[u8]) -> Asked {
        let asked = match self {
            Self::Http => http(heard),
            Self::Socks(false) => methods(heard),
            Self::Socks(true) => socks(heard),
        };
        match asked {
            Some(asked) => asked,
            None if heard.len() >= limits::ADAPTER_REQUEST => self.refused(),
            None => Asked::More,
        }
    }

    fn refused(self) -> Asked {
        match self {
            Self::Http => Asked::Refused(NO_REQUEST),
            Self::Socks(_) => Asked::Refused(SOCKS_NO_COMMAND),
        }
    }

    /// What is said of a connection that did not come about: whether the
    /// policy denies it. HTTP says that with words, which others have.
    pub(crate) fn failed(self, denied: bool) -> &'static [u8] {
        match (self, denied) {
            (Self::Http, _) => {
                b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain\r\nContent-Length: \
                    30\r\nConnection: close\r\n\r\nsbx: the host does not answer\n"
            }
            // Not allowed by ruleset; host unreachable.
            (Self::Socks(_), true) => &[5, 2, 0, 1, 0, 0, 0, 0, 0, 0],
            (Self::Socks(_), false) => &[5, 4, 0, 1, 0, 0, 0, 0, 0, 0],
        }
    }
}

fn http(heard: &[u8]) -> Option<Asked> {
    const REFUSED: Option<Asked> = Some(Asked::Refused(NO_REQUEST));
    let end = heard.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let (head, rest) = heard.split_at_checked(end)?;
    let mut fields = [EMPTY_HEADER; limits::HTTP_FIELDS];
    let mut parsed = httparse::Request::new(&mut fields);
    if parsed.parse(head) != Ok(Status::Complete(end)) {
        return REFUSED;
    }
    let (Some(method), Some(target)) = (parsed.method, parsed.path) else {
        return REFUSED;
    };
    if method == "CONNECT" {
        let Ok(target) = target.parse() else {
            return REFUSED;
        };
        return Some(Asked::Open(Opened {
            target,
            ready: CONNECTED,
            first: rest.to_vec(),
        }));
    }
    let Some(rest_of_target) = target.strip_prefix("http://") else {
        return REFUSED;
    };
    let (authority, path) = match rest_of_target.find('/') {
        Some(at) => rest_of_target.split_at(at),
        None => (rest_of_target, "/"),
    };
    let written = authority.parse::<HostPort>();
    let Ok(target) = written.or_else(|_| format!("{authority}:80").parse()) else {
        return REFUSED;
    };
    // One request for each connection: the next may be for another server.
    let line = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    let mut first = line.into_bytes();
    let of_proxies = [
        "connection",
        "proxy-connection",
        "proxy-authorization",
        "keep-alive",
    ];
    for field in parsed.headers.iter() {
        if of_proxies
            .iter()
            .any(|name| field.name.eq_ignore_ascii_case(name))
        {
            continue;
        }
        first.extend_from_slice(field.name.as_bytes());
        first.extend_from_slice(b": ");
        first.extend_from_slice(field.value);
        first.extend_from_slice(b"\r\n");
    }
    first.extend_from_slice(b"\r\n");
    first.extend_from_slice(rest);
    Some(Asked::Open(Opened {
        target,
        ready: b"",
        first,
    }))
}

fn methods(heard: &[u8]) -> Option<Asked> {
    let (&version, rest) = heard.split_first()?;
    if version != 5 {
        return Some(Asked::Refused(NO_METHOD));
    }
    let (&count, rest) = rest.split_first()?;
    let offered = rest.get(..usize::from(count))?;
    if offered.contains(&0) {
        Some(Asked::Greeted(NO_AUTHENTICATION, 2 + usize::from(count)))
    } else {
        Some(Asked::Refused(NO_METHOD))
    }
}

fn socks(heard: &[u8]) -> Option<Asked> {
    let ([version, command, _, kind], rest) = heard.split_first_chunk()?;
    if *version != 5 || *command != 1 {
        return Some(Asked::Refused(SOCKS_NO_COMMAND));
    }
    let (host, rest) = match kind {
        1 => {
            let (address, rest) = rest.split_first_chunk::<4>()?;
            (Some(Host::Address(IpAddr::from(*address))), rest)
        }
        4 => {
            let (address, rest) = rest.split_first_chunk::<16>()?;
            (
                Some(Host::Address(IpAddr::from(*address).to_canonical())),
                rest,
            )
        }
        3 => {
            let (&length, rest) = rest.split_first()?;
            let (name, rest) = rest.split_at_checked(usize::from(length))?;
            (
                str::from_utf8(name).ok().and_then(|name| name.parse().ok()),
                rest,
            )
        }
        _ => return Some(Asked::Refused(SOCKS_NO_ADDRESS)),
    };
    let (port, first) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    let (Some(host), 1..) = (host, port) else {
        return Some(Asked::Refused(SOCKS_NO_ADDRESS));
    };
    Some(Asked::Open(Opened {
        target: HostPort { host, port },
        ready: SOCKS_READY,
        first: first.to_vec(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(asked: Asked) -> Opened {
        match asked {
            Asked::Open(opened) => opened,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn connect_names_a_server_and_what_follows_is_for_it() {
        let asked = b"CONNECT a.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\nhello";
        let read = opened(Language::Http.read(asked));
        assert_eq!(read.target.to_string(), "a.example:443");
        assert_eq!((read.ready, &read.first[..]), (CONNECTED, &b"hello"[..]));
    }

    #[test]
    fn an_absolute_target_becomes_a_request_of_its_server() {
        let asked = b"GET http://a.example/b?c HTTP/1.1\r\nHost: a.example\r\nProxy-Connection: \
            keep-alive\r\nProxy-Authorization: Basic x\r\nConnection: keep-alive\r\nX: y\r\n\r\n";
        let read = opened(Language::Http.read(asked));
        assert_eq!(read.target.to_string(), "a.example:80");
        assert_eq!(
            String::from_utf8(read.first).unwrap(),
            "GET /b?c HTTP/1.1\r\nConnection: close\r\nHost: a.example\r\nX: y\r\n\r\n"
        );
        let bare = opened(Language::Http.read(b"GET http://[::1]:81 HTTP/1.0\r\n\r\n"));
        assert_eq!(bare.target.to_string(), "[::1]:81");
        assert!(bare.first.starts_with(b"GET / HTTP/1.1\r\n"));
    }

    #[test]
    fn what_no_proxy_does_is_refused() {
        for asked in [
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET https://a.example/ HTTP/1.1\r\n\r\n",
            "GET http:///a HTTP/1.1\r\n\r\n",
            "GET http://a@b.example/ HTTP/1.1\r\n\r\n",
            "CONNECT a.example HTTP/1.1\r\n\r\n",
            "CONNECT a.example:0 HTTP/1.1\r\n\r\n",
            "CONNECT http://a.example:80 HTTP/1.1\r\n\r\n",
            "\u{0}\r\n\r\n",
        ] {
            assert_eq!(
                Language::Http.read(asked.as_bytes()),
                Asked::Refused(NO_REQUEST),
                "{asked:?}"
            );
        }
        assert_eq!(Language::Http.read(b"GET http://a.ex"), Asked::More);
        let endless = vec![b'a'; limits::ADAPTER_REQUEST];
        assert_eq!(Language::Http.read(&endless), Asked::Refused(NO_REQUEST));
    }

    #[test]
    fn socks_agrees_on_no_authentication_and_connects_by_name_or_address() {
        let greet = |bytes: &[u8]| Language::Socks(false).read(bytes);
        assert_eq!(greet(&[5, 2, 1]), Asked::More);
        assert_eq!(
            greet(&[5, 2, 1, 0, 9]),
            Asked::Greeted(NO_AUTHENTICATION, 4)
        );
        assert_eq!(greet(&[5, 1, 2]), Asked::Refused(NO_METHOD));
        assert_eq!(greet(&[4, 1]), Asked::Refused(NO_METHOD));
        let ask = |bytes: &[u8]| Language::Socks(true).read(bytes);
        let named = [&[5, 1, 0, 3, 9][..], b"a.example", &[1, 0xbb], b"hi"].concat();
        for end in 0..named.len() - 2 {
            assert_eq!(ask(&named[..end]), Asked::More, "{end}");
        }
        let read = opened(ask(&named));
        assert_eq!(read.target.to_string(), "a.example:443");
        assert_eq!(&read.first[..], b"hi");
        let v4 = opened(ask(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 80]));
        assert_eq!(v4.target.to_string(), "192.0.2.1:80");
        let mapped = [
            &[5, 1, 0, 4][..],
            &[0; 10],
            &[0xff, 0xff, 10, 0, 0, 1, 0, 80],
        ]
        .concat();
        assert_eq!(opened(ask(&mapped)).target.to_string(), "10.0.0.1:80");
    }

    #[test]
    fn socks_refuses_other_commands_and_what_is_no_host() {
        let ask = |bytes: &[u8]| Language::Socks(true).read(bytes);
        assert_eq!(ask(&[5, 2, 0, 1]), Asked::Refused(SOCKS_NO_COMMAND));
        assert_eq!(ask(&[5, 1, 0, 9]), Asked::Refused(SOCKS_NO_ADDRESS));
        assert_eq!(
            ask(&[5, 1, 0, 3, 0, 0, 80]),
            Asked::Refused(SOCKS_NO_ADDRESS)
        );
        assert_eq!(
            ask(&[5, 1, 0, 3, 2, 0xff, 0, 0, 80]),
            Asked::Refused(SOCKS_NO_ADDRESS)
        );
        assert_eq!(
            ask(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 0]),
            Asked::Refused(SOCKS_NO_ADDRESS)
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            for language in [Language::Http, Language::Socks(false), Language::Socks(true)] {
                let _any = language.read(&bytes);
            }
            let _any = Language::Socks(true).read(&[&[5, 1, 0, 3][..], &bytes].concat());
        }
    }
}
