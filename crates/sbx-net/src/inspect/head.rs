//! Heads of HTTP/1 messages, read so that nobody after us can read them
//! otherwise.
//!
//! Owns: what is a head, and how long its body is. Never: bytes of bodies,
//! verdicts. Whatever two readers could take for two things is refused: that
//! is what smuggling is made of.

use httparse::{EMPTY_HEADER, Status};
use sbx_spec::guard::{self, Guard};

use crate::limits;

/// Why a message is refused.
pub(super) type Refused = &'static str;

/// The fields of a head, in their order and spelling.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Fields(Vec<(String, Vec<u8>)>);

/// How long a body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Length {
    /// There is none.
    None,
    /// This many bytes.
    Bytes(u64),
    /// In chunks, trailers after the last.
    Chunks,
    /// Until the connection ends.
    UntilEnd,
}

/// The head of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    /// HTTP/1.1, not HTTP/1.0.
    pub(super) modern: bool,
    pub(super) fields: Fields,
    pub(super) length: Length,
    /// Asks to become a WebSocket.
    pub(super) web_socket: bool,
}

/// The head of a response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) modern: bool,
    reason: String,
    pub(super) fields: Fields,
    pub(super) length: Length,
}

impl Fields {
    fn of(parsed: &[httparse::Header<'_>]) -> Self {
        let field = |header: &httparse::Header<'_>| (header.name.to_owned(), header.value.to_vec());
        Self(parsed.iter().map(field).collect())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let same = move |field: &&(String, Vec<u8>)| field.0.eq_ignore_ascii_case(name);
        self.0.iter().filter(same).map(|(_, value)| &value[..])
    }

    /// The words of a list, over all its fields.
    fn words<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let words = |value: &'a [u8]| value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        self.all(name).flat_map(words)
    }

