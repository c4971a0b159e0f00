//! How long work tells its caller where it is.

/// Receives the progress of long work and can ask it to stop.
///
/// Implementations are called often (up to some hundred times a second) and
/// from one thread at a time.
pub trait Progress: Sync {
    /// Step `name` has done `done` of `total` units. `total` is an estimate:
    /// `done` may pass it, and it is 0 where nothing is known.
    fn step(&self, name: &str, done: u64, total: u64);

    /// A line for the user that belongs to no step.
    fn note(&self, text: &str);

    /// Whether the work shall stop. It then kills what it started, leaves a
    /// state that the next call continues or cleans, and returns
    /// [`crate::Error::Cancelled`].
    fn cancelled(&self) -> bool {
        false
    }
}

/// Progress that nobody sees.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _name: &str, _done: u64, _total: u64) {}

    fn note(&self, _text: &str) {}
}
