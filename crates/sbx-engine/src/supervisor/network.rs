//! The network engine of a running sandbox, and the one after it.
//!
//! Owns: a copy of the engine's end of the machine's frames, so that the
//! machine sees no hang-up while none reads; what one engine leaves to the
//! next; and how often there is a next one. Trusts no engine.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use sbx_net::Authority;
use sbx_spec::Rule;
use sbx_sys::unix;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::task::{JoinHandle, spawn_local};

use super::audit::{Audit, Heard, Hearing, SUMMED_UP};
use super::doors::Doors;
use super::launch::{Helper, log_pipe, tokio_stream};
use super::log;
use super::names::Names;
use super::policy::Rules;
use crate::command::{Code, Error};
use crate::spawner::{Spawner, Verb};

/// How often an engine is started again within [`WITHIN`]. A sandbox whose
/// engine dies once more is stopped.
const RESTARTS: usize = 5;
/// The time in which deaths are counted.
const WITHIN: Duration = Duration::from_secs(60);
/// How long the last words of a dead engine are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Room for frames on their way in one direction, in bytes; the kernel may
/// give less.
const ON_THEIR_WAY: usize = 1 << 20;

/// What outlives an engine.
#[derive(Debug)]
pub(super) struct Network {
    link: OwnedFd,
    names: Rc<RefCell<Names>>,
    rules: Rc<Rules>,
    doors: Rc<Doors>,
    /// What the guest trusts the engine by, for as long as it runs.
    authority: Authority,
    audit: Rc<RefCell<Audit>>,
    hearing: Option<JoinHandle<()>>,
    telling: Option<JoinHandle<()>>,
    deaths: VecDeque<Instant>,
}

impl Network {
    /// The engine's end of the frames of a machine, and the machine's.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub(super) fn wire() -> Result<(OwnedFd, OwnedFd), Error> {
        let (machine, link) = unix::message_pair().map_err(failed)?;
        for end in [&machine, &link] {
            // Less room is slower, and nothing else.
            let _smaller = rustix::net::sockopt::set_socket_send_buffer_size(end, ON_THEIR_WAY);
        }
        Ok((link, machine))
    }

    /// The network of a sandbox that keeps its names in `names`, starts with
    /// `rules` and is recorded in `audit`, behind the link that there will be.
    ///
    /// # Errors
    /// If an authority cannot be made, or the names cannot be read.
    pub(super) fn prepare(
        names: &Path,
        rules: &[Rule],
        audit: Audit,
    ) -> Result<impl FnOnce(OwnedFd) -> Self + use<>, Error> {
        let names = Names::open(names).map_err(|source| {
            Error::new(Code::State, format!("cannot open `{}`", names.display())).because(source)
        })?;
        let rules = Rules::new(rules)?;
        let authority = Authority::new(audit.sandbox().as_str()).map_err(|source| {
            Error::new(Code::Internal, "cannot prepare the network").because(source)
        })?;
        Ok(move |link| Self {
            link,
            names: Rc::new(RefCell::new(names)),
            rules: Rc::new(rules),
            doors: Rc::new(Doors::default()),
            authority,
            audit: Rc::new(RefCell::new(audit)),
            hearing: None,
            telling: None,
            deaths: VecDeque::new(),
        })
    }

    /// Starts an engine.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(super) fn start(&self, spawner: &Spawner) -> Result<Helper, Error> {
        let (near, far) = unix::stream_pair().map_err(failed)?;
        let link = self.link.try_clone().map_err(|source| {
            Error::new(Code::Io, "cannot make the links between processes").because(source)
        })?;
        let names = sbx_net::names_file(self.names.borrow().known()).map_err(failed)?;
        let links = vec![link, far.into(), names, self.doors.connect()?];
        let process = spawner.run(Verb::Net, log_pipe("net")?, links)?;
        Ok(Helper {
            name: "net".to_owned(),
            process,
            control: tokio_stream(near)?,
        })
    }

    /// A copy of its engine's end of the frames.
    pub(super) fn into_link(self) -> OwnedFd {
        self.link
    }

    /// What the guest is to trust: the certificate of this start's authority.
    pub(super) fn certificate(&self) -> &str {
        &self.authority.certificate
    }

    /// Tells an engine what it is and its rules, keeps the names that it tells
    /// and records its verdicts; everything else it says goes to the log.
    pub(super) fn hear(&mut self, control: UnixStream) {
        let (reader, mut writer) = control.into_split();
        let rules = Rc::clone(&self.rules);
        let order = serde_json::json!({ "authority": self.authority });
        // One that told a dead engine would take what is meant for this one.
        if let Some(telling) = self.telling.take() {
            telling.abort();
        }
        self.telling = Some(spawn_local(async move {
            // An engine that is gone is missed by whoever waits for its end.
            let order = format!("{order}\n");
            if writer.write_all(order.as_bytes()).await.is_ok() {
                rules.tell(writer).await;
            }
        }));
        let (names, rules) = (Rc::clone(&self.names), Rc::clone(&self.rules));
        let hearing = Hearing {
            engine: self.audit.borrow_mut().engine_starts(),
            audit: Rc::clone(&self.audit),
        };
        self.hearing = Some(spawn_local(hear(reader, names, rules, hearing)));
    }

    /// What its engine judges by.
    pub(super) fn rules(&self) -> Rc<Rules> {
        Rc::clone(&self.rules)
    }

    /// Its published ports.
    pub(super) fn doors(&self) -> Rc<Doors> {
        Rc::clone(&self.doors)
    }

    /// Starts the engine after one that ended; returns its process id. It
    /// says which walls it has in the log, and does not serve without.
    ///
    /// # Errors
    /// If too many have ended of late, or this one cannot be started.
    pub(super) async fn start_again(&mut self, spawner: &Spawner) -> Result<u32, Error> {
        if !self.may_start_again(Instant::now()) {
            return Err(Error::new(
                Code::Boot,
                format!(
                    "the sandbox's network engine ended more than {RESTARTS} times in {} s",
                    WITHIN.as_secs()
                ),
            ));
        }
        if let Some(mut hearing) = self.hearing.take()
            && tokio::time::timeout(LAST_WORDS, &mut hearing)
                .await
                .is_err()
        {
            hearing.abort();
        }
        let helper = self.start(spawner)?;
        self.hear(helper.control);
        Ok(helper.process.pid)
    }

    fn may_start_again(&mut self, now: Instant) -> bool {
        self.deaths
            .retain(|death| now.saturating_duration_since(*death) < WITHIN);
        self.deaths.push_back(now);
        self.deaths.len() <= RESTARTS
    }
}

