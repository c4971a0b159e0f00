//! A few threads for calls that block and cannot be interrupted.
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
    room: usize,
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
    closed: bool,
}

/// Too many questions wait.
#[derive(Debug)]
pub(crate) struct Full;

impl<Q: Send + 'static, A: Send + 'static> Workers<Q, A> {
    /// Starts `threads`, for whom up to `room` questions may wait.
    pub(crate) fn start(
        name: &str,
        threads: usize,
        room: usize,
        call: fn(Q) -> A,
    ) -> io::Result<Self> {
        let queue = Queue {
            questions: VecDeque::new(),
            answers: Vec::new(),
            closed: false,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::new(queue),
            work: Condvar::new(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        });
        let workers = Self { shared, room };
        for _ in 0..threads {
            let shared = Arc::clone(&workers.shared);
            thread::Builder::new()
                .name(name.to_owned())
                .stack_size(512 * 1024)
                .spawn(move || work(&shared, call))?;
        }
        Ok(workers)
    }

    /// Hands a question to whoever is free first.
    pub(crate) fn ask(&self, question: Q) -> Result<(), Full> {
        let mut queue = self.shared.queue.lock();
        if queue.questions.len() >= self.room {
            return Err(Full);
        }
        queue.questions.push_back(question);
        drop(queue);
        self.shared.work.notify_one();
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
            shared.work.wait(&mut queue);
        };
        drop(queue);
        let answer = call(question);
        shared.queue.lock().answers.push(answer);
        // Full only after 2^64 wake-ups that nobody read.
        let _full = rustix::io::write(&shared.wake, &1u64.to_ne_bytes());
    }
}
