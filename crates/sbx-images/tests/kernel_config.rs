//! Which options of the guest kernel must be on, which must be off, and why.
//!
//! The list that is merged is always checked: it must not say the opposite.
//! The finished configuration of a built kernel is checked in full; it is
//! taken from `SBX_KERNEL_CONFIG`, or from the caller's cache.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Without these a guest does not boot or does not do its work.
const WORK: &[(&str, &str)] = &[
    ("PVH", "the entry point of an uncompressed kernel"),
    ("VIRTIO_MMIO", "the bus of a microVM"),
    (
        "VIRTIO_MMIO_CMDLINE_DEVICES",
        "an embedded VMM announces its devices so",
    ),
    ("VIRTIO_CONSOLE", "the control link"),
    ("VIRTIO_NET", "the network"),
    ("VIRTIO_BLK", "base, kits and the sandbox's own disk"),
    ("VIRTIO_FS", "shares"),
    ("VIRTIO_BALLOON", "memory goes back to the host"),
    (
        "PAGE_REPORTING",
        "memory goes back to the host without being asked for",
    ),
    ("HW_RANDOM_VIRTIO", "randomness at the first moment"),
    ("BLK_DEV_INITRD", "the first program comes in an initramfs"),
    ("DEVTMPFS", "device nodes without a helper"),
    ("EROFS_FS", "read-only images"),
    ("EXT4_FS", "the sandbox's own disk"),
    ("OVERLAY_FS", "the root, and containers inside"),
    ("FUSE_FS", "shares, and user file systems inside"),
    ("TMPFS_XATTR", "containers inside"),
    (
        "USER_NS",
        "the agent's own sandbox, and rootless containers inside",
    ),
    ("PID_NS", "containers inside"),
    ("NET_NS", "containers inside"),
    ("CGROUP_PIDS", "the limit on processes"),
    ("MEMCG", "limits inside"),
    ("CFS_BANDWIDTH", "limits inside"),
    ("NF_TABLES", "containers inside"),
    ("BRIDGE", "containers inside"),
    ("VETH", "containers inside"),
    ("TUN", "tunnels inside"),
    ("INOTIFY_USER", "watchers of files"),
    ("UNIX98_PTYS", "terminals"),
    ("SERIAL_8250_CONSOLE", "the boot log"),
];

/// Walls between a task inside and the guest's kernel.
const HARD: &[(&str, &str)] = &[
    (
        "SECCOMP_FILTER",
        "agents and containers build walls of their own",
    ),
    ("SECURITY_LANDLOCK", "agents build walls of their own"),
    ("SECURITY_YAMA", "ptrace of descendants only"),
    ("SECURITY_DMESG_RESTRICT", "kernel addresses stay root's"),
    ("BPF_UNPRIV_DEFAULT_OFF", "eBPF is a way into the kernel"),
    ("BPF_JIT_ALWAYS_ON", "no interpreter to speculate in"),
    ("STACKPROTECTOR_STRONG", "stack overflows stop"),
    ("FORTIFY_SOURCE", "overlong copies stop"),
    ("HARDENED_USERCOPY", "copies beyond an object stop"),
    ("VMAP_STACK", "stack overruns hit a guard page"),
    ("STRICT_KERNEL_RWX", "no writable code"),
    ("SLAB_FREELIST_RANDOM", "heap layout is not predictable"),
    ("SLAB_FREELIST_HARDENED", "free lists cannot be redirected"),
    ("RANDOM_KMALLOC_CACHES", "heap layout is not predictable"),
    ("SHUFFLE_PAGE_ALLOCATOR", "page layout is not predictable"),
    ("LIST_HARDENED", "corrupted lists stop"),
    (
        "BUG_ON_DATA_CORRUPTION",
        "corruption stops the guest instead of going on",
    ),
    ("SCHED_STACK_END_CHECK", "stack overruns stop"),
    ("INIT_STACK_ALL_ZERO", "nothing old on the stack"),
    ("INIT_ON_ALLOC_DEFAULT_ON", "nothing old on the heap"),
    ("CPU_MITIGATIONS", "processors leak"),
    ("MITIGATION_PAGE_TABLE_ISOLATION", "Meltdown"),
    ("MITIGATION_RETPOLINE", "Spectre 2"),
    ("LEGACY_VSYSCALL_NONE", "no code at a fixed address"),
    ("SYN_COOKIES", "floods of connections"),
    (
        "RANDOMIZE_KSTACK_OFFSET_DEFAULT",
        "the stack of a system call is not where it was",
    ),
    ("X86_UMIP", "addresses of kernel tables stay the kernel's"),
    (
        "X86_KERNEL_IBT",
        "indirect jumps end where a function starts",
    ),
    ("X86_USER_SHADOW_STACK", "programs may guard their returns"),
    ("MITIGATION_SLS", "processors run past a jump"),
    ("SLAB_BUCKETS", "what a task sends has a heap of its own"),
    ("UBSAN_BOUNDS", "an index beyond its array stops"),
    ("UBSAN_TRAP", "it stops instead of being reported"),
    (
        "STATIC_USERMODEHELPER",
        "no release agent and no core pattern is run as root",
    ),
    ("PANIC_ON_OOPS", "a kernel that went wrong ends its machine"),
    (
        "PROC_MEM_FORCE_PTRACE",
        "page protection gives way to debuggers only",
    ),
];

