//! One inspected connection before the gate: each request is judged by the
//! rules of that moment, and what came of it is reported.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use sbx_spec::{
    Answer, CanonicalPath, Destination, Flow, HttpRequest, Method, NOT_CANONICAL, Reason,
};

use super::agree;
use super::head::Refused;
use super::reports::{Report, Reports};
use crate::gate::{Intent, Judge};
use crate::refusal;

/// Who may say what on a connection.
pub(super) struct Case {
    pub(super) judge: Judge,
    /// What the guest asked for.
    pub(super) intent: Intent,
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

/// A request that was allowed, as far as the rules looked at it.
pub(super) struct Asked(Option<(Method, Option<CanonicalPath>)>);

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

    /// Judges one request.
    pub(super) fn judge(
        &self,
        method: &str,
        target: &str,
        authority: Option<&str>,
    ) -> Result<Asked, Page> {
        // A target with a server in it would count more than the Host field.
        let of_server = method == "OPTIONS" && target == "*";
        if !(target.starts_with('/') || of_server) {
            return Err(Page::malformed("a target that is no path").of(method, target));
        }
        let (destination, port) = (&self.intent.flow.destination, self.intent.flow.port);
        let agrees = authority
            .is_some_and(|said| agree::authority(destination, port, self.scheme.port(), said));
        if !agrees {
            return Err(Page::misdirected(authority).of(method, target));
        }
        let verdict = self.judge.connection(&self.flow);
        let (reason, asked) = match verdict.answer {
            Answer::Allow => (verdict.reason, None),
            Answer::Deny => return Err(self.denied(verdict.reason, method, target)),
            Answer::Inspect => {
                let Ok(read) = method.parse::<Method>() else {
                    return Err(Page::malformed("a method with small letters"));
                };
                let path = target.parse::<CanonicalPath>();
                let request = HttpRequest {
                    method: &read,
                    path: path.as_ref().ok(),
                };
                let verdict = self.judge.request(&self.flow, &request);
                if !verdict.is_allow() {
                    let not_canonical = verdict.reason == NOT_CANONICAL.into();
                    return Err(match &path {
                        Err(error) if not_canonical => unread(error, method, target),
                        _ => self.denied(verdict.reason, method, target),
                    });
                }
                (verdict.reason, Some((read, path.ok())))
            }
        };
        self.report("allow", reason, method, target);
        Ok(Asked(asked))
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
            let verdict = self.judge.connection(&self.flow);
            let verdict = match (verdict.answer, &asked.0) {
                (Answer::Inspect, Some((method, path))) => {
                    let path = path.as_ref();
                    self.judge
                        .request(&self.flow, &HttpRequest { method, path })
                }
                _ => verdict,
            };
            if !verdict.is_allow() {
                let (method, path) = asked
                    .0
                    .as_ref()
                    .map(|(method, path)| {
                        let path = path.as_ref().map(ToString::to_string);
                        (method.to_string(), path.unwrap_or_default())
                    })
                    .unwrap_or_default();
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
