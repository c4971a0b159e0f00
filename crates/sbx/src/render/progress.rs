//! How long steps are shown: a bar that is drawn over, lines, JSON lines, or
//! nothing.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Screen, escape, json_line};
use crate::cli::ProgressChoice;

/// How often a bar is drawn at most.
const EVERY: Duration = Duration::from_millis(100);
/// Cells of a bar.
const CELLS: u64 = 24;

/// The step that is shown now.
#[derive(Debug)]
pub(crate) struct Progress {
    screen: Screen,
    step: Option<Step>,
}

#[derive(Debug)]
struct Step {
    name: String,
    began: Instant,
    drawn: Option<Instant>,
}

#[derive(Serialize)]
struct Line<'a> {
    progress: Moved<'a>,
}

#[derive(Serialize)]
struct Moved<'a> {
    step: &'a str,
    done: u64,
    total: u64,
}

impl Progress {
    /// Shows nothing yet.
    pub(crate) fn new(screen: Screen) -> Self {
        Self { screen, step: None }
    }

    /// A step moved on: `done` of `total`, 0 if that is not known.
    pub(crate) fn moved(&mut self, name: &str, done: u64, total: u64) {
        let ended = total > 0 && done >= total;
        match self.screen.progress {
            ProgressChoice::None => return,
            ProgressChoice::Json => {
                let progress = Moved {
                    step: name,
                    done,
                    total,
                };
                return self.screen.say(&json_line(&Line { progress }));
            }
            ProgressChoice::Auto | ProgressChoice::Plain => {}
        }
        let bar = self.screen.progress == ProgressChoice::Auto;
        if self.step.as_ref().is_none_or(|step| step.name != name) {
            self.clear();
            let step = Step {
                name: name.to_owned(),
                began: Instant::now(),
                drawn: None,
            };
            self.step = Some(step);
            if !bar && !ended {
                self.screen.say(&format!("{} …\n", escape(name)));
            }
        }
        let Some(step) = &mut self.step else { return };
        let now = Instant::now();
        if bar && !ended && step.drawn.is_none_or(|drawn| now - drawn >= EVERY) {
            step.drawn = Some(now);
            let line = drawn(name, done, total, now - step.began);
            self.screen.say(&format!("\r{line}\u{1b}[K"));
        }
        if ended {
            let took = now - step.began;
            self.clear();
            // A step that took no time was done before: not worth a line.
            if took >= Duration::from_millis(500) {
                self.screen
                    .say(&format!("{}: done in {}\n", escape(name), duration(took)));
            }
            self.step = None;
        }
    }

    /// Takes a bar away, so that something else can be written.
    pub(crate) fn clear(&mut self) {
        if let Some(step) = &mut self.step
            && step.drawn.take().is_some()
        {
            self.screen.say("\r\u{1b}[K");
        }
    }
}

fn drawn(name: &str, done: u64, total: u64, took: Duration) -> String {
    let name = escape(name);
    let took = duration(took);
    if total == 0 {
        return format!("{name} … {took}");
    }
    let done = done.min(total);
    let part = |whole: u64| {
        u64::try_from(u128::from(done) * u128::from(whole) / u128::from(total)).unwrap_or(whole)
    };
    let filled = usize::try_from(part(CELLS)).unwrap_or(0);
    let empty = usize::try_from(CELLS).unwrap_or(0).saturating_sub(filled);
    format!(
        "{name} [{}{}] {:>3}% {took}",
        "#".repeat(filled),
        "-".repeat(empty),
        part(100)
    )
}

fn duration(span: Duration) -> String {
    match span.as_secs() {
        0 => format!("{} ms", span.as_millis()),
        seconds @ 1..60 => format!("{seconds} s"),
        seconds => format!("{} min {} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_how_far_it_is() {
        let line = drawn("build the kernel", 1, 2, Duration::from_secs(75));
        assert_eq!(
            line,
            "build the kernel [############------------]  50% 1 min 15 s"
        );
        assert_eq!(drawn("wait", 0, 0, Duration::from_secs(3)), "wait … 3 s");
        assert!(drawn("x", 9, 3, Duration::ZERO).contains("100%"));
        assert!(drawn("x", u64::MAX, u64::MAX, Duration::ZERO).contains("100%"));
    }
}
