//! `doctor`: whether this host can run sandboxes, and what would help.

mod isolations;

use std::time::SystemTime;

use sbx_sys::spawn::Spawn;

use super::Engine;
use super::prepare::image_error;
use crate::command::{Check, DoctorReply, DoctorRequest, Error, Outcome, Reply, Ui};
use crate::facts::{HostFacts, Virtualisation, program};

/// Days after which a kernel or template is said to be old.
const OLD_DAYS: u64 = 60;

impl Engine {
    pub(super) async fn doctor(
        &self,
        request: DoctorRequest,
        ui: &mut dyn Ui,
    ) -> Result<Reply, Error> {
        let facts = HostFacts::gather(&self.caller);
        let mut checks = vec![
            isolations::microvm(&facts),
            self.container_check(&facts),
            self.engine().await,
            kvm(&facts.virtualisation),
            qemu(&facts),
            landlock(),
            self.companions(),
            self.kernel()?,
            self.template()?,
            self.tools()?,
            self.space(),
        ];
        checks.extend(isolations::labels());
        if request.full {
            checks.push(self.contents(ui)?);
        }
        Ok(Reply::Doctor(DoctorReply { checks }))
    }

    /// Whether the isolation `docker` works here, likewise.
    async fn engine(&self) -> Check {
        let (id, title) = ("docker", "isolation docker");
        let asked = async { self.reached(&crate::docker::discover(&self.caller)?).await };
        match asked.await {
            Ok((_, facts)) => isolations::docker(&facts),
            Err(error) => {
                let found = match error.causes.first() {
                    Some(cause) => format!("{}: {cause}", error.message),
                    None => error.message,
                };
                let found = format!("does not work: {found}");
                warn(id, title, found, &error.hint.unwrap_or_default())
            }
        }
    }

    fn companions(&self) -> Check {
        let missing: Vec<_> = ["sbx-vmm", "sbx-guest"]
            .iter()
            .filter(|name| self.companion(name).is_err())
            .copied()
            .collect();
        if missing.is_empty() {
            pass("parts", "the parts of sbx", "all there".to_owned())
        } else {
            let found = format!("missing: {}", missing.join(", "));
            fail(
                "parts",
                "the parts of sbx",
                found,
                "install sbx again: its parts belong side by side",
            )
        }
    }

    fn kernel(&self) -> Result<Check, Error> {
        let title = "the guest kernel";
        let kernel = sbx_images::present_kernel(&self.cache()?, &self.host())
            .map_err(|error| image_error(&error))?;
        Ok(match kernel {
            None => warn(
                "kernel",
                title,
                "not built yet".to_owned(),
                "it is built at the first `sbx run`, in some minutes",
            ),
            Some(kernel) => aged(
                "kernel",
                title,
                format!("{} (source {})", kernel.release, kernel.source),
                kernel.built,
                "bring the kernel source up to date: apt-get install --only-upgrade linux-source-6.12",
            ),
        })
    }

    fn template(&self) -> Result<Check, Error> {
        let base = sbx_images::present_base(&self.cache()?).map_err(|error| image_error(&error))?;
        Ok(match base {
            None => warn(
                "template",
                "the base template",
                "not built yet".to_owned(),
                "it is built at the first `sbx run`, in a minute or two",
            ),
            Some(base) => aged(
                "template",
                "the base template",
                base.image.sha256.chars().take(12).collect(),
                base.built,
                "it is built anew once `sbx gc` has removed it",
            ),
        })
    }

    fn tools(&self) -> Result<Check, Error> {
        let cache = self.cache()?;
        let failed = |error: sbx_images::Error| image_error(&error);
        let mut missing = sbx_images::missing_for_kernel(&cache, &self.host()).map_err(failed)?;
        missing.extend(sbx_images::missing_for_base(&cache, &self.host()).map_err(failed)?);
        missing.sort();
        missing.dedup();
        let title = "programs that build kernel and template";
        if missing.is_empty() {
            return Ok(pass(
                "tools",
                title,
                "all there, or nothing left to build".to_owned(),
            ));
        }
        let names: Vec<_> = missing.iter().map(|one| one.program.clone()).collect();
        let packages: Vec<_> = missing.iter().map(|one| one.package.clone()).collect();
        Ok(fail(
            "tools",
            title,
            format!("missing: {}", names.join(", ")),
            &format!("apt-get install {}", packages.join(" ")),
        ))
    }

    fn space(&self) -> Check {
        let title = "room for sandboxes";
        let Ok(found) = rustix::fs::statvfs(&self.directories.state) else {
            return warn(
                "space",
                title,
                "the state directory is not there yet".to_owned(),
                "it is made at the first `sbx run`",
            );
        };
        let free = found.f_bavail.saturating_mul(found.f_frsize) >> 30;
        if free >= 4 {
            pass("space", title, format!("{free} GiB free"))
        } else {
            warn(
                "space",
                title,
                format!("{free} GiB free"),
                "free some: `sbx gc`, `sbx rm`",
            )
        }
    }

