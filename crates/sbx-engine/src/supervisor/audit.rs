//! What the network of one sandbox did, on record beside its log.
//!
//! Owns: the file `audit.jsonl`, one record for each verdict and each end of
//! an allowed flow. Trusts no engine: a line that is not exactly a record is
//! counted and dropped, and what comes too fast is counted and summed up, each
//! kind by itself: a guest that asks for what it may not have hides nothing of
//! what it gets.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sbx_net::limits;
use sbx_spec::{DnsName, SandboxName};
use serde::Deserialize;

use super::log::{Budget, now_ms};
use super::rolling::Rolling;
use crate::command::{
    AUDIT_VERSION, AuditAsked, AuditEnd, AuditEvent, AuditFlood, AuditFlow, AuditRecord,
    AuditTarget, Judged,
};

/// The audit file, in a sandbox's run directory.
pub(crate) const NAME: &str = "audit.jsonl";
/// The one before it.
pub(crate) const OLDER: &str = "audit.old";
/// Size at which the audit file starts anew, keeping one old file, in bytes.
pub(crate) const MAX_FILE: u64 = 16 << 20;
/// Records of one kind at once, in bytes of the file. The kinds are denials,
/// allowed requests, and allowed flows with their ends.
const BURST: f64 = 512.0 * 1024.0;
/// Records of one kind in the long run, in bytes a second: a guest that asks
/// for ever takes half an hour to push out what was recorded before.
const RATE: f64 = 5.0 * 1024.0;
/// By how much the record of an end may be longer than that of its flow.
const END: usize = 64;
/// How often what was only counted is summed up.
pub(super) const SUMMED_UP: Duration = Duration::from_secs(1);

/// Longest rule as it is written, in bytes.
const MAX_RULE: usize = 4096;

