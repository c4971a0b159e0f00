//! From a spec and the facts of this host to the exact steps.
//!
//! Pure: nothing here touches the host, so the same spec and facts always
//! make the same plan, and `sbx plan` prints what `run` will do.

use std::path::PathBuf;

use sbx_spec::{
    Accel, Access, ByteSize, EnvVar, GuestPath, KitName, NetworkPreset, SandboxName, SandboxSpec,
    ShareRole, TmpfsMount, VolumeMount,
};
use serde::{Deserialize, Serialize};

use crate::command::{Code, Error};
use crate::facts::{HostFacts, Virtualisation};

/// Uid and gid of the agent where the caller is root.
const AGENT_OF_ROOT: (u32, u32) = (1000, 1000);

/// Uid and gid of machine monitor and network engine where the caller is
/// root: above what distributions and user namespaces hand out, so that it
/// is nobody else's.
const SERVICE_OF_ROOT: (u32, u32) = (2_013_265_920, 2_013_265_920);

/// Least memory a guest boots and runs an agent's tools with.
const LEAST_MEMORY: ByteSize = ByteSize::mib(128);

/// Most shares of one sandbox: each takes one of the machine's 24 device
/// slots, of which eight are for the rest.
pub const MAX_SHARES: usize = 16;

/// What starting one sandbox takes on this host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The sandbox.
    pub name: SandboxName,
    /// The machine.
    pub machine: Machine,
    /// Its file servers.
    pub shares: Vec<SharePlan>,
    /// Its network engine, if it has a network.
    pub network: Option<NetworkPlan>,
    /// What the guest is told once it is up.
    pub guest: GuestPlan,
    /// Whom our processes run as.
    pub identity: Identity,
    /// What the user is warned of, a line each.
    pub warnings: Vec<String>,
}

/// A virtual machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// The monitor.
    pub program: PathBuf,
    /// What executes instructions.
    pub accelerator: Accelerator,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory.
    pub memory: ByteSize,
    /// The host's time stamp counter, in kHz, where emulation needs to be
    /// told.
    pub tsc_khz: Option<u64>,
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The initial file system, which holds our PID 1.
    pub initrd: PathBuf,
    /// Its disks.
    pub disks: Vec<Disk>,
}

/// What executes the guest's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

/// A block device.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Disk {
    /// Its serial, by which the guest knows it.
    pub serial: String,
    /// The file behind it.
    pub path: PathBuf,
    /// Whether the guest may write.
    pub writable: bool,
}

/// A file server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SharePlan {
    /// Its tag, `s0` and on.
    pub tag: String,
    /// What it serves.
    pub host: PathBuf,
    /// Where the guest sees it.
    pub guest: GuestPath,
    /// Whether the guest may write.
    pub access: Access,
    /// Why it is there.
    pub role: ShareRole,
}

/// A network engine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// The set of rules.
    pub preset: NetworkPreset,
    /// Open ports of the host's loopback.
    pub localhost_ports: Vec<u16>,
}

/// What the guest is told.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GuestPlan {
    /// Time zone, as a name.
    pub timezone: Option<String>,
    /// Kits, each on the disk `kit-<name>`.
    pub kits: Vec<KitName>,
    /// Directories on its own disk.
    pub volumes: Vec<VolumeMount>,
    /// Directories in memory.
    pub tmpfs: Vec<TmpfsMount>,
    /// Variables of every session.
    pub env: Vec<EnvVar>,
    /// Where sessions start.
    pub workdir: GuestPath,
    /// Most processes.
    pub pids: u32,
    /// Root certificates this host trusts beyond its distribution's, PEM.
    pub trust_pem: String,
    /// The user's name and address as git's system-wide configuration.
    pub git_config: Option<String>,
}

/// Who is who on both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// Uid and gid of the agent inside.
    pub agent: (u32, u32),
    /// Uid and gid of machine monitor and network engine; `None`: as the
    /// caller.
    pub service: Option<(u32, u32)>,
    /// Uid and gid of the file servers; `None`: as the caller.
    pub share: Option<(u32, u32)>,
}

/// The files a machine is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Artifacts {
    /// The guest kernel.
    pub kernel: PathBuf,
    /// The initial file system.
    pub initrd: PathBuf,
    /// The base template.
    pub base: PathBuf,
    /// The kit's image, if it has one.
    pub kit: Option<PathBuf>,
    /// The sandbox's own disk.
    pub scratch: PathBuf,
}

