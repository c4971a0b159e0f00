//! What is said around a session: before its first byte and after its last.

use anstyle::AnsiColor;
use sbx_engine::command::{Afterwards, EndBlock, Entered, HeldName, StartBlock};
use sbx_spec::{Action, Isolation, NetworkPreset, Promise, WorkspaceGuard};

use super::{Paint, escape, table};

/// Held names that are listed before the rest is only counted.
const LISTED: usize = 5;

/// What is said before the first byte.
pub(crate) fn start(block: &StartBlock, paint: Paint) -> String {
    let how = match block.how {
        Entered::Created => "created",
        Entered::Started => "started",
        Entered::Joined => "running",
    };
    let boundary = match block.isolation {
        Isolation::MicroVm => "a virtual machine with its own kernel",
        Isolation::Container => "on this host's own kernel, no machine around it",
        Isolation::Docker => "a container of your engine, on its host's own kernel",
    };
    let mut lines = vec![
        (
            "sandbox",
            format!("{} ({how}), agent {}", block.name, block.agent),
        ),
        (
            "isolation",
            format!(
                "{}: {boundary}; {}",
                block.isolation,
                escape(&block.enforced_by)
            ),
        ),
    ];
    if let Some(note) = &block.accel_note {
        lines.push(("", paint.color(&escape(note), AnsiColor::Yellow)));
    }
    for (position, (promise, words)) in broken(block.isolation, block.guard).enumerate() {
        let key = if position == 0 { "weaker" } else { "" };
        let text = format!("{}: {words}", promise.name());
        lines.push((key, paint.color(&text, AnsiColor::Yellow)));
    }
    if block.shares.is_empty() {
        lines.push(("workspace", "none".to_owned()));
    }
    for (position, share) in block.shares.iter().enumerate() {
        let host = escape(&share.host.to_string_lossy());
        let guest = escape(&share.guest.as_path().to_string_lossy());
        let inside = if host == guest {
            String::new()
        } else {
            format!(" as {guest}")
        };
        let mode = match share.mode.as_str() {
            "direct" => "direct: edits appear on the host at once",
            "ro" => "ro: cannot be written to",
            other => other,
        };
        lines.push((
            if position == 0 { "workspace" } else { "" },
            format!("{host}{inside} ({mode})"),
        ));
    }
    lines.push(("network", network(block)));
    if !block.wanted.is_empty() {
        let text = format!(
            "agent {} wants more than that; to accept it: sbx policy allow network {} --sandbox {}",
            block.agent,
            escape(&block.wanted.join(",")),
            block.name
        );
        lines.push(("", paint.color(&text, AnsiColor::Yellow)));
    }
    if !block.ports.is_empty() {
        lines.push(("ports", escape(&block.ports.join(", "))));
    }
    for name in &block.plain_credentials {
        let text = format!(
            "{} is passed as a value: the sandbox can read it",
            escape(name)
        );
        lines.push(("credential", paint.color(&text, AnsiColor::Yellow)));
    }
    if !block.held.is_empty() {
        lines.push(("held", held(&block.held)));
    }
    spaced(&lines)
}

/// What guards the host and is not kept, with what is so instead.
fn broken(
    isolation: Isolation,
    guard: WorkspaceGuard,
) -> impl Iterator<Item = (Promise, &'static str)> {
    let guards = Promise::ALL.iter().filter(|promise| promise.guards());
    guards.filter_map(move |promise| Some((*promise, promise.kept(isolation, guard).caveat()?)))
}

/// Pairs, where a key that is empty belongs to the one above.
fn spaced(lines: &[(&str, String)]) -> String {
    table::pairs(lines)
}

fn network(block: &StartBlock) -> String {
    let preset = match block.network {
        NetworkPreset::Open => {
            "open: everything but this host, private, link-local and metadata addresses"
        }
        NetworkPreset::Balanced => {
            "balanced: package registries, code hosts, documentation and the agent's own service"
        }
        NetworkPreset::Locked => "locked: what rules allow and nothing else",
        NetworkPreset::None => return "none: there is no network".to_owned(),
    };
    let written = |action, word| {
        let all: Vec<String> = block
            .rules
            .iter()
            .filter(|rule| rule.action == action)
            .map(|rule| escape(&rule.about()))
            .collect();
        let more = match all.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        match all.get(..all.len().min(LISTED)) {
            None | Some([]) => String::new(),
            Some(listed) => format!("; {word} {}{more}", listed.join(", ")),
        }
    };
    let allowed = written(Action::Allow, "allowed");
    let asked = written(Action::Ask, "asked about");
    let approved = written(Action::Approve, "approved");
    let denied = written(Action::Deny, "denied");
    format!("{preset}{allowed}{asked}{approved}{denied}")
}

