//! `policy …`: the user's rules, those of one sandbox, and what all layers
//! together say.
//!
//! Owns: which layer counts when. Never: judges a flow (that is
//! [`sbx_spec::decide`]). A policy that cannot be read is an error wherever
//! it would count: nothing starts without it.

use std::path::PathBuf;
use std::time::Duration;

use sbx_spec::{
    MAX_POLICY_FILE, NetworkPreset, Origin, PolicyEdit, PolicyFile, Resource, Rule, SandboxSpec,
    Target, preset_rules,
};
use sbx_sys::file;
use sbx_sys::lock::Lock;

use super::registries::Registries;
use super::{Engine, PATIENCE};
use crate::client;
use crate::command::{
    Code, Error, PolicyEdited, PolicyListReply, PolicyListed, PolicyRequest, PolicyScope,
    PresetFrom, Reply, RuleChoice, Ui,
};
use crate::plan::{NetworkPlan, Plan};
use crate::store::{Phase, SandboxDir, State};

/// The policy of the user in the configuration directory, and of a sandbox
/// in its own.
const FILE: &str = "policy.toml";
/// Held while a policy is edited and made known.
const LOCK: &str = "policy.lock";

/// What all layers together say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Effective {
    pub(super) preset: NetworkPreset,
    pub(super) preset_from: PresetFrom,
    pub(super) rules: Vec<Rule>,
    /// What the agent's kit would like and no rule says anything about. It is
    /// not in force.
    pub(super) wanted: Vec<Rule>,
}

impl Effective {
    /// What its network engine is told; `None` where it has none.
    pub(super) fn network(&self) -> Option<NetworkPlan> {
        (self.preset != NetworkPreset::None).then(|| NetworkPlan {
            preset: self.preset,
            rules: self.rules.clone(),
            trust: None,
            proxies: sbx_net::Proxies::default(),
        })
    }
}

/// What an edit did.
pub(super) struct Edit {
    pub(super) edited: PolicyEdited,
    /// What the user should know besides.
    pub(super) warnings: Vec<String>,
}

impl Engine {
    /// What counts for a sandbox, or for a new one that says nothing itself.
    ///
    /// # Errors
    /// If a policy cannot be read.
    pub(super) fn effective(
        &self,
        sandbox: Option<(&SandboxDir, &SandboxSpec)>,
    ) -> Result<Effective, Error> {
        let user = self.written(&PolicyScope::User)?;
        let Some((sandbox, spec)) = sandbox else {
            return self.combine(user, Vec::new(), None, &self.caller.registries);
        };
        let own = self.written(&PolicyScope::Sandbox(sandbox.name().clone()))?;
        let registries = self.registries(sandbox)?;
        self.combine(user, own.rules, Some(spec), &registries)
    }

    /// The same for a sandbox that is not made yet.
    ///
    /// # Errors
    /// If the user's policy cannot be read.
    pub(super) fn foreseen_policy(
        &self,
        spec: &SandboxSpec,
        own: &[Rule],
    ) -> Result<Effective, Error> {
        let user = self.written(&PolicyScope::User)?;
        self.combine(user, own.to_vec(), Some(spec), &self.caller.registries)
    }

