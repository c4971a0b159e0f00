//! What a network rule is about: a host, a pattern of names, a range of
//! addresses or the host's own loopback, and ports.
//!
//! Never: judges. A [`Resource`] is parsed once; text that two readers could
//! take for different things is refused with what to write instead.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::guard::{self, Guard};
use crate::host::{Denial, DnsName, HostError, ascii_name};

/// Which hosts a rule is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Target {
    /// `example.com`: that name.
    Name(DnsName),
    /// `*.example.com`: one label more.
    Child(DnsName),
    /// `**.example.com`: one label more or several; not `example.com` itself.
    Beneath(DnsName),
    /// `**`: every name.
    AnyName,
    /// `10.0.0.0/8`, `2001:db8::1`: addresses. Host bits are zero, and IPv4 is
    /// never in an IPv6 form.
    Network(IpNet),
    /// `localhost`: the host's own loopback.
    Localhost,
}

/// An inclusive range of ports, none of them 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ports {
    first: u16,
    last: u16,
}

/// A target and, unless it is about all of them, its ports. Written
/// `example.com`, `*.example.com:443`, `[2001:db8::1]:8000-8100`,
/// `localhost:3000`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Resource {
    target: Target,
    ports: Option<Ports>,
}

/// Why a text names no resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ResourceError {
    /// A lone `*`.
    LoneStar,
    /// A `*` elsewhere than in front of a name.
    Star,
    /// An address of the web (`https://…`), or a path behind the host.
    Url,
    /// `dns:…`.
    Dns,
    /// Bytes outside ASCII.
    NotAscii,
    /// `localhost` without a port.
    LocalhostPort,
    /// No range of ports.
    Ports(String),
    /// Brackets around something else than an IPv6 address.
    Bracket,
    /// No range of addresses.
    Network(String),
    /// A range with host bits; holds the range without them.
    HostBits(IpNet),
    /// IPv4 in an IPv6 form.
    Mapped,
    /// No name.
    Host(HostError),
}

impl fmt::Display for ResourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoneStar => f.write_str("a lone `*` says nothing: `**` is every name"),
            Self::Star => f.write_str(
                "`*` stands alone in front of a name: `*.example.com` is one label, `**.example.com` any number",
            ),
            Self::Url => f.write_str("give the host alone, without scheme and path"),
            Self::Dns => f.write_str("names are always answered: there is no rule for DNS"),
            Self::NotAscii => f.write_str("it is no name in any alphabet"),
            Self::LocalhostPort => f.write_str("name the port: `localhost:PORT`"),
            Self::Ports(text) => write!(
                f,
                "`{}` is no port from 1 to 65535 and no range such as 8000-8100",
                text.escape_default()
            ),
            Self::Bracket => f.write_str("brackets enclose an IPv6 address"),
            Self::Network(text) => {
                write!(f, "`{}` is no range of addresses", text.escape_default())
            }
            Self::HostBits(net) => write!(f, "that is no range: do you mean `{net}`?"),
            Self::Mapped => f.write_str("write an IPv4 address as such, not in an IPv6 form"),
            Self::Host(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ResourceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Host(error) => std::error::Error::source(error),
            _ => None,
        }
    }
}

impl Ports {
    /// Whether a port is among them.
    #[must_use]
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Self {
        Self {
            first: port,
            last: port,
        }
    }
}

