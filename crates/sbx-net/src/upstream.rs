//! The proxies that stand between this host and the network, where it has
//! some: a connection that the gate let through is asked of them instead of
//! dialled.
//!
//! Owns: which proxy serves whom, and the two languages. Never: judges. A
//! proxy is the user's own choice; what it answers is bounded all the same.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use sbx_spec::{Destination, DnsName};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::gate::{Intent, Pass};
use crate::limits;

/// The proxies of a host, as its variables name them. They may hold a
/// password, so that no form of it is shown.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxies {
    /// `HTTP_PROXY`: for port 80.
    pub http: Option<String>,
    /// `HTTPS_PROXY`: for every other port.
    pub https: Option<String>,
    /// `ALL_PROXY`: where the other two say nothing.
    pub all: Option<String>,
    /// `NO_PROXY`: hosts, domains, addresses and ranges without one.
    pub exceptions: Option<String>,
}

/// What an endpoint is started with besides its links.
#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Whether one more descriptor says whom to believe where TLS is ended:
    /// certificates in PEM, in a sealed memory file.
    pub trust: bool,
    /// The proxies that stand between this host and the network.
    pub proxies: Proxies,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxies").finish_non_exhaustive()
    }
}

/// A proxy that nobody here can speak with; holds its scheme, or nothing
/// where it is no address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProxyError(Option<String>);

impl fmt::Display for ProxyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(scheme) => write!(
                f,
                "{}: is not spoken, only http, socks5 and socks5h are",
                scheme.escape_default()
            ),
            None => f.write_str("it is no address of a proxy, such as http://proxy.example:3128"),
        }
    }
}

impl std::error::Error for ProxyError {}

impl Proxies {
    /// Whether every one of them can be spoken with.
    ///
    /// # Errors
    /// Why not, for the first of them; never with a password in it.
    pub fn check(&self) -> Result<(), ProxyError> {
        for proxy in [&self.http, &self.https, &self.all].into_iter().flatten() {
            let uri = match proxy.contains("://") {
                true => proxy.parse::<Uri>(),
                false => format!("http://{proxy}").parse(),
            };
            let uri = uri.map_err(|_| ProxyError(None))?;
            match uri.scheme_str() {
                Some("http" | "socks5" | "socks5h") if uri.host().is_some() => {}
                Some("http" | "socks5" | "socks5h") | None => return Err(ProxyError(None)),
                Some(other) => return Err(ProxyError(Some(other.to_owned()))),
            }
        }
        Ok(())
    }
}

/// Whether a connection to `name` goes by one of `proxies` that resolves
/// names: then it needs no address on this host.
#[must_use]
pub fn resolved_elsewhere(proxies: &Proxies, name: &DnsName, port: u16) -> bool {
    Ways::of(proxies)
        .way_to(name.as_str(), port)
        .is_some_and(|way| way.resolves())
}

/// Which proxy serves whom.
pub(crate) struct Ways(Option<Matcher>);

impl fmt::Debug for Ways {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ways").finish_non_exhaustive()
    }
}

/// A proxy, and how to speak with it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Proxy {
    host: String,
    port: u16,
    language: Language,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Language {
    /// HTTP, with the value of the field that says who asks.
    Http(Option<Vec<u8>>),
    /// SOCKS 5: name and password, and whether it resolves names.
    Socks(Option<(String, String)>, bool),
}

/// Where to, for a proxy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// A name that the proxy resolves.
    Name(String, u16),
    /// An address.
    Address(SocketAddr),
}

impl Ways {
    pub(crate) fn of(proxies: &Proxies) -> Self {
        if (&proxies.http, &proxies.https, &proxies.all) == (&None, &None, &None) {
            return Self(None);
        }
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let matcher = Matcher::builder()
            .http(text(&proxies.http))
            .https(text(&proxies.https))
            .all(text(&proxies.all))
            .no(text(&proxies.exceptions))
            .build();
        Self(Some(matcher))
    }

    /// The proxy for what a guest asks for, if there is one. The host itself
    /// is never asked of another.
    pub(crate) fn way(&self, intent: &Intent) -> Option<Proxy> {
        let host = match &intent.flow.destination {
            Destination::Name(name) | Destination::Resolved(name, _) => name.to_string(),
            Destination::Address(IpAddr::V4(address)) => address.to_string(),
            Destination::Address(IpAddr::V6(address)) => format!("[{address}]"),
            Destination::HostService | Destination::Gateway => return None,
        };
        self.way_to(&host, intent.flow.port)
    }

