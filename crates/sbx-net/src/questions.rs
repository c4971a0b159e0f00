//! What waits for the user's word.
//!
//! Owns: the questions that are open, who waits for each, and what was
//! answered a moment ago. One question stands for everybody who wants the
//! same. Never: judges, asks a second time before it is settled.

use std::net::IpAddr;
use std::time::Instant;

use sbx_spec::guard::{self, Guard};
use sbx_spec::{Destination, Flow, Reason, Target};
use tokio::sync::oneshot;

use crate::limits;
use crate::table::Key;

/// There is no room for one more who waits.
pub(crate) const TOO_MANY: &str = "limit:questions";

/// What a question is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Subject {
    /// The connection: to a name, unless a rule asks about the address.
    pub(crate) flow: Flow,
    /// Method and path where a rule asks about requests.
    pub(crate) request: Option<(String, Option<String>)>,
}

/// Who waits.
#[derive(Debug)]
pub(crate) enum Asker {
    /// A connection.
    Flow(Key),
    /// A request; it hears nothing where its question was dropped.
    Request(oneshot::Sender<bool>),
}

/// A question.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) number: u64,
    pub(crate) subject: Subject,
    /// The rule that asks.
    pub(crate) reason: Reason,
    pub(crate) askers: Vec<Asker>,
    due: Instant,
}

/// What came of asking.
#[derive(Debug)]
pub(crate) enum Put {
    /// It was answered a moment ago.
    Answered(bool, Asker),
    /// It is open.
    Waits,
    /// It is open from now on, under this number.
    New(u64),
    /// There are too many.
    Full(Asker),
}

/// All of them.
#[derive(Default, Debug)]
pub(crate) struct Questions {
    open: Vec<Question>,
    answered: Vec<(Subject, Reason, bool, Instant)>,
    last: u64,
}

/// What is asked about where `reason` asks on `flow`: the address if its rule
/// is about addresses, else the name.
pub(crate) fn asked_about(flow: &Flow, reason: &Reason) -> Destination {
    let of_addresses = reason
        .rule()
        .is_some_and(|rule| matches!(rule.resource().target(), Target::Network(_)));
    match &flow.destination {
        Destination::Resolved(name, _) if !of_addresses => Destination::Name(name.clone()),
        other => other.clone(),
    }
}

impl Subject {
    /// The subject of a question about a whole connection.
    pub(crate) fn of_flow(flow: &Flow, reason: &Reason) -> Self {
        Self {
            flow: Flow {
                destination: asked_about(flow, reason),
                ..flow.clone()
            },
            request: None,
        }
    }

    /// What it is about as a rule would have it, requests aside.
    pub(crate) fn resource(&self) -> String {
        let port = self.flow.port;
        match &self.flow.destination {
            Destination::Name(name) => format!("{name}:{port}"),
            Destination::HostService | Destination::Gateway => format!("localhost:{port}"),
            Destination::Resolved(_, address) | Destination::Address(address) => match address {
                IpAddr::V4(v4) => format!("{v4}:{port}"),
                IpAddr::V6(v6) => format!("[{v6}]:{port}"),
            },
        }
    }

    /// The name that led to an address, where it is one.
    pub(crate) fn host(&self) -> Option<&str> {
        match &self.flow.destination {
            Destination::Resolved(name, _) => Some(name.as_str()),
            _ => None,
        }
    }
}

impl Questions {
    /// Has somebody wait for an answer.
    pub(crate) fn put(
        &mut self,
        subject: Subject,
        reason: Reason,
        asker: Asker,
        now: Instant,
    ) -> Put {
        self.answered.retain(|(.., until)| *until > now);
        // What was said to one rule is no answer to another.
        let said = |about: &Subject, rule: &Reason| *about == subject && *rule == reason;
        let answer = (self.answered.iter())
            .find(|(about, rule, ..)| said(about, rule) || guard::out(Guard::AnswerOfQuestion));
        if let Some((.., yes, _)) = answer {
            return Put::Answered(*yes, asker);
        }
        let waiting = self.open.iter().map(|question| question.askers.len());
        if waiting.sum::<usize>() >= limits::HELD {
            return Put::Full(asker);
        }
        let mut open = self.open.iter_mut();
        if let Some(question) = open.find(|open| said(&open.subject, &open.reason)) {
            question.askers.push(asker);
            return Put::Waits;
        }
        if self.open.len() >= limits::QUESTIONS {
            return Put::Full(asker);
        }
        self.last += 1;
        self.open.push(Question {
            number: self.last,
            subject,
            reason,
            askers: vec![asker],
            due: now + limits::ASK_TIME,
        });
        Put::New(self.last)
    }

