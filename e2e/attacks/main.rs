//! What no isolation may allow, each with the twin that shows the same act
//! where it is allowed.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod counts;
mod docker;
mod egress;
mod host_loopback;
mod host_secrets;
mod probes;
mod terminal_escapes;
mod ways_out;
