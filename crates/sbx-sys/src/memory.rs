//! How this process takes memory from the kernel and gives it back.

use std::time::Duration;

use rustix::mm::{Advice, madvise};

use crate::error::{Attempt, Result};

/// Has every block of `bytes` and more come from the kernel by itself and go
/// back there when it is let go. What nobody has touched of such a block costs
/// nothing, and none has to be cleared when it is used again: the C library
/// would otherwise keep large blocks that it has seen go once. Pages of the
/// huge size are left out, which would be touched as a whole.
///
/// # Errors
/// When the kernel or the C library refuses.
pub fn give_back_from(bytes: usize) -> Result<()> {
    rustix::thread::disable_transparent_huge_pages(true).attempt("leave out huge pages")?;
    threshold(bytes)
}

#[cfg(target_env = "gnu")]
fn threshold(bytes: usize) -> Result<()> {
    use crate::error::Error;

    let refused = || Error::refused(format!("have blocks of {bytes} bytes given back"));
    let bytes = libc::c_int::try_from(bytes).map_err(|_| refused())?;
    // What is left over at the end of the heap stays smaller than such a
    // block, or one would be taken from there.
    for (option, value) in [
        (libc::M_MMAP_THRESHOLD, bytes),
        (libc::M_TRIM_THRESHOLD, bytes / 2),
        (libc::M_TOP_PAD, bytes / 4),
    ] {
        // SAFETY: takes two numbers and changes how later blocks are found.
        if unsafe { libc::mallopt(option, value) } != 1 {
            return Err(refused());
        }
    }
    Ok(())
}

/// How long after a start a process that has nothing to do has settled.
pub const SETTLED: Duration = Duration::from_secs(1);

/// Gives the kernel back what this process took and let go of, and lets go of
/// its own program: those pages stay in the host's cache while there is room,
/// and are found there when they are next needed. The end of a start is a good
/// time, which takes more of both than what comes after it.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: touches no block that is in use. Other threads may go on.
    let _gave_some = unsafe { libc::malloc_trim(0) };
    let (start, end) = (&raw const __executable_start, &raw const etext);
    let length = end.addr() - start.addr();
    // SAFETY: between the two the program's file is mapped, and nobody writes
    // to it there: what is let go comes from the file again.
    let _kept = unsafe { madvise(start.cast_mut().cast(), length, Advice::LinuxDontNeed) };
}

// The linker's names for where constants and code of the program begin and end.
unsafe extern "C" {
    safe static __executable_start: u8;
    safe static etext: u8;
}

/// Other C libraries do that anyway, with a size of their own.
#[cfg(not(target_env = "gnu"))]
fn threshold(_: usize) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of so many bytes, and how many of them.
    const BLOCK: usize = 1 << 19;
    const BLOCKS: usize = 200;

    fn resident() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let now = status.lines().find(|line| line.starts_with("VmRSS:"));
        let digits: String = now.unwrap().chars().filter(char::is_ascii_digit).collect();
        digits.parse::<usize>().unwrap() * 1024
    }

    /// The blocks between those that are kept are in the heap, which cannot
    /// shrink below them.
    #[test]
    fn what_was_let_go_between_blocks_that_stay_is_given_back() {
        let small = || std::hint::black_box(vec![1_u8; 1 << 14]);
        let (kept, gone): (Vec<_>, Vec<_>) = (0..2000).map(|_| (small(), small())).unzip();
        drop(gone);
        let before = resident();
        give_back();
        let after = resident();
        assert!(after + (2000 << 14) / 2 < before, "{before} {after}");
        drop(kept);
    }

    /// How often a page had to be found for this thread that was in memory.
    fn found() -> usize {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let after_name = stat.rsplit(") ").next().unwrap();
        after_name.split(' ').nth(7).unwrap().parse().unwrap()
    }

    #[test]
    fn the_program_is_let_go_and_goes_on() {
        let (start, end) = (&raw const __executable_start, &raw const etext);
        let touch_all = || -> usize {
            let pages = (start.addr()..end.addr()).step_by(4096);
            // SAFETY: the program's own constants and code can be read.
            let read = |at| unsafe { start.with_addr(at).read_volatile() };
            pages.map(|at| usize::from(read(at))).sum()
        };
        let sum = touch_all();
        let first = found();
        assert_eq!(touch_all(), sum);
        let second = found();
        give_back();
        assert_eq!(touch_all(), sum);
        let third = found();
        assert!(
            third - second > second - first + 8,
            "{first} {second} {third}"
        );
    }

    #[test]
    fn blocks_that_were_used_once_cost_nothing_until_they_are_touched_again() {
        give_back_from(1 << 16).unwrap();
        let before = resident();
        let blocks = || (0..BLOCKS).map(|_| vec![0_u8; BLOCK]).collect::<Vec<_>>();
        let mut used = blocks();
        used.iter_mut().for_each(|block| block.fill(1));
        let most = resident();
        assert!(most > before + BLOCK * BLOCKS / 2, "{before} {most}");
        drop(used);
        let unused = std::hint::black_box(blocks());
        let now = resident();
        assert!(now < before + BLOCK * BLOCKS / 10, "{before} {now}");
        drop(unused);
    }
}
