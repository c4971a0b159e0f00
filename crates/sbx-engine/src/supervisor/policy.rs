//! The rules that a sandbox's network engine judges by: what was last told to
//! the supervisor, and how far the engine has come with it; and what it asks
//! where they say so.
//!
//! An engine begins without rules and allows nothing; the first thing that it
//! and every successor is told are these.

use std::sync::Arc;
use std::time::Duration;

use sbx_spec::Rule;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::watch;

use super::questions::Questions;
use crate::command::{Code, Error};

/// How long an engine may take to judge by new rules.
const PATIENCE: Duration = Duration::from_secs(8);

/// What counts, and what is in force.
#[derive(Debug)]
pub(super) struct Rules {
    order: watch::Sender<Order>,
    in_force: watch::Sender<InForce>,
    questions: Questions,
}

/// A line for the engine.
#[derive(Clone, Debug)]
struct Order {
    revision: u64,
    rules: Arc<[Rule]>,
    line: Arc<[u8]>,
}

/// How far the engine is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct InForce {
    revision: u64,
    /// Open connections that the last order ended.
    cut: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    policy: InForce,
}

impl Rules {
    /// The rules that a sandbox starts with.
    ///
    /// # Errors
    /// If they cannot be written as a line.
    pub(super) fn new(rules: &[Rule]) -> Result<Self, Error> {
        Ok(Self {
            order: watch::Sender::new(Order::new(1, rules)?),
            in_force: watch::Sender::default(),
            questions: Questions::new(),
        })
    }

    /// Replaces the rules and waits until the engine judges by them. Returns
    /// how many open connections they ended. The same rules are not told
    /// again: whoever opens a session asks for them.
    ///
    /// # Errors
    /// If the engine does not get there in time. The rules count all the
    /// same: for this engine later, or for its successor.
    pub(super) async fn replace(&self, rules: &[Rule]) -> Result<u64, Error> {
        if *self.order.borrow().rules == *rules {
            return self.obeyed().await.map(|_| 0);
        }
        let revision = self.order.borrow().revision + 1;
        self.order.send_replace(Order::new(revision, rules)?);
        self.obeyed().await
    }

    /// Waits until the engine judges by the latest rules.
    ///
    /// # Errors
    /// If it does not get there in time.
    pub(super) async fn obeyed(&self) -> Result<u64, Error> {
        let revision = self.order.borrow().revision;
        let mut in_force = self.in_force.subscribe();
        let there = in_force.wait_for(|now| now.revision >= revision);
        match tokio::time::timeout(PATIENCE, there).await {
            Ok(Ok(now)) => Ok(now.cut),
            Ok(Err(_)) | Err(_) => Err(Error::new(
                Code::Timeout,
                "the sandbox's network engine does not take its rules",
            )),
        }
    }

    /// What the engine asks.
    pub(super) fn questions(&self) -> &Questions {
        &self.questions
    }

    /// Tells an engine the rules, every change of them, and what the user
    /// answers, while it lives.
    pub(super) async fn tell(&self, mut engine: OwnedWriteHalf) {
        self.in_force.send_replace(InForce::default());
        self.questions.forget();
        let mut orders = self.order.subscribe();
        orders.mark_changed();
        loop {
            let answer: Vec<u8>;
            let order: Arc<[u8]>;
            let line: &[u8] = tokio::select! {
                changed = orders.changed() => match changed {
                    Ok(()) => {
                        order = Arc::clone(&orders.borrow_and_update().line);
                        &order
                    }
                    Err(_) => return,
                },
                next = self.questions.next_answer() => {
                    answer = next;
                    &answer
                }
            };
            if engine.write_all(line).await.is_err() {
                return;
            }
        }
    }

    /// Takes a line of the engine; false if it is about something else.
    pub(super) fn hear(&self, line: &str) -> bool {
        match serde_json::from_str::<Answer>(line) {
            Ok(Answer { policy }) => {
                self.in_force.send_replace(policy);
                true
            }
            Err(_) => self.questions.hear(line),
        }
    }
}

impl Order {
    fn new(revision: u64, rules: &[Rule]) -> Result<Self, Error> {
        let order = serde_json::json!({ "policy": { "revision": revision, "rules": rules } });
        let mut line = serde_json::to_vec(&order)
            .map_err(|source| Error::new(Code::Internal, "cannot write rules").because(source))?;
        line.push(b'\n');
        if line.len() > sbx_net::limits::CONTROL_LINE {
            return Err(Error::new(
                Code::Limit,
                "cannot take a policy that is so long",
            ));
        }
        Ok(Self {
            revision,
            rules: rules.into(),
            line: line.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixStream;

    use super::*;

    fn rule(resource: &str) -> Rule {
        let resource = resource.parse().unwrap();
        Rule::new(sbx_spec::Action::Allow, resource, sbx_spec::Origin::User).unwrap()
    }

    #[test]
    fn an_engine_is_told_the_latest_rules_and_a_successor_again() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let more = [rule("b.example")];
            let rules = Rc::new(Rules::new(&[rule("a.example")]).unwrap());
            for (engine, revision) in [(1, 1), (2, 2)] {
                let (near, far) = UnixStream::pair().unwrap();
                let telling = Rc::clone(&rules);
                let task = tokio::task::spawn_local(async move {
                    telling.tell(near.into_split().1).await;
                });
                let mut lines = BufReader::new(far).lines();
                let line = lines.next_line().await.unwrap().unwrap();
                assert!(line.contains(&format!("\"revision\":{revision}")), "{line}");
                assert!(rules.hear(&format!(
                    "{{\"policy\":{{\"revision\":{revision},\"cut\":0}}}}"
                )));
                assert_eq!(rules.obeyed().await.unwrap(), 0);
                if engine == 1 {
                    let replaced = tokio::join!(rules.replace(&more), async {
                        let line = lines.next_line().await.unwrap().unwrap();
                        assert!(line.contains("b.example") && !line.contains("a.example"));
                        rules.hear("{\"policy\":{\"revision\":2,\"cut\":3}}");
                    });
                    assert_eq!(replaced.0.unwrap(), 3);
                }
                drop(lines);
                task.abort();
            }
        });
    }

    #[test]
    fn rules_that_are_in_force_already_need_no_word_of_the_engine() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let same = [rule("a.example")];
            let rules = Rules::new(&same).unwrap();
            assert!(rules.hear("{\"policy\":{\"revision\":1,\"cut\":4}}"));
            assert_eq!(rules.replace(&same).await.unwrap(), 0);
            assert_eq!(rules.order.borrow().revision, 1);
        });
    }

    #[test]
    fn other_lines_of_an_engine_are_left_to_others() {
        let rules = Rules::new(&[]).unwrap();
        for line in ["", "{}", "{\"flow\":{}}", "{\"policy\":{\"revision\":1}}"] {
            assert!(!rules.hear(line), "{line}");
        }
    }
}