impl FromStr for Ports {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let refused = || ResourceError::Ports(text.chars().take(32).collect());
        let port = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u16>()
                .ok()
                .filter(|port| digits && *port != 0)
                .ok_or_else(refused)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(refused());
        }
        Ok(Self { first, last })
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl Resource {
    /// These ports of a target, all of them without a range.
    ///
    /// # Errors
    /// [`ResourceError::LocalhostPort`] for all ports of the host's loopback.
    pub fn new(target: Target, ports: Option<Ports>) -> Result<Self, ResourceError> {
        if target == Target::Localhost && ports.is_none() {
            return Err(ResourceError::LocalhostPort);
        }
        Ok(Self { target, ports })
    }

    /// The host and port of an address of the web (`https://…`, `http://…`)
    /// that something is configured to fetch from; `None` for anything else,
    /// and for this host itself.
    #[must_use]
    pub fn of_url(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let port: u16 = match scheme {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#']).next()?;
        let host = authority.rsplit('@').next()?;
        let resource: Self = host.parse().ok()?;
        let named = match &resource.target {
            Target::Name(_) => true,
            Target::Network(net) => Denial::of(net.addr()).is_none(),
            _ => false,
        };
        let ports = resource.ports.unwrap_or(Ports::from(port));
        named.then_some(Self {
            target: resource.target,
            ports: Some(ports),
        })
    }

    /// Its hosts.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Whether it is about a port.
    #[must_use]
    pub fn covers_port(&self, port: u16) -> bool {
        self.ports.is_none_or(|ports| ports.contains(port)) || guard::out(Guard::OnePort)
    }

    /// The first port it is about, and the one behind the last.
    pub(super) fn edges(&self) -> impl Iterator<Item = u16> {
        let edges = |ports: Ports| [Some(ports.first), ports.last.checked_add(1)];
        self.ports.into_iter().flat_map(edges).flatten()
    }

    /// Whether its target is a name or a pattern of names that covers `name`.
    #[must_use]
    pub fn covers_name(&self, name: &DnsName) -> bool {
        let above = |zone: &DnsName| {
            name.as_str()
                .strip_suffix(zone.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
        };
        match &self.target {
            Target::Name(own) => own == name,
            Target::Child(zone) => above(zone).is_some_and(|label| !label.contains('.')),
            Target::Beneath(zone) => above(zone).is_some(),
            Target::AnyName => true,
            Target::Network(_) | Target::Localhost => false,
        }
    }

    /// Whether its target is a range that holds `address`, which is in its
    /// canonical form.
    #[must_use]
    pub fn covers_address(&self, address: IpAddr) -> bool {
        match &self.target {
            Target::Network(net) => net.contains(&address),
            Target::AnyName => guard::out(Guard::NoAddressByName),
            _ => false,
        }
    }
}

impl FromStr for Target {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let name = |text: &str| {
            if text.contains('*') {
                return Err(ResourceError::Star);
            }
            text.parse::<DnsName>().map_err(ResourceError::Host)
        };
        match text {
            "*" => return Err(ResourceError::LoneStar),
            "**" => return Ok(Self::AnyName),
            _ => {}
        }
        if let Some(zone) = text.strip_prefix("**.") {
            return name(zone).map(Self::Beneath);
        }
        if let Some(zone) = text.strip_prefix("*.") {
            return name(zone).map(Self::Child);
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(IpNet::from(address.to_canonical())));
        }
        if text.contains('/') {
            return network(text).map(Self::Network);
        }
        let name = name(text)?;
        Ok(match name.as_str() {
            "localhost" | "host.sbx.internal" | "host.docker.internal" => Self::Localhost,
            _ => Self::Name(name),
        })
    }
}

/// A range, its address read as every other address is: `IpNet` itself takes
/// `010.0.0.0` for 10.0.0.0, which C libraries take for 8.0.0.0.
fn strict_network(text: &str) -> Option<IpNet> {
    let (address, length) = text.split_once('/')?;
    let plain = length == "0" || !length.starts_with(['0', '+']);
    let length = length.parse().ok().filter(|_| plain)?;
    IpNet::new(address.parse().ok()?, length).ok()
}

fn network(text: &str) -> Result<IpNet, ResourceError> {
    let net = match strict_network(text) {
        Some(net) => net,
        // `host/path` is what people copy from an address bar.
        None if text.starts_with(|first: char| first.is_ascii_alphabetic()) => {
            return Err(ResourceError::Url);
        }
        None => return Err(ResourceError::Network(text.chars().take(64).collect())),
    };
    if let IpNet::V6(v6) = net
        && v6.addr().to_ipv4_mapped().is_some()
    {
        return Err(ResourceError::Mapped);
    }
    if net.trunc() != net {
        return Err(ResourceError::HostBits(net.trunc()));
    }
    Ok(net)
}

/// A resource with its name as DNS has it.
fn in_ascii(text: &str) -> Result<String, ResourceError> {
    let stars = text.len() - text.trim_start_matches(['*', '.']).len();
    let (pattern, rest) = text.split_at(stars);
    let (host, ports) = match rest.split_once(':') {
        Some((host, ports)) => (host, Some(ports)),
        None => (rest, None),
    };
    let host = ascii_name(host).ok_or(ResourceError::NotAscii)?;
    let resource = match ports {
        Some(ports) => format!("{pattern}{host}:{ports}"),
        None => format!("{pattern}{host}"),
    };
    // What is left of another alphabet is in the ports.
    resource
        .is_ascii()
        .then_some(resource)
        .ok_or(ResourceError::NotAscii)
}

