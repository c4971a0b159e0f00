//! From a spec and the facts of this host to the exact steps.
//!
//! Pure: nothing here touches the host, so the same spec and facts always
//! make the same plan, and `sbx plan` prints what `run` will do.

use std::path::PathBuf;

use sbx_net::Proxies;
use sbx_spec::{
    Accel, Access, ByteSize, EnvVar, GuestPath, Isolation, KitName, NetworkPreset, Rule,
    SandboxName, SandboxSpec, ShareRole, TmpfsMount, VolumeMount, WorkspaceGuard,
};
use serde::{Deserialize, Serialize};

use crate::command::{Code, Error};
use crate::facts::{HostFacts, Virtualisation};

mod ceiling;
mod container;
pub(crate) mod docker;

pub use ceiling::{Ceiling, HEADROOM, MAX_TASKS, OWN_MEMORY, OWN_TASKS};
pub(crate) use container::guarded;
pub use container::{Container, ContainerFiles, KitProgram};
pub use docker::{Docker, DockerEngine, DockerFiles};

/// Uid and gid of the agent where the caller is root.
const AGENT_OF_ROOT: (u32, u32) = (1000, 1000);

/// Uid and gid of machine monitor and network engine where the caller is
/// root: above what distributions and user namespaces hand out, so that it
/// is nobody else's.
const SERVICE_OF_ROOT: (u32, u32) = (2_013_265_920, 2_013_265_920);

/// The way around a machine: by choice of the user alone.
const CONTAINER_INSTEAD: &str = "to run at full speed behind a weaker boundary, on this host's own \
     kernel: `--isolation container`, or `isolation = \"container\"` in config.toml";

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
    /// What it is kept in.
    pub boundary: Boundary,
    /// Its file servers.
    pub shares: Vec<SharePlan>,
    /// Its network engine, if it has a network.
    pub network: Option<NetworkPlan>,
    /// What the guest is told once it is up.
    pub guest: GuestPlan,
    /// Whom our processes run as.
    pub identity: Identity,
    /// What all our processes of it may take together, where the host has a
    /// control group for them.
    pub ceiling: Ceiling,
    /// What the user is warned of, a line each.
    pub warnings: Vec<String>,
}

/// What keeps a sandbox in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Boundary {
    /// A virtual machine.
    MicroVm(Machine),
    /// Namespaces and filters on the host's own kernel.
    Container(Container),
    /// Containers of the user's own engine.
    Docker(Docker),
}

impl Boundary {
    /// Whether file servers stand between it and what of the host it sees.
    #[must_use]
    pub fn is_served(&self) -> bool {
        match self {
            Self::MicroVm(_) => true,
            Self::Container(container) => container.guard == WorkspaceGuard::Full,
            // The engine mounts it.
            Self::Docker(_) => false,
        }
    }

    /// What executes the instructions of a virtual machine.
    #[must_use]
    pub fn accelerator(&self) -> Option<Accelerator> {
        match self {
            Self::MicroVm(machine) => Some(machine.accelerator),
            Self::Container(_) | Self::Docker(_) => None,
        }
    }
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
    /// What the rules started from.
    pub preset: NetworkPreset,
    /// The rules of every layer.
    pub rules: Vec<Rule>,
    /// The trust store that the caller named in place of the host's.
    #[serde(default)]
    pub trust: Option<PathBuf>,
    /// The proxies that stand between this host and the network.
    #[serde(default)]
    pub proxies: Proxies,
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

/// What a sandbox is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Artifacts {
    /// The files of a machine.
    MicroVm(MachineFiles),
    /// The directories of a container.
    Container(ContainerFiles),
    /// The images of an engine's containers.
    Docker(Box<DockerFiles>),
}