/// A line of an engine that becomes a record.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Told {
    Flow(ToldFlow),
    Request(ToldRequest),
    End(ToldEnd),
    Flood(ToldFlood),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToldFlow {
    id: u64,
    verdict: Judged,
    rule: Text<MAX_RULE>,
    rule_id: Option<Text<8>>,
    origin: Option<Text<128>>,
    proto: Proto,
    host: Option<DnsName>,
    addr: Option<IpAddr>,
    port: u16,
    failed: Option<Text<64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToldRequest {
    id: u64,
    verdict: Judged,
    rule: Text<MAX_RULE>,
    rule_id: Option<Text<8>>,
    origin: Option<Text<128>>,
    host: Option<DnsName>,
    port: u16,
    method: Option<Text<32>>,
    path: Option<Text<1024>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToldEnd {
    id: u64,
    sent: u64,
    received: u64,
    how: Text<64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ToldFlood {
    allowed: u64,
    denied: u64,
    ended: u64,
    sent: u64,
    received: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Proto {
    Tcp,
    Udp,
    Icmp,
    Dns,
}

/// At most so many bytes of printable ASCII.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Text<const MOST: usize>(String);

impl<const MOST: usize> TryFrom<String> for Text<MOST> {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        if text.is_empty() || text.len() > MOST || !text.bytes().all(printable) {
            return Err("not a short printable text");
        }
        Ok(Self(text))
    }
}

/// What a line of an engine was.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Heard {
    /// A record; holds what a reader of the log should know of it.
    Record(Option<String>),
    /// None, and counted as such.
    Unreadable,
}

/// The audit file of a running sandbox.
#[derive(Debug)]
pub(super) struct Audit {
    file: Rolling,
    sandbox: SandboxName,
    /// When this supervisor opened it: numbers of engines and flows begin
    /// anew with each.
    run: u64,
    engine: u32,
    /// Allowed flows that have not ended, by their number.
    open: HashMap<u64, Open>,
    denials: Budget,
    requests: Budget,
    flows: Budget,
    missed: AuditFlood,
    summed_up: Option<Instant>,
    failed: bool,
}

/// An allowed flow that has not ended.
#[derive(Debug)]
struct Open {
    target: AuditTarget,
    /// Whether its verdict is on record: then room was taken for its end, too.
    written: bool,
}

impl Audit {
    /// Opens the file of `sandbox` in `directory`.
    ///
    /// # Errors
    /// If it cannot be opened, or something else lies in its place.
    pub(super) fn open(directory: &Path, sandbox: SandboxName) -> sbx_sys::Result<Self> {
        Ok(Self {
            file: Rolling::open(directory, NAME, OLDER, MAX_FILE)?,
            sandbox,
            run: now_ms().unwrap_or_default(),
            engine: 0,
            open: HashMap::new(),
            denials: Budget::of(BURST, RATE),
            requests: Budget::of(BURST, RATE),
            flows: Budget::of(BURST, RATE),
            missed: AuditFlood::default(),
            summed_up: None,
            failed: false,
        })
    }

    /// Lines come from a new engine from now on; returns its number.
    pub(super) fn engine_starts(&mut self) -> u32 {
        self.engine_ended(self.engine);
        self.engine += 1;
        self.engine
    }

    /// An engine says no more: what it left open has ended with it.
    fn engine_ended(&mut self, engine: u32) {
        if engine != self.engine {
            return;
        }
        let mut left: Vec<_> = std::mem::take(&mut self.open).into_iter().collect();
        left.sort_unstable_by_key(|(id, _)| *id);
        for (id, open) in left {
            self.ended(id, Some(open), None, "engine ended".to_owned());
        }
        self.summed_up = None;
        self.sum_up(Instant::now());
    }

    /// Takes a line of the engine.
    pub(super) fn hear(&mut self, line: &str) -> Heard {
        match serde_json::from_str(line) {
            Ok(Told::Flow(told)) => Heard::Record(self.judged(told)),
            Ok(Told::Request(told)) => Heard::Record(self.requested(told)),
            Ok(Told::End(told)) => {
                let open = self.open.remove(&told.id);
                let carried = Some((told.sent, told.received));
                self.ended(told.id, open, carried, told.how.0);
                Heard::Record(None)
            }
            Ok(Told::Flood(told)) => {
                self.missed.add(AuditFlood {
                    allowed: told.allowed,
                    denied: told.denied,
                    ended: told.ended,
                    sent: told.sent,
                    received: told.received,
                    unreadable: 0,
                });
                Heard::Record(None)
            }
            Err(_) => {
                self.missed.add(AuditFlood {
                    unreadable: 1,
                    ..AuditFlood::default()
                });
                Heard::Unreadable
            }
        }
    }

    fn judged(&mut self, told: ToldFlow) -> Option<String> {
        let target = AuditTarget {
            protocol: match told.proto {
                Proto::Tcp => "tcp",
                Proto::Udp => "udp",
                Proto::Icmp => "icmp",
                Proto::Dns => "dns",
            }
            .to_owned(),
            host: told.host.map(|name| name.as_str().to_owned()),
            address: told.addr,
            port: told.port,
            rule: told.rule.0,
            rule_id: told.rule_id.map(|id| id.0),
            origin: told.origin.map(|origin| origin.0),
        };
        let failed = told.failed.map(|why| why.0);
        let said = remark(told.verdict, &target, failed.as_deref());
        let runs = told.verdict == Judged::Allow && failed.is_none();
        let line = self.line(AuditEvent::Flow(AuditFlow {
            flow: self.flow(told.id),
            verdict: told.verdict,
            target: target.clone(),
            failed,
        }));
        let room = match (told.verdict, runs) {
            (Judged::Deny, _) => self.denials.spend(line.len()),
            (Judged::Allow, false) => self.flows.spend(line.len()),
            (Judged::Allow, true) => self.flows.spend(2 * line.len() + END),
        };
        let written = room && self.write(&line).is_ok();
        if !written {
            self.missed.count(told.verdict);
        }
        if runs && self.open.len() < limits::RECORDED {
            self.open.insert(told.id, Open { target, written });
        }
        said
    }

    /// Records the end of a flow. Where its verdict is on record, so is this.
    fn ended(&mut self, id: u64, open: Option<Open>, carried: Option<(u64, u64)>, how: String) {
        let paid = open.as_ref().is_some_and(|open| open.written);
        let (sent, received) = carried.unzip();
        let line = self.line(AuditEvent::End(AuditEnd {
            flow: self.flow(id),
            target: open.map(|open| open.target),
            sent,
            received,
            how,
        }));
        if !((paid || self.flows.spend(line.len())) && self.write(&line).is_ok()) {
            self.missed.add(AuditFlood {
                ended: 1,
                sent: sent.unwrap_or_default(),
                received: received.unwrap_or_default(),
                ..AuditFlood::default()
            });
        }
    }

    fn requested(&mut self, told: ToldRequest) -> Option<String> {
        let request = AuditAsked {
            flow: self.flow(told.id),
            verdict: told.verdict,
            host: told.host.map(|name| name.as_str().to_owned()),
            port: told.port,
            method: told.method.map(|method| method.0),
            path: told.path.map(|path| path.0),
            rule: told.rule.0,
            rule_id: told.rule_id.map(|id| id.0),
            origin: told.origin.map(|origin| origin.0),
        };
        let said = (request.verdict == Judged::Deny).then(|| {
            let host = request.host.as_deref().unwrap_or_default();
            let method = request.method.as_deref().unwrap_or("a request");
            let path = request.path.as_deref().unwrap_or_default();
            let AuditAsked { port, rule, .. } = &request;
            format!("denied {method} {host}:{port}{path}: {rule}")
        });
        let verdict = request.verdict;
        let line = self.line(AuditEvent::Request(request));
        let budget = match verdict {
            Judged::Allow => &mut self.requests,
            Judged::Deny => &mut self.denials,
        };
        if !(budget.spend(line.len()) && self.write(&line).is_ok()) {
            self.missed.count(verdict);
        }
        said
    }

    /// The sandbox that it is about.
    pub(super) fn sandbox(&self) -> &SandboxName {
        &self.sandbox
    }

    /// Whether something was only counted and waits to be summed up.
    pub(super) fn owes(&self) -> bool {
        self.missed != AuditFlood::default()
    }

    /// Records what was only counted, once in [`SUMMED_UP`].
    pub(super) fn sum_up(&mut self, now: Instant) {
        let early = |at: Instant| now.saturating_duration_since(at) < SUMMED_UP;
        if !self.owes() || self.summed_up.is_some_and(early) {
            return;
        }
        self.summed_up = Some(now);
        let record = self.line(AuditEvent::Flood(self.missed));
        if self.write(&record).is_ok() {
            self.missed = AuditFlood::default();
        }
    }

    fn flow(&self, id: u64) -> String {
        format!("{}.{}.{id}", self.run, self.engine)
    }

    fn line(&self, event: AuditEvent) -> Vec<u8> {
        let record = AuditRecord {
            version: AUDIT_VERSION,
            time_ms: now_ms().unwrap_or_default(),
            sandbox: self.sandbox.clone(),
            event,
        };
        let mut line = serde_json::to_vec(&record).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// A full disk must not stop the sandbox: what is lost is counted, and
    /// the count is written when there is room again.
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.file.write(line);
        match &written {
            Ok(()) => self.failed = false,
            Err(error) if !self.failed => {
                self.failed = true;
                super::log::log(&format!("cannot record what the network does: {error}"));
            }
            Err(_) => {}
        }
        written
    }
}

/// Says that an engine has ended when it is dropped: no flow stays open on
/// record because the task that heard of it was ended.
#[derive(Debug)]
pub(super) struct Hearing {
    pub(super) audit: Rc<RefCell<Audit>>,
    pub(super) engine: u32,
}

impl Drop for Hearing {
    fn drop(&mut self) {
        if let Ok(mut audit) = self.audit.try_borrow_mut() {
            audit.engine_ended(self.engine);
        }
    }
}

/// The line of the log about what did not come about.
fn remark(verdict: Judged, target: &AuditTarget, failed: Option<&str>) -> Option<String> {
    let because = match (verdict, failed) {
        (Judged::Allow, None) => return None,
        (Judged::Allow, Some(why)) => format!("{why} (allowed by {})", target.rule),
        (Judged::Deny, _) => target.rule.clone(),
    };
    let word = match verdict {
        Judged::Allow => "failed",
        Judged::Deny => "denied",
    };
    let place = match (&target.host, target.address) {
        (Some(host), _) => format!("{host}:{}", target.port),
        (None, Some(IpAddr::V6(address))) => format!("[{address}]:{}", target.port),
        (None, Some(address)) => format!("{address}:{}", target.port),
        (None, None) => format!("port {}", target.port),
    };
    Some(format!("{word} {} {place}: {because}", target.protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> (tempfile::TempDir, Audit) {
        let root = tempfile::tempdir().unwrap();
        let mut audit = Audit::open(root.path(), "box".parse().unwrap()).unwrap();
        audit.engine_starts();
        (root, audit)
    }

    fn records(root: &tempfile::TempDir) -> Vec<AuditRecord> {
        let text = std::fs::read_to_string(root.path().join(NAME)).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn flow(id: u64, verdict: &str) -> String {
        format!(
            r#"{{"flow":{{"id":{id},"verdict":"{verdict}","rule":"user {verdict} a.example","rule_id":"4ecbd9f1","origin":"user","proto":"tcp","host":"a.example","addr":"192.0.2.1","port":443}}}}"#
        )
    }

    fn end(id: u64) -> String {
        format!(r#"{{"end":{{"id":{id},"sent":7,"received":9,"how":"closed"}}}}"#)
    }

    #[test]
    fn a_flow_has_a_verdict_and_an_end_that_says_what_it_was_about() {
        let (root, mut audit) = opened();
        assert_eq!(audit.hear(&flow(1, "allow")), Heard::Record(None));
        assert_eq!(audit.hear(&end(1)), Heard::Record(None));
        let said = audit.hear(&flow(2, "deny"));
        let text = "denied tcp a.example:443: user deny a.example";
        assert_eq!(said, Heard::Record(Some(text.to_owned())));
        let found = records(&root);
        let [started, ended, denied] = &found[..] else {
            panic!("{found:?}")
        };
        let (AuditEvent::Flow(start), AuditEvent::End(end)) = (&started.event, &ended.event) else {
            panic!("{found:?}")
        };
        assert_eq!(start.flow, end.flow);
        assert_eq!(end.target.as_ref(), Some(&start.target));
        assert_eq!((end.sent, end.received), (Some(7), Some(9)));
        assert!(denied.event.is_denial() && !started.event.is_denial());
    }

    #[test]
    fn a_request_is_recorded_with_its_flow_and_a_denied_one_is_told() {
        let (root, mut audit) = opened();
        audit.hear(&flow(1, "allow"));
        let asked = |verdict: &str, path: &str| {
            format!(
                r#"{{"request":{{"id":1,"verdict":"{verdict}","rule":"default:unlisted","host":"a.example","port":443,"method":"GET","path":"{path}"}}}}"#
            )
        };
        assert_eq!(audit.hear(&asked("allow", "/a")), Heard::Record(None));
        let told = "denied GET a.example:443/b: default:unlisted".to_owned();
        assert_eq!(audit.hear(&asked("deny", "/b")), Heard::Record(Some(told)));
        assert_eq!(audit.hear(&asked("deny", "/\\u001b")), Heard::Unreadable);
        let found = records(&root);
        let (AuditEvent::Flow(flow), AuditEvent::Request(request)) =
            (&found[0].event, &found[1].event)
        else {
            panic!("{found:?}")
        };
        assert_eq!(flow.flow, request.flow);
        assert!(found[2].event.is_denial() && !found[1].event.is_denial());
    }

    #[test]
    fn what_a_dead_engine_left_open_has_ended_and_numbers_are_not_given_twice() {
        let (root, mut audit) = opened();
        audit.hear(&flow(1, "allow"));
        audit.hear(&flow(2, "deny"));
        audit.engine_starts();
        audit.hear(&flow(1, "allow"));
        audit.engine_ended(1);
        let found = records(&root);
        let names: Vec<_> = found
            .iter()
            .map(|record| match &record.event {
                AuditEvent::Flow(flow) => (flow.flow.clone(), false),
                AuditEvent::End(end) => (end.flow.clone(), end.sent.is_none()),
                AuditEvent::Request(_) | AuditEvent::Flood(_) => panic!("{record:?}"),
            })
            .collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert_eq!((&names[2].0, names[2].1), (&names[0].0, true));
        assert_ne!(names[3].0, names[0].0);
    }

    #[test]
    fn a_line_that_is_not_exactly_a_record_is_counted_and_leaves_no_trace() {
        let (root, mut audit) = opened();
        let whole = flow(1, "deny");
        for (from, to) in [
            ("\"port\":443", "\"port\":70000"),
            ("\"port\":443", "\"port\":443,\"more\":1"),
            ("\"tcp\"", "\"sctp\""),
            ("\"deny\"", "\"ask\""),
            ("a.example\",\"rule_id", "a\\u001b[2J\",\"rule_id"),
            ("\"4ecbd9f1\"", "\"4ecbd9f1x\""),
            ("\"host\":\"a.example\"", "\"host\":\"a..example\""),
            ("192.0.2.1", "192.0.2.1.1"),
        ] {
            let forged = whole.replacen(from, to, 1);
            assert_ne!(forged, whole);
            assert_eq!(audit.hear(&forged), Heard::Unreadable, "{forged}");
        }
        let long = whole.replace("user deny a.example", &"x".repeat(MAX_RULE + 1));
        assert_eq!(audit.hear(&long), Heard::Unreadable);
        assert_eq!(audit.hear("nonsense"), Heard::Unreadable);
        assert!(records(&root).is_empty() && audit.owes());
        audit.sum_up(Instant::now());
        let summed = AuditFlood {
            unreadable: 10,
            ..AuditFlood::default()
        };
        assert_eq!(records(&root)[0].event, AuditEvent::Flood(summed));
        assert!(matches!(audit.hear(&whole), Heard::Record(Some(_))));
        assert_eq!(records(&root).len(), 2);
    }

    #[test]
    fn a_flood_is_summed_up_and_no_record_is_lost_uncounted() {
        let (root, mut audit) = opened();
        let all = 10_000;
        for id in 0..all {
            audit.hear(&flow(id, "deny"));
        }
        audit.hear(r#"{"flood":{"allowed":1,"denied":20,"ended":3,"sent":5,"received":6}}"#);
        let now = Instant::now();
        audit.sum_up(now);
        audit.hear("nonsense");
        audit.sum_up(now);
        assert!(audit.owes());
        audit.sum_up(now + SUMMED_UP);
        let found = records(&root);
        let kept = found.len() as u64 - 2;
        assert!((1_000..3_000).contains(&kept), "{kept}");
        let mut sum = AuditFlood::default();
        for record in &found {
            if let AuditEvent::Flood(flood) = record.event {
                sum.add(flood);
            }
        }
        assert_eq!((sum.allowed, sum.ended, sum.unreadable), (1, 3, 1));
        assert_eq!((sum.sent, sum.received), (5, 6));
        assert_eq!(sum.denied, all - kept + 20);
    }

    #[test]
    fn denials_without_end_hide_neither_a_flow_nor_a_request_nor_its_bytes() {
        let (root, mut audit) = opened();
        for id in 10..10_000 {
            audit.hear(&flow(id, "deny"));
        }
        audit.hear(&flow(1, "allow"));
        audit.hear(
            r#"{"request":{"id":1,"verdict":"allow","rule":"default:unlisted","host":"a.example","port":443,"method":"PUT","path":"/secret"}}"#,
        );
        audit.hear(&end(1));
        let found = records(&root);
        let [.., start, request, end] = &found[..] else {
            panic!("{found:?}")
        };
        let AuditEvent::End(end) = &end.event else {
            panic!("{end:?}")
        };
        assert!(matches!(&start.event, AuditEvent::Flow(flow) if flow.flow == end.flow));
        assert!(matches!(&request.event, AuditEvent::Request(asked) if asked.flow == end.flow));
        assert_eq!((end.sent, end.received), (Some(7), Some(9)));
    }

    #[test]
    fn what_ended_before_its_engine_does_not_end_with_it_however_many_there_were() {
        let (root, mut audit) = opened();
        let all = 20_000;
        for id in 0..all {
            audit.hear(&flow(id, "allow"));
            audit.hear(&end(id));
        }
        audit.engine_starts();
        let found = records(&root);
        let (mut flows, mut ends, mut sum) = (0, 0, AuditFlood::default());
        for record in &found {
            match &record.event {
                AuditEvent::Flow(_) => flows += 1,
                AuditEvent::End(end) => {
                    assert_eq!(end.how, "closed");
                    ends += 1;
                }
                AuditEvent::Flood(flood) => sum.add(*flood),
                AuditEvent::Request(_) => panic!("{record:?}"),
            }
        }
        assert!(flows > 0 && sum.ended > 0);
        assert_eq!(flows + sum.allowed, all);
        assert_eq!(ends + sum.ended, all);
        assert_eq!((sum.sent, sum.received), (7 * sum.ended, 9 * sum.ended));
    }

    #[test]
    fn open_flows_beyond_what_an_engine_can_have_take_no_memory() {
        let (_root, mut audit) = opened();
        for id in 0..limits::RECORDED as u64 + 10 {
            audit.hear(&flow(id, "allow"));
        }
        assert_eq!(audit.open.len(), limits::RECORDED);
    }

    #[test]
    fn a_hearing_that_is_dropped_ends_the_flows_of_its_engine() {
        let (root, mut audit) = opened();
        audit.hear(&flow(1, "allow"));
        let audit = Rc::new(RefCell::new(audit));
        let hearing = |engine| Hearing {
            audit: Rc::clone(&audit),
            engine,
        };
        drop(hearing(0));
        assert_eq!(records(&root).len(), 1);
        drop(hearing(1));
        assert_eq!(records(&root).len(), 2);
    }
}
