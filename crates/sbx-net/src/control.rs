//! The line to the supervisor: records out, and its end is ours.
//!
//! A supervisor that does not read costs records, never a connection: what
//! does not fit is counted and reported in one line later.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use sbx_spec::guard::{self, Guard};
use sbx_spec::{Reason, Rule};
use sbx_sys::jail::InForce;
use serde::{Deserialize, Serialize};

use crate::inspect::Authority;
use crate::limits;
use crate::names::{KnownName, Names};

/// One line to the supervisor.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Line<'a> {
    /// The endpoint works; which walls are in force.
    Ready(&'a Ready),
    /// A flow was judged.
    Flow(&'a FlowRecord<'a>),
    /// A request on a flow was judged.
    Request(&'a RequestRecord<'a>),
    /// Somebody waits for the user's word.
    Ask(&'a AskRecord<'a>),
    /// Nobody waits for it any more.
    Settled(&'a SettledRecord),
    /// An allowed flow is over.
    End(&'a EndRecord),
    /// A name got this address.
    Name(&'a KnownName),
    /// Rules came into force.
    Policy(&'a PolicyRecord),
    /// Records that were not written since the last such line.
    Flood(&'a Flood),
}

/// The walls around the process.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Ready {
    /// Walls in force, in the order in which they were set.
    pub(crate) walls: InForce,
}

/// The verdict on one flow.
#[derive(Debug, Serialize)]
pub(crate) struct FlowRecord<'a> {
    pub(crate) id: u64,
    pub(crate) verdict: &'static str,
    #[serde(flatten, serialize_with = "reason")]
    pub(crate) rule: &'a Reason,
    pub(crate) proto: &'static str,
    pub(crate) host: Option<&'a str>,
    pub(crate) addr: Option<IpAddr>,
    pub(crate) port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) failed: Option<&'a str>,
}

/// The verdict on one request of HTTP.
#[derive(Debug, Serialize)]
pub(crate) struct RequestRecord<'a> {
    /// The flow that it was made on.
    pub(crate) id: u64,
    pub(crate) verdict: &'static str,
    #[serde(flatten, serialize_with = "reason")]
    pub(crate) rule: &'a Reason,
    pub(crate) host: Option<&'a str>,
    pub(crate) port: u16,
    /// Empty, like the path, where it could not be read.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) method: &'a str,
    /// Without its query.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub(crate) path: &'a str,
}

/// The deciding line as its text, and the name and origin of a rule.
fn reason<S: serde::Serializer>(reason: &&Reason, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Parts<'a> {
        rule: &'a Reason,
        #[serde(skip_serializing_if = "Option::is_none")]
        rule_id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        origin: Option<String>,
    }
    let rule = reason.rule();
    let parts = Parts {
        rule: reason,
        rule_id: rule.map(|rule| rule.id().to_string()),
        origin: rule.map(|rule| rule.origin().to_string()),
    };
    parts.serialize(serializer)
}

/// A question for the user.
#[derive(Debug, Serialize)]
pub(crate) struct AskRecord<'a> {
    /// Its number, which an answer repeats.
    pub(crate) question: u64,
    /// What it is about, as a rule would have it.
    pub(crate) resource: &'a str,
    /// The name that led to an address, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) host: Option<&'a str>,
    pub(crate) proto: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) method: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<&'a str>,
    /// The rule that asks.
    #[serde(flatten, serialize_with = "reason")]
    pub(crate) rule: &'a Reason,
}

/// A question is closed.
#[derive(Debug, Serialize)]
pub(crate) struct SettledRecord {
    pub(crate) question: u64,
    pub(crate) how: &'static str,
}

/// How much an allowed flow carried.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct EndRecord {
    pub(crate) id: u64,
    /// Bytes from the guest.
    pub(crate) sent: u64,
    /// Bytes to the guest.
    pub(crate) received: u64,
    pub(crate) how: &'static str,
}

/// One line from the supervisor.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Order {
    /// Judge by these rules from now on.
    Policy(PolicyOrder),
    /// Be this authority to the guest.
    Authority(Authority),
    /// What the user says to a question.
    Answer(AnswerOrder),
}

/// Rules, all of them.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyOrder {
    /// Its number, which the answer repeats.
    pub(crate) revision: u64,
    pub(crate) rules: Vec<Rule>,
}

/// An answer.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnswerOrder {
    pub(crate) question: u64,
    pub(crate) approve: bool,
}

/// The rules of an order are in force.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct PolicyRecord {
    pub(crate) revision: u64,
    /// Connections that they ended.
    pub(crate) cut: usize,
}

