//! Kernel, template, kit and disk of a sandbox: made where they are missing.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use sbx_images::{Cache, Host, Kit, Tree};
use sbx_spec::{Isolation, KitName, SandboxSpec};
use sbx_sys::userns::{Maps, maps_of};

use super::Engine;
use crate::command::{Cancel, Code, Error, PlanStep, Ui};
use crate::plan::{Artifacts, ContainerFiles, MachineFiles, guarded};
use crate::store::{OWN_FILES, SandboxDir};

/// A sandbox's own disk, in its directory.
pub(super) const SCRATCH: &str = "scratch.img";

impl Engine {
    /// The kit of that name.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn kit(&self, name: &KitName) -> Result<Kit, Error> {
        Kit::named(name)
            .map_err(|error| image_error(&error))?
            .ok_or_else(|| Error::new(Code::UnknownAgent, format!("no agent `{name}`")))
    }

    /// Makes what the sandbox boots from, as far as it is not there.
    ///
    /// # Errors
    /// If the host lacks a program for it, or making it fails.
    pub(super) async fn prepare(
        &self,
        spec: &SandboxSpec,
        sandbox: &SandboxDir,
        ui: &mut dyn Ui,
    ) -> Result<Artifacts, Error> {
        match spec.isolation {
            Isolation::MicroVm => self.prepare_machine(spec, sandbox, ui),
            Isolation::Container => self.prepare_container(spec, sandbox, ui),
            Isolation::Docker => self.prepare_docker(spec, sandbox, ui).await,
        }
    }

    fn prepare_machine(
        &self,
        spec: &SandboxSpec,
        sandbox: &SandboxDir,
        ui: &mut dyn Ui,
    ) -> Result<Artifacts, Error> {
        let kit = self.kit(&spec.kit)?;
        let cache = self.cache()?;
        let progress = Progress::new(ui);
        let prepared = sbx_images::prepare(&cache, &self.host(), &kit, &progress)
            .map_err(|error| image_error(&error))?;
        let guest = self.companion("sbx-guest")?;
        let initrd = sbx_images::initramfs(&cache, &guest, &progress)
            .map_err(|error| image_error(&error))?;
        let scratch = sandbox.join(SCRATCH);
        if !scratch.exists() {
            sbx_images::scratch(&scratch, spec.limits.disk).map_err(|error| image_error(&error))?;
        }
        Ok(Artifacts::MicroVm(MachineFiles {
            kernel: prepared.kernel.image.path,
            initrd: initrd.path,
            base: prepared.base.image.path,
            kit: prepared.kit_image.map(|image| image.path),
            scratch,
        }))
    }

    fn prepare_container(
        &self,
        spec: &SandboxSpec,
        sandbox: &SandboxDir,
        ui: &mut dyn Ui,
    ) -> Result<Artifacts, Error> {
        let maps = self.maps()?;
        guarded(spec, &crate::facts::fuse())?;
        let kit = self.kit(&spec.kit)?;
        let cache = self.cache()?;
        let progress = Progress::new(ui);
        let failed = |error: sbx_images::Error| image_error(&error);
        let prepared = sbx_images::prepare_container(&cache, &self.host(), &kit, &maps, &progress)
            .map_err(failed)?;
        let directory = sandbox.join(OWN_FILES);
        sbx_images::directory_of(&maps, &directory).map_err(failed)?;
        // Every start begins with an empty one.
        sbx_images::remove_tree_of(&maps, &directory.join("temporary")).map_err(failed)?;
        Ok(Artifacts::Container(ContainerFiles {
            tree: prepared.tree.path,
            kit: prepared.kit_directory.map(|tree| tree.path),
            guest: self.companion("sbx-guest")?,
            directory,
            maps,
        }))
    }

    /// The ids of this caller's containers.
    ///
    /// # Errors
    /// What is missing for them, with its cure.
    pub(super) fn maps(&self) -> Result<Maps, Error> {
        maps_of(self.caller.uid, self.caller.gid).map_err(|missing| {
            let what = format!("cannot run a container: {}", missing.reason);
            Error::new(Code::HostUnfit, what).hint(missing.cure)
        })
    }

    /// The same, foreseen: where everything will be and what is to be made.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub(super) async fn foreseen(
        &self,
        spec: &SandboxSpec,
    ) -> Result<(Artifacts, Vec<PlanStep>), Error> {
        match spec.isolation {
            Isolation::MicroVm => self.foreseen_machine(spec),
            Isolation::Container => self.foreseen_container(spec),
            Isolation::Docker => self.foreseen_docker(spec).await,
        }
    }

    fn foreseen_container(&self, spec: &SandboxSpec) -> Result<(Artifacts, Vec<PlanStep>), Error> {
        let maps = self.maps()?;
        let kit = self.kit(&spec.kit)?;
        let cache = self.cache()?;
        let failed = |error: sbx_images::Error| image_error(&error);
        let tree = sbx_images::present_tree(&cache, &maps).map_err(failed)?;
        let program = kit.present_program(&cache, &maps).map_err(failed)?;
        let (tree, program) = (tree.map(|tree| tree.path), program.map(|tree| tree.path));
        let mut steps = vec![foreseen_step("unpack the base template", tree.as_deref())];
        if kit.version().is_some() {
            steps.push(foreseen_step(
                "unpack the agent's program",
                program.as_deref(),
            ));
        }
        let files = ContainerFiles {
            tree: tree.unwrap_or_else(|| self.later("base")),
            kit: (kit.version()).map(|_| program.unwrap_or_else(|| self.later("kit"))),
            guest: self.companion("sbx-guest")?,
            directory: self.own_files(spec, OWN_FILES),
            maps,
        };
        Ok((Artifacts::Container(files), steps))
    }

    pub(super) fn later(&self, what: &str) -> PathBuf {
        self.directories.cache.join(format!("{what} (to be made)"))
    }

    fn own_files(&self, spec: &SandboxSpec, name: &str) -> PathBuf {
        let sandboxes = self.directories.sandboxes();
        sandboxes.join(spec.name.as_str()).join(name)
    }

    fn foreseen_machine(&self, spec: &SandboxSpec) -> Result<(Artifacts, Vec<PlanStep>), Error> {
        let kit = self.kit(&spec.kit)?;
        let cache = self.cache()?;
        let failed = |error: sbx_images::Error| image_error(&error);
        let kernel = sbx_images::present_kernel(&cache, &self.host()).map_err(failed)?;
        let base = sbx_images::present_base(&cache).map_err(failed)?;
        let image = kit.present_image(&cache).map_err(failed)?;
        let kernel = kernel.map(|kernel| kernel.image.path);
        let base = base.map(|base| base.image.path);
        let image = image.map(|image| image.path);
        let mut steps = vec![
            foreseen_step("build the guest kernel", kernel.as_deref()),
            foreseen_step("build the base template", base.as_deref()),
        ];
        if kit.version().is_some() {
            steps.push(foreseen_step("fetch the agent's program", image.as_deref()));
        }
        let files = MachineFiles {
            kernel: kernel.unwrap_or_else(|| self.later("kernel")),
            initrd: self.later("initramfs"),
            base: base.unwrap_or_else(|| self.later("base")),
            kit: (kit.version()).map(|_| image.unwrap_or_else(|| self.later("kit"))),
            scratch: self.own_files(spec, SCRATCH),
        };
        Ok((Artifacts::MicroVm(files), steps))
    }

    /// Versions of kernel and template that are in place.
    pub(super) fn in_place(&self) -> (Option<String>, Option<String>) {
        let Ok(cache) = self.cache() else {
            return (None, None);
        };
        let kernel = sbx_images::present_kernel(&cache, &self.host())
            .ok()
            .flatten();
        let base = sbx_images::present_base(&cache).ok().flatten();
        (
            kernel.map(|kernel| kernel.release),
            base.map(|base| base.image.sha256),
        )
    }

    /// What containers of this caller stand on, as far as it is there.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub(super) fn trees(&self, cache: &Cache) -> Result<Vec<Tree>, Error> {
        let failed = |error: sbx_images::Error| image_error(&error);
        let gid = rustix::process::getegid().as_raw();
        // Without ids of their own there are no containers.
        let Ok(maps) = maps_of(self.host().uid, gid) else {
            return Ok(Vec::new());
        };
        let mut trees = Vec::new();
        trees.extend(sbx_images::present_tree(cache, &maps).map_err(failed)?);
        for name in Self::kit_names() {
            let program = self.kit(&name)?.present_program(cache, &maps);
            trees.extend(program.map_err(failed)?);
        }
        Ok(trees)
    }

    pub(super) fn cache(&self) -> Result<Cache, Error> {
        Cache::open(&self.directories.cache).map_err(|error| image_error(&error))
    }

    pub(super) fn host(&self) -> Host {
        let exe_dir = self
            .caller
            .program
            .parent()
            .map_or_else(PathBuf::new, Path::to_owned);
        Host::new(
            exe_dir,
            Some(self.caller.home.clone()),
            self.caller.archives.iter().cloned(),
        )
    }
}