    fn combine(
        &self,
        user: PolicyFile,
        own: Vec<Rule>,
        spec: Option<&SandboxSpec>,
        registries: &Registries,
    ) -> Result<Effective, Error> {
        let (preset, preset_from) = match (spec.and_then(|spec| spec.network.preset), user.preset) {
            (Some(preset), _) => (preset, PresetFrom::Sandbox),
            (None, Some(preset)) => (preset, PresetFrom::User),
            (None, None) => (NetworkPreset::Balanced, PresetFrom::Default),
        };
        let mut rules = [own, user.rules].concat();
        // `locked` means locked: what a kit or a tool of the host would like
        // counts only where somebody wrote it down.
        if matches!(preset, NetworkPreset::Balanced | NetworkPreset::Open)
            && let Some(spec) = spec
        {
            rules.extend(self.kit(&spec.kit)?.network_rules());
        }
        let wanted = match spec {
            Some(spec) if preset == NetworkPreset::Locked => self
                .kit(&spec.kit)?
                .network_rules()
                .filter(|wanted| !rules.iter().any(|rule| is_about(rule, wanted.resource())))
                .collect(),
            _ => Vec::new(),
        };
        if preset == NetworkPreset::Balanced {
            for (tool, resource) in registries {
                let origin = Origin::Tool(tool.clone());
                rules.extend(Rule::new(sbx_spec::Action::Allow, resource.clone(), origin).ok());
            }
        }
        rules.extend(preset_rules(preset));
        Ok(Effective {
            preset,
            preset_from,
            rules,
            wanted,
        })
    }

    /// Does what a `policy` command asks.
    ///
    /// # Errors
    /// Each says what was attempted on what.
    pub(super) async fn policy(
        &self,
        request: PolicyRequest,
        ui: &mut dyn Ui,
    ) -> Result<Reply, Error> {
        match request {
            PolicyRequest::Init(preset) => {
                let edits = [PolicyEdit::Preset(preset)];
                self.edit_for(&PolicyScope::User, &edits, ui).await
            }
            PolicyRequest::Add(scope, rules) => {
                let edits: Vec<_> = rules.into_iter().map(PolicyEdit::Add).collect();
                self.edit_for(&scope, &edits, ui).await
            }
            PolicyRequest::Remove(scope, choice) => {
                let edits = self.removals(&scope, &choice)?;
                self.edit_for(&scope, &edits, ui).await
            }
            PolicyRequest::List(sandbox) => self.list_policy(sandbox.as_ref()),
            PolicyRequest::Check(check) => self.check_policy(check).await,
            PolicyRequest::Log(request) => self.audit(&request, ui).await,
            PolicyRequest::Pending(sandbox) => self.pending(sandbox.as_ref()).await,
            PolicyRequest::Answer(id, saying) => {
                let (answered, warnings) = self.answer(&id, saying).await?;
                warnings.iter().for_each(|warning| ui.warn(warning));
                Ok(Reply::Answered(answered))
            }
        }
    }

    /// Adds rules to a sandbox's own policy and makes them known.
    ///
    /// # Errors
    /// If the policy cannot be read or written, or a running sandbox does
    /// not take it.
    pub(super) async fn add_rules(
        &self,
        sandbox: &SandboxDir,
        rules: &[Rule],
        ui: &mut dyn Ui,
    ) -> Result<(), Error> {
        if rules.is_empty() {
            return Ok(());
        }
        let edits: Vec<_> = rules.iter().cloned().map(PolicyEdit::Add).collect();
        let scope = PolicyScope::Sandbox(sandbox.name().clone());
        self.edit_for(&scope, &edits, ui).await.map(drop)
    }

    async fn edit_for(
        &self,
        scope: &PolicyScope,
        edits: &[PolicyEdit],
        ui: &mut dyn Ui,
    ) -> Result<Reply, Error> {
        let Edit { edited, warnings } = self.edit_policy(scope, edits).await?;
        warnings.iter().for_each(|warning| ui.warn(warning));
        Ok(Reply::PolicyEdited(edited))
    }

    /// Makes sure that a sandbox judges by what is written down now, and not
    /// when its start began or whoever started it was killed: `planned` is
    /// what it was started with, where this command started it.
    ///
    /// # Errors
    /// If the policy cannot be read, or the sandbox does not take it.
    pub(super) async fn refresh_policy(
        &self,
        sandbox: &SandboxDir,
        planned: Option<&Plan>,
    ) -> Result<(), Error> {
        // Whoever edits a policy holds this until everybody knows: what is
        // read here is not told after something newer.
        let _leave = self.policy_lock().await?;
        let spec = sandbox.record()?.spec;
        let now = self.effective(Some((sandbox, &spec)))?;
        let known = planned.map(|plan| plan.network.as_ref());
        match known {
            Some(None) => Ok(()),
            Some(Some(network)) if network.rules == now.rules => Ok(()),
            Some(Some(_)) | None => self.make_known(sandbox, &now).await.map(drop),
        }
    }

