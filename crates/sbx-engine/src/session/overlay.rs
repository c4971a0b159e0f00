//! Questions of a sandbox, put to whoever sits at the terminal of a session.
//!
//! Owns: which question covers the screen, what the program prints meanwhile,
//! and when a key counts. A guest knows what is typed and chooses when it
//! asks: a key counts only once none was pressed for [`QUIET`], so that no
//! answer meant for the program is taken for one.

use std::path::PathBuf;
use std::time::Duration;

use sbx_proto::flow::Channel;
use sbx_spec::SandboxName;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::client::{self, Asked};
use crate::command::{Prompt, Question, QuestionId, Saying, TtySize};

/// How long nobody may have typed before a key is an answer.
const QUIET: Duration = Duration::from_secs(1);

/// How a session asks.
pub(crate) struct Asking {
    /// Where the supervisor is reached.
    pub(crate) runtime: PathBuf,
    /// Whose questions.
    pub(crate) sandbox: SandboxName,
    /// What shows them.
    pub(crate) prompt: Box<dyn Prompt>,
    /// Who acts on answers.
    pub(crate) said: mpsc::UnboundedSender<(QuestionId, Saying)>,
}

/// What is over the program's screen.
pub(super) struct Overlay {
    asking: Option<Asking>,
    news: mpsc::Receiver<Vec<Question>>,
    watching: Option<JoinHandle<()>>,
    open: Vec<Question>,
    /// Answered here; it is on the list until its sandbox has heard.
    answered: Option<u64>,
    shown: Option<Shown>,
    /// What the program printed meanwhile; bounded by its credit.
    pub(super) held: Vec<(Channel, Vec<u8>)>,
}

struct Shown {
    number: u64,
    /// Whether keys count.
    keys: bool,
    keys_from: Instant,
}

/// What is to be done with the screen.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Drawing {
    Nothing,
    Cover(Vec<u8>),
    Uncover,
}

impl Overlay {
    pub(super) fn new(asking: Option<Asking>) -> Self {
        let (told, news) = mpsc::channel(1);
        let runtime = asking.as_ref().map(|asking| asking.runtime.clone());
        let watching = runtime.map(|runtime| tokio::spawn(watch(runtime, told)));
        Self {
            asking,
            news,
            watching,
            open: Vec::new(),
            answered: None,
            shown: None,
            held: Vec::new(),
        }
    }

    pub(super) fn is_shown(&self) -> bool {
        self.shown.is_some()
    }

