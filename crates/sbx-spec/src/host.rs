//! Host names and addresses, parsed once.
//!
//! Owns: what a DNS name is for the filter, the resolver and the dialer
//! alike, and which addresses are denied unless a rule names them. Never:
//! lookups. A [`DnsName`] cannot hold a NUL, a dot at its end, an upper-case
//! letter or anything that a C library would read as an address, so no two
//! readers of it can disagree about what it names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::guard::{self, Guard};

/// A fully qualified DNS name: lower-case ASCII letters, digits, `-` and `_`
/// in labels of 1 to 63 bytes, 253 bytes in all, without a final dot. The
/// last label is not a number, so that the name is never an address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsName(String);

/// A name or an address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Host {
    /// A DNS name.
    Name(DnsName),
    /// An address; mapped forms are stored as what they map.
    Address(IpAddr),
}

/// A host and a TCP or UDP port, written `name:443`, `192.0.2.1:443` or
/// `[2001:db8::1]:443`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

/// Why a text is not a host, or not a host and a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostError {
    /// No text, or more than 253 bytes.
    Length,
    /// A label is empty or has more than 63 bytes.
    Label,
    /// Holds a byte outside `a-z A-Z 0-9 - _ .`.
    Byte(u8),
    /// A label starts or ends with `-`.
    Hyphen,
    /// The last label is a number, so that the name could be read as an address.
    Numeric,
    /// The port is missing, 0 or not a decimal number below 65,536.
    Port,
    /// A bracket without its partner, or brackets around something else than
    /// an IPv6 address.
    Bracket,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => f.write_str("a host name has 1 to 253 bytes"),
            Self::Label => f.write_str("a label of a host name has 1 to 63 bytes"),
            Self::Byte(byte) => {
                write!(
                    f,
                    "`{}` cannot stand in a host name",
                    char::from(*byte).escape_default()
                )
            }
            Self::Hyphen => f.write_str("a label of a host name neither starts nor ends with `-`"),
            Self::Numeric => f.write_str("a host name does not end in a number"),
            Self::Port => f.write_str("a port is a number from 1 to 65535"),
            Self::Bracket => f.write_str("brackets enclose an IPv6 address"),
        }
    }
}

impl std::error::Error for HostError {}

impl DnsName {
    /// Longest name in bytes, without a final dot.
    pub const MAX: usize = 253;
    /// Longest label in bytes.
    pub const MAX_LABEL: usize = 63;

    /// The name as lower-case text without a final dot.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the name is `zone` or ends in `.zone`.
    #[must_use]
    pub fn is_within(&self, zone: &str) -> bool {
        self.0
            .strip_suffix(zone)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// The name whose labels are given as raw bytes, the way DNS carries them.
    ///
    /// # Errors
    /// When a label holds anything but letters, digits, `-` and `_`; a dot or
    /// a NUL inside a label is refused, not escaped.
    pub fn from_labels<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Result<Self, HostError> {
        let mut text = String::new();
        for label in labels {
            if let Some(byte) = label.iter().find(|b| !is_name_byte(**b)) {
                return Err(HostError::Byte(*byte));
            }
            if label.is_empty() {
                return Err(HostError::Label);
            }
            if text.len() + label.len() > Self::MAX {
                return Err(HostError::Length);
            }
            if !text.is_empty() {
                text.push('.');
            }
            text.extend(label.iter().map(|b| char::from(*b)));
        }
        text.parse()
    }
}

/// A name of any alphabet as DNS has it (UTS 46, nothing but letters, digits
/// and hyphens let through); `None` for what is no name, an address in digits
/// of another alphabet among it.
#[must_use]
pub fn ascii_name(text: &str) -> Option<DnsName> {
    idna::domain_to_ascii_strict(text).ok()?.parse().ok()
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' || guard::out(Guard::NameBytes)
}

/// What C libraries read as a part of an IPv4 address: decimal, octal, or
/// hexadecimal after `0x`.
fn is_number(label: &str) -> bool {
    let hex = label
        .strip_prefix("0x")
        .or_else(|| label.strip_prefix("0X"));
    match hex {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_hexdigit()),
        None => label.bytes().all(|b| b.is_ascii_digit()),
    }
}