/// Makes the plan.
///
/// # Errors
/// If this host cannot give what the spec asks: no monitor, no usable KVM
/// where KVM was asked for, a KVM that is there and not permitted, a
/// fraction of a processor, too little memory, too many shares.
pub fn plan(spec: &SandboxSpec, facts: &HostFacts, files: &Artifacts) -> Result<Plan, Error> {
    let mut warnings = Vec::new();
    let program = facts.qemu.clone().ok_or_else(|| {
        Error::new(
            Code::HostUnfit,
            "cannot run a virtual machine: no `qemu-system-x86_64` here",
        )
        .hint("install it: apt-get install qemu-system-x86")
    })?;
    let accelerator = accelerator(spec.accel, &facts.virtualisation, &mut warnings)?;
    check_limits(spec, facts)?;
    let mut disks = vec![
        Disk {
            serial: "base".to_owned(),
            path: files.base.clone(),
            writable: false,
        },
        Disk {
            serial: "scratch".to_owned(),
            path: files.scratch.clone(),
            writable: true,
        },
    ];
    let mut kits = Vec::new();
    if let Some(path) = &files.kit {
        let serial = format!("kit-{}", spec.kit);
        disks.push(Disk {
            serial,
            path: path.clone(),
            writable: false,
        });
        kits.push(spec.kit.clone());
    }
    let shares = spec
        .shares
        .iter()
        .enumerate()
        .map(|(number, share)| SharePlan {
            tag: format!("s{number}"),
            host: share.host.clone(),
            guest: share.guest.clone(),
            access: share.access,
            role: share.role,
        });
    let network = match spec.network.preset {
        NetworkPreset::None => None,
        preset => Some(NetworkPlan {
            preset,
            localhost_ports: spec.network.localhost_ports.clone(),
        }),
    };
    Ok(Plan {
        name: spec.name.clone(),
        machine: Machine {
            program,
            accelerator,
            cpus: spec.limits.cpus.count(),
            memory: spec.limits.memory,
            tsc_khz: facts.tsc_khz,
            kernel: files.kernel.clone(),
            initrd: files.initrd.clone(),
            disks,
        },
        shares: shares.collect(),
        network,
        guest: GuestPlan {
            timezone: facts.timezone.clone(),
            kits,
            volumes: spec.volumes.clone(),
            tmpfs: spec.tmpfs.clone(),
            env: guest_env(spec, facts),
            workdir: spec.workdir.clone(),
            pids: spec.limits.pids,
            trust_pem: facts.extra_roots.clone(),
            git_config: facts.git_config.clone(),
        },
        identity: identity(facts),
        warnings,
    })
}

fn accelerator(
    asked: Accel,
    found: &Virtualisation,
    warnings: &mut Vec<String>,
) -> Result<Accelerator, Error> {
    match (asked, found) {
        (Accel::Tcg, _) => Ok(Accelerator::Tcg),
        (Accel::Auto | Accel::Kvm, Virtualisation::Usable) => Ok(Accelerator::Kvm),
        (Accel::Auto | Accel::Kvm, Virtualisation::NotPermitted { reason, cure }) => Err(
            Error::new(Code::KvmDenied, format!("cannot use KVM: {reason}")).hint(format!(
                "{cure}; or pass --accel tcg to run emulated, at a tenth of the speed or less"
            )),
        ),
        (Accel::Kvm, Virtualisation::Unusable { reason }) => Err(Error::new(
            Code::HostUnfit,
            format!("cannot use KVM: {reason}"),
        )
        .hint("pass --accel tcg to run emulated")),
        (Accel::Auto, Virtualisation::Unusable { reason }) => {
            warnings.push(format!(
                "no usable KVM ({reason}): the machine is emulated, about 20 times slower; \
                 the boundary is the same, but QEMU's authors do not recommend emulation \
                 against hostile guests"
            ));
            Ok(Accelerator::Tcg)
        }
    }
}

fn check_limits(spec: &SandboxSpec, facts: &HostFacts) -> Result<(), Error> {
    let limit = |text: String| Err(Error::new(Code::Limit, text));
    if spec.limits.memory < LEAST_MEMORY {
        return limit(format!(
            "a microVM takes at least {LEAST_MEMORY} of memory, not {}",
            spec.limits.memory
        ));
    }
    if spec.limits.memory > facts.memory {
        return limit(format!(
            "this host has {} of memory, not {}",
            facts.memory, spec.limits.memory
        ));
    }
    if spec.limits.cpus.is_fraction() {
        return Err(Error::new(
            Code::Limit,
            format!(
                "no control group can hold {} processors here",
                spec.limits.cpus
            ),
        )
        .hint("give a whole number of processors"));
    }
    if spec.limits.cpus.count() > facts.cpus {
        return limit(format!(
            "this host has {} processors, not {}",
            facts.cpus, spec.limits.cpus
        ));
    }
    if spec.shares.len() > MAX_SHARES {
        return Err(Error::new(
            Code::Mount,
            format!("a sandbox takes at most {MAX_SHARES} workspaces and mounts together"),
        ));
    }
    Ok(())
}

fn guest_env(spec: &SandboxSpec, facts: &HostFacts) -> Vec<EnvVar> {
    let mut env = vec![EnvVar {
        name: "SANDBOX_NAME".to_owned(),
        value: spec.name.to_string(),
    }];
    if !facts.extra_roots.is_empty() {
        // These read a bundle of their own unless they are told otherwise.
        for name in [
            "NODE_EXTRA_CA_CERTS",
            "REQUESTS_CA_BUNDLE",
            "PIP_CERT",
            "SSL_CERT_FILE",
        ] {
            env.push(EnvVar {
                name: name.to_owned(),
                value: "/etc/ssl/certs/ca-certificates.crt".to_owned(),
            });
        }
    }
    env.extend(spec.env.iter().cloned());
    env
}

fn identity(facts: &HostFacts) -> Identity {
    if facts.uid == 0 {
        Identity {
            agent: AGENT_OF_ROOT,
            service: Some(SERVICE_OF_ROOT),
            share: Some(AGENT_OF_ROOT),
        }
    } else {
        Identity {
            agent: (facts.uid, facts.gid),
            service: None,
            share: None,
        }
    }
}
