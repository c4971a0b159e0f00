//! The walls around everything in a container: root inside, the agent and
//! whatever they run.
//!
//! Owns: what programs for people need of the kernel, and nothing that makes
//! mounts, namespaces, keys, kernel code or another program's memory the
//! business of a guest. What is refused says `EPERM`, as a kernel does to who
//! lacks the privilege; the calls that libraries try before an older one say
//! that they do not exist. Sources: the kernel's own table of calls, and what
//! the filters of container engines let through, from which this takes away.

mod calls;
mod engine;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use super::landlock::{self, Access, Place, Tcp};
use super::{InForce, Signals, Wall};
use crate::error::{Attempt, Error, Result};
use calls::{ALLOWED, CACHESTAT, Named, named};
pub use engine::engine_profile;

/// What root inside may do to files and processes of the container, and to
/// nothing else: none of these reaches a device, a mount, the network's
/// configuration or another namespace.
pub const PAYLOAD_CAPABILITIES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SYS_CHROOT);

/// Puts the walls around this process and all that it will execute: no
/// capability but [`PAYLOAD_CAPABILITIES`], no new privileges, no file but those
/// below `root`, no system call but those of programs. The process has one
/// thread.
///
/// # Errors
/// Names the wall that could not be set. The process must exit then.
pub fn confine(root: OwnedFd) -> Result<InForce> {
    super::single_thread()?;
    let filter = Filter::compile()?;
    let mut walls = Vec::new();
    keep_capabilities(PAYLOAD_CAPABILITIES)?;
    walls.push(Wall::FewCapabilities {
        kept: PAYLOAD_CAPABILITIES.bits().count_ones(),
    });
    rustix::thread::set_no_new_privs(true).attempt("give up new privileges")?;
    walls.push(Wall::NoNewPrivs);
    let all = vec![(Place::Fd(root), Access::All)];
    walls.push(landlock::apply(all, Tcp::Allow, Signals::Inside)?);
    let calls = filter.calls;
    filter.install()?;
    walls.push(Wall::Seccomp {
        profile: "payload".to_owned(),
        calls,
    });
    Ok(InForce { walls })
}

/// Gives up every capability but `kept`, of which none is passed on through an
/// exec by an ordinary user.
fn keep_capabilities(kept: CapabilitySet) -> Result<()> {
    rustix::thread::clear_ambient_capability_set().attempt("clear the ambient capabilities")?;
    for number in 0..63 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if kept.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The first number that this kernel has no capability for.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error).attempt("bound the capabilities"),
        }
    }
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets).attempt("give up capabilities")
}

struct Filter {
    only: seccompiler::BpfProgram,
    absent: seccompiler::BpfProgram,
    unknown: seccompiler::BpfProgram,
    rare: seccompiler::BpfProgram,
    idle: seccompiler::BpfProgram,
    calls: usize,
}

impl Filter {
    fn compile() -> Result<Self> {
        let mut only: BTreeMap<i64, Vec<SeccompRule>> =
            allowed().map(|(_, call)| (call, Vec::new())).collect();
        for ((_, call), ways) in LOOKED_INTO {
            let rules = ways
                .iter()
                .map(|way| rule(way))
                .collect::<Result<Vec<_>>>()?;
            only.insert(*call, rules);
        }
        let calls = only.len();
        let absent = ABSENT.iter().map(|(_, call)| (*call, Vec::new())).collect();
        let refused = SeccompAction::Errno(libc::EPERM.unsigned_abs());
        let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
        Ok(Self {
            only: program(only, refused, SeccompAction::Allow)?,
            absent: program(absent, SeccompAction::Allow, missing)?,
            unknown: program(
                other_families()?,
                SeccompAction::Allow,
                SeccompAction::Errno(libc::EAFNOSUPPORT.unsigned_abs()),
            )?,
            rare: program(
                other_protocols()?,
                SeccompAction::Allow,
                SeccompAction::Errno(libc::EPROTONOSUPPORT.unsigned_abs()),
            )?,
            idle: program(core_limit()?, SeccompAction::Allow, SeccompAction::Errno(0))?,
            calls,
        })
    }

    /// Of two answers that both refuse, the filter installed last gives its
    /// own.
    fn install(self) -> Result<()> {
        for filter in [
            &self.only,
            &self.absent,
            &self.unknown,
            &self.rare,
            &self.idle,
        ] {
            seccompiler::apply_filter(filter)
                .map_err(|error| failed("install a seccomp filter", error))?;
        }
        Ok(())
    }
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
) -> Result<seccompiler::BpfProgram> {
    let invalid = |error| failed("compile a seccomp filter", error);
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(invalid)?;
    SeccompFilter::new(rules, otherwise, matched, arch)
        .and_then(TryInto::try_into)
        .map_err(invalid)
}