/// Options whose value says how hard they are.
const VALUES: &[(&str, &str, &str)] = &[
    (
        "ARCH_MMAP_RND_BITS",
        "32",
        "as many bits as there are for where memory is mapped",
    ),
    (
        "DEFAULT_MMAP_MIN_ADDR",
        "65536",
        "a null pointer of the kernel meets nothing of a task's",
    ),
    (
        "STATIC_USERMODEHELPER_PATH",
        "\"\"",
        "the kernel starts no program",
    ),
];

/// Doors that nothing inside needs.
const OFF: &[(&str, &str)] = &[
    (
        "MODULES",
        "everything is built in: root inside cannot add code",
    ),
    ("DEVMEM", "physical memory"),
    ("DEVPORT", "input and output ports"),
    ("PROC_KCORE", "kernel memory as a file"),
    ("KEXEC", "another kernel"),
    ("KEXEC_FILE", "another kernel"),
    ("HIBERNATION", "another kernel's memory"),
    (
        "USERFAULTFD",
        "stops the kernel in the middle of a copy: a tool of exploits",
    ),
    ("MODIFY_LDT_SYSCALL", "old and often wrong"),
    ("IA32_EMULATION", "a second system call table"),
    ("X86_X32_ABI", "a third system call table"),
    ("LEGACY_TIOCSTI", "types into the terminal of another"),
    ("LDISC_AUTOLOAD", "rare line disciplines"),
    ("LEGACY_PTYS", "old terminals"),
    (
        "MAGIC_SYSRQ",
        "commands from a console that the guest's user types at",
    ),
    ("DEBUG_FS", "kernel internals as files"),
    ("FTRACE", "kernel internals as files"),
    ("KPROBES", "code injected into the kernel"),
    ("UPROBES", "code injected into programs by the kernel"),
    ("CRASH_DUMP", "kernel memory as a file"),
    ("X86_IOPL_IOPERM", "input and output ports"),
    ("X86_MSR", "model-specific registers"),
    ("X86_CPUID", "a device for what an instruction says"),
    ("ACPI_TABLE_UPGRADE", "firmware tables from the initramfs"),
    ("ACPI_CONFIGFS", "firmware tables from root"),
    ("COMPAT", "a second system call table"),
    (
        "CHECKPOINT_RESTORE",
        "rewrites what the kernel knows of a task",
    ),
    ("MEM_SOFT_DIRTY", "tracks the writes of another task"),
    ("USELIB", "old, and used by nobody"),
    ("KSM", "pages shared between tasks tell their contents"),
    ("FAULT_INJECTION", "failures on request"),
    ("NOTIFIER_ERROR_INJECTION", "failures on request"),
    ("LATENCYTOP", "tells tasks about each other"),
    ("LIVEPATCH", "code added to the kernel"),
    ("KGDB", "a debugger in the kernel"),
    ("STAGING", "unfinished drivers"),
    ("BLK_DEV_UBLK", "a disk made of io_uring"),
    ("BLK_DEV_FD", "there is no such device"),
    ("IP_DCCP", "rare protocols have rare readers"),
    ("IP_SCTP", "rare protocols have rare readers"),
    ("TIPC", "rare protocols have rare readers"),
    ("MPTCP", "rare protocols have rare readers"),
    ("TLS", "protocols of records in the kernel"),
    ("N_GSM", "rare line disciplines"),
    ("PROC_MEM_ALWAYS_FORCE", "goes around page protection"),
    ("COMPAT_BRK", "heap at a fixed address"),
    ("VT", "there is no screen"),
    ("USB_SUPPORT", "there is no such device"),
    ("DRM", "there is no such device"),
    ("SOUND", "there is no such device"),
];

