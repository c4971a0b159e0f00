//! What was typed, as values: every field that a layer below may fill is an
//! `Option`. [`crate::resolve`] turns it into a [`crate::SandboxSpec`].
//!
//! Never: the file system. Whoever makes a [`HostPath`] has already looked
//! at the path on the host and followed its links.

use std::path::{Path, PathBuf};

use crate::{
    Accel, Access, ByteSize, Cpus, Driver, EnvVar, GuestPath, Isolation, NetworkPreset,
    Publication, Pull, Rule, SandboxName, WorkspaceGuard,
};

/// What a sandbox should be like, as far as the user said so.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct SandboxRequest {
    /// `--name`.
    pub name: Option<SandboxName>,
    /// `--isolation`.
    pub isolation: Option<Isolation>,
    /// `--driver`.
    pub driver: Option<Driver>,
    /// `--accel`.
    pub accel: Option<Accel>,
    /// `--template`, `--image`: of an engine.
    pub image: Option<String>,
    /// `--pull`.
    pub pull: Option<Pull>,
    /// `--cpus`.
    pub cpus: Option<Cpus>,
    /// `--memory`.
    pub memory: Option<ByteSize>,
    /// `--disk`.
    pub disk: Option<ByteSize>,
    /// `--pids-limit`.
    pub pids: Option<u32>,
    /// The positional paths, or what stands for them.
    pub workspace: WorkspaceRequest,
    /// `--workspace-mode`: whether the workspaces may be written to where
    /// the path itself does not say `:ro`.
    pub workspace_access: Option<Access>,
    /// `--workspace-guard`.
    pub guard: Option<WorkspaceGuard>,
    /// `--mount` and `--volume`, in the order they were typed.
    pub mounts: Vec<MountRequest>,
    /// `--allow-sensitive-mount`: paths that may be mounted although they
    /// hold keys or would give the host away, absolute and as typed and with
    /// links resolved.
    pub allow_sensitive: Vec<PathBuf>,
    /// `--workdir`: where sessions start.
    pub workdir: Option<GuestPath>,
    /// `--env` and `--env-file`, the later one of two with one name wins.
    pub env: Vec<EnvVar>,
    /// `--network`.
    pub network: Option<NetworkPreset>,
    /// `--allow-network` and `--deny-network`: rules of this sandbox. They
    /// join those it has.
    pub rules: Vec<Rule>,
    /// `--publish`: ports of this sandbox. They join those it has.
    pub publish: Vec<Publication>,
}

/// What the agent works on.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub enum WorkspaceRequest {
    /// Nothing was typed and there is nothing to fall back to but the name
    /// of an existing sandbox (`run --name N` outside any directory that
    /// could be a workspace).
    #[default]
    Unsaid,
    /// The current directory, because no path was typed. It does not count
    /// as a difference to an existing sandbox that was named.
    Current(HostPath),
    /// The paths typed, the first one is where sessions start.
    Paths(Vec<WorkspacePath>),
    /// `--no-workspace`.
    None,
}

/// One positional path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WorkspacePath {
    /// Where it is.
    pub host: HostPath,
    /// Whether `:ro` was typed after it.
    pub read_only: bool,
}

/// A path on the host that was looked at when the request was made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPath {
    /// As typed, made absolute, links not followed. Valid UTF-8 without
    /// control characters.
    pub typed: PathBuf,
    /// With all links followed. Valid UTF-8 without control characters.
    pub real: PathBuf,
    /// What stands there.
    pub kind: HostKind,
    /// For a linked git work tree: the repository's common directory, links
    /// followed, when it lies outside the path.
    pub git_common: Option<PathBuf>,
}

/// What stands at a path on the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostKind {
    /// A directory.
    Directory,
    /// An ordinary file.
    File,
    /// A socket, a device or a pipe.
    Special,
}

impl HostPath {
    /// The path with links followed: what is opened and compared.
    #[must_use]
    pub fn real(&self) -> &Path {
        &self.real
    }
}

/// One `--mount` or `--volume`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MountRequest {
    /// A directory or file of the host.
    Bind {
        /// Where it is.
        host: HostPath,
        /// Where the guest sees it.
        guest: GuestPath,
        /// Whether the guest may write.
        access: Access,
    },
    /// A directory on the sandbox's own disk.
    Volume {
        /// Its name within the sandbox: 1 to 64 of `a-z A-Z 0-9 _ . -`,
        /// starting with a letter or digit.
        name: String,
        /// Where the guest sees it.
        guest: GuestPath,
    },
    /// A directory in the sandbox's memory.
    Tmpfs {
        /// Where the guest sees it.
        guest: GuestPath,
        /// Its upper bound.
        size: Option<ByteSize>,
    },
}

impl MountRequest {
    /// Where the guest sees it.
    #[must_use]
    pub fn guest(&self) -> &GuestPath {
        match self {
            Self::Bind { guest, .. } | Self::Volume { guest, .. } | Self::Tmpfs { guest, .. } => {
                guest
            }
        }
    }
}