/// The files a machine is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MachineFiles {
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
pub fn plan(
    spec: &SandboxSpec,
    facts: &HostFacts,
    files: &Artifacts,
    network: Option<NetworkPlan>,
) -> Result<Plan, Error> {
    let mut warnings = Vec::new();
    let network = network.map(|network| NetworkPlan {
        trust: facts.trust_file.clone(),
        proxies: facts.proxies.clone(),
        ..network
    });
    if let Some(network) = &network {
        network.proxies.check().map_err(|error| {
            Error::new(Code::HostUnfit, "cannot use the proxy of this host")
                .because(error)
                .hint("correct HTTPS_PROXY, HTTP_PROXY or ALL_PROXY, or unset it")
        })?;
    }
    let networked = network.is_some();
    check_limits(spec, facts)?;
    let mut identity = identity(facts);
    let mut env = Vec::new();
    let mut kits = Vec::new();
    let boundary = match files {
        Artifacts::MicroVm(files) => {
            kits.extend(files.kit.as_ref().map(|_| spec.kit.clone()));
            Boundary::MicroVm(machine(spec, facts, files, &mut warnings)?)
        }
        Artifacts::Container(files) => {
            kits.extend(files.kit.as_ref().map(|_| spec.kit.clone()));
            container::guarded(spec, &facts.fuse)?;
            warnings.extend(ceiling::warning(facts));
            warnings.extend(ceiling::disk_warning(spec));
            Boundary::Container(container::container(spec, files))
        }
        Artifacts::Docker(files) => {
            kits.extend(files.kit.as_ref().map(|_| spec.kit.clone()));
            warnings.extend(files.warnings.iter().cloned());
            identity.agent = files.agent;
            env.extend(docker::env(spec, files));
            Boundary::Docker(docker::docker(spec, files))
        }
    };
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
    Ok(Plan {
        name: spec.name.clone(),
        boundary,
        shares: shares.collect(),
        network,
        guest: GuestPlan {
            timezone: facts.timezone.clone(),
            kits,
            volumes: spec.volumes.clone(),
            tmpfs: spec.tmpfs.clone(),
            env: guest_env(env, spec, facts, networked),
            workdir: spec.workdir.clone(),
            pids: spec.limits.pids,
            trust_pem: facts.extra_roots.clone(),
            git_config: git_config(facts),
        },
        identity,
        ceiling: Ceiling::of(spec),
        warnings,
    })
}

/// The machine of a sandbox.
fn machine(
    spec: &SandboxSpec,
    facts: &HostFacts,
    files: &MachineFiles,
    warnings: &mut Vec<String>,
) -> Result<Machine, Error> {
    let program = facts.qemu.clone().ok_or_else(|| {
        Error::new(
            Code::HostUnfit,
            "cannot run a virtual machine: no `qemu-system-x86_64` here",
        )
        .hint(format!(
            "install it: apt-get install qemu-system-x86; or {CONTAINER_INSTEAD}"
        ))
    })?;
    let accelerator = accelerator(spec.accel, &facts.virtualisation, warnings)?;
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
    disks.extend(files.kit.as_ref().map(|path| Disk {
        serial: format!("kit-{}", spec.kit),
        path: path.clone(),
        writable: false,
    }));
    Ok(Machine {
        program,
        accelerator,
        cpus: spec.limits.cpus.count(),
        memory: spec.limits.memory,
        tsc_khz: facts.tsc_khz,
        kernel: files.kernel.clone(),
        initrd: files.initrd.clone(),
        disks,
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
        .hint(format!(
            "leave --accel kvm out to run emulated, about 20 times slower; or {CONTAINER_INSTEAD}"
        ))),
        (Accel::Auto, Virtualisation::Unusable { reason }) => {
            warnings.push(format!(
                "no usable KVM ({reason}): the machine is emulated, about 20 times slower; \
                 the boundary is the same, but QEMU's authors do not recommend emulation \
                 against hostile guests; {CONTAINER_INSTEAD}"
            ));
            Ok(Accelerator::Tcg)
        }
    }
}