    /// Waits until the screen has to change; may be cancelled.
    pub(super) async fn stirs(&mut self, size: TtySize) -> Drawing {
        let keys_from = self.shown.as_ref().filter(|shown| !shown.keys);
        let keys_from = keys_from.map(|shown| shown.keys_from);
        let keys_count = async {
            match keys_from {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(open) = self.news.recv() => {
                self.open = open;
                self.choose(size)
            }
            () = keys_count => {
                if let Some(shown) = &mut self.shown {
                    shown.keys = true;
                }
                self.screen(size)
            }
        }
    }

    /// Shows the first question that waits, if another one than is shown.
    fn choose(&mut self, size: TtySize) -> Drawing {
        let next = self
            .open
            .iter()
            .map(|question| question.number)
            .find(|number| self.answered.is_none_or(|answered| *number > answered));
        match (next, &self.shown) {
            (None, None) => Drawing::Nothing,
            (None, Some(_)) => {
                self.shown = None;
                Drawing::Uncover
            }
            (Some(next), Some(shown)) if shown.number == next => Drawing::Nothing,
            (Some(number), _) => {
                self.shown = Some(Shown {
                    number,
                    keys: false,
                    keys_from: Instant::now() + QUIET,
                });
                self.screen(size)
            }
        }
    }

    /// The screen as it is to be seen.
    pub(super) fn screen(&self, size: TtySize) -> Drawing {
        let (Some(asking), Some(shown)) = (&self.asking, &self.shown) else {
            return Drawing::Nothing;
        };
        let question = self.open.iter().find(|open| open.number == shown.number);
        let Some(question) = question else {
            return Drawing::Nothing;
        };
        let id = QuestionId {
            sandbox: asking.sandbox.clone(),
            number: shown.number,
        };
        Drawing::Cover(asking.prompt.screen(&id, question, shown.keys, size))
    }

    /// Takes what was typed while a question was shown.
    pub(super) fn typed(&mut self, keys: &[u8], size: TtySize) -> Drawing {
        let (Some(asking), Some(shown)) = (&self.asking, &mut self.shown) else {
            return Drawing::Nothing;
        };
        if !shown.keys {
            shown.keys_from = Instant::now() + QUIET;
            return Drawing::Nothing;
        }
        let Some(saying) = asking.prompt.answer(keys) else {
            return Drawing::Nothing;
        };
        let number = shown.number;
        let id = QuestionId {
            sandbox: asking.sandbox.clone(),
            number,
        };
        // Nobody listens only where the session is ending.
        let _ended = asking.said.send((id, saying));
        self.answered = Some(number);
        self.choose(size)
    }

    /// Nothing is asked here any more.
    pub(super) fn end(&mut self) -> Drawing {
        self.news.close();
        match self.shown.take() {
            Some(_) => Drawing::Uncover,
            None => Drawing::Nothing,
        }
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        if let Some(watching) = &self.watching {
            watching.abort();
        }
    }
}

/// Tells what is open whenever that changes, until the supervisor is gone.
async fn watch(runtime: PathBuf, told: mpsc::Sender<Vec<Question>>) {
    let mut seen = None;
    while let Ok(Asked {
        revision,
        questions,
    }) = client::next_questions(&runtime, seen).await
    {
        seen = Some(revision);
        if told.send(questions).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: TtySize = TtySize { rows: 24, cols: 80 };

    struct Plain;

    impl Prompt for Plain {
        fn screen(&self, id: &QuestionId, _: &Question, keys: bool, _: TtySize) -> Vec<u8> {
            format!("{id} {keys}").into_bytes()
        }

        fn answer(&self, keys: &[u8]) -> Option<Saying> {
            (keys == b"y").then_some(Saying::Once)
        }
    }

    fn question(number: u64) -> Question {
        Question {
            number,
            resource: "a.example:443".parse().unwrap(),
            host: None,
            protocol: sbx_spec::Transport::Tcp,
            method: None,
            path: None,
            rule: "user ask **".to_owned(),
            seconds_left: 30,
        }
    }

    fn overlay() -> (
        Overlay,
        mpsc::Sender<Vec<Question>>,
        mpsc::UnboundedReceiver<(QuestionId, Saying)>,
    ) {
        let (told, news) = mpsc::channel(1);
        let (said, answers) = mpsc::unbounded_channel();
        let asking = Asking {
            runtime: PathBuf::new(),
            sandbox: "box".parse().unwrap(),
            prompt: Box::new(Plain),
            said,
        };
        let overlay = Overlay {
            asking: Some(asking),
            news,
            watching: None,
            open: Vec::new(),
            answered: None,
            shown: None,
            held: Vec::new(),
        };
        (overlay, told, answers)
    }

    fn run(work: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(work);
    }

    #[test]
    fn a_key_counts_only_after_a_silence_and_answers_one_question() {
        run(async {
            let (mut overlay, told, mut answers) = overlay();
            told.send(vec![question(7), question(8)]).await.unwrap();
            let covered = |text: &str| Drawing::Cover(text.as_bytes().to_vec());
            assert_eq!(overlay.stirs(SIZE).await, covered("box:7 false"));
            assert_eq!(overlay.typed(b"y", SIZE), Drawing::Nothing);
            tokio::time::advance(QUIET - Duration::from_millis(1)).await;
            assert_eq!(overlay.typed(b"y", SIZE), Drawing::Nothing);
            assert!(answers.try_recv().is_err());
            assert_eq!(overlay.stirs(SIZE).await, covered("box:7 true"));
            assert_eq!(overlay.typed(b"x", SIZE), Drawing::Nothing);
            assert_eq!(overlay.typed(b"y", SIZE), covered("box:8 false"));
            let (id, saying) = answers.try_recv().unwrap();
            assert_eq!((id.number, saying), (7, Saying::Once));
        });
    }

    #[test]
    fn a_question_that_is_settled_elsewhere_gives_the_screen_back() {
        run(async {
            let (mut overlay, told, _answers) = overlay();
            told.send(vec![question(7)]).await.unwrap();
            assert!(matches!(overlay.stirs(SIZE).await, Drawing::Cover(_)));
            told.send(Vec::new()).await.unwrap();
            assert_eq!(overlay.stirs(SIZE).await, Drawing::Uncover);
            assert!(!overlay.is_shown());
            told.send(vec![question(9)]).await.unwrap();
            assert!(matches!(overlay.stirs(SIZE).await, Drawing::Cover(_)));
            assert_eq!(overlay.end(), Drawing::Uncover);
        });
    }
}