async fn hear(
    mut control: OwnedReadHalf,
    names: Rc<RefCell<Names>>,
    rules: Rc<Rules>,
    hearing: Hearing,
) {
    let audit = &hearing.audit;
    let mut chunk = vec![0; 4096];
    let mut cut = log::Lines::default();
    let mut budget = log::Budget::new();
    loop {
        let owes = audit.borrow().owes();
        let count = tokio::select! {
            read = control.read(&mut chunk) => match read {
                Ok(count @ 1..) => count,
                Ok(0) | Err(_) => return,
            },
            () = tokio::time::sleep(SUMMED_UP), if owes => 0,
        };
        let bytes = chunk.get(..count).unwrap_or_default();
        cut.push(bytes, |line| {
            if names.borrow_mut().hear(line) || rules.hear(line) {
                return;
            }
            let heard = audit.borrow_mut().hear(line);
            let said = match &heard {
                Heard::Record(said) => said.as_deref(),
                Heard::Unreadable => Some(line),
            };
            if let Some(said) = said.filter(|said| budget.spend(said.len())) {
                log::line("net", said);
            }
        });
        audit.borrow_mut().sum_up(Instant::now());
        if let Some(lost) = budget.settled() {
            log::line("net", &log::dropped(lost));
        }
    }
}

fn failed(source: sbx_sys::Error) -> Error {
    Error::new(Code::Jail, "cannot make the links between processes").because(source)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, BufReader};

    use super::*;

    const ASK: &[u8] =
        br#"{"ask":{"question":7,"resource":"a.example:443","proto":"tcp","rule":"user ask **"}}"#;

    #[test]
    fn the_first_answer_after_an_engines_death_reaches_the_one_after_it() {
        let home = tempfile::tempdir().unwrap();
        let audit = Audit::open(home.path(), "box".parse().unwrap()).unwrap();
        let names = home.path().join("names");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let (link, _machine) = Network::wire().unwrap();
            let mut network = Network::prepare(&names, &[], audit).unwrap()(link);
            let engine = |network: &mut Network| {
                let (near, far) = UnixStream::pair().unwrap();
                network.hear(near);
                let (reader, writer) = far.into_split();
                (BufReader::new(reader).lines(), writer)
            };
            let (mut lines, writer) = engine(&mut network);
            let is_policy = |line: &str| line.starts_with("{\"policy\"");
            while !is_policy(&lines.next_line().await.unwrap().unwrap()) {}
            drop((lines, writer));

            let (mut lines, mut writer) = engine(&mut network);
            while !is_policy(&lines.next_line().await.unwrap().unwrap()) {}
            let rules = network.rules();
            let seen = rules.questions().list(None).await.revision();
            writer.write_all(ASK).await.unwrap();
            writer.write_all(b"\n").await.unwrap();
            let number = rules.questions().list(Some(seen)).await.numbers()[0];
            let answering = rules.questions().answer(number, true);
            tokio::pin!(answering);
            let line = tokio::select! {
                _ = &mut answering => panic!("the engine was told nothing"),
                line = lines.next_line() => line.unwrap().unwrap(),
            };
            assert_eq!(line, r#"{"answer":{"approve":true,"question":7}}"#);
            let settled = b"{\"settled\":{\"question\":7,\"how\":\"approved\"}}\n";
            writer.write_all(settled).await.unwrap();
            assert!(answering.await);
        });
    }

    #[test]
    fn engines_are_started_again_so_often_and_later_once_more() {
        let home = tempfile::tempdir().unwrap();
        let audit = Audit::open(home.path(), "box".parse().unwrap()).unwrap();
        let names = home.path().join("names");
        let (link, _machine) = Network::wire().unwrap();
        let mut network = Network::prepare(&names, &[], audit).unwrap()(link);
        let start = Instant::now();
        let started = (0..RESTARTS + 3)
            .filter(|_| network.may_start_again(start))
            .count();
        assert_eq!(started, RESTARTS);
        assert!(network.may_start_again(start + WITHIN));
    }
}