    fn way_to(&self, host: &str, port: u16) -> Option<Proxy> {
        let scheme = if port == 80 { "http" } else { "https" };
        let asked: Uri = format!("{scheme}://{host}:{port}/").parse().ok()?;
        let found = self.0.as_ref()?.intercept(&asked)?;
        let uri = found.uri();
        let socks = |resolves| {
            let login = found.raw_auth();
            let login = login.map(|(name, password)| (name.to_owned(), password.to_owned()));
            (Language::Socks(login, resolves), 1080)
        };
        let (language, usual) = match uri.scheme_str() {
            Some("socks5") => socks(false),
            Some("socks5h") => socks(true),
            _ => {
                let login = found.basic_auth().map(|value| value.as_bytes().to_vec());
                (Language::Http(login), 80)
            }
        };
        let host = uri.host()?;
        let bare = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        Some(Proxy {
            host: bare.unwrap_or(host).to_owned(),
            port: uri.port_u16().unwrap_or(usual),
            language,
        })
    }
}

impl Proxy {
    /// Whether it is told names, and resolves them.
    pub(crate) fn resolves(&self) -> bool {
        !matches!(self.language, Language::Socks(_, false))
    }

    /// What to ask it for; `None` where it needs an address and there is none.
    pub(crate) fn target(&self, intent: &Intent, pass: &Pass) -> Option<Target> {
        match &intent.flow.destination {
            Destination::Name(name) | Destination::Resolved(name, _) if self.resolves() => {
                Some(Target::Name(name.to_string(), intent.flow.port))
            }
            _ => pass.address().map(Target::Address),
        }
    }

    /// A connection to `target` by way of this proxy; nobody has read from it.
    pub(crate) async fn connect(&self, target: &Target) -> io::Result<OwnedFd> {
        let mut stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        match &self.language {
            Language::Http(login) => ask_http(&mut stream, login.as_deref(), target).await?,
            Language::Socks(login, _) => ask_socks(&mut stream, login.as_ref(), target).await?,
        }
        stream.into_std().map(OwnedFd::from)
    }
}

fn refused(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, why)
}

async fn ask_http(stream: &mut TcpStream, login: Option<&[u8]>, target: &Target) -> io::Result<()> {
    let server = match target {
        Target::Name(name, port) => format!("{name}:{port}"),
        Target::Address(address) => address.to_string(),
    };
    let mut request = format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n").into_bytes();
    if let Some(login) = login {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(login);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    // Byte by byte: what follows the head is the server's.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= limits::HTTP_HEAD {
            return Err(refused("the proxy's answer is too long"));
        }
        head.push(stream.read_u8().await?);
    }
    let mut fields = [httparse::EMPTY_HEADER; limits::HTTP_FIELDS];
    let mut answer = httparse::Response::new(&mut fields);
    match answer.parse(&head) {
        Ok(httparse::Status::Complete(_)) if answer.code.is_some_and(is_success) => Ok(()),
        Ok(_) => Err(refused("the proxy refused")),
        Err(_) => Err(refused("the proxy speaks no HTTP")),
    }
}

fn is_success(code: u16) -> bool {
    (200..300).contains(&code)
}