/// What is said after the last byte; nothing if there is nothing to say.
pub(crate) fn end(block: &EndBlock, _paint: Paint) -> String {
    let name = &block.name;
    let then = match block.then {
        Afterwards::StopsIn(seconds) => format!("stops in {seconds} s; `sbx run` enters it again"),
        Afterwards::StaysUp => "stays up".to_owned(),
        Afterwards::Removed => "removed; workspace files stay".to_owned(),
        Afterwards::Down => "the sandbox went down; `sbx logs` tells why".to_owned(),
    };
    let mut lines = vec![("sandbox", format!("{name}: {then}"))];
    if !block.held.is_empty() {
        lines.push(("held", held(&block.held)));
    }
    spaced(&lines)
}

/// Names whose changes stay in the sandbox.
fn held(names: &[HeldName]) -> String {
    let listed: Vec<String> = names
        .iter()
        .take(LISTED)
        .map(|name| escape(&name.path))
        .collect();
    let rest = names.len().saturating_sub(LISTED);
    let more = if rest > 0 {
        format!(" and {rest} more")
    } else {
        String::new()
    };
    format!(
        "{}{more}: changed inside, not on the host",
        listed.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use sbx_engine::command::{PolicyListed, ShareBrief};
    use sbx_spec::GuestPath;

    use super::*;

    fn share(host: &str, guest: &str, mode: &str) -> ShareBrief {
        ShareBrief {
            host: host.into(),
            guest: GuestPath::new(guest).unwrap(),
            mode: mode.into(),
        }
    }

    fn block() -> StartBlock {
        StartBlock {
            name: "claude-app".parse().unwrap(),
            agent: "claude".parse().unwrap(),
            how: Entered::Created,
            isolation: Isolation::MicroVm,
            guard: WorkspaceGuard::Full,
            enforced_by: "QEMU 7.2 with TCG".into(),
            accel_note: Some("emulated, because this host has no usable KVM".into()),
            shares: vec![
                share("/src/app", "/src/app", "direct"),
                share("/doc", "/d", "ro"),
            ],
            network: NetworkPreset::Open,
            rules: vec![PolicyListed {
                id: "0123abcd".into(),
                action: Action::Allow,
                resource: "localhost:8080".parse().unwrap(),
                requests: None,
                transport: None,
                inspect: false,
                origin: "sandbox".into(),
            }],
            ports: vec!["127.0.0.1:8080->80/tcp".into()],
            wanted: vec!["api.example:443".into()],
            plain_credentials: vec!["ANTHROPIC_API_KEY".into()],
            held: vec![HeldName {
                share: "/src/app".into(),
                path: ".git/hooks/\u{1b}x".into(),
            }],
        }
    }

    #[test]
    fn says_what_stands_around_the_session() {
        assert_eq!(
            start(&block(), Paint::none()),
            "sandbox     claude-app (created), agent claude\n\
             isolation   microvm: a virtual machine with its own kernel; QEMU 7.2 with TCG\n            \
             emulated, because this host has no usable KVM\n\
             workspace   /src/app (direct: edits appear on the host at once)\n            \
             /doc as /d (ro: cannot be written to)\n\
             network     open: everything but this host, private, link-local and metadata addresses; \
             allowed localhost:8080\n            \
             agent claude wants more than that; to accept it: sbx policy allow network \
             api.example:443 --sandbox claude-app\n\
             ports       127.0.0.1:8080->80/tcp\n\
             credential  ANTHROPIC_API_KEY is passed as a value: the sandbox can read it\n\
             held        .git/hooks/\\u{1b}x: changed inside, not on the host\n"
        );
    }

    #[test]
    fn says_of_a_weaker_isolation_what_it_does_not_keep() {
        for guard in [WorkspaceGuard::Full, WorkspaceGuard::Existing] {
            let contained = StartBlock {
                isolation: Isolation::Container,
                guard,
                ..block()
            };
            let text = start(&contained, Paint::none());
            let told: Vec<_> = broken(Isolation::Container, guard).collect();
            assert!(told.len() > 2, "{told:?}");
            for (promise, words) in told {
                let line = format!("{}: {words}\n", promise.name());
                assert!(text.contains(&line), "{text}");
            }
            assert!(text.contains("\nweaker      kernel: "), "{text}");
        }
        assert!(!start(&block(), Paint::none()).contains("weaker"));
    }

    #[test]
    fn says_what_becomes_of_the_sandbox() {
        let held = (0..7).map(|n| HeldName {
            share: "/a".into(),
            path: format!(".vscode/{n}"),
        });
        let block = EndBlock {
            name: "claude-app".parse().unwrap(),
            held: held.collect(),
            then: Afterwards::StopsIn(30),
        };
        assert_eq!(
            end(&block, Paint::none()),
            "sandbox  claude-app: stops in 30 s; `sbx run` enters it again\n\
             held     .vscode/0, .vscode/1, .vscode/2, .vscode/3, .vscode/4 and 2 more: \
             changed inside, not on the host\n"
        );
    }
}
