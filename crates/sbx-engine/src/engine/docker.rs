//! What the user's container engine has to do with a sandbox: what it is made
//! of, and what is to go when it does.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use sbx_spec::{EngineImage, HostLimits, Pull, SandboxName, SandboxSpec};
use sbx_sys::userns::Maps;

use super::Engine;
use super::prepare::{Progress, foreseen_step, image_error};
use crate::command::{Code, Error, PlanStep, Ui};
use crate::docker::{self, Client, Endpoint, EngineFacts, Loaded, Record};
use crate::plan::{Artifacts, DockerEngine, DockerFiles};
use crate::store::SandboxDir;

/// The filter of system calls in a sandbox's directory, for an engine that
/// reads it from a file.
const FILTER: &str = "seccomp.json";
/// That of the keeper of the network.
const KEEPER_FILTER: &str = "seccomp-network.json";
/// Our program inside is some megabytes.
const MAX_GUEST: usize = 256 << 20;

impl Engine {
    /// The container engine at `endpoint`.
    async fn client(&self, endpoint: &Endpoint) -> Result<Client, Error> {
        Client::connect(endpoint, &docker::variables(&self.caller)).await
    }

    /// The same with what it is and can hold.
    pub(super) async fn reached(
        &self,
        endpoint: &Endpoint,
    ) -> Result<(Client, EngineFacts), Error> {
        let client = self.client(endpoint).await?;
        let facts = EngineFacts::ask(&client).await?;
        Ok((client, facts))
    }

    /// What the engine that a new sandbox would be with can hold.
    ///
    /// # Errors
    /// If there is none, or it does not answer.
    pub(super) async fn engine_limits(&self) -> Result<HostLimits, Error> {
        let (_, facts) = self.reached(&docker::discover(&self.caller)?).await?;
        Ok(HostLimits {
            cores: facts.cpus,
            memory: facts.memory,
            disk: None,
            cpu_quota: facts.cpu_quota,
            memory_limit: facts.memory_limit,
            pids_limit: facts.pids_limit,
            no_cgroup: None,
        })
    }

    /// Makes what the containers of a sandbox are made of, as far as the
    /// engine does not have it.
    pub(super) async fn prepare_docker(
        &self,
        spec: &SandboxSpec,
        sandbox: &SandboxDir,
        ui: &mut dyn Ui,
    ) -> Result<Artifacts, Error> {
        let record = match Record::read(sandbox)? {
            Some(record) => record,
            None => Record {
                endpoint: docker::discover(&self.caller)?,
                owner: docker::owner_of(&self.directories.state)?,
            },
        };
        let (client, facts) = unless_cancelled(ui, self.reached(&record.endpoint)).await?;
        keeps_its_socket(spec, &record.endpoint)?;
        let (agent, warnings) = self.agent_of(spec, &facts)?;
        record.write(sandbox)?;
        let guest = self.companion("sbx-guest")?;
        let kit = self.kit_directory(spec, ui)?;
        let program = match facts.local {
            true => None,
            false => Some(read_program(&guest)?),
        };
        let network_image = docker::sidecar(&client, program.as_deref());
        let network_image = unless_cancelled(ui, network_image).await?.id;
        // What it is made of does not change with what a name stands for.
        let in_use = docker::in_use(&client, &record.owner, &spec.name);
        let image = match unless_cancelled(ui, in_use).await? {
            Some(image) => image,
            None => self.engine_image(spec, &client, ui).await?,
        };
        let reads_files = facts.podman && facts.local;
        let filters = reads_files.then(|| write_filters(sandbox)).transpose()?;
        Ok(Artifacts::Docker(Box::new(DockerFiles {
            engine: self.described(&client, &facts, record.owner, filters),
            image: image.id,
            env: image.env,
            network_image,
            kit,
            guest,
            agent,
            warnings,
        })))
    }

    /// The same, foreseen, without making anything.
    pub(super) async fn foreseen_docker(
        &self,
        spec: &SandboxSpec,
    ) -> Result<(Artifacts, Vec<PlanStep>), Error> {
        let (client, facts) = self.reached(&docker::discover(&self.caller)?).await?;
        keeps_its_socket(spec, client.endpoint())?;
        let (agent, warnings) = self.agent_of(spec, &facts)?;
        let reference = reference(spec).unwrap_or("sbx-template").to_owned();
        let mut steps = vec![PlanStep {
            what: "take an image".to_owned(),
            detail: vec![reference.clone()],
            cached: false,
        }];
        let kit = self.kit(&spec.kit)?;
        let program = kit
            .present_program(&self.cache()?, &self.program_maps()?)
            .map_err(|error| image_error(&error))?;
        let program = program.map(|tree| tree.path);
        if kit.version().is_some() {
            let what = "unpack the agent's program";
            steps.push(foreseen_step(what, program.as_deref()));
        }
        let files = DockerFiles {
            engine: self.described(&client, &facts, String::new(), None),
            image: reference,
            env: Vec::new(),
            network_image: "sbx-network".to_owned(),
            kit: (kit.version()).map(|_| program.unwrap_or_else(|| self.later("kit"))),
            guest: self.companion("sbx-guest")?,
            agent,
            warnings,
        };
        Ok((Artifacts::Docker(Box::new(files)), steps))
    }

