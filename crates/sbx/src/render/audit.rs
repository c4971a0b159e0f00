//! Records of the network as lines. Names in them were chosen by a guest.

use anstyle::AnsiColor;
use sbx_engine::command::{AuditEvent, AuditRecord, AuditReply, AuditTarget, Judged};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::table::columns;
use super::{Paint, escape};

/// All that was found.
pub(super) fn records(found: &AuditReply, paint: Paint) -> String {
    let rows: Vec<Vec<String>> = found
        .records
        .iter()
        .map(|record| row(record, paint))
        .collect();
    let mut text = columns(&["TIME", "SANDBOX", "VERDICT", "TARGET", "BY"], &rows);
    if found.earlier > 0 {
        text += &format!("{} earlier; --limit shows more\n", found.earlier);
    }
    if found.unreadable > 0 {
        text += &format!("{} lines are no records\n", found.unreadable);
    }
    text
}

/// One record of those that are followed.
pub(crate) fn line(record: &AuditRecord, paint: Paint) -> String {
    format!("{}\n", row(record, paint).join("  "))
}

fn row(record: &AuditRecord, paint: Paint) -> Vec<String> {
    let (verdict, target, by) = match &record.event {
        AuditEvent::Flow(flow) => {
            let by = match &flow.failed {
                Some(why) => format!("{} ({})", escape(&flow.target.rule), escape(why)),
                None => escape(&flow.target.rule),
            };
            (word(flow.verdict, paint), place(&flow.target), by)
        }
        AuditEvent::Request(asked) => {
            let target = format!(
                "{} {}:{}{}",
                asked.method.as_deref().unwrap_or("?"),
                asked.host.as_deref().unwrap_or("?"),
                asked.port,
                asked.path.as_deref().unwrap_or_default()
            );
            let verdict = word(asked.verdict, paint);
            (verdict, escape(&target), escape(&asked.rule))
        }
        AuditEvent::End(end) => {
            let target = end.target.as_ref().map_or_else(|| "?".to_owned(), place);
            let bytes = match (end.sent, end.received) {
                (Some(sent), Some(received)) => format!("{sent} bytes out, {received} in; "),
                _ => String::new(),
            };
            (
                "end".to_owned(),
                target,
                format!("{bytes}{}", escape(&end.how)),
            )
        }
        AuditEvent::Flood(flood) => {
            let what = format!(
                "{} allowed, {} denied, {} ended ({} bytes out, {} in), {} unreadable",
                flood.allowed,
                flood.denied,
                flood.ended,
                flood.sent,
                flood.received,
                flood.unreadable
            );
            ("flood".to_owned(), what, "only counted".to_owned())
        }
    };
    vec![
        moment(record.time_ms),
        record.sandbox.to_string(),
        verdict,
        target,
        by,
    ]
}

fn word(verdict: Judged, paint: Paint) -> String {
    match verdict {
        Judged::Allow => paint.color("allow", AnsiColor::Green),
        Judged::Deny => paint.color("deny", AnsiColor::Red),
    }
}

fn place(target: &AuditTarget) -> String {
    let host = match (&target.host, target.address) {
        (Some(host), _) => escape(host),
        (None, Some(address)) if address.is_ipv6() => format!("[{address}]"),
        (None, Some(address)) => address.to_string(),
        (None, None) => "?".to_owned(),
    };
    format!("{} {host}:{}", escape(&target.protocol), target.port)
}

/// To the second, in UTC.
fn moment(time_ms: u64) -> String {
    let seconds = i64::try_from(time_ms / 1_000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|at| at.format(&Rfc3339).ok())
        .unwrap_or_else(|| "?".to_owned())
}

#[cfg(test)]
mod tests {
    use sbx_engine::command::{AuditAsked, AuditEnd, AuditFlow};

    use super::*;

    fn record(event: AuditEvent) -> AuditRecord {
        AuditRecord {
            version: 1,
            time_ms: 1_767_225_600_123,
            sandbox: "box".parse().unwrap(),
            event,
        }
    }

    fn target() -> AuditTarget {
        AuditTarget {
            protocol: "tcp".to_owned(),
            host: Some("a.example".to_owned()),
            address: None,
            port: 443,
            rule: "default:unlisted".to_owned(),
            rule_id: None,
            origin: None,
        }
    }

    #[test]
    fn a_record_is_a_line_whatever_a_guest_put_into_it() {
        let flow = record(AuditEvent::Flow(AuditFlow {
            flow: "1.1.1".to_owned(),
            verdict: Judged::Deny,
            target: target(),
            failed: None,
        }));
        assert_eq!(
            line(&flow, Paint::none()),
            "2026-01-01T00:00:00Z  box  deny  tcp a.example:443  default:unlisted\n"
        );
        let end = record(AuditEvent::End(AuditEnd {
            flow: "1.1.1".to_owned(),
            target: Some(target()),
            sent: Some(7),
            received: Some(9),
            how: "closed".to_owned(),
        }));
        assert!(line(&end, Paint::none()).ends_with("7 bytes out, 9 in; closed\n"));
        let asked = record(AuditEvent::Request(AuditAsked {
            flow: "1.1.1".to_owned(),
            verdict: Judged::Allow,
            host: Some("a.example".to_owned()),
            port: 443,
            method: Some("GET".to_owned()),
            path: Some("/\u{1b}[2J".to_owned()),
            rule: "user allow a.example".to_owned(),
            rule_id: None,
            origin: None,
        }));
        let text = line(&asked, Paint::none());
        assert!(
            text.contains("GET a.example:443/") && !text.contains('\u{1b}'),
            "{text:?}"
        );
    }

    #[test]
    fn what_is_left_out_is_said() {
        let found = AuditReply {
            earlier: 3,
            unreadable: 1,
            ..AuditReply::default()
        };
        let text = records(&found, Paint::none());
        assert!(
            text.contains("3 earlier") && text.contains("1 lines are no records"),
            "{text}"
        );
    }
}
