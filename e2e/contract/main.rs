//! What every isolation must do, in the words of a user: the real program,
//! real virtual machines.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod claude;
mod fresh;
mod life;
mod sessions;
mod terminals;