    /// Ends what of a sandbox still runs with its engine.
    ///
    /// # Errors
    /// If the engine cannot be reached, or does not do it.
    pub(super) async fn end_containers(&self, sandbox: &SandboxDir) -> Result<(), Error> {
        let Some(record) = Record::read(sandbox)? else {
            return Ok(());
        };
        let client = self.client(&record.endpoint).await?;
        docker::end(&client, &record.owner, sandbox.name()).await
    }

    /// Removes what its engine has of a sandbox.
    ///
    /// # Errors
    /// If the engine cannot be reached, or does not do it.
    pub(super) async fn remove_containers(&self, sandbox: &SandboxDir) -> Result<(), Error> {
        let Some(record) = Record::read(sandbox)? else {
            return Ok(());
        };
        let client = self.client(&record.endpoint).await?;
        docker::remove(&client, &record.owner, sandbox.name()).await
    }

    /// What the caller's engine has of sandboxes that are not there any more;
    /// removed unless `dry_run`. Without an engine there is nothing.
    ///
    /// # Errors
    /// If the engine does not do it.
    pub(super) async fn stray_containers(&self, dry_run: bool) -> Result<Vec<String>, Error> {
        if !self.directories.state.join("engine-owner").exists() {
            return Ok(Vec::new());
        }
        let Ok(endpoint) = docker::discover(&self.caller) else {
            return Ok(Vec::new());
        };
        let Ok(client) = self.client(&endpoint).await else {
            return Ok(Vec::new());
        };
        let owner = docker::owner_of(&self.directories.state)?;
        let known: Vec<SandboxName> = (self.store().list()?.iter())
            .map(|sandbox| sandbox.name().clone())
            .collect();
        let strays = docker::strays(&client, &owner, &known).await?;
        if !dry_run {
            docker::remove_strays(&client, &owner, &strays).await?;
        }
        Ok(strays.into_iter().map(|stray| stray.what).collect())
    }

    /// Who the agent is inside: whose its files are, so that they stay theirs.
    fn agent_of(
        &self,
        spec: &SandboxSpec,
        facts: &EngineFacts,
    ) -> Result<((u32, u32), Vec<String>), Error> {
        let (uid, gid) = match self.caller.uid {
            0 => (1000, 1000),
            uid => (uid, self.caller.gid),
        };
        let Some(share) = spec.shares.first() else {
            return Ok(((uid, gid), Vec::new()));
        };
        let refused = |why: &str| {
            let what = format!(
                "cannot give `{}` to {}: {why}",
                share.host.display(),
                facts.name
            );
            let error = Error::new(Code::HostUnfit, what);
            error.hint("leave it out with `--no-workspace`, or use `--isolation microvm`")
        };
        if !facts.local {
            return Err(refused("it does not run on this host's kernel"));
        }
        let as_root = |why: &str| {
            let what =
                format!("the agent is root of its container, without any of its powers: {why}");
            Ok(((0, 0), vec![what]))
        };
        if facts.rootless {
            return as_root("with an engine of your own that is who you are inside");
        }
        if facts.remapped {
            return Err(refused(
                "ids of its containers are nobody's here (userns-remap)",
            ));
        }
        if self.caller.uid != 0 {
            return Ok(((uid, gid), Vec::new()));
        }
        let owner = share.host.metadata().map_err(|source| {
            let what = format!("cannot look at `{}`", share.host.display());
            Error::new(Code::Workspace, what).because(source)
        })?;
        if owner.uid() == 0 {
            return as_root("the workspace is root's, and this engine maps no owners");
        }
        Ok(((owner.uid(), owner.gid()), Vec::new()))
    }

    /// The agent's program as a directory of the caller's.
    fn kit_directory(&self, spec: &SandboxSpec, ui: &mut dyn Ui) -> Result<Option<PathBuf>, Error> {
        let kit = self.kit(&spec.kit)?;
        let cache = self.cache()?;
        let maps = self.program_maps()?;
        let progress = Progress::new(ui);
        let missing = kit.missing_for_program(&cache, &maps);
        let missing = missing.map_err(|error| image_error(&error))?;
        if !missing.is_empty() {
            return Err(image_error(&sbx_images::Error::MissingPackages(missing)));
        }
        let tree = kit.program(&cache, &self.host(), &maps, &progress);
        Ok(tree
            .map_err(|error| image_error(&error))?
            .map(|tree| tree.path))
    }

