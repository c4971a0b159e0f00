//! Whether this host's KVM runs a guest at the speed of hardware.
//!
//! Opening `/dev/kvm` proves nothing: some hypervisors offer one that
//! interprets guests about a thousand times too slowly and lacks common
//! instructions. So a guest of nine instructions is run for a million steps,
//! under a time limit that holds whatever the device does.

use std::io;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use kvm_bindings::{KVM_API_VERSION, kvm_regs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::fs::{Mode, OFlags};
use rustix::mm::{MapFlags, ProtFlags};

use crate::error::{Attempt, Error, Result};
use crate::file;

mod kick;
mod tsc;

pub use tsc::tsc_khz;

const DEVICE: &str = "/dev/kvm";

/// Half a million turns of two instructions.
const TURNS: u32 = 500_000;

/// Hardware needs less than a millisecond, an interpreter hundreds.
const LIMIT: Duration = Duration::from_millis(40);

/// After the limit, for the processor to come back when it is called.
const GRACE: Duration = Duration::from_millis(30);

/// What this host's KVM is good for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KvmState {
    /// Guests run on the hardware.
    Usable,
    /// There is none.
    Absent {
        /// What was missing.
        reason: String,
    },
    /// There is one, and this user may not open it.
    NotPermitted {
        /// What refused.
        reason: String,
        /// What would change that.
        cure: String,
    },
    /// There is one that cannot run ordinary guests.
    Unusable {
        /// What went wrong.
        reason: String,
        /// How long the test guest ran before it ended or was stopped.
        measured: Option<Duration>,
    },
}

/// Looks at the device and runs the test guest. Takes a few milliseconds
/// where KVM is usable and less than a tenth of a second where it is not.
#[must_use]
pub fn probe() -> KvmState {
    if !Path::new(DEVICE).exists() {
        return KvmState::Absent {
            reason: format!("there is no {DEVICE}"),
        };
    }
    match rustix::fs::open(DEVICE, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        Ok(_) => run_test_guest(),
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => not_permitted(),
        Err(
            error @ (rustix::io::Errno::NODEV | rustix::io::Errno::NXIO | rustix::io::Errno::NOENT),
        ) => KvmState::Absent {
            reason: format!("{DEVICE} is there but has no driver: {error}"),
        },
        Err(error) => KvmState::Unusable {
            reason: format!("{DEVICE} cannot be opened: {error}"),
            measured: None,
        },
    }
}

/// Whether the processor offers virtualisation to this host.
#[must_use]
pub fn has_cpu_flag() -> bool {
    let Ok(text) = file::read_bounded("/proc/cpuinfo", 16 << 20) else {
        return false;
    };
    String::from_utf8_lossy(&text)
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|line| {
            line.split_ascii_whitespace()
                .any(|flag| flag == "vmx" || flag == "svm")
        })
}

/// A device that may not be opened is worth a cure only if the processor can
/// virtualise: without that it could not be used anyway.
fn not_permitted() -> KvmState {
    let reason = format!("this user may not open {DEVICE}");
    if !has_cpu_flag() {
        return KvmState::Unusable {
            reason: format!("{reason}, and the processor offers no virtualisation"),
            measured: None,
        };
    }
    let group = rustix::fs::stat(DEVICE)
        .ok()
        .filter(|stat| stat.st_gid != 0 && stat.st_mode & 0o060 == 0o060)
        .map(|stat| stat.st_gid);
    let cure = match group {
        Some(gid) => format!(
            "join its group ({gid}, usually `kvm`): sudo usermod -aG {gid} \"$USER\", \
             then log in again"
        ),
        None => format!(
            "let a group of yours use it: sudo chgrp kvm {DEVICE} && sudo chmod 660 {DEVICE}"
        ),
    };
    KvmState::NotPermitted { reason, cure }
}

fn run_test_guest() -> KvmState {
    let started = Instant::now();
    let (done, wait) = mpsc::channel();
    let (thread, id) = match kick::thread(move || {
        let result = Guest::new().and_then(|mut guest| guest.run());
        // The receiver has gone when it waited long enough.
        let _ = done.send(result);
    }) {
        Ok(started) => started,
        Err(error) => {
            return KvmState::Unusable {
                reason: format!("the test guest could not be started: {error}"),
                measured: None,
            };
        }
    };
    let mut result = wait.recv_timeout(LIMIT);
    let late = matches!(result, Err(RecvTimeoutError::Timeout));
    // A signal that comes just before the guest is entered is lost, so it is
    // sent until the answer is there or nobody can be waited for any more.
    while late && started.elapsed() < LIMIT + GRACE {
        if !matches!(result, Err(RecvTimeoutError::Timeout)) {
            break;
        }
        id.kick();
        result = wait.recv_timeout(Duration::from_millis(2));
    }
    let measured = Some(started.elapsed());
    if !matches!(result, Err(RecvTimeoutError::Timeout)) {
        // It has answered, so it ends at once.
        let _ = thread.join();
    }
    match result {
        Ok(Ok(())) if !late => KvmState::Usable,
        Ok(Err(error)) if !late => KvmState::Unusable {
            reason: with_cause(&error),
            measured,
        },
        _ => KvmState::Unusable {
            reason: format!(
                "{DEVICE} did not run a million instructions in {} ms: guests would be \
                 interpreted, not run by the hardware",
                LIMIT.as_millis()
            ),
            measured,
        },
    }
}