pub(super) fn foreseen_step(what: &str, path: Option<&Path>) -> PlanStep {
    PlanStep {
        what: what.to_owned(),
        detail: path.iter().map(|path| path.display().to_string()).collect(),
        cached: path.is_some(),
    }
}

/// An error of the images room as one of ours.
pub(super) fn image_error(error: &sbx_images::Error) -> Error {
    let code = match error {
        sbx_images::Error::MissingPackages(_) | sbx_images::Error::Namespaces { .. } => {
            Code::HostUnfit
        }
        sbx_images::Error::Cancelled => Code::Interrupted,
        sbx_images::Error::NoRoom { .. } => Code::NoSpace,
        _ => Code::Image,
    };
    let mut ours = Error::new(code, error.to_string());
    if let Some(source) = std::error::Error::source(error) {
        ours = ours.because(source);
    }
    ours.hint = error.hint().or(ours.hint);
    match error {
        // Programs of the host run in the C locale.
        sbx_images::Error::Program { tail, .. } => ours.if_full(tail),
        _ => ours,
    }
}

/// The user's screen as the images room sees it.
pub(super) struct Progress<'a> {
    ui: Mutex<&'a mut dyn Ui>,
    cancel: Cancel,
    told: AtomicBool,
}

impl<'a> Progress<'a> {
    pub(super) fn new(ui: &'a mut dyn Ui) -> Self {
        let cancel = ui.cancel();
        Self {
            ui: Mutex::new(ui),
            cancel,
            told: AtomicBool::new(false),
        }
    }
}

// The screen is reached by one thread at a time through the lock, and the
// trait object is `Send`.
impl sbx_images::Progress for Progress<'_> {
    fn step(&self, name: &str, done: u64, total: u64) {
        self.ui.lock().progress(name, done, total);
    }

    fn note(&self, text: &str) {
        self.ui.lock().progress(text, 0, 0);
    }

    fn cancelled(&self) -> bool {
        let cancelled = self.cancel.is_cancelled();
        if cancelled && !self.told.swap(true, Ordering::Relaxed) {
            self.ui.lock().warn("stopping; what is done so far is kept");
        }
        cancelled
    }
}
