//! What an isolation can be asked for, and what it cannot hold.

use super::{HostLimits, ResolveError, UNHELD};
use crate::{Config, EngineImage, Isolation, Pull, SandboxRequest, WorkspaceGuard};

/// Longest name of an image, in bytes: what registries take, and a digest.
const MAX_IMAGE: usize = 512;
/// What guards the workspace.
pub(super) fn guard(
    request: &SandboxRequest,
    config: &Config,
    isolation: Isolation,
) -> Result<WorkspaceGuard, ResolveError> {
    let only = match isolation {
        Isolation::Container => {
            return Ok(request.guard.or(config.guard).unwrap_or_default());
        }
        Isolation::MicroVm => WorkspaceGuard::Full,
        // An engine has no file server of ours.
        Isolation::Docker => WorkspaceGuard::Existing,
    };
    match request.guard {
        Some(WorkspaceGuard::Existing) if only != WorkspaceGuard::Existing => {
            Err(ResolveError::NoContainer("--workspace-guard existing"))
        }
        Some(WorkspaceGuard::Full) if only != WorkspaceGuard::Full => {
            Err(ResolveError::NoContainer("--workspace-guard full"))
        }
        _ => Ok(only),
    }
}

/// The image of an engine's container.
pub(super) fn image(
    request: &SandboxRequest,
    isolation: Isolation,
) -> Result<Option<EngineImage>, ResolveError> {
    if isolation != Isolation::Docker {
        return match (&request.image, request.pull) {
            (Some(_), _) => Err(ResolveError::NoEngine("--template")),
            (None, Some(_)) => Err(ResolveError::NoEngine("--pull")),
            (None, None) => Ok(None),
        };
    }
    // Whatever it means to the engine, it is a part of an address there.
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
    if let Some(name) = &request.image
        && (name.is_empty()
            || name.len() > MAX_IMAGE
            || !name.bytes().all(plain)
            || !name.starts_with(|first: char| first.is_ascii_alphanumeric())
            || name.split('/').any(|part| matches!(part, "" | "." | "..")))
    {
        return Err(ResolveError::Image(name.clone()));
    }
    Ok(Some(EngineImage {
        reference: request.image.clone(),
        pull: request.pull.unwrap_or(Pull::Missing),
    }))
}

/// What was asked for and cannot be held for a container is refused: nobody is
/// to believe in a limit that is none.
pub(super) fn fits_a_container(
    request: &SandboxRequest,
    config: &Config,
    host: &HostLimits,
) -> Result<(), ResolveError> {
    let machine = [
        ("--driver", request.driver.is_some()),
        ("--accel", request.accel.is_some()),
    ];
    if let Some((flag, _)) = machine.into_iter().find(|(_, typed)| *typed) {
        return Err(ResolveError::NoMachine(flag));
    }
    let wrong =
        |flag, value: String, why: &str| Err(ResolveError::Limit(flag, value, why.to_owned()));
    if let Some(disk) = request.disk {
        let why = "the file system that a container's files lie on gives no quota to one container; \
                   leave it out, or use `--isolation microvm`, whose disk has a size";
        return wrong("--disk", disk.to_string(), why);
    }
    let why = match &host.no_cgroup {
        Some(why) => format!("{UNHELD}: {why}"),
        None => UNHELD.to_owned(),
    };
    let why = why.as_str();
    let (memory, cpus) = (
        request.memory.or(config.memory),
        request.cpus.or(config.cpus),
    );
    match (memory, cpus, request.pids.or(config.pids)) {
        (Some(memory), _, _) if !host.memory_limit => wrong("--memory", memory.to_string(), why),
        (_, Some(cpus), _) if !host.cpu_quota => wrong("--cpus", cpus.to_string(), why),
        (_, _, Some(pids)) if !host.pids_limit => wrong("--pids-limit", pids.to_string(), why),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_of_an_engine_and_a_name_that_cannot_lead_elsewhere() {
        let named = |image: Option<&str>, isolation| {
            let request = SandboxRequest {
                image: image.map(str::to_owned),
                ..SandboxRequest::default()
            };
            super::image(&request, isolation)
        };
        let ours = named(None, Isolation::Docker).unwrap().unwrap();
        assert_eq!(ours.reference, None);
        for name in ["node:20-slim", "registry.example:5000/a/b@sha256:0a", "x"] {
            let image = named(Some(name), Isolation::Docker).unwrap().unwrap();
            assert_eq!(image.reference.as_deref(), Some(name));
            assert_eq!(image.pull, Pull::Missing);
        }
        let long = "x".repeat(600);
        for name in [
            "",
            "-x",
            "../x",
            "a//b",
            "a/../b",
            "a b",
            "a?force=1",
            &long,
        ] {
            let refused = named(Some(name), Isolation::Docker).unwrap_err();
            assert!(matches!(refused, ResolveError::Image(_)), "{name}");
        }
        let refused = named(Some("x"), Isolation::MicroVm).unwrap_err();
        assert!(matches!(refused, ResolveError::NoEngine("--template")));
    }
}