/// Records that were only counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Flood {
    pub(crate) allowed: u64,
    pub(crate) denied: u64,
    pub(crate) ended: u64,
    /// Bytes that those which ended carried from the guest.
    pub(crate) sent: u64,
    /// The same to the guest.
    pub(crate) received: u64,
}

/// So many a second, and as many at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    tokens: u32,
    most: u32,
    full: u32,
    at: Instant,
}

impl Rate {
    pub(crate) fn new(most: u32, now: Instant) -> Self {
        Self {
            tokens: most,
            most,
            full: most,
            at: now,
        }
    }

    /// The same with fewer at once.
    pub(crate) fn at_once(self, full: u32) -> Self {
        Self {
            tokens: full,
            full,
            ..self
        }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.take_some(1, now)
    }

    /// Takes so many, or what is left of them; whether all were there.
    pub(crate) fn take_some(&mut self, count: u32, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at);
        let earned = passed.as_micros().saturating_mul(self.most.into()) / 1_000_000;
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(self.full);
            self.tokens = self.tokens.saturating_add(earned).min(self.full);
            self.at = now;
        }
        let enough = self.tokens >= count;
        self.tokens = self.tokens.saturating_sub(count);
        enough
    }
}

/// How much of the output what a guest makes without end may fill.
const MOST_OF_MANY: usize = limits::CONTROL_OUTPUT / 2;

/// The control link.
#[derive(Debug)]
pub(crate) struct Control {
    fd: OwnedFd,
    output: Vec<u8>,
    input: Vec<u8>,
    denials: Rate,
    requests: Rate,
    flows: Rate,
    /// Allowed flows that were told and have not ended.
    recorded: HashSet<u64>,
    /// Ends of told flows that found no room yet, the oldest first.
    ends: VecDeque<EndRecord>,
    flood: Flood,
    flood_due: Option<Instant>,
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// The supervisor is gone, or speaks another language.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Closed;

impl Control {
    pub(crate) fn new(fd: OwnedFd, now: Instant) -> Self {
        Self {
            fd,
            output: Vec::new(),
            input: Vec::new(),
            denials: Rate::new(limits::RECORD_RATE, now),
            requests: Rate::new(limits::RECORD_RATE, now),
            flows: Rate::new(limits::RECORD_RATE, now),
            recorded: HashSet::new(),
            ends: VecDeque::new(),
            flood: Flood::default(),
            flood_due: None,
            readable: true,
            writable: true,
        }
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Announces that the endpoint works.
    pub(crate) fn ready(&mut self, ready: &Ready) {
        let _written = self.push(&Line::Ready(ready));
    }

    /// Records a verdict. Whatever is denied leaves room for what is allowed:
    /// a guest chooses how often it asks for what it may not have.
    pub(crate) fn flow(&mut self, record: &FlowRecord<'_>, now: Instant) {
        let line = Line::Flow(record);
        if record.verdict != "allow" {
            let rated = self.denials.take(now) || guard::out(Guard::SummedRecords);
            if !(rated && self.push_within(&line, MOST_OF_MANY)) {
                self.count((0, 1), now);
            }
            return;
        }
        let runs = record.failed.is_none();
        let has_room = !runs || self.recorded.len() < limits::RECORDED;
        if !(has_room && self.flows.take(now) && self.push(&line)) {
            self.count((1, 0), now);
        } else if runs {
            self.recorded.insert(record.id);
        }
    }

    /// Records a verdict on a request.
    pub(crate) fn request(&mut self, record: &RequestRecord<'_>, now: Instant) {
        let allowed = record.verdict == "allow";
        let rate = if allowed {
            &mut self.requests
        } else {
            &mut self.denials
        };
        if !(rate.take(now) && self.push_within(&Line::Request(record), MOST_OF_MANY)) {
            self.count((u64::from(allowed), u64::from(!allowed)), now);
        }
    }

    /// Asks the user; false where nobody would hear it.
    pub(crate) fn ask(&mut self, record: &AskRecord<'_>) -> bool {
        self.push(&Line::Ask(record))
    }

    /// Says that a question is closed. Where that is lost, the supervisor
    /// forgets the question by itself a moment later.
    pub(crate) fn settled(&mut self, record: &SettledRecord) {
        let _told = self.push(&Line::Settled(record));
    }

    /// Adds verdicts that were only counted: allowed, denied.
    pub(crate) fn count(&mut self, (allowed, denied): (u64, u64), now: Instant) {
        if (allowed, denied) == (0, 0) {
            return;
        }
        self.flood.allowed += allowed;
        self.flood.denied += denied;
        self.flood_due.get_or_insert(now + Duration::from_secs(1));
    }

    /// Records the end of a flow. That of one which is on record is always
    /// told: what finds no room now is told later.
    pub(crate) fn end(&mut self, record: &EndRecord, now: Instant) {
        if self.recorded.remove(&record.id) {
            self.ends.push_back(*record);
            return self.tell_ends();
        }
        let flood = &mut self.flood;
        flood.ended += 1;
        flood.sent = flood.sent.saturating_add(record.sent);
        flood.received = flood.received.saturating_add(record.received);
        self.flood_due.get_or_insert(now + Duration::from_secs(1));
    }

    fn tell_ends(&mut self) {
        while let Some(end) = self.ends.front().copied() {
            if !self.push(&Line::End(&end)) {
                return;
            }
            self.ends.pop_front();
        }
    }

    /// Tells new names. Unlike records none is ever left out: what finds no
    /// room now is told later.
    pub(crate) fn names(&mut self, names: &mut Names) {
        while let Some(known) = names.untold() {
            if !self.push(&Line::Name(&known)) {
                return;
            }
            names.told();
        }
    }

    /// When [`Self::sum_up`] has something to say.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.flood_due
    }

