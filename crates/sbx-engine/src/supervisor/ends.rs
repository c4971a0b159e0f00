//! How the parts of a running sandbox end, and which end tells why.
//!
//! Owns: the names of the processes, and the ends the spawner reports.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::unix::net::UnixStream as StdStream;
use std::rc::Rc;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::launch::Launched;
use crate::command::{Code, Error};
use crate::spawner::Report;

/// How long the machine's own end may come after that of a part which has
/// seen it go.
const MACHINE: Duration = Duration::from_secs(2);

/// The ends to come.
pub(super) struct Ends {
    reports: mpsc::Receiver<Report>,
    /// The running parts by process id.
    pub(super) names: Rc<RefCell<BTreeMap<u32, String>>>,
    /// One that came, and until when a better one is waited for.
    first: Option<(PartEnd, Instant)>,
}

/// The end of one part.
pub(super) struct PartEnd {
    /// The part, as in logs.
    pub(super) name: String,
    /// How it ended.
    pub(super) report: Report,
}

impl PartEnd {
    /// Whether that was the machine or the container itself.
    pub(super) fn is_boundary(&self) -> bool {
        matches!(self.name.as_str(), "vmm" | "box" | "dock")
    }
}

impl Ends {
    /// Those of `parts`, which the spawner tells through `reports`.
    ///
    /// # Errors
    /// If the stream cannot be watched.
    pub(super) fn watch(reports: StdStream, parts: &Launched) -> Result<Self, Error> {
        let helpers = parts
            .helpers
            .iter()
            .map(|helper| (helper.process.pid, helper.name.clone()));
        let names = helpers
            .chain([(parts.boundary.process.pid, parts.boundary.name.clone())])
            .collect();
        Self::of(reports, names)
    }

    fn of(reports: StdStream, names: BTreeMap<u32, String>) -> Result<Self, Error> {
        Ok(Self {
            reports: read(reports)?,
            names: Rc::new(RefCell::new(names)),
            first: None,
        })
    }

    /// The next part that ends. The spawner going counts as everything
    /// ending at once.
    pub(super) async fn next(&mut self) -> PartEnd {
        match self.reports.recv().await {
            Some(report) => {
                let name = self.names.borrow().get(&report.pid).cloned();
                PartEnd {
                    name: name.unwrap_or_else(|| "a process".to_owned()),
                    report,
                }
            }
            None => PartEnd {
                name: "spawner".to_owned(),
                report: Report {
                    pid: 0,
                    code: None,
                    signal: Some(Signal::KILL.as_raw()),
                },
            },
        }
    }

    /// The next end that tells why. Parts end in good order when the machine
    /// is gone, whose own end follows and is the cause. Nothing is lost when
    /// the wait is given up.
    pub(super) async fn telling(&mut self) -> PartEnd {
        loop {
            match self.first.take() {
                None => {
                    let end = self.next().await;
                    self.first = Some((end, Instant::now() + MACHINE));
                }
                Some((end, until)) if follows(&end) => {
                    self.first = Some((end, until));
                    let next = tokio::time::timeout_at(until, self.next()).await;
                    let Some((end, _)) = self.first.take() else {
                        continue;
                    };
                    match next {
                        // The network engine alone can be replaced.
                        Ok(next) if end.name == "net" || !follows(&next) => {
                            self.first = Some((next, until));
                        }
                        Ok(_) => self.first = Some((end, until)),
                        Err(_) => return end,
                    }
                }
                Some((end, _)) => return end,
            }
        }
    }
}

fn follows(end: &PartEnd) -> bool {
    !end.is_boundary() && end.report.code == Some(0)
}

fn read(reports: StdStream) -> Result<mpsc::Receiver<Report>, Error> {
    let failed =
        |source: std::io::Error| Error::new(Code::Io, "cannot watch the spawner").because(source);
    reports.set_nonblocking(true).map_err(failed)?;
    let stream = UnixStream::from_std(reports).map_err(failed)?;
    let (to, from) = mpsc::channel(16);
    spawn_local(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let Ok(report) = serde_json::from_str(&line) else {
                continue;
            };
            if to.send(report).await.is_err() {
                return;
            }
        }
    });
    Ok(from)
}

/// The end of a part that a sandbox cannot be without.
pub(super) fn part_ended(end: &PartEnd) -> Error {
    let how = match (end.report.code, end.report.signal) {
        (Some(code), _) => format!("with code {code}"),
        (None, Some(signal)) => format!("by signal {signal}"),
        (None, None) => "for an unknown reason".to_owned(),
    };
    Error::new(
        Code::Boot,
        format!("the sandbox's {} process ended {how}", end.name),
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::task::LocalSet;

    use super::*;

    /// What is told as the cause when the spawner reports `ends` in turn.
    async fn cause(ends: &[&str]) -> String {
        let (reports, mut told) = StdStream::pair().unwrap();
        let names = [(1, "share s0"), (2, "net"), (3, "vmm")];
        let names = names.map(|(pid, name)| (pid, name.to_owned()));
        let mut all = Ends::of(reports, names.into()).unwrap();
        for end in ends {
            writeln!(told, "{end}").unwrap();
        }
        // Whoever waits may look at something else meanwhile.
        for _ in 0..3 {
            let glance = Duration::from_millis(1);
            if let Ok(end) = tokio::time::timeout(glance, all.telling()).await {
                return part_ended(&end).message;
            }
        }
        part_ended(&all.telling().await).message
    }

    const NET: &str = r#"{"pid":2,"code":0,"signal":null}"#;
    const SHARE: &str = r#"{"pid":1,"code":0,"signal":null}"#;
    const MACHINE_KILLED: &str = r#"{"pid":3,"code":null,"signal":9}"#;

    #[test]
    fn the_machines_end_is_told_whichever_part_saw_it_first() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let local = LocalSet::new();
        local.block_on(&runtime, async {
            let machine = "the sandbox's vmm process ended by signal 9";
            assert_eq!(cause(&[NET, MACHINE_KILLED]).await, machine);
            assert_eq!(cause(&[SHARE, NET, MACHINE_KILLED]).await, machine);
            assert_eq!(cause(&[MACHINE_KILLED, NET]).await, machine);
        });
    }

    #[test]
    fn a_part_that_ends_by_itself_is_the_cause() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let local = LocalSet::new();
        local.block_on(&runtime, async {
            let killed = r#"{"pid":1,"code":null,"signal":9}"#;
            let share = "the sandbox's share s0 process ended by signal 9";
            assert_eq!(cause(&[killed, MACHINE_KILLED]).await, share);
        });
    }
}
