//! The clock, set to the host's.

use rustix::time::{ClockId, Timespec};

use crate::error::{Attempt as _, Error, Result};

/// Smaller differences are left alone, in nanoseconds: they are the link's
/// delay, and every step is one more surprise for a program.
const TOLERANCE: u64 = 50_000_000;
const SECOND: u64 = 1_000_000_000;

/// Steps the clock to `ns` nanoseconds since the epoch if it is off.
pub(crate) fn set(ns: u64) -> Result<()> {
    let now = rustix::time::clock_gettime(ClockId::Realtime);
    let now = u64::try_from(now.tv_sec)
        .unwrap_or(0)
        .saturating_mul(SECOND)
        .saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0));
    if ns == 0 || now.abs_diff(ns) <= TOLERANCE {
        return Ok(());
    }
    let time = Timespec {
        tv_sec: i64::try_from(ns / SECOND)
            .map_err(|_| Error::new("set the clock: out of range"))?,
        tv_nsec: i64::try_from(ns % SECOND).unwrap_or(0),
    };
    rustix::time::clock_settime(ClockId::Realtime, time).attempt("set the clock")
}
