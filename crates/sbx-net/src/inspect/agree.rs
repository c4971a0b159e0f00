//! Whether what a client says inside a connection is about the server that
//! the connection was judged by.

use std::net::IpAddr;

use sbx_spec::Destination;

use crate::layout;

/// Whether the server name of a TLS hello is the connection's. Who asks for
/// none gets the server's own choice, which is still that server.
pub(crate) fn server_name(destination: &Destination, asked: Option<&str>) -> bool {
    match (destination, asked) {
        (Destination::Name(name) | Destination::Resolved(name, _), Some(asked)) => {
            is_name(asked, name.as_str())
        }
        _ => true,
    }
}

/// Whether a Host field or `:authority` names the connection's server and
/// port; `default` is the port that need not be said.
pub(super) fn authority(destination: &Destination, port: u16, default: u16, text: &str) -> bool {
    let Some((host, said)) = split(text) else {
        return false;
    };
    if said.unwrap_or(default) != port {
        return false;
    }
    match destination {
        Destination::Name(name) | Destination::Resolved(name, _) => is_name(host, name.as_str()),
        Destination::Address(address) => literal(host) == Some(address.to_canonical()),
        Destination::HostService => {
            layout::HOST_NAMES.iter().any(|name| is_name(host, name))
                || is_name(host, "localhost")
                || literal(host).is_some_and(layout::is_host)
        }
        Destination::Gateway => false,
    }
}

fn is_name(said: &str, name: &str) -> bool {
    let said = said.strip_suffix('.').unwrap_or(said);
    said.eq_ignore_ascii_case(name)
}

fn literal(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let address = match bare {
        Some(v6) => IpAddr::V6(v6.parse().ok()?),
        None => IpAddr::V4(host.parse().ok()?),
    };
    Some(address.to_canonical())
}

/// Host and port. Anything that another reader could cut elsewhere, such as
/// a user before an `@`, is no authority.
fn split(text: &str) -> Option<(&str, Option<u16>)> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    if !text.bytes().all(plain) {
        return None;
    }
    let end = match text.strip_prefix('[') {
        Some(rest) => rest.find(']')? + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at_checked(end)?;
    if host.is_empty() {
        return None;
    }
    match rest.strip_prefix(':') {
        Some(port) if port.len() <= 5 && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((host, Some(port.parse().ok()?)))
        }
        None if rest.is_empty() => Some((host, None)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> Destination {
        Destination::Name("a.example".parse().unwrap())
    }

    #[test]
    fn the_servers_own_name_agrees_in_every_spelling() {
        for text in ["a.example", "A.Example", "a.example.", "a.example:443"] {
            assert!(authority(&name(), 443, 443, text), "{text}");
        }
        assert!(authority(&name(), 8443, 443, "a.example:8443"));
        let v6 = Destination::Address("2001:db8::1".parse().unwrap());
        assert!(authority(&v6, 80, 80, "[2001:db8::1]"));
        assert!(authority(&v6, 81, 80, "[2001:DB8:0::1]:81"));
        let v4 = Destination::Address("192.0.2.1".parse().unwrap());
        assert!(authority(&v4, 80, 80, "192.0.2.1"));
        for text in ["host.sbx.internal:80", "localhost", "HOST.docker.internal"] {
            assert!(authority(&Destination::HostService, 80, 80, text), "{text}");
        }
    }

    #[test]
    fn another_server_or_port_or_spelling_does_not_agree() {
        for text in [
            "",
            "b.example",
            "a.example:80",
            "a.example:",
            "a.example:0443x",
            "a.example:+443",
            "a.example:70000",
            "a.example..",
            "x@a.example",
            "a.example@b.example",
            "a.example, b.example",
            "a.example b.example",
            "a.example/",
            "a.example#",
            "b.example\\a.example",
            "[a.example]",
            "[::1]x:443",
            "192.0.2.1",
            "a.example\u{0}",
            "\u{ff41}.example",
        ] {
            assert!(!authority(&name(), 443, 443, text), "{text:?}");
        }
        assert!(!authority(&name(), 8443, 443, "a.example"));
        let v4 = Destination::Address("192.0.2.1".parse().unwrap());
        for text in [
            "192.0.2.2",
            "a.example",
            "3221225985",
            "0300.0.2.1",
            "[::ffff:c000:201]x",
        ] {
            assert!(!authority(&v4, 80, 80, text), "{text:?}");
        }
        assert!(!authority(&Destination::Gateway, 80, 80, "a.example"));
    }

    #[test]
    fn a_hello_agrees_by_its_name_or_by_having_none() {
        assert!(server_name(&name(), Some("A.example")));
        assert!(server_name(&name(), None));
        assert!(!server_name(&name(), Some("b.example")));
        let address = Destination::Address("192.0.2.1".parse().unwrap());
        assert!(server_name(&address, Some("b.example")));
    }
}
