//! How the sandbox is, for the host.

use sbx_proto::link::StatusReply;

use super::World;

/// Reads it; what cannot be read is 0.
pub(crate) fn read(world: &World) -> StatusReply {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = |name: &str| {
        let words = memory.lines().find_map(|line| line.strip_prefix(name));
        let number = words.and_then(|words| words.split_whitespace().next()?.parse::<u64>().ok());
        number.unwrap_or(0).saturating_mul(1024)
    };
    let (disk_total, disk_free) = rustix::fs::statvfs("/").map_or((0, 0), |disk| {
        (
            disk.f_blocks.saturating_mul(disk.f_frsize),
            disk.f_bavail.saturating_mul(disk.f_frsize),
        )
    });
    StatusReply {
        processes: world.cgroup.as_ref().map_or(0, |cgroup| cgroup.processes()),
        memory_total: line("MemTotal:"),
        memory_available: line("MemAvailable:"),
        disk_total,
        disk_free,
        sessions: u32::try_from(world.sessions.borrow().len()).unwrap_or(u32::MAX),
        uptime_s: uptime_ms() / 1000,
    }
}

/// Milliseconds since the kernel's start.
pub(crate) fn uptime_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1000) + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}