fn check_limits(spec: &SandboxSpec, facts: &HostFacts) -> Result<(), Error> {
    let limit = |text: String| Err(Error::new(Code::Limit, text));
    if spec.limits.memory < LEAST_MEMORY {
        return limit(format!(
            "a sandbox takes at least {LEAST_MEMORY} of memory, not {}",
            spec.limits.memory
        ));
    }
    if spec.isolation == Isolation::Docker {
        // What there is of the rest is the engine's, and was asked of it.
        return check_shares(spec);
    }
    if spec.limits.memory > facts.memory {
        return limit(format!(
            "this host has {} of memory, not {}",
            facts.memory, spec.limits.memory
        ));
    }
    let held = facts.control_group.as_ref();
    Ceiling::of(spec).is_held(held.map(Vec::as_slice).map_err(String::as_str))?;
    if spec.limits.cpus.count() > facts.cpus {
        return limit(format!(
            "this host has {} processors, not {}",
            facts.cpus, spec.limits.cpus
        ));
    }
    check_shares(spec)
}

fn check_shares(spec: &SandboxSpec) -> Result<(), Error> {
    if spec.shares.len() > MAX_SHARES {
        return Err(Error::new(
            Code::Mount,
            format!("a sandbox takes at most {MAX_SHARES} workspaces and mounts together"),
        ));
    }
    Ok(())
}

/// The certificates beyond the template's, and all of them.
const EXTRA_ROOTS: &str = "/usr/local/share/ca-certificates/sbx.crt";
const ALL_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Programs that bring a bundle of their own unless they are told otherwise:
/// the first adds to its own, the others replace it.
const BUNDLES: [(&str, &str); 7] = [
    ("NODE_EXTRA_CA_CERTS", EXTRA_ROOTS),
    ("REQUESTS_CA_BUNDLE", ALL_ROOTS),
    ("PIP_CERT", ALL_ROOTS),
    ("SSL_CERT_FILE", ALL_ROOTS),
    ("CARGO_HTTP_CAINFO", ALL_ROOTS),
    ("AWS_CA_BUNDLE", ALL_ROOTS),
    ("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", ALL_ROOTS),
];

/// What sessions get, after `env`, which what follows it overrides.
fn guest_env(
    mut env: Vec<EnvVar>,
    spec: &SandboxSpec,
    facts: &HostFacts,
    networked: bool,
) -> Vec<EnvVar> {
    env.push(EnvVar {
        name: "SANDBOX_NAME".to_owned(),
        value: spec.name.to_string(),
    });
    if networked || !facts.extra_roots.is_empty() {
        env.extend(BUNDLES.map(|(name, value)| EnvVar {
            name: name.to_owned(),
            value: value.to_owned(),
        }));
    }
    env.extend(spec.env.iter().cloned());
    env
}

