//! Connections and requests that wait for the user, and what becomes of them.

use sbx_spec::{Answer, Flow, Reason};

use super::Engine;
use crate::control::{AskRecord, SettledRecord};
use crate::flow::State;
use crate::gate::Decision;
use crate::questions::{Asker, Put, Question, Subject, TOO_MANY};
use crate::table::Key;

/// How a question was settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Settled {
    /// The user said yes or no.
    Answered(bool),
    /// Nobody answered in time.
    Expired,
    /// The rules ask no longer.
    ByRules,
}

impl Settled {
    fn name(self) -> &'static str {
        match self {
            Self::Answered(true) => "approved",
            Self::Answered(false) => "dismissed",
            Self::Expired => "expired",
            Self::ByRules => "policy",
        }
    }

    fn answer(self) -> Option<bool> {
        match self {
            Self::Answered(yes) => Some(yes),
            Self::Expired | Self::ByRules => None,
        }
    }
}

impl Engine {
    /// Has a connection wait for the user.
    pub(super) fn hold(&mut self, key: Key, asked: &Flow, reason: Reason) {
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        flow.state = State::Held;
        flow.deadline = None;
        self.table.queue(key);
        let subject = Subject::of_flow(asked, &reason);
        self.question(subject, reason, Asker::Flow(key));
    }

    /// Asks the user, unless that was done already.
    pub(super) fn question(&mut self, subject: Subject, reason: Reason, asker: Asker) {
        let put = self
            .questions
            .put(subject.clone(), reason.clone(), asker, self.now);
        match put {
            Put::Waits => {}
            Put::Answered(yes, asker) => self.hear(asker, &subject, &reason, Some(yes)),
            Put::Full(asker) => self.turn_down(asker),
            Put::New(number) => {
                let (method, path) = subject.request.clone().unzip();
                let path = path.flatten();
                let record = AskRecord {
                    question: number,
                    resource: &subject.resource(),
                    host: subject.host(),
                    proto: subject.flow.protocol.name(),
                    method: method.as_deref(),
                    path: path.as_deref(),
                    rule: &reason,
                };
                if !self.control.ask(&record) {
                    let unasked = self.questions.settle(number, None, self.now);
                    for asker in unasked.into_iter().flat_map(|question| question.askers) {
                        self.turn_down(asker);
                    }
                }
            }
        }
    }

    /// Hears what the user said.
    pub(super) fn answered(&mut self, number: u64, yes: bool) {
        self.settle(number, Settled::Answered(yes));
    }

    /// Gives up on questions that nobody answers.
    pub(super) fn expire_questions(&mut self) {
        while let Some(number) = self.questions.overdue(self.now) {
            self.settle(number, Settled::Expired);
        }
    }

    /// Drops the questions that the rules ask no longer. Requests look at new
    /// rules by themselves.
    pub(super) fn ask_by_new_rules(&mut self) {
        for (number, flow) in self.questions.of_flows() {
            if self.gate.verdict(&flow).answer != Answer::Ask {
                self.settle(number, Settled::ByRules);
            }
        }
    }

    fn settle(&mut self, number: u64, how: Settled) {
        let Some(question) = self.questions.settle(number, how.answer(), self.now) else {
            return;
        };
        self.control.settled(&SettledRecord {
            question: number,
            how: how.name(),
        });
        let Question {
            subject,
            reason,
            askers,
            ..
        } = question;
        let answer = match how {
            Settled::Answered(yes) => Some(yes),
            Settled::Expired => Some(false),
            Settled::ByRules => None,
        };
        for asker in askers {
            self.hear(asker, &subject, &reason, answer);
        }
    }

    /// Tells who waits; without an answer it is judged once more.
    fn hear(&mut self, asker: Asker, subject: &Subject, reason: &Reason, answer: Option<bool>) {
        let key = match asker {
            Asker::Flow(key) => key,
            Asker::Request(waiting) => {
                if let Some(yes) = answer {
                    // A request whose connection broke waits no longer.
                    let _gone = waiting.send(yes);
                }
                return;
            }
        };
        let Some(flow) = self.table.get_mut(key) else {
            return;
        };
        if !matches!(flow.state, State::Held) {
            return;
        }
        match answer {
            Some(false) => return self.deny(key, reason.clone()),
            Some(true) => flow.intent.approve(subject.flow.destination.clone()),
            None => {}
        }
        let decision = self.gate.judge(&flow.intent, self.now);
        self.pursue(key, decision);
    }

    fn turn_down(&mut self, asker: Asker) {
        match asker {
            Asker::Flow(key) => self.deny(key, TOO_MANY.into()),
            // It hears that nobody will answer.
            Asker::Request(waiting) => drop(waiting),
        }
    }

    /// Does with a connection in the table what was decided about it.
    pub(super) fn pursue(&mut self, key: Key, decision: Decision) {
        match decision {
            Decision::Deny(reason) => self.deny(key, reason),
            Decision::Answer => self.deny(key, "gateway:no-such-service".into()),
            Decision::Ask(asked, reason) => self.hold(key, &asked, reason),
            Decision::Dial(passes) => self.dial(key, passes),
            Decision::Resolve(name) => self.resolve(key, &name),
        }
    }
}
