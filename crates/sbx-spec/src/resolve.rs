//! Request, configuration, kit and host made into one [`SandboxSpec`].
//!
//! Pure: the same arguments give the same answer, and nothing is looked up.
//! Decides every default and every refusal that does not need a file to be
//! opened; what acts on the answer does not decide again.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::variables::is_credential;
use crate::{
    Accel, Access, ByteSize, Config, Cpus, Driver, EnvVar, GuestPath, HostKind, HostPath,
    Isolation, KitName, Limit, Limits, MountRequest, Network, SandboxName, SandboxRequest,
    SandboxSpec, Sensitive, SensitivePlaces, Share, ShareRole, TmpfsMount, VolumeMount,
    WorkspaceRequest,
};

mod isolation;

use isolation::{fits_a_container, guard, image};

/// Least memory a guest boots in.
pub const MIN_MEMORY: ByteSize = ByteSize::mib(128);
/// Least private disk.
pub const MIN_DISK: ByteSize = ByteSize::mib(256);
/// Private disk where nothing is said.
pub const DEFAULT_DISK: ByteSize = ByteSize::gib(20);
/// Processes and threads where nothing is said.
pub const DEFAULT_PIDS: u32 = 4096;
/// Least and most processes and threads: what a login takes, and what the
/// kernel can number.
pub const PIDS: std::ops::RangeInclusive<u32> = 32..=4_194_304;
/// Most shares, volumes and tmpfs of one sandbox, each kind.
pub const MAX_MOUNTS: usize = 32;

/// What is said of a limit that a host holds for machines alone.
const UNHELD: &str = "no cgroup here can hold it for a container";

/// What the host can give.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostLimits {
    /// Processors that may be used.
    pub cores: u32,
    /// Memory of the machine.
    pub memory: ByteSize,
    /// Size of the file system that holds the sandboxes, if it is known.
    pub disk: Option<ByteSize>,
    /// Whether a cgroup can hold processor time.
    pub cpu_quota: bool,
    /// Whether one can hold memory.
    pub memory_limit: bool,
    /// Whether one can hold the number of processes.
    pub pids_limit: bool,
    /// Why there is no cgroup to hold anything, where there is none.
    pub no_cgroup: Option<String>,
}

/// The layers a specification is made of.
#[derive(Clone, Copy, Debug)]
pub struct Layers<'a> {
    /// What was typed.
    pub request: &'a SandboxRequest,
    /// The user's configuration.
    pub config: &'a Config,
    /// The agent's kit.
    pub kit: &'a KitName,
    /// What the host can give.
    pub host: &'a HostLimits,
    /// What of the host no sandbox sees.
    pub sensitive: &'a SensitivePlaces,
}

/// A specification, and what must not be written down with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    /// What to write down and to create.
    pub spec: SandboxSpec,
    /// Variables typed that carry credentials: every session of this start
    /// gets them, no file does.
    pub credentials: Vec<EnvVar>,
}

/// Why a request cannot become a specification.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ResolveError {
    /// A flag that says something of a virtual machine, for a container.
    NoMachine(&'static str),
    /// A flag that says something of a container, for a virtual machine.
    NoContainer(&'static str),
    /// A flag that says something of an engine's images, for another isolation.
    NoEngine(&'static str),
    /// What is no name of an image.
    Image(String),
    /// A value the host cannot give: flag, value, why.
    Limit(&'static str, String, String),
    /// A workspace that may not be served, and why.
    Workspace(PathBuf, Refusal),
    /// A mount that may not be made, and why.
    Mount(PathBuf, Refusal),
    /// Two things at one place inside.
    Twice(GuestPath),
    /// More than [`MAX_MOUNTS`] of one kind.
    TooMany(&'static str),
    /// Neither a workspace nor its absence was said.
    NoWorkspace,
}

/// Why a path is refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is, holds or lies in a place that no sandbox sees. `overridable`
    /// by naming it.
    Sensitive(Sensitive),
    /// Not a directory, where only one can be.
    NotDirectory,
    /// Neither a directory nor an ordinary file.
    Special,
    /// Inside, it would hide what the guest itself stands on.
    HidesGuest(GuestPath),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sensitive(found) => found.fmt(f),
            Self::NotDirectory => f.write_str("it is not a directory"),
            Self::Special => f.write_str("it is neither a directory nor an ordinary file"),
            Self::HidesGuest(path) => {
                write!(
                    f,
                    "inside, it would hide the sandbox's own `{}`",
                    path.as_path().display()
                )
            }
        }
    }
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMachine(flag) => {
                write!(f, "{flag} is of virtual machines, and a container has none")
            }
            Self::NoContainer(flag) => write!(
                f,
                "{flag} is of the isolation `container`: the others have one guard each"
            ),
            Self::NoEngine(flag) => {
                write!(
                    f,
                    "`{flag}` is not in this version but for `--isolation docker`"
                )
            }
            Self::Image(name) => write!(f, "`{}` is no name of an image", name.escape_debug()),
            Self::Limit(flag, value, why) => write!(f, "{flag} {value}: {why}"),
            Self::Workspace(path, why) => {
                write!(f, "`{}` cannot be a workspace: {why}", path.display())
            }
            Self::Mount(path, why) => write!(f, "`{}` cannot be mounted: {why}", path.display()),
            Self::Twice(path) => {
                write!(f, "two mounts stand at `{}`", path.as_path().display())
            }
            Self::TooMany(kind) => write!(f, "more than {MAX_MOUNTS} {kind}"),
            Self::NoWorkspace => f.write_str("there is no workspace"),
        }
    }
}