fn with_cause(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// A machine of one page and one processor in real mode.
struct Guest {
    vcpu: VcpuFd,
    // Fields drop in order: the machine goes before the memory it uses.
    _vm: VmFd,
    _memory: Page,
}

impl Guest {
    fn new() -> Result<Self> {
        let kvm = Kvm::new().map_err(refused("open"))?;
        let version = kvm.get_api_version();
        if u32::try_from(version) != Ok(KVM_API_VERSION) {
            return Err(Error::refused(format!("use version {version} of KVM")));
        }
        let vm = kvm.create_vm().map_err(refused("create a machine with"))?;
        // Old processors of Intel need it in real mode; others do not know it.
        let _ = vm.set_tss_address(0xfffb_d000);
        let memory = Page::with(&program())?;
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: ENTRY,
            memory_size: PAGE as u64,
            userspace_addr: memory.0 as u64,
        };
        // SAFETY: the page stays mapped as long as the machine: `Guest` drops
        // the machine first.
        unsafe { vm.set_user_memory_region(region) }.map_err(refused("give memory to"))?;
        let vcpu = vm
            .create_vcpu(0)
            .map_err(refused("create a processor with"))?;
        let mut segments = vcpu.get_sregs().map_err(refused("read registers of"))?;
        segments.cs.base = 0;
        segments.cs.selector = 0;
        vcpu.set_sregs(&segments)
            .map_err(refused("set registers of"))?;
        vcpu.set_regs(&kvm_regs {
            rip: ENTRY,
            rflags: 2,
            ..kvm_regs::default()
        })
        .map_err(refused("set registers of"))?;
        Ok(Self {
            vcpu,
            _vm: vm,
            _memory: memory,
        })
    }

    fn run(&mut self) -> Result<()> {
        match self.vcpu.run() {
            Ok(VcpuExit::Hlt) => Ok(()),
            Ok(other) => Err(Error::refused(format!(
                "run a guest on {DEVICE}, which stopped with {other:?}"
            ))),
            Err(error) => Err(refused("run a guest on")(error)),
        }
    }
}

fn refused(verb: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Error {
    move |error| {
        Error::new(
            format!("{verb} {DEVICE}"),
            io::Error::from_raw_os_error(error.errno()),
        )
    }
}

const ENTRY: u64 = 0x1000;
const PAGE: usize = 4096;

/// `mov ecx, TURNS; again: dec ecx; jnz again; hlt` in 16-bit code.
fn program() -> [u8; 11] {
    let [a, b, c, d] = TURNS.to_le_bytes();
    [0x66, 0xb9, a, b, c, d, 0x66, 0x49, 0x75, 0xfc, 0xf4]
}

struct Page(*mut u8);

impl Page {
    fn with(bytes: &[u8]) -> Result<Self> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's
        // choice affects no other memory.
        let start = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                PAGE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .attempt("map a page")?
        .cast::<u8>();
        let count = bytes.len().min(PAGE);
        // SAFETY: the page is ours alone, and `count` bytes fit.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), start, count) };
        Ok(Self(start))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped by `with` with this length, unmapped only here.
        let _ = unsafe { rustix::mm::munmap(self.0.cast(), PAGE) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_answers_in_time_whatever_the_device_does() {
        let started = Instant::now();
        let state = probe();
        assert!(started.elapsed() < Duration::from_secs(2), "{state:?}");
        // What it says must fit what can be seen.
        if !Path::new(DEVICE).exists() {
            assert!(matches!(state, KvmState::Absent { .. }), "{state:?}");
        }
        if state == KvmState::Usable {
            assert!(Path::new(DEVICE).exists());
        }
    }

    #[test]
    fn a_processor_without_virtualisation_is_never_a_matter_of_permission() {
        let state = not_permitted();
        let permission = matches!(state, KvmState::NotPermitted { .. });
        assert_eq!(permission, has_cpu_flag());
    }

    #[test]
    fn the_rate_of_the_time_stamp_counter_is_plausible() {
        let khz = tsc_khz().unwrap();
        assert!((500_000..10_000_000).contains(&khz), "{khz}");
    }
}
