//! What the network engine asks the user: what is open, who wants to hear of
//! it, and the answers on their way.
//!
//! Owns: the numbers by which users know questions; an engine's own begin
//! anew with each engine. Trusts no engine: a question is typed and bounded,
//! or it is none.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use sbx_net::limits;
use sbx_spec::{CanonicalPath, DnsName, Method, Resource, Transport};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::command::Question;

/// How much longer than an engine a supervisor keeps a question whose end it
/// did not hear of.
const LATE: Duration = Duration::from_secs(5);
/// How long an engine may take to hear an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest text of a rule that is shown, in characters.
const MAX_RULE: usize = 512;
/// Longest path that is asked about, in bytes.
const MAX_PATH: usize = 1_024;

/// The questions of one sandbox.
#[derive(Debug)]
pub(super) struct Questions {
    open: RefCell<Vec<Open>>,
    /// How the last ones were closed, by their numbers.
    closed: RefCell<VecDeque<(u64, How)>>,
    answers: RefCell<VecDeque<Vec<u8>>>,
    answering: Notify,
    last: Cell<u64>,
    /// Counts every change.
    revision: watch::Sender<u64>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    engine: u64,
    told: Told,
    since: Instant,
}

/// A line of an engine.
#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Ask(Told),
    Settled(Settled),
}

/// A question as an engine tells it.
#[derive(Debug, Deserialize)]
struct Told {
    question: u64,
    resource: Resource,
    host: Option<DnsName>,
    proto: Transport,
    method: Option<String>,
    path: Option<String>,
    rule: String,
}

impl Told {
    /// Whether it is about something that a rule could be about.
    fn is_sound(&self) -> bool {
        let method = self.method.as_ref();
        let path = self.path.as_ref();
        method.is_none_or(|method| method.parse::<Method>().is_ok())
            && path.is_none_or(|path| path.len() <= MAX_PATH)
            && path.is_none_or(|path| path.parse::<CanonicalPath>().is_ok())
    }
}

#[derive(Deserialize)]
struct Settled {
    question: u64,
    how: How,
}

/// How a question was closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum How {
    Approved,
    Dismissed,
    Expired,
    Policy,
}

/// What is open.
#[derive(Debug, Serialize)]
pub(super) struct Listed {
    revision: u64,
    questions: Vec<Question>,
}

#[cfg(test)]
impl Listed {
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn numbers(&self) -> Vec<u64> {
        let numbers = self.questions.iter().map(|question| question.number);
        numbers.collect()
    }
}

impl Questions {
    pub(super) fn new() -> Self {
        // Nobody answers a question of the last start by mistake.
        let start = RandomState::new().hash_one(Instant::now()) % 9_000 + 1_000;
        Self {
            open: RefCell::default(),
            closed: RefCell::default(),
            answers: RefCell::default(),
            answering: Notify::new(),
            last: Cell::new(start),
            revision: watch::Sender::new(0),
        }
    }

    /// Takes a line of the engine; false if it is about something else.
    pub(super) fn hear(&self, line: &str) -> bool {
        match serde_json::from_str(line) {
            Ok(Line::Ask(told)) if told.is_sound() => self.asked(told),
            Ok(Line::Settled(Settled { question, how })) => self.close(question, how),
            Ok(Line::Ask(_)) | Err(_) => return false,
        }
        true
    }

    fn asked(&self, mut told: Told) {
        let mut open = self.open.borrow_mut();
        if open.len() >= limits::QUESTIONS {
            return;
        }
        told.rule = told.rule.chars().take(MAX_RULE).collect();
        self.last.set(self.last.get() + 1);
        open.push(Open {
            number: self.last.get(),
            engine: told.question,
            told,
            since: Instant::now(),
        });
        drop(open);
        self.revision.send_modify(|revision| *revision += 1);
    }

    fn close(&self, engine: u64, how: How) {
        let mut closed = self.closed.borrow_mut();
        for open in self
            .open
            .borrow_mut()
            .extract_if(.., |open| open.engine == engine)
        {
            closed.push_back((open.number, how));
        }
        let most = closed.len().saturating_sub(limits::QUESTIONS);
        drop(closed.drain(..most));
        self.revision.send_modify(|revision| *revision += 1);
    }

    /// A new engine knows nothing of the questions and answers of the last.
    pub(super) fn forget(&self) {
        self.open.borrow_mut().clear();
        self.answers.borrow_mut().clear();
        self.revision.send_modify(|revision| *revision += 1);
    }

