//! The walls around everything in a container: root inside, the agent and
//! whatever they run.
//!
//! Owns: what programs for people need of the kernel, and nothing that makes
//! mounts, namespaces, keys, kernel code or another program's memory the
//! business of a guest. What is refused says `EPERM`, as a kernel does to who
//! lacks the privilege; the calls that libraries try before an older one say
//! that they do not exist. Sources: the kernel's own table of calls, and what
//! the filters of container engines let through, from which this takes away.

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
    idle: seccompiler::BpfProgram,
    calls: usize,
}

impl Filter {
    fn compile() -> Result<Self> {
        let mut only: BTreeMap<i64, Vec<SeccompRule>> =
            ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
        for (call, ways) in LOOKED_INTO {
            let rules = ways
                .iter()
                .map(|way| rule(way))
                .collect::<Result<Vec<_>>>()?;
            only.insert(*call, rules);
        }
        let calls = only.len();
        let absent = ABSENT.iter().map(|call| (*call, Vec::new())).collect();
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
            idle: program(core_limit()?, SeccompAction::Allow, SeccompAction::Errno(0))?,
            calls,
        })
    }

    /// Of two answers that both refuse, the filter installed last gives its
    /// own.
    fn install(self) -> Result<()> {
        for filter in [&self.only, &self.absent, &self.unknown, &self.idle] {
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

/// The bits by which a file gives its owner's or group's privileges to whoever
/// executes it. Nothing in a container honours them, but what it makes in a
/// share is the host's too.
const SET_ID: u32 = 0o6000;
/// Those of `open` with which its mode counts: `O_CREAT` and that of
/// `O_TMPFILE` alone.
const CREATES: u32 = 0o100 | 0o20_000_000;

/// Calls that depend on what they are asked for.
const LOOKED_INTO: &[(i64, &[Way])] = &[
    (libc::SYS_clone, &[&[(0, Is::Without(NAMESPACES))]]),
    (libc::SYS_unshare, &[&[(0, Is::Without(UNSHARED))]]),
    (libc::SYS_chmod, &[&[(1, Is::Without(SET_ID))]]),
    (libc::SYS_fchmod, &[&[(1, Is::Without(SET_ID))]]),
    (libc::SYS_fchmodat, &[&[(2, Is::Without(SET_ID))]]),
    (libc::SYS_fchmodat2, &[&[(2, Is::Without(SET_ID))]]),
    (libc::SYS_creat, &[&[(1, Is::Without(SET_ID))]]),
    (libc::SYS_mknod, &[&[(1, Is::Without(SET_ID))]]),
    (libc::SYS_mknodat, &[&[(2, Is::Without(SET_ID))]]),
    (
        libc::SYS_open,
        &[&[(1, Is::Without(CREATES))], &[(2, Is::Without(SET_ID))]],
    ),
    (
        libc::SYS_openat,
        &[&[(2, Is::Without(CREATES))], &[(3, Is::Without(SET_ID))]],
    ),
    // Typing for the terminal's other users, and the host's own console.
    (
        libc::SYS_ioctl,
        &[&[(1, Is::Not(STI)), (1, Is::Not(LINUX_CONSOLE))]],
    ),
    // Families whose code in the kernel few programs use are out of reach.
    (
        libc::SYS_socket,
        &[
            &[(0, Is::Value(libc::AF_UNIX.cast_unsigned()))],
            &[(0, Is::Value(libc::AF_INET.cast_unsigned()))],
            &[(0, Is::Value(libc::AF_INET6.cast_unsigned()))],
            &[
                (0, Is::Value(libc::AF_NETLINK.cast_unsigned())),
                (2, Is::Value(libc::NETLINK_ROUTE.cast_unsigned())),
            ],
        ],
    ),
    (
        libc::SYS_socketpair,
        &[&[(0, Is::Value(libc::AF_UNIX.cast_unsigned()))]],
    ),
    // What is asked, Linux as it is, without randomised addresses for
    // debuggers, and with them for what they start.
    (
        libc::SYS_personality,
        &[
            &[(0, Is::Value(u32::MAX))],
            &[(0, Is::Value(0))],
            &[(0, Is::Value(0x0004_0000))],
        ],
    ),
];

/// Tried by libraries that fall back to an older call when told that there is
/// none.
const ABSENT: &[i64] = &[
    // What they ask for is in memory, where no filter looks.
    libc::SYS_clone3,
    libc::SYS_openat2,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_userfaultfd,
];

/// What programs do, whatever they ask for.
const ALLOWED: &[i64] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_access,
    libc::SYS_alarm,
    libc::SYS_arch_prctl,
    libc::SYS_bind,
    libc::SYS_brk,
    // `cachestat`, of which the C library's bindings do not know.
    451,
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_chdir,
    libc::SYS_chown,
    libc::SYS_chroot,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_connect,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_dup2,
    libc::SYS_dup3,
    libc::SYS_epoll_create,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_epoll_wait,
    libc::SYS_eventfd,
    libc::SYS_eventfd2,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fadvise64,
    libc::SYS_fallocate,
    libc::SYS_fchdir,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_flock,
    libc::SYS_fork,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_futex_waitv,
    libc::SYS_futimesat,
    libc::SYS_get_robust_list,
    libc::SYS_get_thread_area,
    libc::SYS_getcpu,
    libc::SYS_getcwd,
    libc::SYS_getdents,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getitimer,
    libc::SYS_getpeername,
    libc::SYS_getpgid,
    libc::SYS_getpgrp,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getpriority,
    libc::SYS_getrandom,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrlimit,
    libc::SYS_getrusage,
    libc::SYS_getsid,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_getxattr,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_init,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_rm_watch,
    libc::SYS_io_cancel,
    libc::SYS_io_destroy,
    libc::SYS_io_getevents,
    libc::SYS_io_setup,
    libc::SYS_io_submit,
    libc::SYS_ioprio_get,
    libc::SYS_ioprio_set,
    libc::SYS_kill,
    libc::SYS_landlock_add_rule,
    libc::SYS_landlock_create_ruleset,
    libc::SYS_landlock_restrict_self,
    libc::SYS_lchown,
    libc::SYS_lgetxattr,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_listen,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_lremovexattr,
    libc::SYS_lseek,
    libc::SYS_lsetxattr,
    libc::SYS_lstat,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_memfd_create,
    libc::SYS_mincore,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_mlock,
    libc::SYS_mlock2,
    libc::SYS_mlockall,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mq_getsetattr,
    libc::SYS_mq_notify,
    libc::SYS_mq_open,
    libc::SYS_mq_timedreceive,
    libc::SYS_mq_timedsend,
    libc::SYS_mq_unlink,
    libc::SYS_mremap,
    libc::SYS_msgctl,
    libc::SYS_msgget,
    libc::SYS_msgrcv,
    libc::SYS_msgsnd,
    libc::SYS_msync,
    libc::SYS_munlock,
    libc::SYS_munlockall,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_pause,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_pipe,
    libc::SYS_pipe2,
    libc::SYS_pkey_alloc,
    libc::SYS_pkey_free,
    libc::SYS_pkey_mprotect,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_prlimit64,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pselect6,
    // Within the container: Landlock and the process namespace say whom.
    libc::SYS_ptrace,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_read,
    libc::SYS_readahead,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_remap_file_pages,
    libc::SYS_removexattr,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rmdir,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getattr,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_rr_get_interval,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_setattr,
    libc::SYS_sched_setparam,
    libc::SYS_sched_setscheduler,
    libc::SYS_sched_yield,
    libc::SYS_seccomp,
    libc::SYS_select,
    libc::SYS_semctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_sendfile,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_set_thread_area,
    libc::SYS_set_tid_address,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_setgid,
    libc::SYS_setgroups,
    libc::SYS_setitimer,
    libc::SYS_setpgid,
    libc::SYS_setpriority,
    libc::SYS_setregid,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setreuid,
    libc::SYS_setrlimit,
    libc::SYS_setsid,
    libc::SYS_setsockopt,
    libc::SYS_setuid,
    libc::SYS_setxattr,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_shmdt,
    libc::SYS_shmget,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd,
    libc::SYS_signalfd4,
    libc::SYS_splice,
    libc::SYS_stat,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_sync,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_sysinfo,
    libc::SYS_tee,
    libc::SYS_tgkill,
    libc::SYS_time,
    libc::SYS_timer_create,
    libc::SYS_timer_delete,
    libc::SYS_timer_getoverrun,
    libc::SYS_timer_gettime,
    libc::SYS_timer_settime,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    libc::SYS_times,
    libc::SYS_tkill,
    libc::SYS_truncate,
    libc::SYS_umask,
    libc::SYS_uname,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_utime,
    libc::SYS_utimensat,
    libc::SYS_utimes,
    libc::SYS_vfork,
    libc::SYS_vmsplice,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_write,
    libc::SYS_writev,
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
                !ALLOWED.contains(call) || within.contains(call),
                "call {call}"
            );
        }
        for call in ABSENT {
            assert!(!ALLOWED.contains(call), "call {call}");
        }
    }

    #[test]
    fn the_filter_compiles_and_each_call_is_listed_once() {
        let filter = Filter::compile().unwrap();
        assert_eq!(filter.calls, ALLOWED.len() + LOOKED_INTO.len());
    }
}
