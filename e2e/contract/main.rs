//! What every isolation must do, in the words of a user: the real program,
//! real virtual machines.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod asked;
mod bad_input;
mod boots;
mod claude;
mod clients;
mod container;
mod corrupt_cache;
mod deaths;
mod docker;
mod engines;
mod faults;
mod floods;
mod fresh;
mod full_disk;
mod guarded;
mod halted;
mod interrupts;
mod life;
mod limits;
mod policy;
mod ports;
mod posix;
mod pressure;
mod proxied;
mod requests;
mod rootless;
mod sessions;
mod skips;
mod stalls;
mod terminals;
mod unfit_host;
mod work;
mod workspace;