    /// Closes a question. An answer counts for whoever asks the same within
    /// [`limits::ASK_TIME`]: a client that gave up meanwhile tries again.
    pub(crate) fn settle(
        &mut self,
        number: u64,
        answer: Option<bool>,
        now: Instant,
    ) -> Option<Question> {
        let place = self.open.iter().position(|open| open.number == number)?;
        let question = self.open.remove(place);
        if let Some(yes) = answer {
            if self.answered.len() >= limits::QUESTIONS {
                self.answered.remove(0);
            }
            let until = now + limits::ASK_TIME;
            let (subject, rule) = (question.subject.clone(), question.reason.clone());
            self.answered.push((subject, rule, yes, until));
        }
        Some(question)
    }

    /// A question whose time is over.
    pub(crate) fn overdue(&self, now: Instant) -> Option<u64> {
        let over = self.open.iter().find(|question| question.due <= now);
        over.map(|question| question.number)
    }

    /// When the next question's time is over.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.open.iter().map(|question| question.due).min()
    }

    /// Those about whole connections.
    pub(crate) fn of_flows(&self) -> Vec<(u64, Flow)> {
        let whole = self
            .open
            .iter()
            .filter(|open| open.subject.request.is_none());
        whole
            .map(|open| (open.number, open.subject.flow.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sbx_spec::Protocol;

    use super::*;

    fn subject(host: &str) -> Subject {
        Subject {
            flow: Flow {
                protocol: Protocol::Tcp,
                destination: Destination::Name(host.parse().unwrap()),
                port: 443,
            },
            request: None,
        }
    }

    fn put(questions: &mut Questions, host: &str, now: Instant) -> Put {
        let asker = Asker::Request(oneshot::channel().0);
        questions.put(subject(host), "user ask **".into(), asker, now)
    }

    #[test]
    fn everybody_who_wants_the_same_waits_for_one_answer() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        assert!(matches!(put(&mut questions, "a.example", now), Put::New(1)));
        assert!(matches!(put(&mut questions, "a.example", now), Put::Waits));
        assert!(matches!(put(&mut questions, "b.example", now), Put::New(2)));
        let settled = questions.settle(1, Some(true), now).unwrap();
        assert_eq!(settled.askers.len(), 2);
        assert!(questions.settle(1, Some(true), now).is_none());
    }

    #[test]
    fn an_answer_counts_for_a_moment_and_silence_does_not() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        let _new = put(&mut questions, "a.example", now);
        let _new = put(&mut questions, "b.example", now);
        questions.settle(1, Some(false), now);
        questions.settle(2, None, now);
        assert!(matches!(
            put(&mut questions, "a.example", now),
            Put::Answered(false, _)
        ));
        assert!(matches!(put(&mut questions, "b.example", now), Put::New(3)));
        let later = now + limits::ASK_TIME + Duration::from_millis(1);
        assert!(matches!(
            put(&mut questions, "a.example", later),
            Put::New(4)
        ));
        assert_eq!(questions.overdue(later), Some(3));
    }

    #[test]
    fn what_is_said_to_one_rule_is_no_answer_to_another() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        let mut asked_by = |rule: &'static str| {
            let asker = Asker::Request(oneshot::channel().0);
            questions.put(subject("a.example"), rule.into(), asker, now)
        };
        assert!(matches!(asked_by("one"), Put::New(1)));
        assert!(matches!(asked_by("other"), Put::New(2)));
        questions.settle(1, Some(true), now);
        let mut again = |rule: &'static str| {
            let asker = Asker::Request(oneshot::channel().0);
            questions.put(subject("a.example"), rule.into(), asker, now)
        };
        assert!(matches!(again("one"), Put::Answered(true, _)));
        assert!(matches!(again("other"), Put::Waits));
    }

    #[test]
    fn only_so_many_wait_and_the_others_hear_at_once() {
        let (mut questions, now) = (Questions::default(), Instant::now());
        for number in 0..limits::QUESTIONS {
            let host = format!("h{number}.example");
            assert!(matches!(put(&mut questions, &host, now), Put::New(_)));
        }
        assert!(matches!(
            put(&mut questions, "more.example", now),
            Put::Full(_)
        ));
        for _ in limits::QUESTIONS..limits::HELD {
            assert!(matches!(put(&mut questions, "h0.example", now), Put::Waits));
        }
        assert!(matches!(
            put(&mut questions, "h0.example", now),
            Put::Full(_)
        ));
    }
}
