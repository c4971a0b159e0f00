//! What a sandbox is, with every layer resolved.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Cpus, GuestPath, KitName, SandboxName};

/// Everything that counts when a sandbox is created. It is written down
/// once and compared when a later `run` names other values.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Its name, unique in the state directory.
    pub name: SandboxName,
    /// The agent's kit.
    pub kit: KitName,
    /// What the boundary is made of.
    pub isolation: Isolation,
    /// What runs the virtual machine.
    pub driver: Driver,
    /// What executes its instructions.
    pub accel: Accel,
    /// What a container of an engine is made of; `None` for any other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<EngineImage>,
    /// Upper bounds.
    pub limits: Limits,
    /// Those of them that the user gave. What is not written down counts as
    /// given, so that nothing is taken for held that is not.
    #[serde(default = "every_limit")]
    pub asked: Vec<Limit>,
    /// Host directories and files served to the guest, the workspace first.
    pub shares: Vec<Share>,
    /// What stands between them and the guest.
    #[serde(default)]
    pub guard: WorkspaceGuard,
    /// Directories that live on the sandbox's own disk.
    pub volumes: Vec<VolumeMount>,
    /// Directories that live in the sandbox's memory.
    pub tmpfs: Vec<TmpfsMount>,
    /// Where sessions start unless they say otherwise.
    pub workdir: GuestPath,
    /// Variables every session gets.
    pub env: Vec<EnvVar>,
    /// What may be reached.
    pub network: Network,
}

fn every_limit() -> Vec<Limit> {
    vec![Limit::Cpus, Limit::Memory, Limit::Pids]
}

/// An upper bound that somebody can give.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Processors.
    Cpus,
    /// Memory.
    Memory,
    /// Processes and threads.
    Pids,
    /// The private layer.
    Disk,
}

/// The boundary between a sandbox and the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// A virtual machine with its own kernel.
    MicroVm,
    /// Namespaces and filters on the host's own kernel.
    Container,
    /// A container of the user's own Docker or Podman.
    Docker,
}

/// An image of an engine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EngineImage {
    /// Its name, as the engine reads it; `None` for our own template.
    pub reference: Option<String>,
    /// When it is fetched.
    pub pull: Pull,
}

/// When an image is fetched from its registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pull {
    /// When the engine does not have it.
    Missing,
    /// When the sandbox is made, whether it is there or not.
    Always,
    /// Not at all.
    Never,
}

impl Isolation {
    /// All of them, the strongest first.
    pub const ALL: &[Self] = &[Self::MicroVm, Self::Container, Self::Docker];
}

/// The program that runs a virtual machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// The best one that this host can run.
    Auto,
    /// `qemu-system-x86_64 -M microvm`.
    Qemu,
}

/// What executes a virtual machine's instructions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// KVM where it is usable, emulation only where there is no KVM at all.
    Auto,
    /// Hardware virtualisation, or an error.
    Kvm,
    /// Emulation.
    Tcg,
}

/// Upper bounds of a sandbox.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Processors.
    pub cpus: Cpus,
    /// Memory of the guest.
    pub memory: ByteSize,
    /// The private writable layer.
    pub disk: ByteSize,
    /// Processes and threads inside.
    pub pids: u32,
}

/// A host directory or file that the guest sees.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Share {
    /// Where it is on the host: absolute, links resolved.
    pub host: PathBuf,
    /// Where the guest sees it.
    pub guest: GuestPath,
    /// Whether the guest may write.
    pub access: Access,
    /// Why it is there.
    pub role: ShareRole,
}

/// Whether a guest may write to a share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Reads only.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// What stands between the host's files and a guest that changes them.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkspaceGuard {
    /// A file server that holds every name the host would execute or obey,
    /// whether it is there or not.
    #[default]
    Full,
    /// Of a container alone: the files themselves, of which those that the
    /// host would execute or obey and that exist at its start are read-only.
    Existing,
}

/// Why a share is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShareRole {
    /// The project the agent works on: the guard is in front of it.
    Workspace,
    /// A mount the user asked for: the guard is in front of it too.
    Mount,
    /// The common directory of a linked git work tree.
    GitCommon,
}

/// A directory on the sandbox's own disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct VolumeMount {
    /// Its name within the sandbox.
    pub name: String,
    /// Where the guest sees it.
    pub guest: GuestPath,
}

/// A directory in the sandbox's memory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TmpfsMount {
    /// Where the guest sees it.
    pub guest: GuestPath,
    /// Its upper bound, if the user gave one.
    pub size: Option<ByteSize>,
}

/// A variable of a session's environment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EnvVar {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What a sandbox may reach.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Network {
    /// The rules to start from; `None` for those of the user's policy,
    /// whatever they are when it runs. Its own rules are in its own policy.
    pub preset: Option<NetworkPreset>,
}

/// A named set of network rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkPreset {
    /// Everything but the default denials.
    Open,
    /// What programming commonly needs: package ecosystems, code hosts,
    /// documentation.
    Balanced,
    /// What rules allow, and nothing else.
    Locked,
    /// Nothing; there is no network device.
    None,
}
