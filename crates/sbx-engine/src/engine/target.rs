//! Which sandbox a command means, and making it where there is none.

use sbx_spec::{
    DefaultName, EnvVar, HostLimits, Isolation, KitName, Layers, Owner, SandboxName,
    SandboxRequest, SandboxSpec, Subject as Meant, UnknownAgent, WorkspaceRequest, default_name,
    differences, resolve,
};
use sbx_sys::cgroup::Controller;

use super::Engine;
use super::docker::unless_cancelled;
use crate::command::{Code, Error, Subject, Ui};
use crate::store::SandboxDir;

/// The sandbox a request means.
pub(super) enum Target {
    /// It is there.
    Existing(SandboxDir, SandboxSpec),
    /// It has to be made as this.
    New(SandboxSpec),
}

/// A target and what belongs to this start of it alone.
pub(super) struct Meaning {
    /// The sandbox.
    pub(super) target: Target,
    /// Credentials that were typed; they are written down nowhere.
    pub(super) credentials: Vec<EnvVar>,
}

impl Engine {
    /// Finds what `subject` and `request` mean together.
    ///
    /// # Errors
    /// If there is no such agent or sandbox, if what was typed differs from
    /// what the sandbox is, or if no sandbox can be made of it.
    pub(super) async fn meaning(
        &self,
        subject: &Subject,
        request: &SandboxRequest,
        ui: &mut dyn Ui,
    ) -> Result<Meaning, Error> {
        let kits = Self::kit_names();
        let default: KitName = match &self.config.agent {
            Some(kit) => kit.clone(),
            None => "claude"
                .parse()
                .map_err(|error| Error::new(Code::Internal, "no default agent").because(error))?,
        };
        let word = subject.word.as_deref();
        let meant = sbx_spec::subject(word, subject.may_be_sandbox, &default, &kits)
            .map_err(|error| unknown_agent(&error))?;
        let (kit, name) = match meant {
            Meant::Agent(kit) => (kit, request.name.clone()),
            Meant::Sandbox(name) => match self.store().find(&name) {
                Some(_) => {
                    ui.warn(&format!("`sbx run {name}` is now `sbx run --name {name}`"));
                    return self.existing(name, None, request);
                }
                None => return Err(unknown_agent(&UnknownAgent::new(name.as_str(), &kits))),
            },
        };
        let typed_kit = word.map(|_| &kit);
        let name = match name {
            Some(name) => {
                if self.store().find(&name).is_some() {
                    return self.existing(name, typed_kit, request);
                }
                name
            }
            None => match self.default_name(&kit, request)? {
                DefaultName::Own(name) => return self.existing(name, typed_kit, request),
                DefaultName::Free(name) => name,
            },
        };
        let isolation = request.isolation.or(self.config.isolation);
        let host = match isolation {
            Some(Isolation::Docker) => unless_cancelled(ui, self.engine_limits()).await?,
            _ => self.limits(),
        };
        let layers = Layers {
            request,
            config: &self.config,
            kit: &kit,
            host: &host,
            sensitive: &self.caller.sensitive,
        };
        let resolved = resolve(layers, name).map_err(|error| {
            let code = match &error {
                sbx_spec::ResolveError::NoEngine(_) => Code::NotInThisVersion,
                sbx_spec::ResolveError::NoMachine(_)
                | sbx_spec::ResolveError::NoContainer(_)
                | sbx_spec::ResolveError::Image(_) => Code::Usage,
                sbx_spec::ResolveError::Limit(..) => Code::Limit,
                sbx_spec::ResolveError::Mount(..)
                | sbx_spec::ResolveError::Twice(_)
                | sbx_spec::ResolveError::TooMany(_) => Code::Mount,
                _ => Code::Workspace,
            };
            let mut refused = Error::new(code, error.to_string());
            refused.hint = error.hint();
            refused
        })?;
        Ok(Meaning {
            target: Target::New(resolved.spec),
            credentials: resolved.credentials,
        })
    }

    /// The agents of this version.
    pub(super) fn kit_names() -> Vec<KitName> {
        sbx_images::Kit::names()
            .filter_map(|name| name.parse().ok())
            .collect()
    }

    fn existing(
        &self,
        name: SandboxName,
        kit: Option<&KitName>,
        request: &SandboxRequest,
    ) -> Result<Meaning, Error> {
        let sandbox = self.find(&name)?;
        let spec = sandbox.record()?.spec;
        if let Some(difference) = differences(&spec, request, kit).first() {
            return Err(
                Error::new(Code::SandboxDiffers, format!("sandbox `{name}` exists"))
                    .because(difference.clone())
                    .hint(format!(
                        "remove it first with `sbx rm {name}`, or make another with `--name`"
                    )),
            );
        }
        let credentials = request
            .env
            .iter()
            .filter(|variable| sbx_spec::is_credential(&variable.name))
            .cloned()
            .collect();
        Ok(Meaning {
            target: Target::Existing(sandbox, spec),
            credentials,
        })
    }

    fn default_name(&self, kit: &KitName, request: &SandboxRequest) -> Result<DefaultName, Error> {
        let workspace = match &request.workspace {
            WorkspaceRequest::Current(path) => Some(path.real()),
            WorkspaceRequest::Paths(paths) => paths.first().map(|path| path.host.real()),
            WorkspaceRequest::Unsaid | WorkspaceRequest::None => None,
        };
        let store = self.store();
        default_name(kit, workspace, |name| {
            let sandbox = store.find(name)?;
            let spec = sandbox.record().ok().map(|record| record.spec);
            Some(Owner {
                kit: spec
                    .as_ref()
                    .map_or_else(|| kit.clone(), |spec| spec.kit.clone()),
                workspace: spec
                    .and_then(|spec| spec.shares.into_iter().next())
                    .map(|share| share.host),
            })
        })
        .map_err(|error| {
            Error::new(Code::NameTaken, "no name for the sandbox")
                .because(error)
                .hint("give it one with `--name`")
        })
    }

    /// What this host can give.
    pub(super) fn limits(&self) -> HostLimits {
        let disk = rustix::fs::statvfs(&self.directories.state)
            .ok()
            .map(|found| sbx_spec::ByteSize::bytes(found.f_blocks.saturating_mul(found.f_frsize)));
        let (held, no_cgroup) = match crate::facts::control_group() {
            Ok(held) => (held, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        HostLimits {
            cores: crate::facts::processors(),
            memory: crate::facts::memory(),
            disk,
            cpu_quota: held.contains(&Controller::Cpu),
            memory_limit: held.contains(&Controller::Memory),
            pids_limit: held.contains(&Controller::Pids),
            no_cgroup,
        }
    }
}

fn unknown_agent(error: &UnknownAgent) -> Error {
    let hint = match &error.nearest {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let kits: Vec<_> = Engine::kit_names()
                .iter()
                .map(ToString::to_string)
                .collect();
            format!(
                "there are: {}; a directory is typed with a slash",
                kits.join(", ")
            )
        }
    };
    Error::new(Code::UnknownAgent, error.to_string()).hint(hint)
}
