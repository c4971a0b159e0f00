//! One inspected connection before the gate: each request is judged by the
//! rules of that moment, and what came of it is reported.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use sbx_spec::guard::{self, Guard};
use sbx_spec::{
    Answer, CanonicalPath, Destination, Flow, HttpRequest, Method, NOT_CANONICAL, Reason, Rule,
    Verdict,
};
use tokio::sync::oneshot;

use super::agree;
use super::head::Refused;
use super::reports::{Report, Reports};
use crate::gate::{Intent, Judge};
use crate::questions::{Subject, TOO_MANY, asked_about};
use crate::refusal;

/// Who may say what on a connection.
pub(super) struct Case {
    pub(super) judge: Judge,
    /// What the guest asked for.
    pub(super) intent: Intent,
    /// What the user approved since then, for all requests.
    pub(super) approved: Mutex<Vec<Destination>>,
    /// The same with the address that was dialled.
    pub(super) flow: Flow,
    pub(super) scheme: Scheme,
    /// Its number in the records.
    pub(super) id: u64,
    pub(super) reports: Arc<Reports>,
}

/// Whether there is TLS around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// As in an address.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What rules look at in a request.
struct Looked {
    method: Method,
    /// `None` where it is not canonical.
    path: Option<CanonicalPath>,
}

impl Looked {
    fn request(&self) -> HttpRequest<'_> {
        HttpRequest {
            method: &self.method,
            path: self.path.as_ref(),
        }
    }

    /// Its words; without a path where that is not canonical.
    fn words(&self) -> (String, Option<String>) {
        let path = self.path.as_ref().map(ToString::to_string);
        (self.method.to_string(), path)
    }
}

/// A request that was allowed.
pub(super) struct Asked {
    /// What the rules looked at, where they looked into it.
    looked: Option<Looked>,
    /// The user said yes to it.
    approved: bool,
}

/// What a guest is told in place of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Page {
    pub(super) status: http::StatusCode,
    pub(super) text: String,
    /// What the record says; `None` where no verdict fell.
    reason: Option<Reason>,
    request: Option<(String, String)>,
}

impl Page {
    /// What the policy says of a whole connection.
    pub(super) fn denied(text: String) -> Self {
        Self {
            status: http::StatusCode::FORBIDDEN,
            text,
            reason: None,
            request: None,
        }
    }

    /// A message that could be read in more than one way.
    pub(super) fn malformed(refused: Refused) -> Self {
        Self {
            status: http::StatusCode::BAD_REQUEST,
            text: format!(
                "sbx: this request is refused: {refused}.\nrule: {}\nA proxy and a server could \
                 understand it differently.\n",
                MALFORMED
            ),
            reason: Some(MALFORMED.into()),
            request: None,
        }
    }

    /// The server behind cannot be spoken with.
    pub(super) fn unreachable(server: &str, why: impl fmt::Display) -> Self {
        Self {
            status: http::StatusCode::BAD_GATEWAY,
            text: format!("sbx: cannot speak TLS with {server}: {why}.\n"),
            reason: None,
            request: None,
        }
    }

    /// The rule that its text names, if it does.
    pub(super) fn rule(&self) -> Option<&str> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix("rule: "))
    }

    /// Whether it is a verdict, and not a failure of somebody's.
    pub(super) fn is_verdict(&self) -> bool {
        self.status != http::StatusCode::BAD_GATEWAY
    }

    fn misdirected(said: Option<&str>) -> Self {
        let said: String = said.unwrap_or("nothing").chars().take(255).collect();
        Self {
            status: http::StatusCode::MISDIRECTED_REQUEST,
            text: format!(
                "sbx: this connection is to another server than its request names ({}).\nrule: \
                 {MISDIRECTED}\n",
                said.escape_default()
            ),
            reason: Some(MISDIRECTED.into()),
            request: None,
        }
    }

    fn of(mut self, method: &str, target: &str) -> Self {
        self.request = Some((method.to_owned(), target.to_owned()));
        self
    }
}

