//! The system calls of each role: what is not listed does not exist for it.
//!
//! Lists are by purpose; a profile is a set of lists. Calls that take a
//! pointer to their flags (`clone3`, `openat2` resolve flags) cannot be looked
//! into by seccomp: `clone3` is therefore absent and libraries fall back to
//! `clone`, whose flags are checked.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::seccomp::{Call, Way};

/// Whom a filter is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// QEMU: threads, memory it may execute (translated code), its inherited
    /// descriptors, files by name as far as Landlock lets it, KVM's ioctls.
    /// No new sockets. One exec must pass, that of QEMU itself; a filter
    /// cannot count, so a second one is stopped by QEMU's own `spawn=deny`
    /// and by Landlock, which leaves nothing else to execute.
    Vmm,
    /// The supervisor: state files, connections that come to the socket it
    /// has, signals to children that others started. No exec, and no socket
    /// that reaches anybody: container engines and session buses listen on
    /// Unix sockets, and whoever reaches those is the user.
    Supervisor,
    /// The network engine: Internet sockets outwards, few files, no exec. No
    /// Unix sockets: container engines and session buses listen on them, and
    /// Landlock says nothing about those with a path.
    Net,
    /// The file server: all of a file system's calls, no new sockets, no exec.
    Share,
    /// Who carries bytes between descriptors that are open: no file, no new
    /// socket, no exec.
    Carrier,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vmm => "vmm",
            Self::Supervisor => "supervisor",
            Self::Net => "net",
            Self::Share => "share",
            Self::Carrier => "carrier",
        })
    }
}

/// The calls of `profile`.
pub(super) fn calls(profile: Profile) -> impl Iterator<Item = Call> {
    let lists: &[&[Call]] = match profile {
        Profile::Vmm => &[COMMON, CODE, LOOK, READ_WRITE, INHERITED_SOCKETS, MONITOR],
        Profile::Supervisor => &[
            COMMON,
            DATA,
            LOOK,
            READ_WRITE,
            CHANGE,
            INHERITED_SOCKETS,
            ACCEPT,
            PROCESSES,
        ],
        Profile::Net => &[
            COMMON,
            DATA,
            LOOK,
            READ_WRITE,
            INHERITED_SOCKETS,
            CONNECT,
            INTERNET,
        ],
        Profile::Share => &[
            COMMON,
            DATA,
            LOOK,
            READ_WRITE,
            CHANGE,
            MODES,
            INHERITED_SOCKETS,
            SERVE_FILES,
        ],
        Profile::Carrier => &[COMMON, DATA, READ_WRITE, INHERITED_SOCKETS],
    };
    lists.iter().flat_map(|list| list.iter().copied())
}

const ANY: &[Way] = &[];

const fn any(call: i64) -> Call {
    (call, ANY)
}

/// Memory that is data only: no page may be made executable.
const NO_EXEC: &[Way] = &[&[(2, libc::PROT_EXEC as u32, 0)]];
/// A thread of this process, never a new process.
const THREAD: &[Way] = &[&[(0, libc::CLONE_THREAD as u32, libc::CLONE_THREAD as u32)]];
const AF_UNIX: &[Way] = &[&[(0, u32::MAX, libc::AF_UNIX as u32)]];
const AF_INET: &[Way] = &[
    &[(0, u32::MAX, libc::AF_INET as u32)],
    &[(0, u32::MAX, libc::AF_INET6 as u32)],
    // The resolver and the interface list of libc ask the kernel through it.
    &[
        (0, u32::MAX, libc::AF_NETLINK as u32),
        (2, u32::MAX, libc::NETLINK_ROUTE as u32),
    ],
];