    /// Reports what was only counted, once a second.
    pub(crate) fn sum_up(&mut self, now: Instant) {
        if self.flood_due.is_none_or(|due| now < due) {
            return;
        }
        let flood = self.flood;
        if self.push(&Line::Flood(&flood)) {
            self.flood = Flood::default();
            self.flood_due = None;
        } else {
            self.flood_due = Some(now + Duration::from_secs(1));
        }
    }

    fn push(&mut self, line: &Line<'_>) -> bool {
        self.push_within(line, limits::CONTROL_OUTPUT)
    }

    fn push_within(&mut self, line: &Line<'_>, most: usize) -> bool {
        if self.output.len() >= most {
            return false;
        }
        let before = self.output.len();
        if serde_json::to_writer(&mut self.output, line).is_err() {
            self.output.truncate(before);
            return false;
        }
        self.output.push(b'\n');
        true
    }

    /// Writes what waits, as far as the kernel takes it.
    pub(crate) fn send(&mut self) -> io::Result<Result<(), Closed>> {
        while self.writable && !self.output.is_empty() {
            match rustix::net::send(&self.fd, &self.output, rustix::net::SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.output.drain(..count);
                    self.tell_ends();
                }
                Err(Errno::AGAIN) => self.writable = false,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => return Ok(Err(Closed)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Ok(()))
    }

    /// Reads what the supervisor wants, as far as it has arrived. A line that
    /// is not understood ends the endpoint: what was meant could be a denial.
    pub(crate) fn receive(&mut self) -> io::Result<Result<Vec<Order>, Closed>> {
        let mut orders = Vec::new();
        let mut room = [0; 4096];
        while self.readable {
            match rustix::io::read(&self.fd, &mut room) {
                Ok(0) => return Ok(Err(Closed)),
                Ok(count) => {
                    self.input
                        .extend_from_slice(room.get(..count).unwrap_or_default());
                    while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = self.input.drain(..=end).collect();
                        match serde_json::from_slice(&line) {
                            Ok(order) => orders.push(order),
                            Err(_) if guard::out(Guard::UnderstoodOrders) => {}
                            Err(_) => return Ok(Err(Closed)),
                        }
                    }
                    if self.input.len() > limits::CONTROL_LINE {
                        return Ok(Err(Closed));
                    }
                }
                Err(Errno::AGAIN) => self.readable = false,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(Err(Closed)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Ok(orders))
    }

    /// Says that rules are in force, and how many connections they ended.
    pub(crate) fn policy(&mut self, record: &PolicyRecord) {
        let _written = self.push(&Line::Policy(record));
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn judged(id: u64, verdict: &'static str, control: &mut Control, now: Instant) {
        let record = FlowRecord {
            id,
            verdict,
            rule: &Reason::Fixed("default:unlisted"),
            proto: "tcp",
            host: Some("a.example"),
            addr: None,
            port: 443,
            failed: None,
        };
        control.flow(&record, now);
    }

    fn ended(id: u64, control: &mut Control, now: Instant) {
        let (sent, received, how) = (7, 9, "closed");
        let record = EndRecord {
            id,
            sent,
            received,
            how,
        };
        control.end(&record, now);
    }

    /// Everything that was said, read by a supervisor that had not read yet.
    fn said(mut control: Control, supervisor: OwnedFd) -> Vec<serde_json::Value> {
        let mut supervisor = std::os::unix::net::UnixStream::from(supervisor);
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            supervisor.read_to_string(&mut text).unwrap();
            text
        });
        while !control.output.is_empty() || !control.ends.is_empty() {
            control.writable = true;
            control.send().unwrap().unwrap();
        }
        drop(control);
        let text = reader.join().unwrap();
        text.lines()
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn denials_without_end_leave_room_for_what_is_allowed_and_how_it_ends() {
        let (ours, supervisor) = sbx_sys::unix::stream_pair().unwrap();
        let now = Instant::now();
        let mut control = Control::new(ours.into(), now);
        judged(1, "allow", &mut control, now);
        for id in 100..20_000 {
            judged(id, "deny", &mut control, now + Duration::from_millis(id));
        }
        let now = now + Duration::from_secs(20);
        judged(2, "allow", &mut control, now);
        let request = RequestRecord {
            id: 2,
            verdict: "allow",
            rule: &Reason::Fixed("default:unlisted"),
            host: Some("a.example"),
            port: 443,
            method: "PUT",
            path: "/secret",
        };
        control.request(&request, now);
        ended(1, &mut control, now);
        ended(2, &mut control, now);
        let said = said(control, supervisor.into());
        let of = |kind: &str, id: u64| said.iter().any(|line| line[kind]["id"] == id);
        for id in [1, 2] {
            assert!(of("flow", id) && of("end", id), "{id}");
        }
    }

    #[test]
    fn every_flow_on_record_has_its_end_there_and_of_others_the_bytes_are_summed() {
        let (ours, supervisor) = sbx_sys::unix::stream_pair().unwrap();
        let now = Instant::now();
        let mut control = Control::new(ours.into(), now);
        let many = 2 * u64::from(limits::RECORD_RATE);
        for id in 0..many {
            judged(id, "allow", &mut control, now);
        }
        // The supervisor reads nothing, and there is no room for an end.
        control.output.resize(limits::CONTROL_OUTPUT, b' ');
        control.output.push(b'\n');
        for id in 0..many {
            ended(id, &mut control, now);
        }
        control.output.retain(|byte| *byte != b' ');
        let now = now + Duration::from_secs(1);
        control.sum_up(now);
        let told = said(control, supervisor.into());
        let count = |kind: &str| told.iter().filter(|line| line.get(kind).is_some()).count();
        assert_eq!(count("flow"), limits::RECORD_RATE as usize);
        assert_eq!(count("end"), limits::RECORD_RATE as usize);
        let flood = told.iter().find_map(|line| line.get("flood")).unwrap();
        let rest = many - u64::from(limits::RECORD_RATE);
        assert_eq!(
            *flood,
            serde_json::json!({
                "allowed": rest, "denied": 0, "ended": rest, "sent": 7 * rest, "received": 9 * rest
            })
        );
    }

    #[test]
    fn a_record_names_its_rule_and_an_own_line_has_no_name() {
        let rule = Rule::new(
            sbx_spec::Action::Deny,
            "a.example:443".parse().unwrap(),
            sbx_spec::Origin::User,
        )
        .unwrap();
        let id = rule.id().to_string();
        let told = |rule: &Reason| {
            let record = FlowRecord {
                id: 1,
                verdict: "deny",
                rule,
                proto: "tcp",
                host: Some("a.example"),
                addr: None,
                port: 443,
                failed: None,
            };
            serde_json::to_value(Line::Flow(&record)).unwrap()["flow"].take()
        };
        let flow = told(&Reason::Rule(std::sync::Arc::new(rule)));
        assert_eq!(flow["rule"], "user deny a.example:443");
        assert_eq!(
            (&flow["rule_id"], &flow["origin"]),
            (&id.into(), &"user".into())
        );
        let flow = told(&Reason::Fixed("default:unlisted"));
        assert_eq!(flow["rule"], "default:unlisted");
        assert!(flow.get("rule_id").is_none() && flow.get("origin").is_none());
    }

    #[test]
    fn a_rate_allows_its_burst_and_then_its_pace() {
        let start = Instant::now();
        let mut rate = Rate::new(10, start);
        assert_eq!((0..100).filter(|_| rate.take(start)).count(), 10);
        let later = start + Duration::from_millis(500);
        assert_eq!((0..100).filter(|_| rate.take(later)).count(), 5);
    }
}