    /// Hashes kernel, template and the programs of agents in full.
    fn contents(&self, ui: &mut dyn Ui) -> Result<Check, Error> {
        let cache = self.cache()?;
        let title = "contents of kernel, template and agents";
        let kernel = sbx_images::present_kernel(&cache, &self.host())
            .map_err(|error| image_error(&error))?;
        let base = sbx_images::present_base(&cache).map_err(|error| image_error(&error))?;
        let mut images: Vec<_> = kernel
            .map(|kernel| kernel.image)
            .into_iter()
            .chain(base.map(|base| base.image))
            .collect();
        for name in Self::kit_names() {
            let image = self.kit(&name)?.present_image(&cache);
            images.extend(image.map_err(|error| image_error(&error))?);
        }
        let trees = self.trees(&cache)?;
        let total = images.len().saturating_add(trees.len()) as u64;
        let checks = images.iter().map(|image| image.verify_full());
        let checks = checks.chain(trees.iter().map(|tree| tree.verify_full()));
        for (done, checked) in (0..).zip(checks) {
            ui.progress("check the contents of images", done, total);
            if let Err(error) = checked {
                // Nobody else will: what the file system shows is as recorded.
                let cure = error.hint().unwrap_or_default();
                return Ok(fail("contents", title, error.to_string(), &cure));
            }
        }
        ui.progress("check the contents of images", total, total);
        Ok(pass(
            "contents",
            title,
            format!("{total} images and trees are what they were made as"),
        ))
    }
}

fn kvm(found: &Virtualisation) -> Check {
    let title = "hardware virtualisation";
    match found {
        Virtualisation::Usable => pass("kvm", title, "KVM runs guests".to_owned()),
        Virtualisation::NotPermitted { reason, cure } => fail("kvm", title, reason.clone(), cure),
        Virtualisation::Unusable { reason } => warn(
            "kvm",
            title,
            reason.clone(),
            "machines are emulated here, about 20 times slower; a host with KVM is faster",
        ),
    }
}

fn qemu(facts: &HostFacts) -> Check {
    match (&facts.qemu, qemu_version()) {
        (Some(_), Some(version)) => pass("qemu", "the machine monitor", version),
        _ => fail(
            "qemu",
            "the machine monitor",
            "no qemu-system-x86_64".to_owned(),
            "apt-get install qemu-system-x86",
        ),
    }
}

fn landlock() -> Check {
    match sbx_sys::jail::abi() {
        abi if abi >= sbx_sys::jail::MIN_ABI => {
            pass("landlock", "Landlock, the first wall", format!("ABI {abi}"))
        }
        abi => fail(
            "landlock",
            "Landlock, the first wall",
            format!(
                "this kernel offers ABI {abi}, {} is needed",
                sbx_sys::jail::MIN_ABI
            ),
            "boot a kernel of 5.19 or later with landlock in its lsm= list",
        ),
    }
}

/// What QEMU says of itself.
pub(super) fn qemu_version() -> Option<String> {
    let path = program("qemu-system-x86_64")?;
    let (mut reader, writer) = std::io::pipe().ok()?;
    let child = Spawn::path(path)
        .arg("--version")
        .with_fd(writer, 1)
        .spawn()
        .ok()?;
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(&mut reader, 4096), &mut text).ok()?;
    child.wait().ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().next().map(|line| line.trim().to_owned())
}

fn aged(id: &str, title: &str, found: String, made: Option<SystemTime>, cure: &str) -> Check {
    let days = made
        .and_then(|made| SystemTime::now().duration_since(made).ok())
        .map(|age| age.as_secs() / 86_400);
    match days {
        Some(days) if days > OLD_DAYS => warn(id, title, format!("{found}, {days} days old"), cure),
        Some(days) => pass(id, title, format!("{found}, {days} days old")),
        None => pass(id, title, found),
    }
}

fn pass(id: &str, title: &str, found: String) -> Check {
    Check {
        id: id.to_owned(),
        title: title.to_owned(),
        outcome: Outcome::Pass,
        found,
        cure: None,
    }
}

fn warn(id: &str, title: &str, found: String, cure: &str) -> Check {
    Check {
        id: id.to_owned(),
        title: title.to_owned(),
        outcome: Outcome::Warn,
        found,
        cure: Some(cure.to_owned()),
    }
}

fn fail(id: &str, title: &str, found: String, cure: &str) -> Check {
    Check {
        outcome: Outcome::Fail,
        ..warn(id, title, found, cure)
    }
}
