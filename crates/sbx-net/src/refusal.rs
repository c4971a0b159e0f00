//! The answer to a denied connection on the port of plain HTTP: what refused
//! it, and what would allow it, in words that an agent can pass on.
//!
//! Owns: the text and the connection that carries it. Never: dials, judges.
//! Of what the guest says only the method is looked at.

use std::net::IpAddr;

use sbx_spec::{Action, Destination, Origin, Reason, Rule};
use smoltcp::socket::tcp::State as Tcp;
use smoltcp::wire::EthernetAddress;

use crate::buffers::Claim;
use crate::device::link::Output;
use crate::flow::Served;
use crate::gate::Intent;
use crate::limits;
use crate::stack::Stack;

/// Where plain HTTP is spoken.
const PORT: u16 = 80;
/// Nothing allows it.
const UNLISTED: &str = "default:unlisted";

/// A connection that is told why it is none.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) stack: Stack,
    pub(crate) claim: Claim,
    text: String,
    asked: Vec<u8>,
    told: bool,
}

/// What to tell, where there is somebody to tell it to: a verdict on the port
/// of plain HTTP. What failed for another reason is no verdict.
pub(crate) fn text(intent: &Intent, reason: &Reason) -> Option<String> {
    let verdict = match reason {
        Reason::Rule(_) => true,
        Reason::Fixed(line) => line.starts_with("default:") && *line != "default:no-address",
    };
    if !verdict || intent.flow.port != PORT {
        return None;
    }
    let target = match &intent.flow.destination {
        Destination::Name(name) | Destination::Resolved(name, _) => format!("{name}:{PORT}"),
        Destination::HostService => format!("localhost:{PORT}"),
        Destination::Address(IpAddr::V4(v4)) => format!("{v4}:{PORT}"),
        Destination::Address(IpAddr::V6(v6)) => format!("[{v6}]:{PORT}"),
        Destination::Gateway => return None,
    };
    Some(format!(
        "sbx: this sandbox may not reach {target}.\nrule: {reason}\n{}\n",
        remedy(intent, &target, reason)
    ))
}

fn remedy(intent: &Intent, target: &str, reason: &Reason) -> String {
    if let Some(rule) = reason.rule() {
        let id = rule.id();
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
    let named = matches!(
        intent.flow.destination,
        Destination::Name(_) | Destination::Resolved(..)
    );
    if named && *reason != Reason::Fixed(UNLISTED) {
        return "The name resolves to an address that is denied, which needs a rule of its own."
            .to_owned();
    }
    let allowed = target
        .parse()
        .is_ok_and(|resource| Rule::new(Action::Allow, resource, Origin::User).is_ok());
    if allowed {
        format!("To allow it, on the host: sbx policy allow network {target}")
    } else {
        "No rule can allow it.".to_owned()
    }
}

impl Refusal {
    /// Tells `text` to whoever finishes the handshake on `stack`.
    pub(crate) fn new(stack: Stack, claim: Claim, text: String) -> Self {
        Self {
            stack,
            claim,
            text,
            asked: Vec::new(),
            told: false,
        }
    }

    /// Reads a request and answers it. `None` where it is not HTTP: then there
    /// is nothing to be said.
    pub(crate) fn serve(
        &mut self,
        output: &mut Output,
        guest: EthernetAddress,
        now: smoltcp::time::Instant,
    ) -> Option<Served> {
        self.hear();
        if self
            .asked
            .first()
            .is_some_and(|byte| !byte.is_ascii_uppercase())
        {
            return None;
        }
        let whole = ends(&self.asked) || self.asked.len() >= limits::REFUSED_REQUEST;
        let socket = self.stack.socket();
        if whole && !self.told {
            self.told = true;
            let answer = answer(&self.text, self.asked.starts_with(b"HEAD "));
            // The buffer is larger than any answer.
            let _whole = socket.send_slice(answer.as_bytes());
        }
        if self.told || socket.state() == Tcp::CloseWait {
            socket.close();
        }
        if !self.stack.send(output, guest, now) {
            return Some(Served::LinkFull);
        }
        match self.stack.socket().state() {
            Tcp::Closed | Tcp::TimeWait | Tcp::Listen => Some(Served::Over("denied")),
            _ => Some(Served::Idle),
        }
    }

    /// Takes what the guest says; what comes after the beginning of a request
    /// is read, so that the guest reads the answer, and dropped.
    fn hear(&mut self) {
        let socket = self.stack.socket();
        while let Ok(1..) = socket.recv(|bytes| {
            let room = limits::REFUSED_REQUEST.saturating_sub(self.asked.len());
            let kept = bytes.get(..bytes.len().min(room)).unwrap_or_default();
            self.asked.extend_from_slice(kept);
            (bytes.len(), bytes.len())
        }) {}
    }
}

/// Whether a request's head is there.
fn ends(asked: &[u8]) -> bool {
    asked.windows(4).any(|end| end == b"\r\n\r\n") || asked.windows(2).any(|end| end == b"\n\n")
}

fn answer(text: &str, head: bool) -> String {
    format!(
        "HTTP/1.1 403 Forbidden\r\nX-Sbx-Verdict: deny\r\nContent-Type: text/plain; \
         charset=utf-8\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: \
         close\r\n\r\n{}",
        text.len(),
        if head { "" } else { text }
    )
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
            let text = text(&intent(destination, 80), &UNLISTED.into()).unwrap();
            assert!(text.contains("rule: default:unlisted\n"), "{text}");
            assert!(text.contains(command), "{text}");
        }
    }

    #[test]
    fn no_command_is_named_that_would_not_help() {
        let denied = text(
            &intent(address("127.0.0.2"), 80),
            &"default:loopback".into(),
        )
        .unwrap();
        assert!(denied.contains("No rule can allow it."), "{denied}");
        let resolved = text(&intent(name(), 80), &"default:private".into()).unwrap();
        assert!(!resolved.contains("sbx policy"), "{resolved}");
        let rule = Rule::new(Action::Deny, "a.example".parse().unwrap(), Origin::User).unwrap();
        let id = rule.id().to_string();
        let reason = Reason::Rule(std::sync::Arc::new(rule));
        let denied = text(&intent(name(), 80), &reason).unwrap();
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
            assert_eq!(text(&intent(name(), 80), &reason.into()), None, "{reason}");
        }
        assert_eq!(text(&intent(name(), 443), &UNLISTED.into()), None);
        assert_eq!(
            text(&intent(Destination::Gateway, 80), &UNLISTED.into()),
            None
        );
    }

    #[test]
    fn the_longest_answer_fits_its_buffer() {
        let label = "a".repeat(60);
        let long = format!("{label}.{label}.{label}.{label}.example");
        let rule = Rule::new(Action::Deny, long.parse().unwrap(), Origin::Sandbox).unwrap();
        let reason = Reason::Rule(std::sync::Arc::new(rule));
        let text = text(
            &intent(Destination::Name(long.parse().unwrap()), 80),
            &reason,
        );
        assert!(answer(&text.unwrap(), false).len() < limits::REFUSED_REQUEST);
    }

    #[test]
    fn an_answer_to_head_has_a_length_and_no_body() {
        let answer = answer("text\n", true);
        assert!(answer.contains("Content-Length: 5\r\n"));
        assert!(answer.ends_with("\r\n\r\n"));
    }
}