/// The sockets that are not allowed: what asks for one of them, as everything
/// does that knows of the kernel's audit, goes on where there is no such kind.
fn other_families() -> Result<BTreeMap<i64, Vec<SeccompRule>>> {
    const WAYS: [Way; 2] = [
        &[
            (0, Is::Not(libc::AF_UNIX.cast_unsigned())),
            (0, Is::Not(libc::AF_INET.cast_unsigned())),
            (0, Is::Not(libc::AF_INET6.cast_unsigned())),
            (0, Is::Not(libc::AF_NETLINK.cast_unsigned())),
        ],
        &[
            (0, Is::Value(libc::AF_NETLINK.cast_unsigned())),
            (2, Is::Not(libc::NETLINK_ROUTE.cast_unsigned())),
        ],
    ];
    let rules = WAYS.into_iter().map(rule).collect::<Result<_>>()?;
    Ok(BTreeMap::from([(libc::SYS_socket, rules)]))
}

/// The protocols of the Internet that are not allowed: what asks for one of
/// them goes on with TCP where there is none.
fn other_protocols() -> Result<BTreeMap<i64, Vec<SeccompRule>>> {
    macro_rules! none_of {
        ($family:ident: $($protocol:ident)*) => {
            &[
                (0, Is::Value(libc::$family.cast_unsigned())),
                $((2, Is::Not(libc::$protocol.cast_unsigned()))),*
            ]
        };
    }
    const WAYS: [Way; 2] = [
        none_of!(AF_INET: IPPROTO_IP IPPROTO_ICMP IPPROTO_TCP IPPROTO_UDP),
        none_of!(AF_INET6: IPPROTO_IP IPPROTO_ICMPV6 IPPROTO_TCP IPPROTO_UDP),
    ];
    let rules = WAYS.into_iter().map(rule).collect::<Result<_>>()?;
    Ok(BTreeMap::from([(libc::SYS_socket, rules)]))
}

/// Settings of the limit of core dumps, which are done without being done: it
/// stays as it was, so that no crash inside starts the program that the host
/// has for them. Those who set it switch dumps off, and they are.
fn core_limit() -> Result<BTreeMap<i64, Vec<SeccompRule>>> {
    let invalid = |error| failed("compile a seccomp filter", error);
    let is_core = |argument| {
        let core = u64::from(libc::RLIMIT_CORE);
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, core)
    };
    let sets = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0);
    let by_pid = vec![is_core(1).map_err(invalid)?, sets.map_err(invalid)?];
    let own = vec![is_core(0).map_err(invalid)?];
    let rule = |conditions| SeccompRule::new(conditions).map_err(invalid);
    Ok(BTreeMap::from([
        (libc::SYS_prlimit64, vec![rule(by_pid)?]),
        (libc::SYS_setrlimit, vec![rule(own)?]),
    ]))
}

/// What an argument of a call has to be.
#[derive(Clone, Copy)]
enum Is {
    /// This value.
    Value(u32),
    /// Any other.
    Not(u32),
    /// Without any of these bits.
    Without(u32),
}

/// The arguments of a call, by number: all have to hold.
type Way = &'static [(u8, Is)];

fn rule(way: Way) -> Result<SeccompRule> {
    let invalid = |error| failed("compile a seccomp filter", error);
    let conditions = way.iter().map(|(argument, is)| {
        let (operator, value) = match is {
            Is::Value(value) => (SeccompCmpOp::Eq, *value),
            Is::Not(value) => (SeccompCmpOp::Ne, *value),
            Is::Without(bits) => (SeccompCmpOp::MaskedEq(u64::from(*bits)), 0),
        };
        SeccompCondition::new(
            *argument,
            SeccompCmpArgLen::Dword,
            operator,
            u64::from(value),
        )
    });
    let conditions = conditions.collect::<Result<Vec<_>, _>>().map_err(invalid)?;
    SeccompRule::new(conditions).map_err(invalid)
}

fn failed(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(what, std::io::Error::other(error))
}

/// Every flag of `clone` that makes a namespace. That of time is none: its bit
/// is the exit signal's there.
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET)
    .cast_unsigned();
/// The same of `unshare`, where time is one.
const UNSHARED: u32 = NAMESPACES | 0x80;
const STI: u32 = 0x5412;
const LINUX_CONSOLE: u32 = 0x541c;
/// Another line discipline of a terminal (`TIOCSETD`): the code behind most of
/// them is a driver's, and old.
const SET_DISCIPLINE: u32 = 0x5423;
/// Subvolumes and snapshots of btrfs, which whoever removes the sandbox would
/// not enter: another file system, as far as `find` can see.
const SUBVOLUMES: [u32; 4] = [0x5000_9401, 0x5000_940e, 0x5000_9417, 0x5000_9418];
/// Kinds of sockets beside streams, datagrams and raw ones, which are refused
/// by their capability.
const OTHER_KINDS: u32 = 0xc;
/// A protocol above TCP in the kernel (`TCP_ULP`); programs do without.
const UPPER: u32 = 31;

/// The bits by which a file gives its owner's or group's privileges to whoever
/// executes it. Nothing in a container honours them, but what it makes in a
/// share is the host's too.
const SET_ID: u32 = 0o6000;
/// Those of `open` with which its mode counts: `O_CREAT` and that of
/// `O_TMPFILE` alone.
const CREATES: u32 = 0o100 | 0o20_000_000;

