//! Every start succeeds, also where the processors have other work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use e2e::{Home, Isolation, full_run, in_each_isolation};

in_each_isolation![every_start_succeeds_while_all_processors_are_busy,];

fn every_start_succeeds_while_all_processors_are_busy(isolation: Isolation) {
    let home = Home::of(isolation);
    let app = home.project("app");
    let starts = if full_run() { 50 } else { 10 };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _finally = Finally(&done);
        for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        for number in 1..=starts {
            let out = home
                .sbx([
                    "run", "--rm", "-q", "--memory", "512m", "shell", "--", "-c", "echo up",
                ])
                .cwd(&app)
                .output();
            assert_eq!(out.text(), "up", "start {number} of {starts}: {out}");
        }
    });
}

/// Ends the work of the others, also where an assertion fails.
struct Finally<'a>(&'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
