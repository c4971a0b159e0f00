//! What is told to who may not reach something: what refused it, and what
//! would allow it, in words that an agent can pass on.
//!
//! Owns: the text. Never: dials, judges, carries it.

use std::net::IpAddr;

use sbx_spec::{Action, CanonicalPath, Denial, Destination, NO_ADDRESS, Origin, Reason, Rule};

use crate::gate::Intent;
use crate::inspect::Carries;

/// Nothing allows it.
const UNLISTED: &str = "default:unlisted";

/// What to tell, where there is somebody to tell it to: a verdict on a port
/// where requests are made, in clear or in TLS. What failed for another reason
/// is no verdict.
pub(crate) fn of_connection(intent: &Intent, reason: &Reason) -> Option<(Carries, String)> {
    let verdict = match reason {
        Reason::Rule(_) => true,
        Reason::Fixed(line) => line.starts_with("default:") && *line != NO_ADDRESS,
    };
    let carries = match intent.flow.port {
        80 => Carries::Http1,
        443 => Carries::Tls,
        _ => return None,
    };
    let target = target(intent).filter(|_| verdict)?;
    let text = format!(
        "sbx: this sandbox may not reach {target}.\nrule: {reason}\n{}\n",
        remedy(intent, &target, "", reason)
    );
    Some((carries, text))
}

/// What to tell a program that asked a proxy for a connection.
pub(crate) fn of_proxied(intent: &Intent, reason: &Reason) -> Option<String> {
    let target = target(intent)?;
    Some(format!(
        "sbx: this sandbox may not reach {target}.\nrule: {reason}\n{}\n",
        remedy(intent, &target, "", reason)
    ))
}

/// What to tell somebody whose request is denied on a connection that is not.
pub(crate) fn of_request(intent: &Intent, reason: &Reason, method: &str, path: &str) -> String {
    let target = target(intent).unwrap_or_default();
    // What has to be quoted for a shell, or is a pattern, is not offered.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%@:+,=".contains(&byte);
    let is_plain = path.parse::<CanonicalPath>().is_ok() && path.bytes().all(plain);
    let request = if is_plain && method.bytes().all(|byte| byte.is_ascii_uppercase()) {
        format!(" --method {method} --path {path}")
    } else {
        String::new()
    };
    format!(
        "sbx: this sandbox may not {} {target}{}.\nrule: {reason}\n{}\n",
        method.escape_default(),
        path.chars().take(200).collect::<String>().escape_default(),
        remedy(intent, &target, &request, reason)
    )
}

fn target(intent: &Intent) -> Option<String> {
    let port = intent.flow.port;
    Some(match &intent.flow.destination {
        Destination::Name(name) | Destination::Resolved(name, _) => format!("{name}:{port}"),
        Destination::HostService => format!("localhost:{port}"),
        Destination::Address(IpAddr::V4(v4)) => format!("{v4}:{port}"),
        Destination::Address(IpAddr::V6(v6)) => format!("[{v6}]:{port}"),
        Destination::Gateway => return None,
    })
}

