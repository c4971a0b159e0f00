//! The rate of the host's time stamp counter.
//!
//! A guest under emulation counts with the host's counter and sometimes hangs
//! when it has to measure it on a busy host, so it is told.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Long enough for an error of a few millionths.
const SPAN: Duration = Duration::from_millis(10);

/// The host's counter in thousands of ticks a second, measured against the
/// clock that no time service adjusts; `None` when the two make no sense
/// together. Takes about 10 ms.
#[must_use]
pub fn tsc_khz() -> Option<u64> {
    let first = sample()?;
    std::thread::sleep(SPAN);
    let last = sample()?;
    let ticks = last.ticks.checked_sub(first.ticks)?;
    let nanos = last.nanos.checked_sub(first.nanos)?;
    if nanos < SPAN.as_nanos() {
        return None;
    }
    let khz = (u128::from(ticks) * 1_000_000 + nanos / 2) / nanos;
    u64::try_from(khz).ok().filter(|khz| *khz > 0)
}

struct Sample {
    ticks: u64,
    nanos: u128,
}

/// Both clocks at one time: of several tries the one in which the reading of
/// the counter was interrupted least.
fn sample() -> Option<Sample> {
    let mut best: Option<(u128, Sample)> = None;
    for _ in 0..32 {
        let before = nanos()?;
        let ticks = ticks();
        let after = nanos()?;
        let width = after.checked_sub(before)?;
        if best.as_ref().is_none_or(|(known, _)| width < *known) {
            let nanos = before + width / 2;
            best = Some((width, Sample { ticks, nanos }));
        }
    }
    best.map(|(_, sample)| sample)
}

fn nanos() -> Option<u128> {
    let now = clock_gettime(ClockId::MonotonicRaw);
    let seconds = u128::try_from(now.tv_sec).ok()?;
    let nanos = u128::try_from(now.tv_nsec).ok()?;
    Some(seconds * 1_000_000_000 + nanos)
}

fn ticks() -> u64 {
    // SAFETY: reads a register; every x86-64 processor has it, and Linux
    // leaves it readable unless a process asked otherwise for itself.
    unsafe { std::arch::x86_64::_rdtsc() }
}
