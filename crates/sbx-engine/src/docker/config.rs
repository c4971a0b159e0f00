//! What the process that speaks with the engine is told.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use sbx_spec::{Access, GuestPath, SandboxName};
use sbx_sys::file;
use serde::{Deserialize, Serialize};

use crate::command::{Code, Error};
use crate::container::held;
use crate::plan::{Docker, SharePlan};
use crate::shares;

/// The containers of a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DockConfig {
    /// What they are made of.
    pub(super) docker: Docker,
    /// The sandbox, which is their host name too.
    pub(super) name: SandboxName,
    /// Whether a wire leads out.
    pub(super) network: bool,
    /// What of the host the agent's sees.
    pub(super) binds: Vec<Bind>,
}

/// A file or directory of the host that a container has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bind {
    /// Where it is.
    pub(super) host: PathBuf,
    /// Where the container has it.
    pub(super) guest: PathBuf,
    /// Whether it may not write.
    pub(super) read_only: bool,
    /// Its device and inode, which the container has to find there.
    pub(super) is: (u64, u64),
}

impl DockConfig {
    /// The containers of the sandbox `name` with these `shares`. Looks at what
    /// they have of the host.
    ///
    /// # Errors
    /// If something is not there, or is a link.
    pub(crate) fn new(
        docker: &Docker,
        name: &SandboxName,
        shares: &[SharePlan],
        network: bool,
    ) -> Result<Self, Error> {
        let mut binds = Vec::new();
        if docker.engine.local {
            let program = crate::docker::bodies::GUEST_PROGRAM;
            binds.push(fixed(&docker.guest, Path::new(program))?);
            if let Some(kit) = &docker.kit {
                let guest = Path::new("/opt/sbx/kits").join(kit.name.as_str());
                binds.push(fixed(&kit.path, &guest)?);
            }
        }
        for share in shares {
            shared(share, &mut binds)?;
        }
        Ok(Self {
            docker: docker.clone(),
            name: name.clone(),
            network,
            binds,
        })
    }
}

/// A file of ours, by the path that all links in it lead to.
fn fixed(host: &Path, guest: &Path) -> Result<Bind, Error> {
    let real = host.canonicalize().map_err(|source| {
        let what = format!("cannot look at `{}`", host.display());
        Error::new(Code::HostUnfit, what).because(source)
    })?;
    let place = file::open_straight(&real).map_err(|source| {
        let what = format!("cannot open `{}`", real.display());
        Error::new(Code::HostUnfit, what).because(source)
    })?;
    let is = identity(&place, &real)?;
    Ok(Bind {
        host: real,
        guest: guest.to_owned(),
        read_only: true,
        is,
    })
}

/// A share, what is held in it, and what leads to that, which cannot be moved
/// away while it is a mount.
fn shared(share: &SharePlan, binds: &mut Vec<Bind>) -> Result<(), Error> {
    let root = shares::place(share)?;
    let guest = |path: &GuestPath| path.as_path().to_owned();
    binds.push(Bind {
        host: share.host.clone(),
        guest: guest(&share.guest),
        read_only: share.access == Access::ReadOnly,
        is: identity(&root, &share.host)?,
    });
    if share.access == Access::ReadOnly {
        return Ok(());
    }
    let held = held::names(share)?;
    let mut done: Vec<&Path> = Vec::new();
    for name in &held {
        let mut steps: Vec<_> = name
            .ancestors()
            .filter(|step| !step.as_os_str().is_empty())
            .collect();
        steps.reverse();
        for step in steps {
            if done.contains(&step) {
                continue;
            }
            let host = share.host.join(step);
            let found = beneath(&root, step)?;
            binds.push(Bind {
                is: identity(&found, &host)?,
                host,
                guest: share.guest.as_path().join(step),
                read_only: step == name,
            });
            done.push(step);
        }
    }
    Ok(())
}

/// What stands at `path` beneath `root`, with no link on the way to it.
fn beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), how).map_err(|source| {
        let what = format!("cannot open `{}`", path.display());
        Error::new(Code::Workspace, what).because(source)
    })
}

fn identity(fd: &OwnedFd, path: &Path) -> Result<(u64, u64), Error> {
    let found = rustix::fs::fstat(fd).map_err(|source| {
        let what = format!("cannot look at `{}`", path.display());
        Error::new(Code::Workspace, what).because(source)
    })?;
    Ok((found.st_dev, found.st_ino))
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use sbx_spec::{ByteSize, ShareRole};

    use super::*;
    use crate::plan::KitProgram;
    use crate::plan::docker::tests::engine;

    pub(in crate::docker) fn docker(kit: &Path, guest: &Path) -> Docker {
        Docker {
            engine: engine(),
            image: "sha256:1".to_owned(),
            network_image: "sha256:2".to_owned(),
            kit: Some(KitProgram {
                name: "claude".parse().unwrap(),
                path: kit.to_owned(),
            }),
            guest: guest.to_owned(),
            memory: ByteSize::gib(1),
            cpu_millis: 1500,
            pids: 99,
            volumes: Vec::new(),
            tmpfs: Vec::new(),
        }
    }

    #[test]
    fn what_is_held_is_mounted_over_what_leads_to_it_and_links_are_refused() {
        let root = tempfile::tempdir().unwrap();
        let at = root.path().canonicalize().unwrap();
        std::fs::create_dir_all(at.join("w/.git/hooks")).unwrap();
        std::fs::create_dir(at.join("kit")).unwrap();
        std::fs::write(at.join("guest"), "").unwrap();
        let share = |host: &str| SharePlan {
            tag: "s0".to_owned(),
            host: at.join(host),
            guest: GuestPath::new("/w").unwrap(),
            access: Access::ReadWrite,
            role: ShareRole::Workspace,
        };
        let docker = docker(&at.join("kit"), &at.join("guest"));
        let name = "box".parse().unwrap();
        let config = DockConfig::new(&docker, &name, &[share("w")], true).unwrap();
        let list: Vec<_> = (config.binds.iter())
            .map(|bind| (bind.guest.to_str().unwrap(), bind.read_only))
            .collect();
        assert_eq!(
            list,
            [
                ("/run/sbx/bin/sbx-guest", true),
                ("/opt/sbx/kits/claude", true),
                ("/w", false),
                ("/w/.git", false),
                ("/w/.git/hooks", true),
            ]
        );
        let hooks = std::fs::metadata(at.join("w/.git/hooks")).unwrap();
        assert_eq!(config.binds[4].is, (hooks.dev(), hooks.ino()));
        symlink("w", at.join("link")).unwrap();
        let refused = DockConfig::new(&docker, &name, &[share("link")], true);
        assert_eq!(refused.unwrap_err().code, Code::Workspace);
    }
}