/// RFC 1928, and RFC 1929 for the password.
async fn ask_socks(
    stream: &mut TcpStream,
    login: Option<&(String, String)>,
    target: &Target,
) -> io::Result<()> {
    const VERSION: u8 = 5;
    const NO_LOGIN: u8 = 0;
    const PASSWORD: u8 = 2;
    let offered = if login.is_some() { PASSWORD } else { NO_LOGIN };
    stream.write_all(&[VERSION, 1, offered]).await?;
    let mut chosen = [0; 2];
    stream.read_exact(&mut chosen).await?;
    if chosen != [VERSION, offered] {
        return Err(refused("the proxy takes no such login"));
    }
    if let Some((name, password)) = login {
        let mut words = vec![1];
        for word in [name, password] {
            let length = u8::try_from(word.len()).map_err(|_| refused("the login is too long"))?;
            words.push(length);
            words.extend_from_slice(word.as_bytes());
        }
        stream.write_all(&words).await?;
        let mut taken = [0; 2];
        stream.read_exact(&mut taken).await?;
        if taken[1] != 0 {
            return Err(refused("the proxy does not take the login"));
        }
    }
    let mut request = vec![VERSION, 1, 0];
    let port = match target {
        Target::Name(name, port) => {
            let length = u8::try_from(name.len()).map_err(|_| refused("the name is too long"))?;
            request.extend_from_slice(&[3, length]);
            request.extend_from_slice(name.as_bytes());
            *port
        }
        Target::Address(SocketAddr::V4(address)) => {
            request.push(1);
            request.extend_from_slice(&address.ip().octets());
            address.port()
        }
        Target::Address(SocketAddr::V6(address)) => {
            request.push(4);
            request.extend_from_slice(&address.ip().octets());
            address.port()
        }
    };
    request.extend_from_slice(&port.to_be_bytes());
    stream.write_all(&request).await?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).await?;
    if answer[..2] != [VERSION, 0] {
        return Err(refused("the proxy refused"));
    }
    let length = match answer[3] {
        1 => 4,
        4 => 16,
        3 => usize::from(stream.read_u8().await?),
        _ => return Err(refused("the proxy speaks no SOCKS 5")),
    };
    let mut bound = [0; 258];
    stream
        .read_exact(bound.get_mut(..length + 2).unwrap_or_default())
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use sbx_spec::{Flow, Protocol};

    use super::*;

    fn intent(destination: Destination, port: u16) -> Intent {
        Intent {
            flow: Flow {
                protocol: Protocol::Tcp,
                destination,
                port,
            },
            address: IpAddr::from([198, 18, 0, 1]),
            approved: Vec::new(),
        }
    }

    fn named(host: &str, port: u16) -> Intent {
        intent(Destination::Name(host.parse().unwrap()), port)
    }

    fn ways(https: &str, no: &str) -> Ways {
        Ways::of(&Proxies {
            https: Some(https.to_owned()),
            exceptions: Some(no.to_owned()),
            ..Proxies::default()
        })
    }

    #[test]
    fn a_proxy_serves_all_but_its_exceptions_and_never_the_host() {
        let ways = ways(
            "http://me:pass@proxy.example:3128",
            ".corp.example,10.0.0.0/8",
        );
        let way = ways.way(&named("a.example", 443)).unwrap();
        assert_eq!((way.host.as_str(), way.port), ("proxy.example", 3128));
        assert!(way.language == Language::Http(Some(b"Basic bWU6cGFzcw==".to_vec())));
        assert!(ways.way(&named("a.example", 22)).is_some());
        assert!(ways.way(&named("git.corp.example", 443)).is_none());
        assert!(ways.way(&named("a.example", 80)).is_none());
        let near = intent(Destination::Address("10.1.2.3".parse().unwrap()), 443);
        assert!(ways.way(&near).is_none());
        assert!(ways.way(&intent(Destination::HostService, 443)).is_none());
        assert!(
            Ways::of(&Proxies::default())
                .way(&named("a.example", 443))
                .is_none()
        );
    }

    #[test]
    fn socks_is_told_a_name_only_where_it_resolves_them() {
        for (text, resolves) in [
            ("socks5://[::1]:1080", false),
            ("socks5h://proxy.example", true),
        ] {
            let way = ways(text, "").way(&named("a.example", 443)).unwrap();
            assert_eq!((way.port, way.resolves()), (1080, resolves), "{text}");
        }
    }

    #[test]
    fn a_proxy_that_cannot_be_spoken_with_is_told_without_its_password() {
        let check = |text: &str| {
            Proxies {
                all: Some(text.to_owned()),
                ..Proxies::default()
            }
            .check()
        };
        for text in [
            "http://proxy.example:3128",
            "proxy.example:3128",
            "socks5h://p",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for text in [
            "https://me:secret@proxy.example",
            "socks4://me:secret@p",
            "http://",
            "a b",
        ] {
            let said = check(text).unwrap_err().to_string();
            assert!(!said.contains("secret"), "{said}");
        }
        let shown = format!(
            "{:?}",
            Proxies {
                all: Some("secret".into()),
                ..Proxies::default()
            }
        );
        assert!(!shown.contains("secret"), "{shown}");
    }
}
