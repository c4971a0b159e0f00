//! What a container sees of the kernel: which files of `/proc` are covered,
//! which devices there are.

/// The host's devices that a container has.
pub(super) const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Links of `/dev`.
pub(super) const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Files of `/proc` that read as empty: the host's memory, keys, timers and
/// what has a say about the whole machine.
pub(crate) const COVERED_FILES: [&str; 13] = [
    "kcore",
    "keys",
    "key-users",
    "kmsg",
    "kallsyms",
    "kpagecount",
    "kpageflags",
    "kpagecgroup",
    "latency_stats",
    "sched_debug",
    "sysrq-trigger",
    "timer_list",
    "timer_stats",
];

/// Directories of `/proc` that are empty.
pub(crate) const COVERED_DIRECTORIES: [&str; 3] = ["acpi", "scsi", "asound"];

/// Directories of `/proc` that are read and never written.
pub(super) const READ_ONLY: [&str; 4] = ["sys", "irq", "bus", "fs"];

/// All there is of `/sys`: what programs count processors by.
pub(super) const SYSTEM: [&str; 2] = ["devices/system/cpu", "devices/system/node"];