impl FromStr for Resource {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        if !text.is_ascii() {
            return in_ascii(text)?.parse();
        }
        if text.contains("://") {
            return Err(ResourceError::Url);
        }
        if text.starts_with("dns:") {
            return Err(ResourceError::Dns);
        }
        if let Some(rest) = text.strip_prefix('[') {
            let (inner, behind) = rest.split_once(']').ok_or(ResourceError::Bracket)?;
            let target = match inner.parse::<Ipv6Addr>() {
                Ok(address) => Target::Network(IpAddr::from(address).to_canonical().into()),
                Err(_) => Target::Network(match network(inner) {
                    Ok(net @ IpNet::V6(_)) => net,
                    Ok(IpNet::V4(_)) | Err(_) => return Err(ResourceError::Bracket),
                }),
            };
            let ports = match behind.strip_prefix(':') {
                Some(ports) => Some(ports.parse()?),
                None if behind.is_empty() => None,
                None => return Err(ResourceError::Bracket),
            };
            return Self::new(target, ports);
        }
        match text.split_once(':') {
            // Two colons and no brackets: an IPv6 address without ports.
            Some((_, rest)) if rest.contains(':') => {
                let target = match text.parse::<Ipv6Addr>() {
                    Ok(address) => IpAddr::from(address).to_canonical().into(),
                    Err(_) => network(text)?,
                };
                Self::new(Target::Network(target), None)
            }
            Some((host, ports)) => Self::new(host.parse()?, Some(ports.parse()?)),
            None => Self::new(text.parse()?, None),
        }
    }
}

impl TryFrom<String> for Resource {
    type Error = ResourceError;
    fn try_from(text: String) -> Result<Self, ResourceError> {
        text.parse()
    }
}