/// What a hardening checker asks and we do not do, and why. The other value
/// is checked, so that an entry that is no longer true fails.
const EXCEPTIONS: &[(&str, bool, &str)] = &[
    (
        "RANDOMIZE_BASE",
        false,
        "an uncompressed kernel entered by PVH cannot move itself",
    ),
    (
        "KALLSYMS",
        true,
        "a kernel that fails must say where; addresses are root's",
    ),
    (
        "BINFMT_MISC",
        true,
        "emulated programs of other architectures in containers",
    ),
    (
        "IO_URING",
        true,
        "databases and runtimes inside use it; the wall is the VM",
    ),
    ("KEYS", true, "containers and TLS tools use it"),
    ("COREDUMP", true, "developers debug inside"),
    (
        "SLAB_MERGE_DEFAULT",
        true,
        "memory of an idle guest; free lists are hardened",
    ),
    (
        "INIT_ON_FREE_DEFAULT_ON",
        false,
        "memory is cleared when it is handed out",
    ),
    (
        "USER_NS",
        true,
        "the agent's own sandbox, and rootless containers inside",
    ),
    (
        "BPF_SYSCALL",
        true,
        "rules for devices of containers inside; root inside only",
    ),
    ("AIO", true, "databases inside use it"),
    ("RSEQ", true, "the C library registers every thread"),
    (
        "KCMP",
        true,
        "graphics and checkpointing tools compare files",
    ),
    ("INET_DIAG", true, "`ss` asks by it"),
    (
        "PROC_PAGE_MONITOR",
        true,
        "profilers read how much memory a task has",
    ),
    (
        "BLK_DEV_WRITE_MOUNTED",
        true,
        "a mounted file system can be grown and tuned",
    ),
    (
        "DEBUG_LIST",
        false,
        "what LIST_HARDENED checks is what stops an attack",
    ),
    (
        "DEBUG_VIRTUAL",
        false,
        "a check per address, for developers",
    ),
    ("DEBUG_SG", false, "a check per request, for developers"),
    (
        "DEBUG_NOTIFIERS",
        false,
        "no module brings a notifier of its own",
    ),
    (
        "DEBUG_WX",
        false,
        "the same kernel would be looked through at every boot",
    ),
    (
        "PAGE_TABLE_CHECK",
        false,
        "a record per page, and a check per change of one",
    ),
    (
        "KFENCE",
        false,
        "2 MB of an idle guest, to find bugs by chance",
    ),
    (
        "GCC_PLUGINS",
        false,
        "headers of the very compiler: no latent entropy, stack erasure or shuffled structures",
    ),
    (
        "IOMMU_SUPPORT",
        false,
        "no device of the machine reads memory by itself",
    ),
    ("HW_RANDOM_TPM", false, "the machine has no such device"),
    ("SCHED_CORE", false, "siblings of a core are the host's"),
    ("WERROR", false, "a newer compiler must be able to build it"),
    (
        "SECURITY_LOCKDOWN_LSM",
        false,
        "no modules, no kexec, no /dev/mem to lock down",
    ),
];