    /// Whose the files of programs are: the caller's own, who needs no other
    /// ids for that.
    fn program_maps(&self) -> Result<Maps, Error> {
        match Maps::own(self.caller.uid, self.caller.gid) {
            Some(maps) => Ok(maps),
            None => self.maps(),
        }
    }

    fn described(
        &self,
        client: &Client,
        facts: &EngineFacts,
        owner: String,
        filters: Option<[PathBuf; 2]>,
    ) -> DockerEngine {
        let (filter, keeper_filter) = filters.map(|[one, other]| (one, other)).unzip();
        let endpoint = client.endpoint().clone();
        DockerEngine {
            ssh: match endpoint {
                Endpoint::Ssh(_) => docker::variables(&self.caller),
                _ => Vec::new(),
            },
            endpoint,
            name: facts.name.clone(),
            owner,
            local: facts.local,
            podman: facts.podman,
            rootless: facts.rootless,
            tap: facts.tap,
            filter,
            keeper_filter,
        }
    }

    async fn engine_image(
        &self,
        spec: &SandboxSpec,
        client: &Client,
        ui: &mut dyn Ui,
    ) -> Result<Loaded, Error> {
        if let Some(reference) = reference(spec) {
            let pull = spec
                .image
                .as_ref()
                .map_or(Pull::Missing, |image| image.pull);
            let mut cancel = ui.cancel();
            let mut told = |text: &str| ui.progress(text, 0, 0);
            return docker::foreign(client, reference, pull, &mut cancel, &mut told).await;
        }
        let tree = {
            let maps = self.maps()?;
            let progress = Progress::new(ui);
            sbx_images::tree(&self.cache()?, &self.host(), &maps, &progress)
                .map_err(|error| image_error(&error))?
        };
        ui.progress("load the base template into the engine", 0, 0);
        let digest = tree.image.clone();
        let write = move |put: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| {
            tree.archive(put).map_err(std::io::Error::other)
        };
        let loaded = unless_cancelled(ui, docker::template(client, &digest, write)).await;
        ui.progress("load the base template into the engine", 1, 1);
        loaded
    }
}

/// What `asking` an engine gives, unless the user wants out before.
pub(super) async fn unless_cancelled<T>(
    ui: &mut dyn Ui,
    asking: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let mut cancel = ui.cancel();
    tokio::select! {
        answer = asking => answer,
        () = cancel.cancelled() => {
            Err(Error::new(Code::Interrupted, "interrupted while asking the engine"))
        }
    }
}

/// Refuses a share in which the engine's own socket lies: a container could use
/// it, and is then whoever the engine runs as.
fn keeps_its_socket(spec: &SandboxSpec, endpoint: &Endpoint) -> Result<(), Error> {
    let Endpoint::Unix(path) = endpoint else {
        return Ok(());
    };
    let real = path.canonicalize().unwrap_or_else(|_| path.clone());
    let holds = |share: &&sbx_spec::Share| real.starts_with(&share.host);
    match spec.shares.iter().find(holds) {
        None => Ok(()),
        Some(share) => {
            let what = format!(
                "`{}` cannot be mounted: the engine's own socket lies in it",
                share.host.display()
            );
            Err(Error::new(Code::Mount, what).hint("name a directory without it"))
        }
    }
}

/// What the user named, if it is not our own template.
fn reference(spec: &SandboxSpec) -> Option<&str> {
    let image: Option<&EngineImage> = spec.image.as_ref();
    image.and_then(|image| image.reference.as_deref())
}

fn read_program(path: &std::path::Path) -> Result<Vec<u8>, Error> {
    sbx_sys::file::read_bounded(path, MAX_GUEST).map_err(|source| {
        let what = format!("cannot read our program `{}`", path.display());
        Error::new(Code::HostUnfit, what).because(source)
    })
}

/// Those of both containers, in the sandbox's directory.
fn write_filters(sandbox: &SandboxDir) -> Result<[PathBuf; 2], Error> {
    let failed = |source: sbx_sys::Error| {
        Error::new(Code::State, "cannot write the filter of system calls").because(source)
    };
    let directory = sbx_sys::file::open_dir(sandbox.join("")).map_err(failed)?;
    for (name, frames) in [(FILTER, false), (KEEPER_FILTER, true)] {
        let text = sbx_sys::jail::engine_profile(frames).to_string();
        sbx_sys::file::replace_at(&directory, name, text.as_bytes()).map_err(failed)?;
    }
    Ok([sandbox.join(FILTER), sandbox.join(KEEPER_FILTER)])
}