/// What git is told inside. Where owners are mapped, files belong to another
/// user there than the one the host's index has noted: git must not compare
/// that, or each side would find every file changed by the other.
fn git_config(facts: &HostFacts) -> Option<String> {
    let identity = facts.git_config.clone();
    if facts.uid != 0 {
        return identity;
    }
    Some(format!(
        "{}[core]\n\tcheckStat = minimal\n",
        identity.unwrap_or_default()
    ))
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

#[cfg(test)]
mod tests {
    use sbx_spec::{Cpus, Driver, Isolation, Limits, Network, Share};
    use sbx_sys::cgroup::Controller;

    use super::*;

    pub(super) fn spec() -> SandboxSpec {
        SandboxSpec {
            name: "box-1".parse().unwrap(),
            kit: "claude".parse().unwrap(),
            isolation: Isolation::MicroVm,
            image: None,
            driver: Driver::Auto,
            accel: Accel::Auto,
            limits: Limits {
                cpus: Cpus::whole(2),
                memory: ByteSize::gib(1),
                disk: ByteSize::gib(20),
                pids: 4096,
            },
            asked: Vec::new(),
            shares: vec![Share {
                host: "/home/u/app".into(),
                guest: GuestPath::new("/home/u/app").unwrap(),
                access: Access::ReadWrite,
                role: ShareRole::Workspace,
            }],
            guard: sbx_spec::WorkspaceGuard::Full,
            volumes: Vec::new(),
            tmpfs: Vec::new(),
            workdir: GuestPath::new("/home/u/app").unwrap(),
            env: Vec::new(),
            network: Network { preset: None },
        }
    }

    pub(super) fn network() -> Option<NetworkPlan> {
        Some(NetworkPlan {
            preset: NetworkPreset::Locked,
            rules: Vec::new(),
            trust: None,
            proxies: Proxies::default(),
        })
    }

    pub(super) fn facts() -> HostFacts {
        HostFacts {
            cpus: 4,
            memory: ByteSize::gib(16),
            virtualisation: Virtualisation::Usable,
            tsc_khz: Some(2_000_000),
            qemu: Some("/usr/bin/qemu-system-x86_64".into()),
            uid: 1000,
            gid: 1001,
            timezone: None,
            extra_roots: String::new(),
            trust_file: None,
            proxies: Proxies::default(),
            git_config: None,
            control_group: Err("none is delegated".to_owned()),
            fuse: Ok(()),
        }
    }

    fn files() -> Artifacts {
        Artifacts::MicroVm(MachineFiles {
            kernel: "/cache/vmlinux".into(),
            initrd: "/cache/initrd".into(),
            base: "/cache/base".into(),
            kit: Some("/cache/kit".into()),
            scratch: "/state/scratch.img".into(),
        })
    }

    fn machine_of(plan: &Plan) -> &Machine {
        match &plan.boundary {
            Boundary::MicroVm(machine) => machine,
            Boundary::Container(_) | Boundary::Docker(_) => panic!("it is a machine"),
        }
    }

    fn code(spec: &SandboxSpec, facts: &HostFacts) -> Code {
        plan(spec, facts, &files(), network()).unwrap_err().code
    }

    #[test]
    fn a_proxy_that_cannot_be_spoken_with_stops_the_start() {
        let with = |proxy: &str| {
            let mut facts = facts();
            facts.proxies.https = Some(proxy.to_owned());
            plan(&spec(), &facts, &files(), network())
        };
        assert!(with("http://proxy.example:3128").is_ok());
        let refused = with("https://me:secret@proxy.example").unwrap_err();
        assert_eq!(refused.code, Code::HostUnfit);
        assert!(!format!("{refused:?}").contains("secret"));
    }

    #[test]
    fn the_same_spec_and_facts_make_the_same_plan() {
        let first = plan(&spec(), &facts(), &files(), network()).unwrap();
        assert_eq!(plan(&spec(), &facts(), &files(), network()).unwrap(), first);
        assert_eq!(first.boundary.accelerator(), Some(Accelerator::Kvm));
        assert!(first.warnings.is_empty());
    }

    #[test]
    fn only_the_sandboxs_own_disk_is_writable() {
        let plan = plan(&spec(), &facts(), &files(), network()).unwrap();
        let disks = machine_of(&plan).disks.iter();
        let writable: Vec<_> = disks
            .filter(|disk| disk.writable)
            .map(|disk| &disk.path)
            .collect();
        assert_eq!(writable, [std::path::Path::new("/state/scratch.img")]);
    }

    #[test]
    fn an_ordinary_user_stays_who_they_are_on_both_sides() {
        let plan = plan(&spec(), &facts(), &files(), network()).unwrap();
        let same = Identity {
            agent: (1000, 1001),
            service: None,
            share: None,
        };
        assert_eq!(plan.identity, same);
    }

    #[test]
    fn where_the_caller_is_root_no_process_of_a_sandbox_is() {
        let root = HostFacts {
            uid: 0,
            gid: 0,
            ..facts()
        };
        let identity = plan(&spec(), &root, &files(), network()).unwrap().identity;
        assert_eq!(identity.agent, (1000, 1000));
        for (uid, gid) in [identity.service.unwrap(), identity.share.unwrap()] {
            assert!(uid != 0 && gid != 0);
        }
    }

    #[test]
    fn emulation_is_taken_only_where_there_is_no_kvm_and_is_said() {
        let none = Virtualisation::Unusable {
            reason: "no flag".to_owned(),
        };
        let facts = HostFacts {
            virtualisation: none,
            ..facts()
        };
        let planned = plan(&spec(), &facts, &files(), network()).unwrap();
        assert_eq!(planned.boundary.accelerator(), Some(Accelerator::Tcg));
        let [warning] = planned.warnings.as_slice() else {
            panic!("one warning: {:?}", planned.warnings);
        };
        for told in [
            "20 times",
            "--isolation container",
            "isolation = \"container\"",
        ] {
            assert!(warning.contains(told), "{told}: {warning}");
        }
        let kvm = SandboxSpec {
            accel: Accel::Kvm,
            ..spec()
        };
        assert_eq!(code(&kvm, &facts), Code::HostUnfit);
    }

    #[test]
    fn a_kvm_that_is_not_permitted_is_an_error_that_names_the_cure() {
        let denied = Virtualisation::NotPermitted {
            reason: "permission denied".to_owned(),
            cure: "join the group kvm".to_owned(),
        };
        let facts = HostFacts {
            virtualisation: denied,
            ..facts()
        };
        let error = plan(&spec(), &facts, &files(), network()).unwrap_err();
        assert_eq!(error.code, Code::KvmDenied);
        assert!(error.hint.unwrap().contains("join the group kvm"));
        let emulated = SandboxSpec {
            accel: Accel::Tcg,
            ..spec()
        };
        assert!(plan(&emulated, &facts, &files(), network()).is_ok());
    }

    #[test]
    fn what_the_host_cannot_give_is_refused() {
        let with = |limits: Limits| SandboxSpec { limits, ..spec() };
        let limits = spec().limits;
        for limits in [
            Limits {
                memory: ByteSize::mib(64),
                ..limits
            },
            Limits {
                memory: ByteSize::gib(17),
                ..limits
            },
            Limits {
                cpus: Cpus::whole(5),
                ..limits
            },
            Limits {
                cpus: "0.5".parse().unwrap(),
                ..limits
            },
        ] {
            assert_eq!(code(&with(limits), &facts()), Code::Limit);
        }
        let half = SandboxSpec {
            limits: Limits {
                cpus: "0.5".parse().unwrap(),
                ..limits
            },
            ..spec()
        };
        let held = HostFacts {
            control_group: Ok(vec![Controller::Cpu]),
            ..facts()
        };
        let planned = plan(&half, &held, &files(), network()).unwrap();
        assert_eq!(planned.ceiling.cpu_millis, Some(500));
        assert_eq!(machine_of(&planned).cpus, 1);
        let unheld = HostFacts {
            control_group: Ok(vec![Controller::Memory, Controller::Pids]),
            ..facts()
        };
        assert_eq!(code(&half, &unheld), Code::Limit);
        let bare = HostFacts {
            qemu: None,
            ..facts()
        };
        assert_eq!(code(&spec(), &bare), Code::HostUnfit);
    }

    #[test]
    fn without_a_network_there_is_no_engine_and_no_device() {
        let plan = plan(&spec(), &facts(), &files(), None).unwrap();
        assert!(plan.network.is_none());
        let fds = crate::microvm::qemu::Descriptors::number(3, false, 1);
        let line = crate::microvm::qemu::arguments(machine_of(&plan), &fds, &["s0".to_owned()]);
        assert!(!line.iter().any(|word| word.contains("virtio-net")));
    }
}