type Options = BTreeMap<String, String>;

fn parse(text: &str) -> Options {
    let mut options = Options::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("# CONFIG_") {
            if let Some(name) = name.strip_suffix(" is not set") {
                options.insert(name.to_owned(), "n".to_owned());
            }
        } else if let Some((name, value)) = line.split_once('=')
            && let Some(name) = name.strip_prefix("CONFIG_")
        {
            options.insert(name.to_owned(), value.to_owned());
        }
    }
    options
}

fn is_on(options: &Options, name: &str) -> bool {
    options.get(name).is_some_and(|value| value != "n")
}

/// What contradicts the tables; with `complete`, an absent option is off.
fn faults(options: &Options, complete: bool) -> Vec<String> {
    let mut faults = Vec::new();
    let mut expect = |name: &str, on: bool, why: &str| {
        let known = complete || options.contains_key(name);
        if known && is_on(options, name) != on {
            let state = if on { "off" } else { "on" };
            faults.push(format!("CONFIG_{name} is {state}: {why}"));
        }
    };
    for (name, why) in WORK.iter().chain(HARD) {
        expect(name, true, why);
    }
    for (name, why) in OFF {
        expect(name, false, why);
    }
    for (name, on, why) in EXCEPTIONS {
        expect(name, *on, why);
    }
    for (name, wanted, why) in VALUES {
        let found = options.get(*name).map_or("absent", String::as_str);
        if (complete || found != "absent") && found != *wanted {
            faults.push(format!("CONFIG_{name} is {found}, not {wanted}: {why}"));
        }
    }
    faults
}

/// The configuration of the newest kernel built with today's options.
fn built_config() -> Option<PathBuf> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test has no caller that could tell it"
    )]
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    if let Some(path) = var("SBX_KERNEL_CONFIG") {
        return Some(path);
    }
    let cache = var("SBX_CACHE_DIR")
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("sbx")))
        .or_else(|| var("HOME").map(|dir| dir.join(".cache/sbx")))?;
    let cache = cache
        .is_dir()
        .then(|| sbx_images::Cache::open(&cache).ok())??;
    let host = sbx_images::Host::new("/nonexistent/bin".into(), None, []);
    let kernel = sbx_images::present_kernel(&cache, &host).ok()??;
    Some(kernel.config).filter(|path: &PathBuf| Path::exists(path))
}

#[test]
fn the_list_of_options_says_what_must_be() {
    let options = parse(sbx_images::KERNEL_CONFIG);
    let faults = faults(&options, false);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    let stated = |name: &&str| options.contains_key(*name);
    let values = VALUES.iter().map(|(name, ..)| *name);
    let unstated: Vec<_> = HARD
        .iter()
        .map(|(name, _)| *name)
        .chain(values)
        .filter(|n| !stated(n))
        .collect();
    assert!(
        unstated.is_empty(),
        "left to the source's defaults: {unstated:?}"
    );
}

#[test]
fn a_built_kernel_has_what_must_be() {
    let Some(path) = built_config() else {
        eprintln!("skipped: no kernel built with today's options");
        return;
    };
    let options = parse(&std::fs::read_to_string(&path).unwrap());
    let faults = faults(&options, true);
    assert!(
        faults.is_empty(),
        "{}:\n{}",
        path.display(),
        faults.join("\n")
    );
}

#[test]
fn a_door_left_open_is_found() {
    let mut options = parse(sbx_images::KERNEL_CONFIG);
    options.insert("DEVMEM".to_owned(), "y".to_owned());
    options.insert("DEFAULT_MMAP_MIN_ADDR".to_owned(), "0".to_owned());
    options.remove("STACKPROTECTOR_STRONG");
    let faults = faults(&options, true);
    assert!(faults.iter().any(|fault| fault.contains("DEVMEM is on")));
    assert!(
        faults
            .iter()
            .any(|fault| fault.contains("STACKPROTECTOR_STRONG is off"))
    );
    assert!(
        faults
            .iter()
            .any(|fault| fault.contains("MIN_ADDR is 0, not 65536"))
    );
}