impl std::error::Error for ResolveError {}

impl ResolveError {
    /// What to type or do instead.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Workspace(path, Refusal::Sensitive(_)) if path.parent().is_none() => {
                Some("name a project directory: `sbx run claude PATH`".to_owned())
            }
            Self::Workspace(path, Refusal::Sensitive(_)) => Some(format!(
                "name a project directory, or allow this one: `--allow-sensitive-mount {}`",
                path.display()
            )),
            Self::Mount(path, Refusal::Sensitive(_)) => Some(format!(
                "if the sandbox may see all of it: `--allow-sensitive-mount {}`",
                path.display()
            )),
            Self::Workspace(_, Refusal::NotDirectory) => {
                Some("a single file goes in with `-v FILE:PATH`".to_owned())
            }
            Self::NoMachine(flag) => {
                Some(format!("leave {flag} out, or type `--isolation microvm`"))
            }
            Self::NoContainer(flag) => {
                Some(format!("leave {flag} out, or type `--isolation container`"))
            }
            Self::Limit(_, _, why) if why.starts_with(UNHELD) => {
                Some("a microVM has limits of its own: `--isolation microvm`".to_owned())
            }
            Self::NoWorkspace => Some("name a directory, or type `--no-workspace`".to_owned()),
            _ => None,
        }
    }
}

/// Resolves `layers` for a sandbox that is to be called `name`.
///
/// # Errors
/// [`ResolveError`]: the first thing that cannot be.
pub fn resolve(layers: Layers<'_>, name: SandboxName) -> Result<Resolved, ResolveError> {
    let Layers {
        request, config, ..
    } = layers;
    let shares = shares(layers)?;
    let (volumes, tmpfs) = inner_mounts(request)?;
    distinct(&shares, &volumes, &tmpfs)?;
    let home = || GuestPath::new("/home/agent").map_err(|_| ResolveError::NoWorkspace);
    let workdir = match (&request.workdir, shares.first()) {
        (Some(path), _) => path.clone(),
        (None, Some(share)) if share.role == ShareRole::Workspace => share.guest.clone(),
        (None, _) => home()?,
    };
    let (credentials, env) = last_of_each(&request.env)
        .into_iter()
        .partition(|var| is_credential(&var.name));
    let isolation = request
        .isolation
        .or(config.isolation)
        .unwrap_or(Isolation::MicroVm);
    if isolation != Isolation::MicroVm {
        fits_a_container(request, config, layers.host)?;
    }
    let guard = guard(request, config, isolation)?;
    let image = image(request, isolation)?;
    let spec = SandboxSpec {
        name,
        kit: layers.kit.clone(),
        isolation,
        driver: request.driver.or(config.driver).unwrap_or(Driver::Auto),
        accel: request.accel.or(config.accel).unwrap_or(Accel::Auto),
        image,
        limits: limits(layers)?,
        asked: asked(request, config),
        shares,
        guard,
        volumes,
        tmpfs,
        workdir,
        env,
        network: Network {
            preset: request.network,
        },
    };
    Ok(Resolved { spec, credentials })
}

