//! `policy pending`, `approve` and `dismiss`: what sandboxes wait for the
//! user with.
//!
//! Never: keeps a question (its sandbox does).

use sbx_spec::{
    Action, HttpCondition, Method, Origin, PathGlob, PolicyEdit, Rule, SandboxName, Transport,
};

use tokio::sync::mpsc;

use super::Engine;
use crate::client;
use crate::command::{
    AnsweredReply, Code, Error, Given, PendingReply, PolicyScope, Question, QuestionId, QuestionOf,
    Reply, Saying,
};
use crate::store::{Phase, SandboxDir, State};

impl Engine {
    /// What waits for an answer.
    ///
    /// # Errors
    /// If the one sandbox that was named cannot be asked; of all, those that
    /// are on their way down have no questions.
    pub(super) async fn pending(&self, name: Option<&SandboxName>) -> Result<Reply, Error> {
        let sandboxes = match name {
            Some(name) => vec![self.find(name)?],
            None => self.store().list()?,
        };
        let mut questions = Vec::new();
        for sandbox in sandboxes.iter().filter(|sandbox| is_running(sandbox)) {
            let asked = match client::questions(&self.runtime(sandbox.name())).await {
                Ok(asked) => asked.questions,
                Err(error) if name.is_some() => return Err(error),
                Err(_) => continue,
            };
            questions.extend(asked.into_iter().map(|question| QuestionOf {
                id: QuestionId {
                    sandbox: sandbox.name().clone(),
                    number: question.number,
                },
                sandbox: sandbox.name().clone(),
                question,
            }));
        }
        Ok(Reply::Pending(PendingReply { questions }))
    }

    /// Answers what is said during a session; returns what went wrong.
    pub(super) async fn answer_all(
        &self,
        mut said: mpsc::UnboundedReceiver<(QuestionId, Saying)>,
    ) -> Vec<Error> {
        let mut failed = Vec::new();
        while let Some((id, saying)) = said.recv().await {
            match self.answer(&id, saying).await {
                // It was too late, or answered elsewhere.
                Err(error) if error.code == Code::QuestionNotFound => {}
                Err(error) => failed.push(error),
                Ok(_) => {}
            }
        }
        failed
    }

    /// Answers a question. `Always` adds a rule to the policy of its sandbox
    /// first, so that no answer is given that is not kept.
    ///
    /// # Errors
    /// If it is not open, or no rule can be about just that. Returns what the
    /// user should know besides, too.
    pub(super) async fn answer(
        &self,
        id: &QuestionId,
        saying: Saying,
    ) -> Result<(AnsweredReply, Vec<String>), Error> {
        let sandbox = self.find(&id.sandbox)?;
        let runtime = self.runtime(sandbox.name());
        let gone = || {
            Error::new(
                Code::QuestionNotFound,
                format!("no question `{id}` is open"),
            )
            .hint("`sbx policy pending` shows those that are; each is denied after 30 s")
        };
        if !is_running(&sandbox) {
            return Err(gone());
        }
        let asked = client::questions(&runtime).await?.questions;
        let question = asked
            .into_iter()
            .find(|question| question.number == id.number)
            .ok_or_else(gone)?;
        let approve = saying != Saying::No;
        let mut answered = AnsweredReply {
            id: id.clone(),
            answer: if approve {
                Given::Approved
            } else {
                Given::Dismissed
            },
            rule: None,
            edited: None,
        };
        let mut warnings = Vec::new();
        if saying == Saying::Always {
            let rule = rule(&question).map_err(|why| {
                Error::new(
                    Code::Usage,
                    format!("no rule can be about `{}` alone: {why}", question.about()),
                )
                .hint("answer with --once, or write a rule with `sbx policy allow`")
            })?;
            answered.rule = Some(rule.to_string());
            let scope = PolicyScope::Sandbox(sandbox.name().clone());
            let edits = [PolicyEdit::Add(rule)];
            let edit = self.edit_policy(&scope, &edits).await?;
            answered.edited = Some(edit.edited);
            warnings = edit.warnings;
        } else if !client::answer(&runtime, id.number, approve).await? {
            return Err(gone());
        }
        Ok((answered, warnings))
    }
}

fn is_running(sandbox: &SandboxDir) -> bool {
    matches!(
        sandbox.state(),
        Ok(State::Live(Some(run))) if run.phase == Phase::Running
    )
}

/// The rule by which a question is never asked again.
fn rule(question: &Question) -> Result<Rule, String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let method = question.method.as_deref().map(str::parse::<Method>);
    let method = method.transpose().map_err(|error| failed(&error))?;
    let path = match &question.path {
        Some(path) if path.contains('*') => {
            return Err("a `*` in a path stands for any segment".to_owned());
        }
        Some(path) => Some(path.parse::<PathGlob>().map_err(|error| failed(&error))?),
        None => None,
    };
    let http = HttpCondition::new(method.into_iter().collect::<Vec<_>>(), path)
        .map_err(|error| failed(&error))?;
    Rule::new(Action::Approve, question.resource.clone(), Origin::Sandbox)
        .map(|rule| {
            let udp = (question.protocol == Transport::Udp).then_some(Transport::Udp);
            rule.with_http(http).with_transport(udp)
        })
        .map_err(|error| failed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(resource: &str, request: Option<(&str, Option<&str>)>) -> Question {
        let (method, path) = request.unzip();
        Question {
            number: 1,
            resource: resource.parse().unwrap(),
            host: None,
            protocol: Transport::Tcp,
            method: method.map(str::to_owned),
            path: path.flatten().map(str::to_owned),
            rule: "user ask **".to_owned(),
            seconds_left: 30,
        }
    }

    #[test]
    fn what_is_approved_for_good_is_just_what_was_asked() {
        let written = |question| rule(&question).map(|rule| rule.to_string());
        assert_eq!(
            written(question("a.example:443", None)).unwrap(),
            "sandbox approve a.example:443"
        );
        assert_eq!(
            written(question("a.example:443", Some(("POST", Some("/v1/x"))))).unwrap(),
            "sandbox approve a.example:443 POST /v1/x"
        );
        assert_eq!(
            written(question("a.example:443", Some(("POST", None)))).unwrap(),
            "sandbox approve a.example:443 POST"
        );
        assert!(written(question("a.example:443", Some(("GET", Some("/a/*"))))).is_err());
        assert!(written(question("127.0.0.1:80", None)).is_err());
    }
}
