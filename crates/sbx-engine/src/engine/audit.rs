//! `policy log`: what was recorded of the network of sandboxes.

use std::collections::{HashMap, VecDeque};

use sbx_spec::SandboxName;

use super::Engine;
use super::tail::{LOOK, Rolled, Tail};
use crate::command::{AuditRecord, AuditReply, AuditRequest, Error, Reply, Ui};
use crate::store::SandboxDir;
use crate::supervisor::{AUDIT_NAME, AUDIT_OLDER, MAX_AUDIT_FILE};

const AUDIT: Rolled = Rolled {
    name: AUDIT_NAME,
    older: AUDIT_OLDER,
    most: MAX_AUDIT_FILE,
};

/// How far the file of each sandbox was read.
#[derive(Default)]
struct Tails(HashMap<SandboxName, Tail>);

impl Tails {
    /// What is new in the files of `sandboxes` and was asked for.
    fn read(&mut self, sandboxes: &[SandboxDir], request: &AuditRequest) -> AuditReply {
        self.0
            .retain(|name, _| sandboxes.iter().any(|found| found.name() == name));
        let mut reply = AuditReply::default();
        for sandbox in sandboxes {
            let tail = self.0.entry(sandbox.name().clone()).or_default();
            let mut last = VecDeque::new();
            let mut strange = 0;
            tail.read(&sandbox.run_directory(), AUDIT, |record: AuditRecord| {
                if record.sandbox != *sandbox.name() {
                    // A supervisor that was taken over speaks for its own.
                    strange += 1;
                } else if wanted(&record, request) {
                    last.push_back(record);
                }
                if last.len() > request.limit {
                    last.pop_front();
                    reply.earlier += 1;
                }
            });
            reply.unreadable += std::mem::take(&mut tail.unreadable) + strange;
            reply.records.extend(last);
        }
        reply.records.sort_by_key(|record| record.time_ms);
        let beyond = reply.records.len().saturating_sub(request.limit);
        reply.records.drain(..beyond);
        reply.earlier += beyond as u64;
        reply
    }
}

fn wanted(record: &AuditRecord, request: &AuditRequest) -> bool {
    let late = request.since_ms.is_none_or(|since| record.time_ms >= since);
    late && (!request.denied || record.event.is_denial())
}

impl Engine {
    /// Shows what was recorded.
    ///
    /// # Errors
    /// If there is no such sandbox, or the sandboxes cannot be listed.
    pub(super) async fn audit(
        &self,
        request: &AuditRequest,
        ui: &mut dyn Ui,
    ) -> Result<Reply, Error> {
        let mut tails = Tails::default();
        let first = tails.read(&self.audited(request)?, request);
        if !request.follow {
            return Ok(Reply::Audit(first));
        }
        first.records.iter().for_each(|record| ui.audit(record));
        let mut cancel = ui.cancel();
        // What is new is shown whole, however few of the old were wanted.
        let request = AuditRequest {
            limit: usize::MAX,
            ..request.clone()
        };
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = cancel.cancelled() => break,
            }
            let Ok(sandboxes) = self.audited(&request) else {
                break;
            };
            let new = tails.read(&sandboxes, &request);
            new.records.iter().for_each(|record| ui.audit(record));
        }
        Ok(Reply::Done {})
    }

    fn audited(&self, request: &AuditRequest) -> Result<Vec<SandboxDir>, Error> {
        match &request.sandbox {
            Some(name) => Ok(vec![self.find(name)?]),
            None => self.store().list(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::command::Judged;
    use crate::command::{AUDIT_VERSION, AuditEvent, AuditFlow, AuditTarget};

    fn record(sandbox: &str, time_ms: u64, verdict: Judged) -> AuditRecord {
        AuditRecord {
            version: AUDIT_VERSION,
            time_ms,
            sandbox: sandbox.parse().unwrap(),
            event: AuditEvent::Flow(AuditFlow {
                flow: format!("1.1.{time_ms}"),
                verdict,
                target: AuditTarget {
                    protocol: "tcp".to_owned(),
                    host: Some("a.example".to_owned()),
                    address: None,
                    port: 443,
                    rule: "default:unlisted".to_owned(),
                    rule_id: None,
                    origin: None,
                },
                failed: None,
            }),
        }
    }

    fn keep(sandbox: &SandboxDir, record: &AuditRecord) {
        let path = sandbox.run_directory().join(AUDIT_NAME);
        let mut file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap();
        writeln!(file, "{}", serde_json::to_string(record).unwrap()).unwrap();
    }

    fn all() -> AuditRequest {
        AuditRequest {
            sandbox: None,
            follow: false,
            since_ms: None,
            denied: false,
            limit: 100,
        }
    }

    fn times(reply: &AuditReply) -> Vec<u64> {
        reply.records.iter().map(|record| record.time_ms).collect()
    }

    #[test]
    fn records_of_all_sandboxes_come_in_the_order_of_time_and_as_they_are_asked_for() {
        let (_root, store) = crate::store::tests::store();
        let [one, two] = ["one", "two"].map(|name| crate::store::tests::made(&store, name));
        keep(&one, &record("one", 1, Judged::Allow));
        keep(&one, &record("one", 3, Judged::Deny));
        keep(&two, &record("two", 2, Judged::Deny));
        keep(&two, &record("one", 9, Judged::Allow));
        let dirs = store.list().unwrap();
        let read = |request| Tails::default().read(&dirs, &request);
        let found = read(all());
        assert_eq!(times(&found), [1, 2, 3]);
        assert_eq!((found.unreadable, found.earlier), (1, 0));
        let denied = AuditRequest {
            denied: true,
            ..all()
        };
        assert_eq!(times(&read(denied)), [2, 3]);
        let since = AuditRequest {
            since_ms: Some(2),
            ..all()
        };
        assert_eq!(times(&read(since)), [2, 3]);
        let last = read(AuditRequest { limit: 1, ..all() });
        assert_eq!((times(&last), last.earlier), (vec![3], 2));
    }

    #[test]
    fn what_was_read_once_is_not_read_again() {
        let (_root, store) = crate::store::tests::store();
        let one = crate::store::tests::made(&store, "one");
        keep(&one, &record("one", 1, Judged::Allow));
        let dirs = store.list().unwrap();
        let mut tails = Tails::default();
        assert_eq!(times(&tails.read(&dirs, &all())), [1]);
        keep(&one, &record("one", 2, Judged::Allow));
        assert_eq!(times(&tails.read(&dirs, &all())), [2]);
        assert!(times(&tails.read(&dirs, &all())).is_empty());
    }
}