/// The limits that somebody gave.
fn asked(request: &SandboxRequest, config: &Config) -> Vec<Limit> {
    let given = [
        (Limit::Cpus, request.cpus.or(config.cpus).is_some()),
        (Limit::Memory, request.memory.or(config.memory).is_some()),
        (Limit::Pids, request.pids.or(config.pids).is_some()),
        (Limit::Disk, request.disk.or(config.disk).is_some()),
    ];
    let given = given.into_iter().filter(|(_, given)| *given);
    given.map(|(limit, _)| limit).collect()
}

fn limits(layers: Layers<'_>) -> Result<Limits, ResolveError> {
    let Layers {
        request,
        config,
        host,
        ..
    } = layers;
    let wrong = |flag, value: &dyn fmt::Display, why: String| {
        Err(ResolveError::Limit(flag, value.to_string(), why))
    };
    let cpus = request
        .cpus
        .or(config.cpus)
        .unwrap_or_else(|| Cpus::whole(host.cores));
    if cpus.milli() > Cpus::whole(host.cores).milli() {
        return wrong("--cpus", &cpus, format!("this host has {}", host.cores));
    }
    if cpus.is_fraction() && !host.cpu_quota {
        let why = "no cgroup here can hold a fraction of a processor".to_owned();
        return wrong("--cpus", &cpus, why);
    }
    let memory = request
        .memory
        .or(config.memory)
        .unwrap_or_else(|| default_memory(host.memory));
    if memory < MIN_MEMORY {
        return wrong(
            "--memory",
            &memory,
            format!("a guest needs at least {MIN_MEMORY}"),
        );
    }
    if memory > host.memory {
        return wrong(
            "--memory",
            &memory,
            format!("this host has {}", host.memory.about()),
        );
    }
    let most = host.disk.unwrap_or(ByteSize::bytes(u64::MAX));
    let disk = request
        .disk
        .or(config.disk)
        .unwrap_or_else(|| DEFAULT_DISK.min(most));
    if disk < MIN_DISK {
        let mut why = format!("a sandbox needs at least {MIN_DISK}");
        if disk == most {
            why.push_str(", and the file system of the sandboxes has no more");
        }
        return wrong("--disk", &disk, why);
    }
    if disk > most {
        return wrong(
            "--disk",
            &disk,
            format!("the file system of the sandboxes has {}", most.about()),
        );
    }
    let pids = request.pids.or(config.pids).unwrap_or(DEFAULT_PIDS);
    if !PIDS.contains(&pids) {
        let why = format!("it is a number from {} to {}", PIDS.start(), PIDS.end());
        return wrong("--pids-limit", &pids, why);
    }
    Ok(Limits {
        cpus,
        memory,
        disk,
        pids,
    })
}

/// Half of the host's memory, in whole mebibytes, within 512m and 8g, and
/// never more than there is.
fn default_memory(host: ByteSize) -> ByteSize {
    let half = ByteSize::mib(host.as_mib() / 2);
    half.clamp(ByteSize::mib(512), ByteSize::gib(8)).min(host)
}

fn shares(layers: Layers<'_>) -> Result<Vec<Share>, ResolveError> {
    let Layers {
        request, config, ..
    } = layers;
    let default = request.workspace_access.or(config.workspace_access);
    let default = default.unwrap_or(Access::ReadWrite);
    let mut shares = Vec::new();
    match &request.workspace {
        WorkspaceRequest::Unsaid => return Err(ResolveError::NoWorkspace),
        WorkspaceRequest::None => {}
        WorkspaceRequest::Current(path) => shares.extend(workspace(layers, path, default)?),
        WorkspaceRequest::Paths(paths) => {
            for path in paths {
                let access = if path.read_only {
                    Access::ReadOnly
                } else {
                    default
                };
                shares.extend(workspace(layers, &path.host, access)?);
            }
        }
    }
    for mount in &request.mounts {
        if let MountRequest::Bind {
            host,
            guest,
            access,
        } = mount
        {
            let refuse = |why| ResolveError::Mount(host.typed.clone(), why);
            if host.kind == HostKind::Special {
                return Err(refuse(Refusal::Special));
            }
            allowed(layers, host).map_err(refuse)?;
            fits_inside(guest).map_err(refuse)?;
            shares.push(Share {
                host: host.real.clone(),
                guest: guest.clone(),
                access: *access,
                role: ShareRole::Mount,
            });
        }
    }
    if shares.len() > MAX_MOUNTS {
        Err(ResolveError::TooMany("shares"))
    } else {
        Ok(shares)
    }
}

