//! What every isolation must do, in the words of a user: the real program,
//! real virtual machines.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

/// A test of each behaviour for each isolation whose files lie in our own
/// directories. Those of `docker` are the engine's: where they lie, and what
/// becomes of a disk that is full or that lies, is not ours.
macro_rules! where_files_are_ours {
    ($($behaviour:ident),+ $(,)?) => {$(
        mod $behaviour {
            #[test]
            fn microvm() {
                super::$behaviour(e2e::Isolation::MicroVm);
            }

            #[test]
            fn container() {
                super::$behaviour(e2e::Isolation::Container);
            }
        }
    )+};
}

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
mod images;
mod interrupts;
mod life;
mod limits;
mod podman;
mod policy;
mod ports;
mod posix;
mod pressure;
mod proxied;
mod remote;
mod requests;
mod rootless;
mod sessions;
mod skips;
mod stalls;
mod terminals;
mod unfit_host;
mod work;
mod workspace;