    /// What is open, once that is something else than at `seen`.
    pub(super) async fn list(&self, seen: Option<u64>) -> Listed {
        let mut revision = self.revision.subscribe();
        let news = revision.wait_for(|now| Some(*now) != seen).await;
        // It cannot fail: the sender is ours.
        let revision = news.map_or(0, |revision| *revision);
        let now = Instant::now();
        let mut open = self.open.borrow_mut();
        open.retain(|open| now < open.since + limits::ASK_TIME + LATE);
        let questions = open.iter().map(|open| open.question(now)).collect();
        Listed {
            revision,
            questions,
        }
    }

    /// Answers a question; false where it is not open, or no longer.
    pub(super) async fn answer(&self, number: u64, approve: bool) -> bool {
        let engine = self.engine_number(number);
        let Some(engine) = engine else {
            return false;
        };
        let order = serde_json::json!({ "answer": { "question": engine, "approve": approve } });
        self.answers
            .borrow_mut()
            .push_back(format!("{order}\n").into_bytes());
        self.answering.notify_one();
        let mut revision = self.revision.subscribe();
        let closed = revision.wait_for(|_| self.engine_number(number).is_none());
        let in_time = tokio::time::timeout(PATIENCE, closed).await.is_ok();
        let expected = if approve {
            How::Approved
        } else {
            How::Dismissed
        };
        in_time && self.closed.borrow().contains(&(number, expected))
    }

    fn engine_number(&self, number: u64) -> Option<u64> {
        let open = self.open.borrow();
        let found = open.iter().find(|open| open.number == number);
        found.map(|open| open.engine)
    }

    /// The next answer for the engine.
    pub(super) async fn next_answer(&self) -> Vec<u8> {
        loop {
            if let Some(line) = self.answers.borrow_mut().pop_front() {
                return line;
            }
            self.answering.notified().await;
        }
    }
}

impl Open {
    fn question(&self, now: Instant) -> Question {
        let waited = now.saturating_duration_since(self.since);
        let left = limits::ASK_TIME.saturating_sub(waited);
        Question {
            number: self.number,
            resource: self.told.resource.clone(),
            host: self.told.host.clone(),
            protocol: self.told.proto,
            method: self.told.method.clone(),
            path: self.told.path.clone(),
            rule: self.told.rule.clone(),
            seconds_left: left.as_secs(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASK: &str =
        r#"{"ask":{"question":7,"resource":"a.example:443","proto":"tcp","rule":"user ask **"}}"#;

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(work)
    }

    #[test]
    fn a_question_is_listed_until_it_is_answered() {
        let questions = Questions::new();
        run(async {
            let none = questions.list(None).await;
            assert!(none.questions.is_empty());
            let (listed, heard) = tokio::join!(questions.list(Some(none.revision)), async {
                questions.hear(ASK)
            });
            assert!(heard);
            let number = listed.questions[0].number;
            assert_eq!(listed.questions[0].resource.to_string(), "a.example:443");
            assert!(!questions.answer(number + 1, true).await);
            let (answered, line) = tokio::join!(questions.answer(number, true), async {
                let line = questions.next_answer().await;
                questions.hear(r#"{"settled":{"question":7,"how":"approved"}}"#);
                line
            });
            assert!(answered);
            assert_eq!(
                String::from_utf8(line).unwrap(),
                "{\"answer\":{\"approve\":true,\"question\":7}}\n"
            );
            assert!(questions.list(None).await.questions.is_empty());
        });
    }

    #[test]
    fn a_new_engine_is_not_answered_for_the_last_one() {
        let questions = Questions::new();
        run(async {
            assert!(questions.hear(ASK));
            let number = questions.list(None).await.questions[0].number;
            questions.forget();
            assert!(questions.hear(ASK));
            assert!(!questions.answer(number, true).await);
        });
    }

    #[test]
    fn what_no_rule_could_be_about_is_no_question() {
        let questions = Questions::new();
        for line in [
            "{}",
            r#"{"ask":{"question":7,"resource":"*","proto":"tcp","rule":""}}"#,
            r#"{"ask":{"question":7,"resource":"a.example","proto":"icmp","rule":""}}"#,
            r#"{"ask":{"question":7,"resource":"a.example","proto":"tcp","path":"/../x","rule":""}}"#,
            r#"{"settled":{"question":7,"how":"somehow"}}"#,
        ] {
            assert!(!questions.hear(line), "{line}");
        }
        for _ in 0..limits::QUESTIONS + 5 {
            questions.hear(ASK);
        }
        assert_eq!(run(questions.list(None)).questions.len(), limits::QUESTIONS);
    }
}