/// The share of a workspace and, for a linked work tree, of its repository.
fn workspace(
    layers: Layers<'_>,
    path: &HostPath,
    access: Access,
) -> Result<Vec<Share>, ResolveError> {
    let refuse = |why| ResolveError::Workspace(path.typed.clone(), why);
    if path.kind != HostKind::Directory {
        return Err(refuse(Refusal::NotDirectory));
    }
    let guest = |host: &Path| {
        let guest = GuestPath::new(host).map_err(|_| refuse(Refusal::Special))?;
        fits_inside(&guest).map_err(refuse)?;
        Ok(guest)
    };
    allowed(layers, path).map_err(refuse)?;
    let mut shares = vec![Share {
        host: path.real.clone(),
        guest: guest(&path.real)?,
        access,
        role: ShareRole::Workspace,
    }];
    if let Some(common) = &path.git_common {
        layers
            .sensitive
            .check(common)
            .map_err(|found| refuse(Refusal::Sensitive(found)))?;
        shares.push(Share {
            host: common.clone(),
            guest: guest(common)?,
            access,
            role: ShareRole::GitCommon,
        });
    }
    Ok(shares)
}

fn allowed(layers: Layers<'_>, path: &HostPath) -> Result<(), Refusal> {
    let named = |allowed: &PathBuf| *allowed == path.real || *allowed == path.typed;
    match layers.sensitive.check(&path.real) {
        Err(found) if !layers.request.allow_sensitive.iter().any(named) => {
            Err(Refusal::Sensitive(found))
        }
        _ => Ok(()),
    }
}

/// What the guest itself stands on: mounting over it would end in a sandbox
/// that does not start, or that lies about itself.
fn fits_inside(guest: &GuestPath) -> Result<(), Refusal> {
    const TREES: &[&str] = &["/proc", "/sys", "/dev", "/opt/sbx"];
    const DIRECTORIES: &[&str] = &[
        "/", "/bin", "/sbin", "/lib", "/lib64", "/usr", "/etc", "/run", "/var", "/opt",
    ];
    let path = guest.as_path();
    if TREES.iter().any(|tree| path.starts_with(tree))
        || DIRECTORIES.iter().any(|d| path == Path::new(d))
    {
        return Err(Refusal::HidesGuest(guest.clone()));
    }
    Ok(())
}

fn inner_mounts(
    request: &SandboxRequest,
) -> Result<(Vec<VolumeMount>, Vec<TmpfsMount>), ResolveError> {
    let (mut volumes, mut tmpfs) = (Vec::new(), Vec::new());
    for mount in &request.mounts {
        let path = mount.guest();
        fits_inside(path).map_err(|why| ResolveError::Mount(path.as_path().to_owned(), why))?;
        match mount {
            MountRequest::Bind { .. } => {}
            MountRequest::Volume { name, guest } => {
                volumes.push(VolumeMount {
                    name: name.clone(),
                    guest: guest.clone(),
                });
            }
            MountRequest::Tmpfs { guest, size } => {
                tmpfs.push(TmpfsMount {
                    guest: guest.clone(),
                    size: *size,
                });
            }
        }
    }
    match (volumes.len() > MAX_MOUNTS, tmpfs.len() > MAX_MOUNTS) {
        (true, _) => Err(ResolveError::TooMany("volumes")),
        (_, true) => Err(ResolveError::TooMany("tmpfs mounts")),
        _ => Ok((volumes, tmpfs)),
    }
}

fn distinct(
    shares: &[Share],
    volumes: &[VolumeMount],
    tmpfs: &[TmpfsMount],
) -> Result<(), ResolveError> {
    let all = shares.iter().map(|share| &share.guest);
    let all = all.chain(volumes.iter().map(|volume| &volume.guest));
    let mut all: Vec<_> = all.chain(tmpfs.iter().map(|mount| &mount.guest)).collect();
    all.sort_unstable();
    match all.windows(2).find_map(|pair| match pair {
        [a, b] if a == b => Some((*a).clone()),
        _ => None,
    }) {
        Some(path) => Err(ResolveError::Twice(path)),
        None => Ok(()),
    }
}

/// The variables with the last of each name, in the order of those.
fn last_of_each(env: &[EnvVar]) -> Vec<EnvVar> {
    let mut kept: Vec<EnvVar> = Vec::new();
    for var in env {
        kept.retain(|earlier| earlier.name != var.name);
        kept.push(var.clone());
    }
    kept
}