/// What every program does: memory, threads, time, signals to itself,
/// waiting on descriptors.
const COMMON: &[Call] = &[
    any(libc::SYS_arch_prctl),
    any(libc::SYS_brk),
    any(libc::SYS_clock_getres),
    any(libc::SYS_clock_gettime),
    any(libc::SYS_clock_nanosleep),
    (libc::SYS_clone, THREAD),
    any(libc::SYS_close),
    any(libc::SYS_close_range),
    any(libc::SYS_dup),
    any(libc::SYS_dup2),
    any(libc::SYS_dup3),
    any(libc::SYS_epoll_create1),
    any(libc::SYS_epoll_ctl),
    any(libc::SYS_epoll_pwait),
    any(libc::SYS_epoll_pwait2),
    any(libc::SYS_epoll_wait),
    any(libc::SYS_eventfd2),
    any(libc::SYS_exit),
    any(libc::SYS_exit_group),
    any(libc::SYS_fcntl),
    any(libc::SYS_futex),
    any(libc::SYS_futex_waitv),
    any(libc::SYS_get_robust_list),
    any(libc::SYS_getcpu),
    any(libc::SYS_getcwd),
    any(libc::SYS_getegid),
    any(libc::SYS_geteuid),
    any(libc::SYS_getgid),
    any(libc::SYS_getgroups),
    any(libc::SYS_getpgrp),
    any(libc::SYS_getpid),
    any(libc::SYS_getppid),
    any(libc::SYS_getrandom),
    any(libc::SYS_getresgid),
    any(libc::SYS_getresuid),
    any(libc::SYS_getrlimit),
    any(libc::SYS_getrusage),
    any(libc::SYS_gettid),
    any(libc::SYS_gettimeofday),
    any(libc::SYS_getuid),
    (
        libc::SYS_ioctl,
        &[
            &[(1, u32::MAX, libc::FIONBIO as u32)],
            &[(1, u32::MAX, libc::FIONREAD as u32)],
            &[(1, u32::MAX, libc::FIOCLEX as u32)],
            &[(1, u32::MAX, libc::TCGETS as u32)],
        ],
    ),
    any(libc::SYS_lseek),
    any(libc::SYS_madvise),
    any(libc::SYS_membarrier),
    any(libc::SYS_memfd_create),
    any(libc::SYS_mremap),
    any(libc::SYS_munmap),
    any(libc::SYS_nanosleep),
    any(libc::SYS_pipe2),
    any(libc::SYS_poll),
    any(libc::SYS_ppoll),
    (
        libc::SYS_prctl,
        &[
            &[(0, u32::MAX, libc::PR_SET_NAME as u32)],
            &[(0, u32::MAX, libc::PR_GET_NAME as u32)],
            &[(0, u32::MAX, libc::PR_SET_PDEATHSIG as u32)],
            &[(0, u32::MAX, libc::PR_GET_DUMPABLE as u32)],
            &[(0, u32::MAX, libc::PR_SET_NO_NEW_PRIVS as u32)],
            &[(0, u32::MAX, libc::PR_CAPBSET_READ as u32)],
        ],
    ),
    any(libc::SYS_prlimit64),
    any(libc::SYS_pselect6),
    any(libc::SYS_restart_syscall),
    any(libc::SYS_rseq),
    any(libc::SYS_rt_sigaction),
    any(libc::SYS_rt_sigpending),
    any(libc::SYS_rt_sigprocmask),
    any(libc::SYS_rt_sigreturn),
    any(libc::SYS_rt_sigsuspend),
    any(libc::SYS_rt_sigtimedwait),
    any(libc::SYS_sched_getaffinity),
    any(libc::SYS_sched_getattr),
    any(libc::SYS_sched_getparam),
    any(libc::SYS_sched_getscheduler),
    any(libc::SYS_sched_yield),
    any(libc::SYS_select),
    any(libc::SYS_set_robust_list),
    any(libc::SYS_set_tid_address),
    any(libc::SYS_sigaltstack),
    any(libc::SYS_signalfd4),
    any(libc::SYS_sysinfo),
    any(libc::SYS_tgkill),
    any(libc::SYS_timerfd_create),
    any(libc::SYS_timerfd_gettime),
    any(libc::SYS_timerfd_settime),
    any(libc::SYS_umask),
    any(libc::SYS_uname),
];

const DATA: &[Call] = &[(libc::SYS_mmap, NO_EXEC), (libc::SYS_mprotect, NO_EXEC)];

const CODE: &[Call] = &[any(libc::SYS_mmap), any(libc::SYS_mprotect)];

/// Opening and looking at files by name; Landlock says which.
const LOOK: &[Call] = &[
    any(libc::SYS_access),
    any(libc::SYS_faccessat),
    any(libc::SYS_faccessat2),
    any(libc::SYS_fstat),
    any(libc::SYS_fstatfs),
    any(libc::SYS_getdents64),
    any(libc::SYS_lstat),
    any(libc::SYS_newfstatat),
    any(libc::SYS_open),
    any(libc::SYS_openat),
    any(libc::SYS_openat2),
    any(libc::SYS_readlink),
    any(libc::SYS_readlinkat),
    any(libc::SYS_stat),
    any(libc::SYS_statfs),
    any(libc::SYS_statx),
];

/// Contents of open files.
const READ_WRITE: &[Call] = &[
    any(libc::SYS_copy_file_range),
    any(libc::SYS_fadvise64),
    any(libc::SYS_fallocate),
    any(libc::SYS_fdatasync),
    any(libc::SYS_flock),
    any(libc::SYS_fsync),
    any(libc::SYS_ftruncate),
    any(libc::SYS_msync),
    any(libc::SYS_pread64),
    any(libc::SYS_preadv),
    any(libc::SYS_preadv2),
    any(libc::SYS_pwrite64),
    any(libc::SYS_pwritev),
    any(libc::SYS_pwritev2),
    any(libc::SYS_read),
    any(libc::SYS_readv),
    any(libc::SYS_sendfile),
    any(libc::SYS_splice),
    any(libc::SYS_sync_file_range),
    any(libc::SYS_write),
    any(libc::SYS_writev),
];