/// The rule of what two readers could read in two ways.
const MALFORMED: &str = "default:http-shape";
/// The rule of requests to another server than the connection's.
const MISDIRECTED: &str = "default:http-authority";

impl Case {
    /// The server, as a certificate names it.
    pub(super) fn server(&self) -> String {
        server(&self.intent)
    }

    /// Judges one request; waits for the user where a rule asks.
    pub(super) async fn judge(
        &self,
        method: &str,
        target: &str,
        authority: Option<&str>,
    ) -> Result<Asked, Page> {
        // A target with a server in it would count more than the Host field.
        let of_server = method == "OPTIONS" && target == "*";
        if !(target.starts_with('/') || of_server || guard::out(Guard::TargetIsPath)) {
            return Err(Page::malformed("a target that is no path").of(method, target));
        }
        let (destination, port) = (&self.intent.flow.destination, self.intent.flow.port);
        let agrees = authority
            .is_some_and(|said| agree::authority(destination, port, self.scheme.port(), said));
        if !agrees && !guard::out(Guard::Authority) {
            return Err(Page::misdirected(authority).of(method, target));
        }
        let mut rules = self.judge.clone();
        let mut waits: Option<(Reason, oneshot::Receiver<bool>)> = None;
        loop {
            rules.seen();
            let (verdict, looked) = self.verdict(method, target)?;
            let approved = match verdict.answer {
                Answer::Allow => waits.is_some(),
                Answer::Inspect | Answer::Deny => {
                    return Err(self.denied(verdict.reason, method, target));
                }
                Answer::Ask => {
                    // What was said to one rule is no answer to another.
                    let asked = waits.take().filter(|(reason, _)| *reason == verdict.reason);
                    let (_, answer) = waits.insert(asked.unwrap_or_else(|| {
                        let answer = self.ask(&verdict.reason, looked.as_ref());
                        (verdict.reason.clone(), answer)
                    }));
                    let answer = tokio::select! {
                        biased;
                        () = rules.changed() => continue,
                        answer = answer => answer,
                    };
                    match answer {
                        Ok(true) => {
                            self.approve(&verdict.reason);
                            true
                        }
                        Ok(false) => return Err(self.denied(verdict.reason, method, target)),
                        Err(_) => return Err(self.denied(TOO_MANY.into(), method, target)),
                    }
                }
            };
            self.report("allow", verdict.reason, method, target);
            return Ok(Asked { looked, approved });
        }
    }

    /// What the rules say now, and what they looked at.
    fn verdict(&self, method: &str, target: &str) -> Result<(Verdict, Option<Looked>), Page> {
        let verdict = self.settled(self.judge.connection(&self.flow));
        if verdict.answer != Answer::Inspect {
            return Ok((verdict, None));
        }
        let Ok(method_read) = method.parse::<Method>() else {
            return Err(Page::malformed("a method with small letters"));
        };
        let path = target.parse::<CanonicalPath>();
        let error = path.as_ref().err().copied();
        let looked = Looked {
            method: method_read,
            path: path.ok(),
        };
        let verdict = self.judge.request(&self.flow, &looked.request());
        match error {
            Some(error) if verdict.reason == NOT_CANONICAL.into() => {
                Err(unread(&error, method, target))
            }
            _ => Ok((self.settled(verdict), Some(looked))),
        }
    }

    /// A verdict, given what the user said.
    fn settled(&self, verdict: Verdict) -> Verdict {
        let verdict = self.intent.settle(verdict, &self.flow);
        let asks = verdict.answer == Answer::Ask && is_whole(&verdict.reason);
        let approved = asks && {
            let about = asked_about(&self.flow, &verdict.reason);
            self.approved.lock().contains(&about)
        };
        Verdict {
            answer: if approved {
                Answer::Allow
            } else {
                verdict.answer
            },
            ..verdict
        }
    }