impl FromStr for DnsName {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let text = text.strip_suffix('.').unwrap_or(text);
        if text.is_empty() || text.len() > Self::MAX {
            return Err(HostError::Length);
        }
        for label in text.split('.') {
            if let Some(byte) = label.bytes().find(|b| !is_name_byte(*b)) {
                return Err(HostError::Byte(byte));
            }
            if label.is_empty() || label.len() > Self::MAX_LABEL {
                return Err(HostError::Label);
            }
            if label.starts_with('-') || label.ends_with('-') {
                return Err(HostError::Hyphen);
            }
        }
        if text.rsplit('.').next().is_some_and(is_number) && !guard::out(Guard::NumericNames) {
            return Err(HostError::Numeric);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl TryFrom<String> for DnsName {
    type Error = HostError;
    fn try_from(text: String) -> Result<Self, HostError> {
        text.parse()
    }
}

impl From<DnsName> for String {
    fn from(name: DnsName) -> String {
        name.0
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        match text.parse::<IpAddr>() {
            Ok(address) => Ok(Self::Address(address.to_canonical())),
            Err(_) => text.parse().map(Self::Name),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl FromStr for HostPort {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let (host, port) = text.rsplit_once(':').ok_or(HostError::Port)?;
        let decimal = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = match port.parse::<u16>() {
            Ok(port) if decimal && port != 0 => port,
            _ => return Err(HostError::Port),
        };
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                let inner = rest.strip_suffix(']').ok_or(HostError::Bracket)?;
                let address: Ipv6Addr = inner.parse().map_err(|_| HostError::Bracket)?;
                Host::Address(IpAddr::V6(address).to_canonical())
            }
            None if host.contains([':', ']']) => return Err(HostError::Bracket),
            None => host.parse()?,
        };
        Ok(Self { host, port })
    }
}

impl TryFrom<String> for HostPort {
    type Error = HostError;
    fn try_from(text: String) -> Result<Self, HostError> {
        text.parse()
    }
}

impl From<HostPort> for String {
    fn from(value: HostPort) -> String {
        value.to_string()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// Why an address is denied unless a rule names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Denial {
    /// 127.0.0.0/8, `::1`: the host itself.
    Loopback,
    /// 0.0.0.0/8, `::`: the kernel reads them as the host itself.
    Unspecified,
    /// RFC 1918.
    Private,
    /// RFC 6598, 100.64.0.0/10; also the metadata service of one cloud.
    SharedAddress,
    /// 169.254.0.0/16, `fe80::/10`; most clouds' metadata services.
    LinkLocal,
    /// A cloud's metadata service outside those ranges.
    Metadata,
    /// 224.0.0.0/4, `ff00::/8`.
    Multicast,
    /// 255.255.255.255.
    Broadcast,
    /// 198.18.0.0/15: the sandbox's own addresses, never real ones.
    Synthetic,
    /// Assigned to protocols or not assigned at all.
    Reserved,
    /// `fc00::/7`.
    UniqueLocal,
    /// `fec0::/10`, deprecated.
    SiteLocal,
    /// `::/96` and `64:ff9b:1::/48`: IPv4 in a form nobody needs.
    Embedded,
    /// An address of the host's own interfaces.
    HostInterface,
}

impl Denial {
    /// Every one of them.
    pub const ALL: [Self; 14] = [
        Self::Loopback,
        Self::Unspecified,
        Self::Private,
        Self::SharedAddress,
        Self::LinkLocal,
        Self::Metadata,
        Self::Multicast,
        Self::Broadcast,
        Self::Synthetic,
        Self::Reserved,
        Self::UniqueLocal,
        Self::SiteLocal,
        Self::Embedded,
        Self::HostInterface,
    ];

    /// The rule's name in events and records.
    #[must_use]
    pub fn rule(self) -> &'static str {
        match self {
            Self::Loopback => "default:loopback",
            Self::Unspecified => "default:unspecified",
            Self::Private => "default:private",
            Self::SharedAddress => "default:shared-address",
            Self::LinkLocal => "default:link-local",
            Self::Metadata => "default:metadata",
            Self::Multicast => "default:multicast",
            Self::Broadcast => "default:broadcast",
            Self::Synthetic => "default:synthetic",
            Self::Reserved => "default:reserved",
            Self::UniqueLocal => "default:unique-local",
            Self::SiteLocal => "default:site-local",
            Self::Embedded => "default:embedded-ipv4",
            Self::HostInterface => "default:host-interface",
        }
    }

    /// Whether a rule that names such addresses can open them. The others are
    /// never anything but the host itself, everybody, or nobody.
    #[must_use]
    pub fn may_be_lifted(self) -> bool {
        match self {
            Self::Private
            | Self::SharedAddress
            | Self::LinkLocal
            | Self::Metadata
            | Self::UniqueLocal
            | Self::HostInterface => true,
            Self::Loopback
            | Self::Unspecified
            | Self::Multicast
            | Self::Broadcast
            | Self::Synthetic
            | Self::Reserved
            | Self::SiteLocal
            | Self::Embedded => false,
        }
    }

    /// The default denial that covers an address, if one does. An IPv6
    /// address that carries an IPv4 address somewhere (mapped, NAT64, 6to4,
    /// Teredo, ISATAP) is denied when the carried one is. The documentation
    /// ranges are not denied: on some machines registries resolve there.
    #[must_use]
    pub fn of(address: IpAddr) -> Option<Self> {
        match address.to_canonical() {
            _ if guard::out(Guard::Ranges) => None,
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    fn of_v4(address: Ipv4Addr) -> Option<Self> {
        match address.octets() {
            [127, ..] => Some(Self::Loopback),
            [0, ..] => Some(Self::Unspecified),
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(Self::Private),
            [100, 64..=127, ..] => Some(Self::SharedAddress),
            [169, 254, ..] => Some(Self::LinkLocal),
            // Azure's wire server; Oracle's is inside 192.0.0.0/24.
            [168, 63, 129, 16] => Some(Self::Metadata),
            [198, 18..=19, ..] => Some(Self::Synthetic),
            [192, 0, 0, _] | [192, 88, 99, _] => Some(Self::Reserved),
            [224..=239, ..] => Some(Self::Multicast),
            [255, 255, 255, 255] => Some(Self::Broadcast),
            [240..=255, ..] => Some(Self::Reserved),
            _ => None,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Option<Self> {
        let segments = address.segments();
        let carried = |high: usize| {
            let [a, b] = segments.get(high).copied().unwrap_or(0).to_be_bytes();
            let [c, d] = segments.get(high + 1).copied().unwrap_or(0).to_be_bytes();
            Ipv4Addr::new(a, b, c, d)
        };
        match segments {
            [0x64 | 0x2001 | 0x2002, ..] if guard::out(Guard::CarriedForms) => None,
            [0, 0, 0, 0, 0, 0, 0, 0] => Some(Self::Unspecified),
            [0, 0, 0, 0, 0, 0, 0, 1] => Some(Self::Loopback),
            [0, 0, 0, 0, 0, 0, ..] => Some(Self::Embedded),
            [0x64, 0xff9b, 0, 0, 0, 0, ..] => Self::of_v4(carried(6)),
            [0x64, 0xff9b, 1, ..] => Some(Self::Embedded),
            [0xff00..=0xffff, ..] => Some(Self::Multicast),
            [0xfe80..=0xfebf, ..] => Some(Self::LinkLocal),
            [0xfec0..=0xfeff, ..] => Some(Self::SiteLocal),
            [0xfc00..=0xfdff, ..] => Some(Self::UniqueLocal),
            [0x2002, ..] => Self::of_v4(carried(1)),
            // Teredo: the server in the clear, the client inverted (RFC 4380, 4).
            [0x2001, 0, ..] => Self::of_v4(carried(2))
                .or_else(|| Self::of_v4(Ipv4Addr::from(!u32::from(carried(6))))),
            // Only 2000::/3 is global unicast.
            [0x2000..=0x3fff, ..] => match segments {
                [_, _, _, _, 0 | 0x200, 0x5efe, ..] => Self::of_v4(carried(6)),
                _ => None,
            },
            _ => Some(Self::Reserved),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn denial(text: &str) -> Option<Denial> {
        Denial::of(text.parse().unwrap())
    }

    #[test]
    fn names_are_folded_and_lose_the_final_dot() {
        assert_eq!(
            "WWW.Example.COM.".parse::<DnsName>().unwrap().as_str(),
            "www.example.com"
        );
        for text in [
            "a",
            "_dmarc.example.com",
            "xn--bcher-kva.example",
            "1.a",
            "0x.a",
        ] {
            assert!(text.parse::<DnsName>().is_ok(), "{text}");
        }
    }

    #[test]
    fn names_that_two_readers_could_take_for_different_things_are_refused() {
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a b",
            "a\0.example.com",
            "é.example",
            "-a.b",
            "a-.b",
            "a/b",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "a.0x",
            "a.1",
            "a@b",
            "a%b",
            &"x".repeat(64),
            &["x"; 128].join("."),
        ] {
            assert!(text.parse::<DnsName>().is_err(), "{text:?}");
        }
    }

    /// What `getaddrinfo` or a URL parser reads as 127.0.0.1 or another
    /// address near the host, in spellings that are not the one of
    /// [`IpAddr`].
    const SPELLINGS: &[&str] = &[
        // Numbers of one to four parts, decimal, octal and hexadecimal.
        "017700000001",
        "0177.0.0.1",
        "0177.0x0.0.01",
        "127.0.0.01",
        "127.0.1",
        "0X7F000001",
        "0x7F.0.0.0X1",
        "0x7f.00000001",
        "0",
        "00",
        "0x",
        "4294967295",
        "18446744073709551617",
        // A dot at the end.
        "127.0.0.1.",
        "127.1.",
        "0x7f000001.",
        "2130706433.",
        "127.0.0.1..",
        "::1.",
        // Digits, letters and dots that look like ASCII.
        "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
        "127\u{3002}0\u{3002}0\u{3002}1",
        "127\u{ff0e}0.0.1",
        "\u{2460}27.0.0.1",
        "\u{661}\u{662}\u{667}.0.0.1",
        "loc\u{ff41}lhost",
        // Escapes of URLs.
        "127%2e0%2e0%2e1",
        "%31%32%37.0.0.1",
        "127.0.0.1%00",
        // Zones, alone and on addresses.
        "fe80::1%eth0",
        "fe80::1%25eth0",
        "fe80::1%1",
        "::1%lo",
        "127.0.0.1%lo",
        "%eth0",
        "a.example%lo",
        // Brackets, spaces and signs.
        "[::1]",
        "[127.0.0.1]",
        " 127.0.0.1",
        "127.0.0.1 ",
        "127.0.0.1\n",
        "127.0.0.1 a.example",
        "+127.0.0.1",
        "127.0.0.+1",
        "127.0.0.1/8",
        // IPv6 around IPv4 in another spelling.
        "::ffff:0177.0.0.1",
        "::ffff:0x7f.1",
        "::ffff:127.1",
        ":::1",
        "::00001",
    ];

    #[test]
    fn an_address_in_another_spelling_is_neither_name_nor_address() {
        for text in SPELLINGS {
            assert!(text.parse::<Host>().is_err(), "{text:?}");
            assert!(text.parse::<DnsName>().is_err(), "{text:?}");
            let labels = text.split('.').map(str::as_bytes);
            assert!(DnsName::from_labels(labels).is_err(), "{text:?}");
            let with_port = format!("{text}:80").parse::<HostPort>();
            assert!(with_port.is_err() || *text == "[::1]", "{text:?}");
        }
        for (text, meant) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("0:0::0001", "::1"),
            ("::FFFF:7F00:1", "127.0.0.1"),
            ("::ffff:127.0.0.1", "127.0.0.1"),
            ("64:ff9b:1::10.0.0.1", "64:ff9b:1::a00:1"),
            ("::ffff:0:127.0.0.1", "::ffff:0:7f00:1"),
        ] {
            let address = Host::Address(meant.parse().unwrap());
            assert_eq!(text.parse(), Ok(address), "{text}");
        }
    }

    #[test]
    fn names_that_only_look_like_numbers_are_names() {
        for text in [
            "127.0.0.1.example",
            "0x7f.example",
            "1.2.3.4a",
            "0x7g",
            "x7f",
            "1e3",
            "xn--127-0",
        ] {
            assert!(matches!(text.parse(), Ok(Host::Name(_))), "{text}");
        }
    }

    #[test]
    fn labels_with_dots_or_nuls_inside_are_refused() {
        let name = |labels: &[&[u8]]| DnsName::from_labels(labels.iter().copied());
        assert_eq!(name(&[b"a", b"example"]).unwrap().as_str(), "a.example");
        for labels in [
            &[b"a.b".as_slice(), b"c"],
            &[b"a\0".as_slice(), b"c"],
            &[b"".as_slice(), b"c"],
        ] {
            assert!(name(labels).is_err(), "{labels:?}");
        }
    }

    #[test]
    fn zones_match_on_label_borders_only() {
        let name: DnsName = "a.example.com".parse().unwrap();
        assert!(name.is_within("example.com") && name.is_within("a.example.com"));
        assert!(!name.is_within("xample.com") && !name.is_within("b.a.example.com"));
    }

    #[test]
    fn host_and_port_are_read_in_their_three_spellings() {
        for text in ["example.com:443", "192.0.2.1:80", "[2001:db8::1]:65535"] {
            assert_eq!(text.parse::<HostPort>().unwrap().to_string(), text);
        }
        assert_eq!(
            "[::ffff:127.0.0.1]:1".parse::<HostPort>().unwrap().host,
            Host::Address("127.0.0.1".parse().unwrap())
        );
        for text in [
            "a",
            "a:",
            "a:0",
            "a:+1",
            "a:65536",
            "::1:80",
            "[::1:80",
            "[a]:80",
            "a]:80",
            "[fe80::1%eth0]:1",
        ] {
            assert!(text.parse::<HostPort>().is_err(), "{text}");
        }
    }

    #[test]
    fn denies_every_range_that_is_near_the_host() {
        use Denial as D;
        for (text, expected) in [
            ("127.0.0.1", D::Loopback),
            ("127.255.0.3", D::Loopback),
            ("::1", D::Loopback),
            ("0.0.0.0", D::Unspecified),
            ("0.1.2.3", D::Unspecified),
            ("::", D::Unspecified),
            ("10.0.0.1", D::Private),
            ("172.16.0.1", D::Private),
            ("172.31.255.255", D::Private),
            ("192.168.1.1", D::Private),
            ("100.64.0.1", D::SharedAddress),
            ("100.100.100.200", D::SharedAddress),
            ("169.254.169.254", D::LinkLocal),
            ("168.63.129.16", D::Metadata),
            ("192.0.0.192", D::Reserved),
            ("198.18.0.1", D::Synthetic),
            ("198.19.255.254", D::Synthetic),
            ("224.0.0.1", D::Multicast),
            ("239.255.255.250", D::Multicast),
            ("240.0.0.1", D::Reserved),
            ("255.255.255.255", D::Broadcast),
            ("fe80::1", D::LinkLocal),
            ("febf::1", D::LinkLocal),
            ("fec0::1", D::SiteLocal),
            ("fc00::1", D::UniqueLocal),
            ("fd00:ec2::254", D::UniqueLocal),
            ("ff02::1", D::Multicast),
            ("::ffff:127.0.0.1", D::Loopback),
            ("::ffff:10.1.2.3", D::Private),
            ("::127.0.0.1", D::Embedded),
            ("::8.8.8.8", D::Embedded),
            ("64:ff9b::7f00:1", D::Loopback),
            ("64:ff9b::a9fe:a9fe", D::LinkLocal),
            ("64:ff9b:1::808:808", D::Embedded),
            ("64:ff9b:1::10.0.0.1", D::Embedded),
            ("64:ff9b:1:7f00:0:100::", D::Embedded),
            ("64:ff9b:1:ffff:ffff:ffff:808:808", D::Embedded),
            ("64:ff9b:2::808:808", D::Reserved),
            ("64:ff9b:0:1::808:808", D::Reserved),
            ("::ffff:0:127.0.0.1", D::Reserved),
            ("::ffff:0:8.8.8.8", D::Reserved),
            ("2002:7f00:1::1", D::Loopback),
            ("2002:c0a8:101::", D::Private),
            ("2002:a9fe:a9fe::", D::LinkLocal),
            ("2001:0:7f00:1::", D::Loopback),
            ("2001:0:808:808::f5ff:fffe", D::Private),
            ("2001:db8::5efe:7f00:1", D::Loopback),
            ("2001:db8::200:5efe:a00:1", D::Private),
            ("100::1", D::Reserved),
            ("4000::1", D::Reserved),
            ("5f00::1", D::Reserved),
        ] {
            assert_eq!(denial(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn public_and_documentation_addresses_are_not_denied() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "169.253.0.1",
            "168.63.129.17",
            "192.0.2.1",
            "198.51.100.1",
            "203.0.113.9",
            "198.17.255.255",
            "198.20.0.0",
            "192.167.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:db8::1",
            "::ffff:1.1.1.1",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2001:0:808:808::f7f7:f7f7",
            "2001:4860:4860::8888",
        ] {
            assert_eq!(denial(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_denied_ipv4_address_is_denied_in_every_ipv6_form(bits: u32, low: u32) {
            let v4 = Ipv4Addr::from(bits);
            let verdict = Denial::of(v4.into());
            let b = u128::from(bits);
            let l = u128::from(low);
            let forms = [
                (0xffff_u128 << 32) | b,
                (0x0064_ff9b_u128 << 96) | b,
                (0x2002_u128 << 112) | (b << 80) | l,
                (0x2001_0db8_u128 << 96) | (0x5efe_u128 << 32) | b,
                (0x2001_0000_u128 << 96) | (b << 64) | u128::from(!0x0808_0808_u32),
                (0x2001_0000_u128 << 96) | (0x0808_0808_u128 << 64) | (b ^ 0xffff_ffff),
            ];
            for form in forms {
                prop_assert_eq!(Denial::of(Ipv6Addr::from(form).into()), verdict, "{}", Ipv6Addr::from(form));
            }
        }

        #[test]
        fn only_global_unicast_is_ever_allowed(bits: u128) {
            let v6 = Ipv6Addr::from(bits);
            if Denial::of(v6.into()).is_none() {
                let first = v6.segments()[0];
                prop_assert!((0x2000..0x4000).contains(&first) || v6.to_ipv4_mapped().is_some() || first == 0x64);
            }
        }

        #[test]
        fn an_address_as_c_libraries_write_it_is_that_address_or_nothing(
            bits: u32,
            parts in 1_usize..5,
            bases in prop::array::uniform4(0_u8..4),
            dot: bool,
        ) {
            // The last part holds all bytes that the others leave.
            let values = (0..parts).map(|at| match at + 1 == parts {
                true => u64::from(bits) & (u64::from(u32::MAX) >> (8 * at)),
                false => u64::from(bits.to_be_bytes()[at]),
            });
            let written: Vec<String> = values
                .zip(bases)
                .map(|(value, base)| match base {
                    0 => value.to_string(),
                    1 => format!("0{value:o}"),
                    2 => format!("0x{value:x}"),
                    _ => format!("0X{value:X}"),
                })
                .collect();
            let text = format!("{}{}", written.join("."), if dot { "." } else { "" });
            prop_assert!(text.parse::<DnsName>().is_err(), "{text}");
            if let Ok(host) = text.parse::<Host>() {
                prop_assert_eq!(host, Host::Address(Ipv4Addr::from(bits).into()), "{}", text);
            }
        }

        #[test]
        fn a_name_reads_back_as_itself(text in "\\PC{0,80}") {
            if let Ok(name) = text.parse::<DnsName>() {
                prop_assert_eq!(name.as_str().parse::<DnsName>().unwrap(), name.clone());
                prop_assert!(name.as_str().parse::<IpAddr>().is_err());
            }
        }
    }
}