/// Making, renaming and removing files.
const CHANGE: &[Call] = &[
    any(libc::SYS_link),
    any(libc::SYS_linkat),
    any(libc::SYS_mkdir),
    any(libc::SYS_mkdirat),
    any(libc::SYS_rename),
    any(libc::SYS_renameat),
    any(libc::SYS_renameat2),
    any(libc::SYS_rmdir),
    any(libc::SYS_symlink),
    any(libc::SYS_symlinkat),
    any(libc::SYS_unlink),
    any(libc::SYS_unlinkat),
];

/// Modes and times, of which Landlock says nothing.
const MODES: &[Call] = &[
    any(libc::SYS_chmod),
    any(libc::SYS_fchmod),
    any(libc::SYS_fchmodat),
    any(libc::SYS_utimensat),
];

/// Talking over sockets that are connected already.
const INHERITED_SOCKETS: &[Call] = &[
    any(libc::SYS_getpeername),
    any(libc::SYS_getsockname),
    any(libc::SYS_getsockopt),
    any(libc::SYS_recvfrom),
    any(libc::SYS_recvmmsg),
    any(libc::SYS_recvmsg),
    any(libc::SYS_sendmmsg),
    any(libc::SYS_sendmsg),
    any(libc::SYS_sendto),
    any(libc::SYS_setsockopt),
    any(libc::SYS_shutdown),
    (libc::SYS_socketpair, AF_UNIX),
];

/// Sockets outwards; of which families is said by `INTERNET`.
const CONNECT: &[Call] = &[any(libc::SYS_bind), any(libc::SYS_connect)];

/// Being connected to, on a socket that listens already.
const ACCEPT: &[Call] = &[any(libc::SYS_accept), any(libc::SYS_accept4)];

const INTERNET: &[Call] = &[(libc::SYS_socket, AF_INET)];

/// Watching and ending processes that somebody else started.
const PROCESSES: &[Call] = &[
    any(libc::SYS_kill),
    any(libc::SYS_pidfd_open),
    any(libc::SYS_pidfd_send_signal),
    any(libc::SYS_wait4),
    any(libc::SYS_waitid),
];

/// What QEMU does beside the common things.
const MONITOR: &[Call] = &[
    any(libc::SYS_chdir),
    any(libc::SYS_execve),
    any(libc::SYS_execveat),
    any(libc::SYS_fchdir),
    (
        libc::SYS_ioctl,
        // All of KVM's have this type byte.
        &[&[(1, 0xff00, 0xae00)]],
    ),
    (
        libc::SYS_prctl,
        &[
            &[(0, u32::MAX, libc::PR_SET_SECCOMP as u32)],
            &[(0, u32::MAX, libc::PR_GET_SECCOMP as u32)],
            &[(0, u32::MAX, libc::PR_SET_TIMERSLACK as u32)],
            &[(0, u32::MAX, libc::PR_MCE_KILL as u32)],
        ],
    ),
    // QEMU installs its own filter on top of ours.
    any(libc::SYS_seccomp),
];

/// What serving a file system takes beside `CHANGE`.
const SERVE_FILES: &[Call] = &[
    any(libc::SYS_accept),
    any(libc::SYS_accept4),
    any(libc::SYS_capget),
    any(libc::SYS_capset),
    any(libc::SYS_chdir),
    any(libc::SYS_fchdir),
    any(libc::SYS_fchown),
    any(libc::SYS_fchownat),
    any(libc::SYS_fgetxattr),
    any(libc::SYS_flistxattr),
    any(libc::SYS_fremovexattr),
    any(libc::SYS_fsetxattr),
    any(libc::SYS_getxattr),
    any(libc::SYS_inotify_add_watch),
    any(libc::SYS_inotify_init1),
    any(libc::SYS_inotify_rm_watch),
    any(libc::SYS_lgetxattr),
    any(libc::SYS_listxattr),
    any(libc::SYS_llistxattr),
    any(libc::SYS_lremovexattr),
    any(libc::SYS_lsetxattr),
    any(libc::SYS_mknodat),
    any(libc::SYS_name_to_handle_at),
    any(libc::SYS_removexattr),
    any(libc::SYS_setfsgid),
    any(libc::SYS_setfsuid),
    any(libc::SYS_setgroups),
    any(libc::SYS_setresgid),
    any(libc::SYS_setresuid),
    any(libc::SYS_setxattr),
    any(libc::SYS_sync),
    any(libc::SYS_syncfs),
    any(libc::SYS_truncate),
    // A directory and umask per thread, nothing else.
    (
        libc::SYS_unshare,
        &[&[(0, u32::MAX, libc::CLONE_FS as u32)]],
    ),
];

/// What no role may do, whatever its profile: an attempt ends the process.
/// Nothing here is tried by libraries at start-up (io_uring is, so it is
/// merely absent from every list).
pub(super) const NEVER: &[i64] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_modify_ldt,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setdomainname,
    libc::SYS_sethostname,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];