    /// Has the loop ask the user.
    fn ask(&self, reason: &Reason, looked: Option<&Looked>) -> oneshot::Receiver<bool> {
        let (answer, waits) = oneshot::channel();
        let mut subject = Subject::of_flow(&self.flow, reason);
        if !is_whole(reason) {
            subject.request = looked.map(Looked::words);
        }
        let path = subject.request.as_ref().and_then(|(_, path)| path.as_ref());
        if path.is_some_and(|path| path.len() > LONGEST_PATH) {
            // Nobody reads that, and a part of it could be anything.
            return waits;
        }
        self.reports.add(Report::Ask {
            subject,
            rule: reason.clone(),
            answer,
        });
        waits
    }

    /// The user said yes: to all requests, where the rule is about all.
    fn approve(&self, reason: &Reason) {
        if is_whole(reason) {
            let about = asked_about(&self.flow, reason);
            let mut approved = self.approved.lock();
            if !approved.contains(&about) {
                approved.push(about);
            }
        }
    }

    fn denied(&self, reason: Reason, method: &str, target: &str) -> Page {
        let path = target.split('?').next().unwrap_or(target);
        Page {
            status: http::StatusCode::FORBIDDEN,
            text: refusal::of_request(&self.intent, &reason, method, path),
            reason: Some(reason),
            request: None,
        }
        .of(method, target)
    }

    /// Returns once the rules no longer allow what was allowed.
    pub(super) async fn objection(&self, asked: &Asked) {
        let mut judge = self.judge.clone();
        loop {
            judge.changed().await;
            let mut verdict = self.settled(self.judge.connection(&self.flow));
            if let (Answer::Inspect, Some(looked)) = (verdict.answer, &asked.looked) {
                verdict = self.settled(self.judge.request(&self.flow, &looked.request()));
            }
            let stays = match verdict.answer {
                Answer::Allow => true,
                Answer::Ask => asked.approved,
                Answer::Inspect | Answer::Deny => guard::out(Guard::RequestCutByRules),
            };
            if !stays {
                let (method, path) = asked.looked.as_ref().map(Looked::words).unwrap_or_default();
                let path = path.unwrap_or_default();
                return self.report("deny", verdict.reason, &method, &path);
            }
        }
    }

    /// Records what a guest was told in place of an answer.
    pub(super) fn refused(&self, page: &Page) {
        if let Some(reason) = &page.reason {
            let (method, target) = page.request.clone().unwrap_or_default();
            self.report("deny", reason.clone(), &method, &target);
        }
    }

    /// Records that a server's words were refused.
    pub(super) fn malformed(&self, _refused: Refused) {
        self.report("deny", MALFORMED.into(), "", "");
    }

    fn report(&self, verdict: &'static str, rule: Reason, method: &str, target: &str) {
        // A query may hold what is nobody's business.
        let path = target.split('?').next().unwrap_or(target);
        self.reports.add(Report::Request {
            id: self.id,
            intent: self.intent.clone(),
            verdict,
            rule,
            method: method.chars().take(32).collect(),
            path: path.escape_default().take(LONGEST_PATH).collect(),
        });
    }
}

/// Whether a rule is about all requests and not some.
fn is_whole(reason: &Reason) -> bool {
    reason.rule().is_some_and(Rule::is_whole)
}

/// Characters of a path in a record.
const LONGEST_PATH: usize = 1_024;

fn unread(error: &dyn fmt::Display, method: &str, target: &str) -> Page {
    Page {
        status: http::StatusCode::FORBIDDEN,
        text: format!(
            "sbx: this request is refused: {error}.\nrule: {NOT_CANONICAL}\nRules of this sandbox \
             look at paths here, and only canonical ones are the same to everybody.\n"
        ),
        reason: Some(NOT_CANONICAL.into()),
        request: None,
    }
    .of(method, target)
}

/// The server of an intent, as a certificate names it.
pub(super) fn server(intent: &Intent) -> String {
    match &intent.flow.destination {
        Destination::Name(name) | Destination::Resolved(name, _) => name.to_string(),
        Destination::HostService => crate::layout::HOST_NAMES[0].to_owned(),
        Destination::Address(address) => address.to_string(),
        Destination::Gateway => IpAddr::V4(crate::layout::GATEWAY_V4).to_string(),
    }
}