fn remedy(intent: &Intent, target: &str, request: &str, reason: &Reason) -> String {
    if let Some(rule) = reason.rule() {
        let id = rule.id();
        if rule.action() == Action::Ask {
            return "The user was asked, and did not say yes in time. Try again when they can \
                    answer: here, or on the host with `sbx policy pending`."
                .to_owned();
        }
        return match rule.origin() {
            Origin::User => {
                format!("To take that rule back, on the host: sbx policy rm --id {id}")
            }
            Origin::Sandbox => format!(
                "To take that rule back, on the host: sbx policy rm --id {id} --sandbox NAME"
            ),
            Origin::Preset(_) | Origin::Kit(_) | Origin::Tool(_) => {
                "Rules of that list are not taken back one by one.".to_owned()
            }
        };
    }
    let of_address = Denial::ALL
        .map(Denial::rule)
        .map(Reason::from)
        .contains(reason);
    if *reason == Reason::Fixed(NO_ADDRESS) {
        return "This host finds no address of that name.".to_owned();
    }
    if !of_address && *reason != Reason::Fixed(UNLISTED) {
        return "No rule can allow it.".to_owned();
    }
    if intent.is_named() && of_address {
        return "The name resolves to an address that is denied, which needs a rule of its own."
            .to_owned();
    }
    let allowed = target
        .parse()
        .is_ok_and(|resource| Rule::new(Action::Allow, resource, Origin::User).is_ok());
    if allowed {
        format!("To allow it, on the host: sbx policy allow network {target}{request}")
    } else {
        "No rule can allow it.".to_owned()
    }
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

    fn name() -> Destination {
        Destination::Name("a.example".parse().unwrap())
    }

    fn address(text: &str) -> Destination {
        Destination::Address(text.parse().unwrap())
    }

    #[test]
    fn what_is_not_listed_comes_with_the_command_that_allows_it() {
        for (destination, command) in [
            (name(), "sbx policy allow network a.example:80"),
            (
                address("192.0.2.1"),
                "sbx policy allow network 192.0.2.1:80",
            ),
            (
                address("2001:db8::1"),
                "sbx policy allow network [2001:db8::1]:80",
            ),
            (
                Destination::HostService,
                "sbx policy allow network localhost:80",
            ),
        ] {
            let (_, text) = of_connection(&intent(destination, 80), &UNLISTED.into()).unwrap();
            assert!(text.contains("rule: default:unlisted\n"), "{text}");
            assert!(text.contains(command), "{text}");
        }
    }

    #[test]
    fn no_command_is_named_that_would_not_help() {
        let (_, denied) = of_connection(
            &intent(address("127.0.0.2"), 80),
            &"default:loopback".into(),
        )
        .unwrap();
        assert!(denied.contains("No rule can allow it."), "{denied}");
        let (_, resolved) = of_connection(&intent(name(), 80), &"default:private".into()).unwrap();
        assert!(!resolved.contains("sbx policy"), "{resolved}");
        for fixed in [
            "default:dns-port",
            "default:tls-server-name",
            "limit:questions",
        ] {
            let text = of_proxied(&intent(name(), 53), &fixed.into()).unwrap();
            assert!(text.contains("No rule can allow it."), "{text}");
        }
        let rule = Rule::new(Action::Deny, "a.example".parse().unwrap(), Origin::User).unwrap();
        let id = rule.id().to_string();
        let reason = Reason::Rule(std::sync::Arc::new(rule));
        let (_, denied) = of_connection(&intent(name(), 80), &reason).unwrap();
        assert!(
            denied.contains(&format!("sbx policy rm --id {id}")),
            "{denied}"
        );
    }

    #[test]
    fn what_is_no_verdict_or_no_http_is_not_explained() {
        for reason in [
            "limit:flows",
            "default:no-address",
            "gateway:no-such-service",
        ] {
            assert_eq!(
                of_connection(&intent(name(), 80), &reason.into()),
                None,
                "{reason}"
            );
        }
        assert_eq!(of_connection(&intent(name(), 22), &UNLISTED.into()), None);
        assert_eq!(
            of_connection(&intent(Destination::Gateway, 80), &UNLISTED.into()),
            None
        );
    }

    #[test]
    fn a_request_comes_with_a_command_for_itself_where_it_can_be_written() {
        let told = |method, path| of_request(&intent(name(), 443), &UNLISTED.into(), method, path);
        let text = told("POST", "/v1/x");
        assert!(
            text.contains("may not POST a.example:443/v1/x.\n"),
            "{text}"
        );
        assert!(
            text.contains("allow network a.example:443 --method POST --path /v1/x\n"),
            "{text}"
        );
        for (method, path) in [
            ("POST", "/$(id)"),
            ("POST", "/*"),
            ("p", "/"),
            ("GET", "/../\u{1b}"),
        ] {
            let text = told(method, path);
            assert!(text.contains("allow network a.example:443\n"), "{text}");
            assert!(!text.contains('\u{1b}'), "{text:?}");
        }
    }
}
