//! Steps whose other end may never answer.
//!
//! A share is served by a process on the host; when that is gone, what
//! touches the share sleeps in the kernel and no signal ends it. PID 1 lets a
//! thread wait instead, and can say which step it was.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::error::{Attempt as _, Error, Result};

/// How long one step may take: a busy host that emulates this machine needs
/// a small part of it.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

enum Word<T> {
    Begins(String),
    Over(Result<T>),
}

/// Where the work says what it does next.
pub(super) struct Steps<T>(Sender<Word<T>>);

impl<T> Steps<T> {
    /// A new step, with the whole patience before it.
    pub(super) fn begin(&self, what: String) {
        let _ = self.0.send(Word::Begins(what));
    }
}

/// Runs `work`, each step of it for at most `patience`. When that runs out a
/// thread is stuck for good: the caller must give up the start, since what
/// comes later asks for a single thread.
pub(super) fn run<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce(&Steps<T>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let (say, hear) = mpsc::channel();
    let mut step = "begin".to_owned();
    let worker = std::thread::Builder::new()
        .name("steps".to_owned())
        .spawn(move || {
            let steps = Steps(say);
            let result = work(&steps);
            let _ = steps.0.send(Word::Over(result));
        })
        .attempt("start a thread")?;
    loop {
        match hear.recv_timeout(patience) {
            Ok(Word::Begins(next)) => step = next,
            Ok(Word::Over(result)) => {
                let _ = worker.join();
                return result;
            }
            Err(RecvTimeoutError::Timeout) => {
                let seconds = patience.as_secs();
                return Err(Error::new(format!("{step}: no answer for {seconds} s")));
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::new(format!("{step}: broke off")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than any test run.
    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn a_step_without_an_answer_is_given_up_and_named() {
        let (_answer, never) = mpsc::channel::<()>();
        let error = run(Duration::from_millis(200), move |steps| {
            steps.begin("mount the share `s0`".to_owned());
            steps.begin("reach the share `s0`".to_owned());
            never.recv().map_err(std::io::Error::other).attempt("wait")
        });
        let line = error.unwrap_err().line();
        assert_eq!(line, "reach the share `s0`: no answer for 0 s");
    }

    #[test]
    fn work_that_ends_says_how() {
        let sum = run(LONG, |steps| {
            steps.begin("add".to_owned());
            Ok(1 + 1)
        });
        assert_eq!(sum.unwrap(), 2);
        let error = run::<()>(LONG, |_| Err(Error::new("no"))).unwrap_err();
        assert_eq!(error.line(), "no");
    }

    #[test]
    fn work_that_breaks_off_is_not_waited_for() {
        let error = run::<()>(LONG, |steps| {
            steps.begin("add".to_owned());
            panic!("as it should");
        });
        assert_eq!(error.unwrap_err().line(), "add: broke off");
    }
}
