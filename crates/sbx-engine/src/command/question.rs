//! What waits for the user's word, and what the user may say.

use std::fmt;
use std::str::FromStr;

use sbx_spec::{DnsName, Resource, SandboxName, Transport};
use serde::{Deserialize, Serialize};

use super::PolicyEdited;

/// The name of a question: `SANDBOX:NUMBER`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QuestionId {
    /// Who asks.
    pub sandbox: SandboxName,
    /// Which of its questions.
    pub number: u64,
}

impl fmt::Display for QuestionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sandbox, self.number)
    }
}

impl FromStr for QuestionId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const SHAPE: &str = "a question is named SANDBOX:NUMBER";
        let (sandbox, number) = text.rsplit_once(':').ok_or(SHAPE)?;
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        Ok(Self {
            sandbox: sandbox.parse().map_err(|_| SHAPE)?,
            number: number.parse().ok().filter(|_| digits).ok_or(SHAPE)?,
        })
    }
}

impl Serialize for QuestionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A question of one sandbox. Names and paths in it were chosen by a guest:
/// escape them before they are shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Question {
    /// Its number.
    pub number: u64,
    /// What would be reached.
    pub resource: Resource,
    /// The name that led to an address, where the rule asks about that.
    pub host: Option<DnsName>,
    /// Over which transport.
    pub protocol: Transport,
    /// The method, where a rule asks about requests of HTTP.
    pub method: Option<String>,
    /// The path without its query, likewise; left out where it is not
    /// canonical.
    pub path: Option<String>,
    /// The rule that asks.
    pub rule: String,
    /// Seconds until it is denied.
    pub seconds_left: u64,
}

impl Question {
    /// What it is about in one line, not escaped.
    #[must_use]
    pub fn about(&self) -> String {
        match &self.host {
            Some(host) => format!("{} (by the name {host})", self.what()),
            None => self.what(),
        }
    }

    /// The same without the name that led to an address.
    #[must_use]
    pub fn what(&self) -> String {
        let resource = &self.resource;
        match (&self.method, &self.path) {
            (Some(method), Some(path)) => format!("{method} {resource}{path}"),
            (Some(method), None) => format!("{method} {resource}"),
            (None, _) if self.protocol == Transport::Udp => format!("{resource} udp"),
            (None, _) => resource.to_string(),
        }
    }
}

/// What the user may say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Saying {
    /// Yes, this time.
    Once,
    /// Yes, and never ask this sandbox about it again.
    Always,
    /// No.
    No,
}

/// A question and whose it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct QuestionOf {
    /// Its name, for `policy approve` and `policy dismiss`.
    pub id: QuestionId,
    /// Who asks.
    pub sandbox: SandboxName,
    /// What.
    #[serde(flatten)]
    pub question: Question,
}

/// What waits for an answer.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize)]
pub struct PendingReply {
    /// One entry each, by sandbox.
    pub questions: Vec<QuestionOf>,
}

/// A question was answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct AnsweredReply {
    /// Its name.
    pub id: QuestionId,
    /// What was said.
    pub answer: Given,
    /// The rule that was added, where it is never to be asked again.
    pub rule: Option<String>,
    /// What adding it did.
    pub edited: Option<PolicyEdited>,
}

/// What was said to a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Given {
    /// Yes.
    Approved,
    /// No.
    Dismissed,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_reads_back_and_nothing_else_is_one() {
        let id: QuestionId = "claude-app:4711".parse().unwrap();
        assert_eq!(id.to_string(), "claude-app:4711");
        for text in ["", "4711", "claude-app:", ":1", "box:+1", "box:-1", "b x:1"] {
            assert!(text.parse::<QuestionId>().is_err(), "{text}");
        }
    }
}