    fn lists(&self, name: &str, word: &str) -> bool {
        self.words(name)
            .any(|found| found.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// The one value of a field that comes once.
    pub(super) fn single<'a>(&'a self, name: &'a str) -> Result<Option<&'a str>, Refused> {
        let mut all = self.all(name);
        let (first, second) = (all.next(), all.next());
        if second.is_some() {
            return Err("a field that comes once comes twice");
        }
        first
            .map(|value| str::from_utf8(value).map_err(|_| "a field is not text"))
            .transpose()
    }

    fn remove(&mut self, names: &[&str]) {
        self.0
            .retain(|(name, _)| !names.iter().any(|one| name.eq_ignore_ascii_case(one)));
    }

    fn write(&self, into: &mut Vec<u8>) {
        for (name, value) in &self.0 {
            into.extend_from_slice(name.as_bytes());
            into.extend_from_slice(b": ");
            into.extend_from_slice(value);
            into.extend_from_slice(b"\r\n");
        }
        into.extend_from_slice(b"\r\n");
    }

    /// What the fields say about the length; `None` where they say nothing.
    fn length(&self, modern: bool) -> Result<Option<Length>, Refused> {
        let mut codings = self.all("transfer-encoding");
        let coding = codings.next();
        if codings.next().is_some() && !guard::out(Guard::OneLength) {
            return Err("two fields Transfer-Encoding");
        }
        let mut lengths = self.all("content-length");
        let length = lengths.next();
        if lengths.next().is_some() && !guard::out(Guard::OneLength) {
            return Err("two fields Content-Length");
        }
        match (coding, length) {
            (Some(_), Some(_)) if guard::out(Guard::OneLength) => Ok(Some(Length::Chunks)),
            (Some(_), Some(_)) => Err("both Transfer-Encoding and Content-Length"),
            (Some(_), None) if !modern => Err("Transfer-Encoding in HTTP/1.0"),
            (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => {
                Ok(Some(Length::Chunks))
            }
            (Some(_), None) => Err("a Transfer-Encoding other than chunked"),
            (None, Some(length)) => digits(length).map(|bytes| Some(Length::Bytes(bytes))),
            (None, None) => Ok(None),
        }
    }
}

fn digits(text: &[u8]) -> Result<u64, Refused> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let number = str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    match number {
        Some(number) if plain => Ok(number),
        _ => Err("a Content-Length that is no number"),
    }
}

/// Refuses line ends that some readers see and others do not.
fn lines_are_plain(head: &[u8]) -> Result<(), Refused> {
    let mut before = 0;
    for (place, byte) in head.iter().enumerate() {
        let after = head.get(place + 1);
        match byte {
            _ if guard::out(Guard::PlainLines) => {}
            b'\n' if before != b'\r' => return Err("a line that does not end in CR LF"),
            b'\r' if after != Some(&b'\n') => return Err("a CR within a line"),
            0 => return Err("a NUL byte"),
            _ => {}
        }
        before = *byte;
    }
    Ok(())
}

/// Fields that belong to one connection and would mean something else, or
/// nothing, on the next.
const OF_THIS_HOP: [&str; 4] = [
    "proxy-connection",
    "keep-alive",
    "http2-settings",
    "upgrade",
];

impl Request {
    /// Reads a whole head, the empty line included.
    pub(super) fn read(head: &[u8]) -> Result<Self, Refused> {
        lines_are_plain(head)?;
        if head.first() == Some(&b'\r') {
            return Err("an empty line before the request");
        }
        let mut fields = [EMPTY_HEADER; limits::HTTP_FIELDS];
        let mut parsed = httparse::Request::new(&mut fields);
        match parsed.parse(head) {
            Ok(Status::Complete(length)) if length == head.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err("too many fields"),
            _ => return Err("not a request"),
        }
        let (Some(method), Some(target), Some(version)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err("not a request");
        };
        let modern = version == 1;
        let mut fields = Fields::of(parsed.headers);
        let length = fields.length(modern)?.unwrap_or(Length::None);
        if method == "CONNECT" {
            return Err("CONNECT, which is for proxies");
        }
        let web_socket =
            modern && fields.lists("connection", "upgrade") && fields.lists("upgrade", "websocket");
        if web_socket && (fields.words("upgrade").count() != 1 || length != Length::None) {
            return Err("an Upgrade to more than a WebSocket");
        }
        let persists = modern && !fields.lists("connection", "close");
        let kept = !modern && fields.lists("connection", "keep-alive");
        // Whatever Connection names is for this hop; of those only what we
        // know may be named, or a field could be made to vanish on the way.
        let known = ["close", "keep-alive", "upgrade", "http2-settings", "te", ""];
        let strange = fields.words("connection").any(|word| {
            !known
                .iter()
                .any(|one| word.eq_ignore_ascii_case(one.as_bytes()))
        });
        if strange && !guard::out(Guard::KnownHopFields) {
            return Err("a Connection field that names others");
        }
        fields.remove(&["connection"]);
        fields.remove(&OF_THIS_HOP);
        let connection = match (web_socket, persists, kept) {
            (true, ..) => {
                fields.0.push(("Upgrade".to_owned(), b"websocket".to_vec()));
                Some("Upgrade")
            }
            (false, true, _) => None,
            (false, false, true) => Some("keep-alive"),
            (false, false, false) => Some("close"),
        };
        if let Some(connection) = connection {
            let value = connection.as_bytes().to_vec();
            fields.0.push(("Connection".to_owned(), value));
        }
        Ok(Self {
            method: method.to_owned(),
            target: target.to_owned(),
            modern,
            fields,
            length,
            web_socket,
        })
    }

    /// Whether another request may follow.
    pub(super) fn persists(&self) -> bool {
        persists(self.modern, &self.fields)
    }

    /// As it goes on.
    pub(super) fn written(&self) -> Vec<u8> {
        let version = if self.modern { 1 } else { 0 };
        let line = format!("{} {} HTTP/1.{version}\r\n", self.method, self.target);
        let mut bytes = line.into_bytes();
        self.fields.write(&mut bytes);
        bytes
    }
}

impl Response {
    /// Reads a whole head: the answer to `request`.
    pub(super) fn read(head: &[u8], request: &Request) -> Result<Self, Refused> {
        lines_are_plain(head)?;
        let mut fields = [EMPTY_HEADER; limits::HTTP_FIELDS];
        let mut parsed = httparse::Response::new(&mut fields);
        match parsed.parse(head) {
            Ok(Status::Complete(length)) if length == head.len() => {}
            Err(httparse::Error::TooManyHeaders) => return Err("too many fields"),
            _ => return Err("not a response"),
        }
        let (Some(status), Some(version)) = (parsed.code, parsed.version) else {
            return Err("not a response");
        };
        let modern = version == 1;
        let fields = Fields::of(parsed.headers);
        let said = fields.length(modern)?;
        let length = match status {
            101 if !request.web_socket => return Err("an Upgrade that nobody asked for"),
            100..=199 | 204 | 304 => Length::None,
            _ if request.method == "HEAD" => Length::None,
            _ => said.unwrap_or(Length::UntilEnd),
        };
        Ok(Self {
            status,
            modern,
            reason: parsed.reason.unwrap_or_default().to_owned(),
            fields,
            length,
        })
    }

    /// Whether another response may follow.
    pub(super) fn persists(&self) -> bool {
        self.length != Length::UntilEnd && persists(self.modern, &self.fields)
    }

    /// As it goes on.
    pub(super) fn written(&self) -> Vec<u8> {
        let version = if self.modern { 1 } else { 0 };
        let line = format!("HTTP/1.{version} {} {}\r\n", self.status, self.reason);
        let mut bytes = line.into_bytes();
        self.fields.write(&mut bytes);
        bytes
    }
}

fn persists(modern: bool, fields: &Fields) -> bool {
    if modern {
        !fields.lists("connection", "close")
    } else {
        fields.lists("connection", "keep-alive")
    }
}

/// The trailers after a last chunk, the empty line included, as they go on.
pub(super) fn trailers(bytes: &[u8]) -> Result<Vec<u8>, Refused> {
    lines_are_plain(bytes)?;
    let mut fields = [EMPTY_HEADER; limits::HTTP_FIELDS];
    let fields = match httparse::parse_headers(bytes, &mut fields) {
        Ok(Status::Complete((length, fields))) if length == bytes.len() => Fields::of(fields),
        _ => return Err("not trailers"),
    };
    // What decides how a message is read cannot come after it.
    let early = [
        "transfer-encoding",
        "content-length",
        "host",
        "connection",
        "upgrade",
    ];
    if early.iter().any(|name| fields.all(name).next().is_some()) {
        return Err("a trailer that belongs before the body");
    }
    let mut written = Vec::new();
    fields.write(&mut written);
    Ok(written)
}

/// The size in the line before a chunk, without its end.
pub(super) fn chunk_size(line: &[u8]) -> Result<u64, Refused> {
    // Extensions mean nothing to anybody and are not handed on.
    let size = line.split(|byte| *byte == b';').next().unwrap_or_default();
    let size = size.trim_ascii_end();
    let plain = (1..=15).contains(&size.len()) && size.iter().all(u8::is_ascii_hexdigit);
    let number = str::from_utf8(size)
        .ok()
        .and_then(|text| u64::from_str_radix(text, 16).ok());
    match number {
        Some(number) if plain => Ok(number),
        _ => Err("a chunk without a size"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(head: &str) -> Result<Request, Refused> {
        Request::read(head.replace('\n', "\r\n").as_bytes())
    }

    fn get() -> Request {
        request("GET / HTTP/1.1\nHost: a.example\n\n").unwrap()
    }

    fn response(head: &str, request: &Request) -> Result<Response, Refused> {
        Response::read(head.replace('\n', "\r\n").as_bytes(), request)
    }

    #[test]
    fn a_plain_request_goes_on_as_it_came() {
        let head =
            "POST /a?b HTTP/1.1\r\nHost: a.example\r\nX-Odd: \tvalue\r\nContent-Length: 3\r\n\r\n";
        let read = Request::read(head.as_bytes()).unwrap();
        assert_eq!(read.length, Length::Bytes(3));
        assert!(read.persists());
        let again = Request::read(&read.written()).unwrap();
        assert_eq!(again, read);
        assert!(
            String::from_utf8(read.written())
                .unwrap()
                .contains("X-Odd: value\r\n")
        );
    }

    #[test]
    fn what_two_readers_could_read_in_two_ways_is_refused() {
        for fields in [
            "Content-Length: 1\nContent-Length: 1",
            "Content-Length: 1\nContent-Length: 2",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length: 0x1",
            "Content-Length: -1",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Content-Length: 3\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\nTransfer-Encoding: chunked",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: \u{b}chunked",
            "Transfer-Encoding : chunked",
            " Transfer-Encoding: chunked",
            "X: a\n b",
            "X: a\n\tb",
            "X",
            ": a",
            "Connection: Content-Length",
            "Connection: close, Host",
            "Connection: upgrade\nUpgrade: websocket, h2c",
            "Connection: upgrade\nUpgrade: websocket\nContent-Length: 1",
        ] {
            let head = format!("GET / HTTP/1.1\nHost: a.example\n{fields}\n\n");
            assert!(request(&head).is_err(), "{fields:?}");
        }
        for head in [
            "GET / HTTP/1.1\nHost: a.example\n\nGET",
            "\nGET / HTTP/1.1\nHost: a.example\n\n",
            "GET  / HTTP/1.1\nHost: a.example\n\n",
            "GET / HTTP/1.1 \nHost: a.example\n\n",
            "GET / HTTP/2.0\nHost: a.example\n\n",
            "GET /\n\n",
            "G\u{e9}T / HTTP/1.1\n\n",
            "CONNECT a.example:443 HTTP/1.1\nHost: a.example\n\n",
            "POST / HTTP/1.0\nHost: a.example\nTransfer-Encoding: chunked\n\n",
        ] {
            assert!(request(head).is_err(), "{head:?}");
        }
    }

    #[test]
    fn line_ends_are_carriage_return_and_line_feed() {
        for head in [
            "GET / HTTP/1.1\nHost: a.example\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a.example\n\n",
            "GET / HTTP/1.1\r\nHost: a.ex\rample\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\0\r\n\r\n",
        ] {
            assert!(Request::read(head.as_bytes()).is_err(), "{head:?}");
        }
    }

    #[test]
    fn a_web_socket_is_asked_for_and_another_upgrade_is_not_handed_on() {
        let asked = request(
            "GET / HTTP/1.1\nHost: a\nConnection: keep-alive, Upgrade\nUpgrade: WebSocket\n\n",
        )
        .unwrap();
        assert!(asked.web_socket);
        let written = String::from_utf8(asked.written()).unwrap();
        assert!(
            written.contains("Upgrade: websocket\r\nConnection: Upgrade\r\n"),
            "{written}"
        );
        let other = request(
            "GET / HTTP/1.1\nHost: a\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\n\
             HTTP2-Settings: AAA\n\n",
        )
        .unwrap();
        assert!(!other.web_socket);
        let written = String::from_utf8(other.written()).unwrap().to_lowercase();
        assert!(
            !written.contains("upgrade") && !written.contains("http2"),
            "{written}"
        );
    }

    #[test]
    fn the_length_of_a_response_follows_from_its_request_too() {
        let head = request("HEAD / HTTP/1.1\nHost: a\n\n").unwrap();
        let long = "HTTP/1.1 200 OK\nContent-Length: 5\n\n";
        assert_eq!(response(long, &head).unwrap().length, Length::None);
        assert_eq!(response(long, &get()).unwrap().length, Length::Bytes(5));
        for status in [100, 103, 204, 304] {
            let text = format!("HTTP/1.1 {status} X\nContent-Length: 5\n\n");
            assert_eq!(response(&text, &get()).unwrap().length, Length::None);
        }
        let open = response("HTTP/1.1 200 OK\n\n", &get()).unwrap();
        assert_eq!((open.length, open.persists()), (Length::UntilEnd, false));
        let chunks = response("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n", &get()).unwrap();
        assert_eq!((chunks.length, chunks.persists()), (Length::Chunks, true));
        assert!(response("HTTP/1.1 101 Switching Protocols\n\n", &get()).is_err());
        let both = "HTTP/1.1 200 OK\nContent-Length: 5\nTransfer-Encoding: chunked\n\n";
        assert!(response(both, &get()).is_err());
    }

    #[test]
    fn an_old_request_persists_only_where_it_says_so() {
        assert!(!request("GET / HTTP/1.0\nHost: a\n\n").unwrap().persists());
        let kept = request("GET / HTTP/1.0\nHost: a\nConnection: keep-alive\n\n").unwrap();
        assert!(kept.persists());
        let closed = request("GET / HTTP/1.1\nHost: a\nConnection: Close\n\n").unwrap();
        assert!(!closed.persists());
        assert!(!Request::read(&closed.written()).unwrap().persists());
    }

    #[test]
    fn chunk_sizes_are_plain_hexadecimal() {
        assert_eq!(chunk_size(b"1aF"), Ok(0x1af));
        assert_eq!(chunk_size(b"5;name=value"), Ok(5));
        for line in ["", "+5", "0x5", "-1", " 5", "g", "1000000000000000", "5 5"] {
            assert!(chunk_size(line.as_bytes()).is_err(), "{line:?}");
        }
    }

    #[test]
    fn trailers_cannot_change_how_a_message_was_read() {
        assert_eq!(trailers(b"\r\n").unwrap(), b"\r\n");
        assert_eq!(
            trailers(b"Digest: a\r\n\r\n").unwrap(),
            b"Digest: a\r\n\r\n"
        );
        for text in [
            "Content-Length: 1\r\n\r\n",
            "Host: b\r\n\r\n",
            "X\r\n\r\n",
            "A: b\n\n",
        ] {
            assert!(trailers(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_read_is_read_the_same_once_written(bytes in "[ -~\r\n]{0,80}") {
            let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{bytes}\r\n\r\n");
            if let Ok(read) = Request::read(head.as_bytes()) {
                proptest::prop_assert_eq!(Request::read(&read.written()), Ok(read));
            }
        }
    }
}