impl From<Resource> for String {
    fn from(resource: Resource) -> String {
        resource.to_string()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Child(zone) => write!(f, "*.{zone}"),
            Self::Beneath(zone) => write!(f, "**.{zone}"),
            Self::AnyName => f.write_str("**"),
            Self::Network(net) if net.prefix_len() == net.max_prefix_len() => net.addr().fmt(f),
            Self::Network(net) => net.fmt(f),
            Self::Localhost => f.write_str("localhost"),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.target, self.ports) {
            (target, None) => target.fmt(f),
            (Target::Network(IpNet::V6(_)), Some(ports)) => write!(f, "[{}]:{ports}", self.target),
            (target, Some(ports)) => write!(f, "{target}:{ports}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resource(text: &str) -> Resource {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn name(text: &str) -> DnsName {
        text.parse().unwrap()
    }

    #[test]
    fn every_written_form_reads_back_as_it_prints() {
        for (text, printed) in [
            ("example.com", "example.com"),
            ("Example.COM.", "example.com"),
            ("*.example.com", "*.example.com"),
            ("**.example.com:443", "**.example.com:443"),
            ("**", "**"),
            ("**:443", "**:443"),
            ("host:8000-8100", "host:8000-8100"),
            ("host:443-443", "host:443"),
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.0.0.0/8:22", "10.0.0.0/8:22"),
            ("192.0.2.1:80", "192.0.2.1:80"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:80", "192.0.2.1:80"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]:443", "[2001:db8::1]:443"),
            ("[2001:db8::/32]:443", "[2001:db8::/32]:443"),
            ("localhost:3000", "localhost:3000"),
            ("host.docker.internal:3000", "localhost:3000"),
        ] {
            let parsed = resource(text);
            assert_eq!(parsed.to_string(), printed, "{text}");
            assert_eq!(resource(printed), parsed, "{text}");
        }
    }

    #[test]
    fn texts_that_two_readers_could_take_for_different_things_are_refused() {
        for text in [
            "",
            "*",
            "*:443",
            "***.a",
            "a.*.b",
            "*a.b",
            "**.",
            "*.**.a",
            "https://a.example",
            "a.example/path",
            "dns:a.example",
            "localhost",
            "localhost:0",
            "a:0",
            "a:1-",
            "a:-1",
            "a:+1",
            "a:2-1",
            "a:65536",
            "a:80:81",
            "a b",
            "a\0b",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "::ffff:10.0.0.0/104",
            "127.1",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "017700000001",
            "0X7F000001",
            "127.0.0.1.",
            "010.0.0.0/8",
            "10.0.0.00/8",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "10/8",
            "0xa.0.0.0/8",
            "::ffff:010.0.0.1/128",
            "2001:db8::010.0.0.0/112",
            "[2001:db8::/032]:80",
            "fe80::%eth0/10",
            "[fe80::1%25eth0]",
            "10%2e0.0.1",
            "\u{ff11}0.0.0.1",
            "[10.0.0.1]:80",
            "[fe80::1%eth0]:80",
            "[2001:db8::1]x",
            "[2001:db8::1",
            "*.10.0.0.0/8",
        ] {
            assert!(text.parse::<Resource>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_of_another_alphabet_is_what_dns_has_for_it() {
        for (text, ascii) in [
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.Example:443", "xn--bcher-kva.example:443"),
            ("**.bücher.example", "**.xn--bcher-kva.example"),
            ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ] {
            assert_eq!(text.parse::<Resource>(), ascii.parse(), "{text}");
        }
        for text in [
            "bü_cher.example",
            "＊.example",
            "a\u{200d}.example",
            "ü：80",
            "*ü.example",
        ] {
            assert!(text.parse::<Resource>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_mistake_is_answered_with_what_to_write() {
        for (text, expected) in [
            ("*", "`**` is every name"),
            ("10.1.2.3/8", "do you mean `10.0.0.0/8`?"),
            ("https://a.example/x", "without scheme and path"),
            ("localhost", "localhost:PORT"),
            ("bü cher.example", "no name in any alphabet"),
            ("a.example:８０", "no name in any alphabet"),
        ] {
            let error = text.parse::<Resource>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn an_address_of_the_web_names_its_host_and_port() {
        for (url, expected) in [
            ("https://a.example/x", Some("a.example:443")),
            ("http://u:p@a.example:8080?x", Some("a.example:8080")),
            ("https://[2001:db8::1]/", Some("[2001:db8::1]:443")),
            ("https://a.example@b.example/", Some("b.example:443")),
            ("https://10.0.0.1/", None),
            ("https://localhost:3000/", None),
            ("https://**.a.example/", None),
            ("ssh://a.example", None),
            ("a.example", None),
        ] {
            let found = Resource::of_url(url).map(|resource| resource.to_string());
            assert_eq!(found.as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn patterns_match_whole_labels_and_never_their_own_root() {
        for (pattern, matched, missed) in [
            (
                "example.com",
                &["example.com"][..],
                &["a.example.com", "notexample.com"][..],
            ),
            (
                "*.example.com",
                &["a.example.com"],
                &["example.com", "a.b.example.com", "aexample.com"],
            ),
            (
                "**.example.com",
                &["a.example.com", "a.b.example.com"],
                &["example.com", "aexample.com", "example.com.evil.example"],
            ),
            ("**", &["a", "a.b.c"], &[]),
        ] {
            let pattern = resource(pattern);
            assert!(matched.iter().all(|n| pattern.covers_name(&name(n))));
            assert!(!missed.iter().any(|n| pattern.covers_name(&name(n))));
        }
    }

    #[test]
    fn addresses_match_ranges_and_ports_match_their_bounds() {
        let range = resource("10.0.0.0/8:8000-8100");
        assert!(range.covers_address("10.255.0.1".parse().unwrap()));
        assert!(!range.covers_address("11.0.0.1".parse().unwrap()));
        assert!(!range.covers_address("::ffff:10.0.0.1".parse().unwrap()));
        assert!(range.covers_port(8000) && range.covers_port(8100));
        assert!(!range.covers_port(7999) && !range.covers_port(8101));
        assert!(!resource("**").covers_address("192.0.2.1".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn what_parses_reads_back_as_itself(text in "[a-c*.:/\\[\\]0-9-]{0,24}") {
            if let Ok(parsed) = text.parse::<Resource>() {
                prop_assert_eq!(parsed.to_string().parse::<Resource>(), Ok(parsed));
            }
        }

        #[test]
        fn any_text_is_a_resource_or_an_error(text in "\\PC{0,80}") {
            let _parsed = text.parse::<Resource>();
        }
    }
}
