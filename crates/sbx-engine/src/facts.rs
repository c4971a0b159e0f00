//! What plans rest on: read from this host once for each command.

use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use sbx_net::Proxies;
use sbx_spec::{ByteSize, Isolation};
use sbx_sys::cgroup::Controller;
use sbx_sys::kvm::KvmState;

use crate::command::Caller;

/// Largest bundle of extra root certificates, in bytes.
const MAX_ROOTS: usize = 512 * 1024;

/// Where distributions keep the root certificates an administrator added.
const ROOT_DIRECTORIES: [&str; 2] = [
    "/usr/local/share/ca-certificates",
    "/etc/pki/ca-trust/source/anchors",
];

/// Where the host's kernel asks a file server.
pub(crate) const FUSE: &str = "/dev/fuse";

/// Facts of this host and its user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostFacts {
    /// Processors this process may use.
    pub cpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// Whether KVM can be used.
    pub virtualisation: Virtualisation,
    /// Time stamp counter, in kHz.
    pub tsc_khz: Option<u64>,
    /// The machine monitor.
    pub qemu: Option<PathBuf>,
    /// The caller.
    pub uid: u32,
    /// The caller's group.
    pub gid: u32,
    /// Time zone, as a name.
    pub timezone: Option<String>,
    /// Root certificates this host trusts beyond its distribution's, PEM.
    pub extra_roots: String,
    /// The trust store that the caller named in place of the host's, with
    /// `SSL_CERT_FILE`.
    pub trust_file: Option<PathBuf>,
    /// The proxies that the caller's programs use.
    pub proxies: Proxies,
    /// The user's name and address as git's system-wide configuration.
    pub git_config: Option<String>,
    /// What a control group of the host can limit here, or why there can be
    /// none.
    pub control_group: Result<Vec<Controller>, String>,
    /// Whether file servers can serve containers here, or why they cannot.
    pub fuse: Result<(), String>,
}

/// Whether KVM can be used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Virtualisation {
    /// A guest ran and was fast.
    Usable,
    /// It is there and this user may not open it.
    NotPermitted {
        /// What was found.
        reason: String,
        /// What to do.
        cure: String,
    },
    /// There is none, or none that runs ordinary guests.
    Unusable {
        /// What was found.
        reason: String,
    },
}

impl std::fmt::Display for Virtualisation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Usable => f.write_str("usable"),
            Self::NotPermitted { reason, .. } => write!(f, "not permitted: {reason}"),
            Self::Unusable { reason } => write!(f, "not usable: {reason}"),
        }
    }
}

impl HostFacts {
    /// Reads them for a sandbox of this isolation. Takes a few milliseconds,
    /// and up to 100 where a KVM has to be tried for a machine.
    #[must_use]
    pub fn gather_for(caller: &Caller, isolation: Isolation) -> Self {
        match isolation {
            Isolation::MicroVm => Self::gather(caller),
            Isolation::Container | Isolation::Docker => {
                let reason = "it was not tried, since no machine is to run".to_owned();
                Self::read(caller, Virtualisation::Unusable { reason }, None)
            }
        }
    }

    /// Reads all of them.
    #[must_use]
    pub fn gather(caller: &Caller) -> Self {
        // Measured, so to a precision at which two looks agree; what is left
        // is less than the guest's clock is corrected by.
        let tsc_khz = sbx_sys::kvm::tsc_khz().map(|khz| (khz + 500) / 1000 * 1000);
        Self::read(caller, virtualisation(), tsc_khz)
    }

    fn read(caller: &Caller, virtualisation: Virtualisation, tsc_khz: Option<u64>) -> Self {
        Self {
            cpus: processors(),
            memory: memory(),
            virtualisation,
            tsc_khz,
            qemu: program("qemu-system-x86_64"),
            uid: caller.uid,
            gid: caller.gid,
            timezone: caller.timezone.clone(),
            extra_roots: extra_roots(),
            trust_file: trust_file(caller),
            proxies: proxies(caller),
            git_config: caller
                .git
                .answer()
                .and_then(crate::command::GitIdentity::to_config),
            control_group: control_group(),
            fuse: fuse(),
        }
    }
}

fn trust_file(caller: &Caller) -> Option<PathBuf> {
    let named = |(name, _): &&(String, String)| name == "SSL_CERT_FILE";
    let (_, value) = caller.archives.iter().find(named)?;
    (!value.is_empty()).then(|| caller.cwd.join(value))
}

/// The proxies that the caller's programs use.
pub(crate) fn proxies(caller: &Caller) -> Proxies {
    // As curl has it, the form in small letters counts first.
    let value = |small: &str| {
        [small.to_owned(), small.to_uppercase()]
            .iter()
            .find_map(|name| caller.archives.iter().find(|(found, _)| found == name))
            .map(|(_, value)| value.trim().to_owned())
            .filter(|value| !value.is_empty())
    };
    Proxies {
        http: value("http_proxy"),
        https: value("https_proxy"),
        all: value("all_proxy"),
        exceptions: value("no_proxy"),
    }
}

/// A program of the distribution: never from the caller's PATH, which a
/// project's settings may have changed.
#[must_use]
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/sbin", "/bin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.is_file())
}

fn virtualisation() -> Virtualisation {
    match sbx_sys::kvm::probe() {
        KvmState::Usable => Virtualisation::Usable,
        KvmState::NotPermitted { reason, cure } => Virtualisation::NotPermitted { reason, cure },
        KvmState::Absent { reason } | KvmState::Unusable { reason, .. } => {
            Virtualisation::Unusable { reason }
        }
    }
}

/// What a control group made here could limit, or why there is none.
pub(crate) fn control_group() -> Result<Vec<Controller>, String> {
    crate::group::controllers()
}

/// Whether this user may open what file servers serve containers through.
pub(crate) fn fuse() -> Result<(), String> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(FUSE, flags, Mode::empty())
        .map(drop)
        .map_err(|error| format!("cannot open `{FUSE}`: {error}"))
}

/// Processors this process may use.
pub(crate) fn processors() -> u32 {
    std::thread::available_parallelism()
        .map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX))
}

/// Memory of this host.
pub(crate) fn memory() -> ByteSize {
    let info = rustix::system::sysinfo();
    ByteSize::bytes(info.totalram.saturating_mul(u64::from(info.mem_unit)))
}

fn extra_roots() -> String {
    let mut bundle = String::new();
    for directory in ROOT_DIRECTORIES {
        let Ok(entries) = std::fs::read_dir(directory) else {
            continue;
        };
        let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        files.sort();
        for file in files {
            let Ok(text) = sbx_sys::file::read_bounded(&file, MAX_ROOTS) else {
                continue;
            };
            let Ok(text) = String::from_utf8(text) else {
                continue;
            };
            if text.contains("-----BEGIN CERTIFICATE-----") && bundle.len() + text.len() < MAX_ROOTS
            {
                bundle.push_str(text.trim_end());
                bundle.push('\n');
            }
        }
    }
    bundle
}