macro_rules! call {
    ($name:ident) => {
        (stringify!($name), libc::$name)
    };
}

macro_rules! internet {
    ($family:ident, $protocol:ident) => {
        &[
            (0, Is::Value(libc::$family.cast_unsigned())),
            (1, Is::Without(OTHER_KINDS)),
            (2, Is::Value(libc::$protocol.cast_unsigned())),
        ]
    };
}

/// Every call that is let through whatever it asks for.
fn allowed() -> impl Iterator<Item = Named> {
    ALLOWED.iter().copied().chain([CACHESTAT])
}

/// Calls that depend on what they are asked for.
const LOOKED_INTO: &[(Named, &[Way])] = &[
    (call!(SYS_clone), &[&[(0, Is::Without(NAMESPACES))]]),
    (call!(SYS_unshare), &[&[(0, Is::Without(UNSHARED))]]),
    (call!(SYS_chmod), &[&[(1, Is::Without(SET_ID))]]),
    (call!(SYS_fchmod), &[&[(1, Is::Without(SET_ID))]]),
    (call!(SYS_fchmodat), &[&[(2, Is::Without(SET_ID))]]),
    (call!(SYS_fchmodat2), &[&[(2, Is::Without(SET_ID))]]),
    (call!(SYS_creat), &[&[(1, Is::Without(SET_ID))]]),
    (call!(SYS_mknod), &[&[(1, Is::Without(SET_ID))]]),
    (call!(SYS_mknodat), &[&[(2, Is::Without(SET_ID))]]),
    (
        call!(SYS_open),
        &[&[(1, Is::Without(CREATES))], &[(2, Is::Without(SET_ID))]],
    ),
    (
        call!(SYS_openat),
        &[&[(2, Is::Without(CREATES))], &[(3, Is::Without(SET_ID))]],
    ),
    // Typing for the terminal's other users, and the host's own console.
    (
        call!(SYS_ioctl),
        &[&[
            (1, Is::Not(STI)),
            (1, Is::Not(LINUX_CONSOLE)),
            (1, Is::Not(SET_DISCIPLINE)),
            (1, Is::Not(SUBVOLUMES[0])),
            (1, Is::Not(SUBVOLUMES[1])),
            (1, Is::Not(SUBVOLUMES[2])),
            (1, Is::Not(SUBVOLUMES[3])),
        ]],
    ),
    (
        call!(SYS_setsockopt),
        &[
            &[(1, Is::Not(libc::IPPROTO_TCP.cast_unsigned()))],
            &[(2, Is::Not(UPPER))],
        ],
    ),
    // Families and protocols whose code in the kernel few programs use are out
    // of reach.
    (
        call!(SYS_socket),
        &[
            &[(0, Is::Value(libc::AF_UNIX.cast_unsigned()))],
            internet!(AF_INET, IPPROTO_IP),
            internet!(AF_INET, IPPROTO_ICMP),
            internet!(AF_INET, IPPROTO_TCP),
            internet!(AF_INET, IPPROTO_UDP),
            internet!(AF_INET6, IPPROTO_IP),
            internet!(AF_INET6, IPPROTO_ICMPV6),
            internet!(AF_INET6, IPPROTO_TCP),
            internet!(AF_INET6, IPPROTO_UDP),
            &[
                (0, Is::Value(libc::AF_NETLINK.cast_unsigned())),
                (2, Is::Value(libc::NETLINK_ROUTE.cast_unsigned())),
            ],
        ],
    ),
    (
        call!(SYS_socketpair),
        &[&[(0, Is::Value(libc::AF_UNIX.cast_unsigned()))]],
    ),
    // What is asked, Linux as it is, without randomised addresses for
    // debuggers, and with them for what they start.
    (
        call!(SYS_personality),
        &[
            &[(0, Is::Value(u32::MAX))],
            &[(0, Is::Value(0))],
            &[(0, Is::Value(0x0004_0000))],
        ],
    ),
];

/// Tried by libraries that fall back to an older call when told that there is
/// none.
const ABSENT: &[Named] = named![
    // What they ask for is in memory, where no filter looks.
    SYS_clone3,
    SYS_openat2,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_userfaultfd,
    // Of all that may wait for disks there is one number for the whole host.
    SYS_io_setup,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_mounts_namespaces_keys_or_kernel_code_is_not_on_the_list() {
        for call in super::super::profile::NEVER {
            let within = [
                libc::SYS_chroot,
                libc::SYS_process_vm_readv,
                libc::SYS_process_vm_writev,
                libc::SYS_ptrace,
            ];
            assert!(
                allowed().all(|(_, allowed)| allowed != *call) || within.contains(call),
                "call {call}"
            );
        }
        for call in ABSENT {
            assert!(!ALLOWED.contains(call), "call {call:?}");
        }
    }

    #[test]
    fn the_filter_compiles_and_each_call_is_listed_once() {
        let filter = Filter::compile().unwrap();
        assert_eq!(filter.calls, allowed().count() + LOOKED_INTO.len());
    }
}
