//! What was typed against what a sandbox was created as.

use std::fmt;

use crate::{
    KitName, MountRequest, SandboxRequest, SandboxSpec, Share, ShareRole, WorkspaceRequest,
};

/// A flag that counts only at creation and says something else than the
/// sandbox is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The flag, or what stands for it (`agent`, `workspace`).
    pub what: &'static str,
    /// What the sandbox has.
    pub has: String,
    /// What was typed.
    pub asked: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, has, asked } = self;
        write!(f, "it has {what} {has}, not {asked}")
    }
}

impl std::error::Error for Difference {}

/// Everything in which `request` (with `kit`, if an agent was named) differs
/// from `spec`. What was not typed does not differ; what counts per session
/// (`--env`, `--workdir`, `--user`) does not either.
#[must_use]
pub fn differences(
    spec: &SandboxSpec,
    request: &SandboxRequest,
    kit: Option<&KitName>,
) -> Vec<Difference> {
    let mut found = Compare(Vec::new());
    found.value("agent", &spec.kit, kit);
    found.value("--isolation", &spec.isolation, request.isolation.as_ref());
    found.value("--driver", &spec.driver, request.driver.as_ref());
    found.value("--accel", &spec.accel, request.accel.as_ref());
    if let (Some(asked), Some(image)) = (&request.image, &spec.image) {
        let has = image.reference.as_deref().unwrap_or("that of sbx");
        found.value("--template", &has, Some(&asked.as_str()));
    }
    found.value("--cpus", &spec.limits.cpus, request.cpus.as_ref());
    found.value("--memory", &spec.limits.memory, request.memory.as_ref());
    found.value("--disk", &spec.limits.disk, request.disk.as_ref());
    found.value("--pids-limit", &spec.limits.pids, request.pids.as_ref());
    found.value("--workspace-guard", &spec.guard, request.guard.as_ref());
    match (spec.network.preset, request.network) {
        (None, Some(asked)) => {
            found.add(
                "--network",
                "unsaid (the user's own)".to_owned(),
                asked.to_string(),
            );
        }
        (Some(has), asked) => found.value("--network", &has, asked.as_ref()),
        (None, None) => {}
    }
    workspaces(&mut found, spec, request);
    for mount in &request.mounts {
        if !has_mount(spec, mount) {
            found.add(
                "--mount",
                mounts(spec),
                mount.guest().as_path().display().to_string(),
            );
        }
    }
    found.0
}

struct Compare(Vec<Difference>);

impl Compare {
    fn add(&mut self, what: &'static str, has: String, asked: String) {
        self.0.push(Difference { what, has, asked });
    }

    fn value<T: PartialEq + fmt::Display>(
        &mut self,
        what: &'static str,
        has: &T,
        asked: Option<&T>,
    ) {
        if let Some(asked) = asked.filter(|asked| *asked != has) {
            self.add(what, has.to_string(), asked.to_string());
        }
    }
}

fn workspaces(found: &mut Compare, spec: &SandboxSpec, request: &SandboxRequest) {
    let has: Vec<&Share> = spec
        .shares
        .iter()
        .filter(|share| share.role == ShareRole::Workspace)
        .collect();
    let text = |share: &&Share| format!("{}:{}", share.host.display(), share.access);
    let shown = list(has.iter().map(text));
    match &request.workspace {
        WorkspaceRequest::Unsaid | WorkspaceRequest::Current(_) => {
            for share in &has {
                found.value(
                    "--workspace-mode",
                    &share.access,
                    request.workspace_access.as_ref(),
                );
            }
        }
        WorkspaceRequest::None if has.is_empty() => {}
        WorkspaceRequest::None => found.add("workspace", shown, "none".to_owned()),
        WorkspaceRequest::Paths(paths) => {
            for (position, path) in paths.iter().enumerate() {
                let typed = if path.read_only {
                    Some(crate::Access::ReadOnly)
                } else {
                    request.workspace_access
                };
                let same = |share: &&&Share| {
                    share.host == path.host.real
                        && typed.is_none_or(|access| access == share.access)
                };
                let known = has.iter().find(same);
                let first_moved =
                    position == 0 && known.is_some_and(|share| Some(share) != has.first());
                if known.is_none() || first_moved {
                    let mode = typed.map(|access| format!(":{access}")).unwrap_or_default();
                    found.add(
                        "workspace",
                        shown.clone(),
                        format!("{}{mode}", path.host.real.display()),
                    );
                }
            }
        }
    }
}

fn has_mount(spec: &SandboxSpec, mount: &MountRequest) -> bool {
    match mount {
        MountRequest::Bind {
            host,
            guest,
            access,
        } => spec.shares.iter().any(|share| {
            share.host == host.real && share.guest == *guest && share.access == *access
        }),
        MountRequest::Volume { name, guest } => spec
            .volumes
            .iter()
            .any(|volume| volume.name == *name && volume.guest == *guest),
        MountRequest::Tmpfs { guest, size } => spec
            .tmpfs
            .iter()
            .any(|mount| mount.guest == *guest && mount.size == *size),
    }
}

fn mounts(spec: &SandboxSpec) -> String {
    let shares = spec
        .shares
        .iter()
        .filter(|share| share.role == ShareRole::Mount);
    let paths = shares.map(|share| &share.guest);
    let paths = paths.chain(spec.volumes.iter().map(|volume| &volume.guest));
    let paths = paths.chain(spec.tmpfs.iter().map(|mount| &mount.guest));
    list(paths.map(|path| path.as_path().display().to_string()))
}

fn list<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() {
        "none".to_owned()
    } else {
        items.join(", ")
    }
}