    /// Writes an edit down and makes it known.
    ///
    /// # Errors
    /// If the policy cannot be read or written, or a sandbox that does not
    /// take it cannot be stopped.
    pub(super) async fn edit_policy(
        &self,
        scope: &PolicyScope,
        edits: &[PolicyEdit],
    ) -> Result<Edit, Error> {
        let _leave = self.policy_lock().await?;
        let path = self.policy_path(scope)?;
        let text = read(&path)?.unwrap_or_default();
        let (after, changed) = PolicyFile::edit(&text, &origin(scope), edits).map_err(|error| {
            wrong(&path)
                .because(error)
                .hint("mend the file, then try again")
        })?;
        if changed {
            write(&path, &after)?;
        }
        // Even where the file was so already: it may have been edited by
        // hand, and who types a rule wants it in force.
        let mut edit = Edit {
            edited: PolicyEdited {
                changed,
                file: path,
                applied: Vec::new(),
                cut: 0,
            },
            warnings: Vec::new(),
        };
        self.make_known_to_all(scope, &mut edit).await?;
        Ok(edit)
    }

    /// Leave to edit policies: one command at a time has it.
    async fn policy_lock(&self) -> Result<Lock, Error> {
        let failed = |source: sbx_sys::Error| {
            Error::new(Code::State, "cannot lock the policy").because(source)
        };
        self.directories.prepare()?;
        let state = file::open_dir(&self.directories.state).map_err(failed)?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(lock) = Lock::try_exclusive(&state, LOCK).map_err(failed)? {
                return Ok(lock);
            }
            if tokio::time::Instant::now() > deadline {
                return Err(Error::new(
                    Code::Busy,
                    "another command changes the policy and does not finish",
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Tells running sandboxes what counts now. One that cannot be told is
    /// stopped: it would go on by rules that somebody just took back. One on
    /// its way up is told before its first session
    /// ([`Self::refresh_policy`]).
    async fn make_known_to_all(&self, scope: &PolicyScope, edit: &mut Edit) -> Result<(), Error> {
        let concerned = match scope {
            PolicyScope::User => self.store().list()?,
            PolicyScope::Sandbox(name) => vec![self.find(name)?],
        };
        for sandbox in &concerned {
            let running = matches!(
                sandbox.state(),
                Ok(State::Live(Some(run))) if run.phase == Phase::Running
            );
            if !running {
                continue;
            }
            let told = async {
                let spec = sandbox.record()?.spec;
                let effective = self.effective(Some((sandbox, &spec)))?;
                self.make_known(sandbox, &effective).await
            };
            match told.await {
                Ok(count) => {
                    edit.edited.cut += count;
                    edit.edited.applied.push(sandbox.name().clone());
                }
                Err(error) => {
                    let name = sandbox.name();
                    edit.warnings.push(format!(
                        "`{name}` did not take the policy and is stopped: {error}"
                    ));
                    self.bring_down(sandbox, Duration::ZERO).await?;
                }
            }
        }
        Ok(())
    }

    async fn make_known(&self, sandbox: &SandboxDir, effective: &Effective) -> Result<u64, Error> {
        let rules: &[Rule] = match effective.preset {
            NetworkPreset::None => &[],
            _ => &effective.rules,
        };
        client::policy(&self.runtime(sandbox.name()), rules).await
    }

    fn removals(&self, scope: &PolicyScope, choice: &RuleChoice) -> Result<Vec<PolicyEdit>, Error> {
        let rules = self.written(scope)?.rules;
        let chosen: Vec<_> = rules
            .iter()
            .filter(|rule| match choice {
                RuleChoice::Id(id) => rule.id() == *id,
                RuleChoice::Resource(resource) => rule.resource() == resource,
            })
            .map(|rule| PolicyEdit::Remove(rule.id()))
            .collect();
        if chosen.is_empty() {
            let what = match choice {
                RuleChoice::Id(id) => format!("no rule {id}"),
                RuleChoice::Resource(resource) => format!("no rule about {resource}"),
            };
            let whose = match scope {
                PolicyScope::User => "the user's policy".to_owned(),
                PolicyScope::Sandbox(name) => format!("the policy of `{name}`"),
            };
            return Err(Error::new(Code::RuleNotFound, format!("{what} in {whose}"))
                .hint("`sbx policy ls` shows the rules and where each was written"));
        }
        Ok(chosen)
    }

    fn list_policy(&self, name: Option<&sbx_spec::SandboxName>) -> Result<Reply, Error> {
        let effective = match name {
            Some(name) => {
                let sandbox = self.find(name)?;
                let spec = sandbox.record()?.spec;
                self.effective(Some((&sandbox, &spec)))?
            }
            None => self.effective(None)?,
        };
        let rules = effective.rules.iter().map(PolicyListed::of).collect();
        Ok(Reply::PolicyList(PolicyListReply {
            sandbox: name.cloned(),
            preset: effective.preset,
            preset_from: effective.preset_from,
            rules,
            wanted: effective.wanted.iter().map(PolicyListed::of).collect(),
        }))
    }

    fn policy_path(&self, scope: &PolicyScope) -> Result<PathBuf, Error> {
        Ok(match scope {
            PolicyScope::User => self.directories.config.join(FILE),
            PolicyScope::Sandbox(name) => self.find(name)?.join(FILE),
        })
    }

    fn written(&self, scope: &PolicyScope) -> Result<PolicyFile, Error> {
        let path = self.policy_path(scope)?;
        let text = read(&path)?.unwrap_or_default();
        PolicyFile::parse(&text, &origin(scope)).map_err(|error| wrong(&path).because(error))
    }
}

/// Whether a rule says something about what a kit would like: about all of
/// it, or about a part of it.
fn is_about(rule: &Rule, wanted: &Resource) -> bool {
    match wanted.target() {
        Target::Name(name) => rule.resource().covers_name(name),
        target => rule.resource().target() == target,
    }
}

fn origin(scope: &PolicyScope) -> Origin {
    match scope {
        PolicyScope::User => Origin::User,
        PolicyScope::Sandbox(_) => Origin::Sandbox,
    }
}

fn wrong(path: &std::path::Path) -> Error {
    Error::new(
        Code::Config,
        format!("cannot read the policy `{}`", path.display()),
    )
}

/// The text of a policy; `None` where there is no file.
fn read(path: &std::path::Path) -> Result<Option<String>, Error> {
    let bytes = match file::read_bounded(path, MAX_POLICY_FILE) {
        Ok(bytes) => bytes,
        Err(error) if error.errno() == Some(rustix::io::Errno::NOENT.raw_os_error()) => {
            return Ok(None);
        }
        Err(error) => return Err(wrong(path).because(error)),
    };
    String::from_utf8(bytes)
        .map(Some)
        .map_err(|error| wrong(path).because(error))
}

fn write(path: &std::path::Path, text: &str) -> Result<(), Error> {
    let failed = || {
        Error::new(
            Code::Io,
            format!("cannot write the policy `{}`", path.display()),
        )
    };
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|n| n.to_str()))
    else {
        return Err(failed());
    };
    std::fs::create_dir_all(directory).map_err(|source| failed().because(source))?;
    file::open_dir(directory)
        .and_then(|directory| file::replace_at(&directory, name, text.as_bytes()))
        .map_err(|source| failed().because(source))
}

#[cfg(test)]
mod tests;
