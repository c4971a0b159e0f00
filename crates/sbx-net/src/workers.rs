//! A few threads for calls that block and cannot be interrupted, each started
//! when a question would otherwise have to wait for one.
//!
//! Whoever asks has a time limit of their own; an answer that comes later is
//! thrown away by them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use parking_lot::{Condvar, Mutex};
use rustix::event::{EventfdFlags, eventfd};

/// The threads. They end with it, each when its call has returned.
#[derive(Debug)]
pub(crate) struct Workers<Q, A> {
    shared: Arc<Shared<Q, A>>,
    name: &'static str,
    most: usize,
    room: usize,
    call: fn(Q) -> A,
}

#[derive(Debug)]
struct Shared<Q, A> {
    queue: Mutex<Queue<Q, A>>,
    work: Condvar,
    wake: OwnedFd,
}

#[derive(Debug)]
struct Queue<Q, A> {
    questions: VecDeque<Q>,
    answers: Vec<A>,
    threads: usize,
    idle: usize,
    closed: bool,
}

/// Too many questions wait, or nobody can take this one.
#[derive(Debug)]
pub(crate) struct Full;

impl<Q: Send + 'static, A: Send + 'static> Workers<Q, A> {
    /// Has up to `most` threads, for whom up to `room` questions may wait.
    pub(crate) fn new(
        name: &'static str,
        most: usize,
        room: usize,
        call: fn(Q) -> A,
    ) -> io::Result<Self> {
        let queue = Queue {
            questions: VecDeque::new(),
            answers: Vec::new(),
            threads: 0,
            idle: 0,
            closed: false,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            work: Condvar::new(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        Ok(Self {
            shared,
            name,
            most,
            room,
            call,
        })
    }

    /// Hands a question to whoever is free first.
    pub(crate) fn ask(&self, question: Q) -> Result<(), Full> {
        let mut queue = self.shared.queue.lock();
        if queue.questions.len() >= self.room {
            return Err(Full);
        }
        if queue.questions.len() >= queue.idle && queue.threads < self.most {
            match self.start() {
                Ok(()) => queue.threads += 1,
                Err(_) if queue.threads == 0 => return Err(Full),
                // Those that there are take it in its turn.
                Err(_) => {}
            }
        }
        queue.questions.push_back(question);
        drop(queue);
        self.shared.work.notify_one();
        Ok(())
    }

    fn start(&self) -> io::Result<()> {
        let (shared, call) = (Arc::clone(&self.shared), self.call);
        thread::Builder::new()
            .name(self.name.to_owned())
            .stack_size(512 * 1024)
            .spawn(move || work(&shared, call))?;
        Ok(())
    }

    /// Takes the answers that have come.
    pub(crate) fn answers(&self) -> Vec<A> {
        let mut count = [0; 8];
        // Empty when another wake-up took the count already.
        let _spurious = rustix::io::read(&self.shared.wake, &mut count);
        std::mem::take(&mut self.shared.queue.lock().answers)
    }
}

impl<Q, A> Workers<Q, A> {
    /// Readable when answers have come.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.wake.as_fd()
    }
}

impl<Q, A> Drop for Workers<Q, A> {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.work.notify_all();
    }
}

fn work<Q, A>(shared: &Shared<Q, A>, call: fn(Q) -> A) {
    loop {
        let mut queue = shared.queue.lock();
        let question = loop {
            if queue.closed {
                return;
            }
            if let Some(question) = queue.questions.pop_front() {
                break question;
            }
            queue.idle += 1;
            shared.work.wait(&mut queue);
            queue.idle -= 1;
        };
        drop(queue);
        let answer = call(question);
        shared.queue.lock().answers.push(answer);
        // Full only after 2^64 wake-ups that nobody read.
        let _full = rustix::io::write(&shared.wake, &1u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    /// What a question says when it is taken, and what it waits for then.
    type Call = (Sender<()>, Receiver<()>);

    fn workers(most: usize) -> Workers<Call, ()> {
        Workers::new("worker", most, 8, |(taken, end): Call| {
            taken.send(()).unwrap();
            end.recv().unwrap();
        })
        .unwrap()
    }

    /// Asks; returns what says that it is taken, and what ends the call.
    fn ask(workers: &Workers<Call, ()>) -> (Receiver<()>, Sender<()>) {
        let ((taken, told), (end, waits)) = (channel(), channel());
        workers.ask((taken, waits)).unwrap();
        (told, end)
    }

    fn threads(workers: &Workers<Call, ()>) -> usize {
        workers.shared.queue.lock().threads
    }

    /// Waits for the answers to so many questions.
    fn hear(workers: &Workers<Call, ()>, count: usize) {
        let mut heard = 0;
        while heard < count {
            let mut fds = [PollFd::from_borrowed_fd(workers.as_fd(), PollFlags::IN)];
            poll(&mut fds, None).unwrap();
            heard += workers.answers().len();
        }
    }

    #[test]
    fn a_thread_is_started_when_all_others_are_busy_and_no_more_than_may_be() {
        let workers = workers(2);
        assert_eq!(threads(&workers), 0);
        let (first, second) = (ask(&workers), ask(&workers));
        // Neither ends, so each has a thread.
        first.0.recv().unwrap();
        second.0.recv().unwrap();
        let third = ask(&workers);
        assert_eq!(threads(&workers), 2);
        first.1.send(()).unwrap();
        third.0.recv().unwrap();
        second.1.send(()).unwrap();
        third.1.send(()).unwrap();
        hear(&workers, 3);
    }

    #[test]
    fn one_thread_takes_what_is_asked_one_after_the_other() {
        let workers = workers(2);
        for _ in 0..3 {
            let (taken, end) = ask(&workers);
            taken.recv().unwrap();
            end.send(()).unwrap();
            hear(&workers, 1);
            while workers.shared.queue.lock().idle == 0 {
                thread::yield_now();
            }
        }
        assert_eq!(threads(&workers), 1);
    }
}
