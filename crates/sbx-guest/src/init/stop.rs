//! Down: everything written, nothing mounted that matters, power off.

use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;

use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};
use rustix::process::{Pid, Signal};
use rustix::system::{RebootCommand, reboot};

use crate::program;

/// How long writing back may take; a share whose server is gone never ends.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends the machine. What is left of the sessions is killed.
pub(super) fn power_off() -> ExitCode {
    // The group of 1 is spelt -1: every process but this one.
    if let Some(all) = Pid::from_raw(1) {
        let _ = rustix::process::kill_process_group(all, Signal::KILL);
    }
    let (done, waiting) = mpsc::channel();
    let worker = std::thread::Builder::new().spawn(move || {
        write_back();
        let _ = done.send(());
    });
    if worker.is_ok() {
        let _ = waiting.recv_timeout(PATIENCE);
    }
    // A restart, which the VMM takes for the end: a machine without ACPI
    // cannot power off and would halt instead, for ever.
    for command in [RebootCommand::Restart, RebootCommand::PowerOff] {
        if let Err(error) = reboot(command) {
            program::log(&format!("power off: {error}"));
        }
    }
    // The kernel panics when PID 1 ends, and the machine with it.
    ExitCode::FAILURE
}

fn write_back() {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let targets: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|target| *target != "/" && !target.contains('\\'))
        .collect();
    rustix::fs::sync();
    for target in targets.iter().rev() {
        let keep = ["/proc", "/sys", "/dev"]
            .iter()
            .any(|kept| target.starts_with(kept));
        if !keep {
            let _ = unmount(*target, UnmountFlags::DETACH);
        }
    }
    let _ = mount_remount("/", MountFlags::RDONLY, c"");
    rustix::fs::sync();
}
