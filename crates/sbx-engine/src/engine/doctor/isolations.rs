//! Of each isolation: whether it works here, works with limits, or does not,
//! why, and what would help.
//!
//! What the kernel grants is tried, not guessed (`sbx trial`); files of
//! `/proc` only say whose refusal it was.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sbx_sys::cgroup::Controller;
use sbx_sys::spawn::{Signal, Spawn};
use sbx_sys::userns::Maps;
use sbx_sys::{memfd, unix};

use super::super::Engine;
use super::{fail, pass, warn};
use crate::command::{Check, Code, Error};
use crate::container::{Outcome, Step, TrialConfig};
use crate::docker::EngineFacts;
use crate::facts::{HostFacts, Virtualisation};
use crate::store::{OWN_FILES, erase};

/// How long the trial may take: a file system that does not answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most that is read of what it says, in bytes.
const MAX_SAID: u64 = 64 * 1024;

/// What can keep an ordinary user from a user namespace.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Switches {
    /// AppArmor takes the capabilities away from who has no profile.
    apparmor: bool,
    /// Debian's switch is off.
    debian: bool,
    /// None may be made at all.
    none: bool,
}

impl Switches {
    fn read() -> Self {
        let is = |path: &str, value: &str| {
            std::fs::read_to_string(path).is_ok_and(|text| text.trim() == value)
        };
        let at = |name: &str| format!("/proc/sys/{name}");
        Self {
            apparmor: is(&at("kernel/apparmor_restrict_unprivileged_userns"), "1"),
            debian: is(&at("kernel/unprivileged_userns_clone"), "0"),
            none: is(&at("user/max_user_namespaces"), "0"),
        }
    }

    /// What brings user namespaces.
    fn cure(self) -> String {
        let all = [
            (
                self.none,
                "allow user namespaces: `sysctl user.max_user_namespaces=15000`",
            ),
            (
                self.debian,
                "let ordinary users make them: `sysctl kernel.unprivileged_userns_clone=1`",
            ),
            (
                self.apparmor,
                "AppArmor restricts them: give `sbx` a profile with `userns,`, or \
                 `sysctl kernel.apparmor_restrict_unprivileged_userns=0`",
            ),
        ];
        let all = all.into_iter().filter(|(is, _)| *is);
        let cures: Vec<_> = all.map(|(_, cure)| cure).collect();
        if cures.is_empty() {
            "boot a kernel with user namespaces, or ask who runs this host: a container around \
             it may forbid them"
                .to_owned()
        } else {
            cures.join("; ")
        }
    }
}

impl Engine {
    /// The isolation `container`. It is a second one, so that it does not work
    /// is no failure of the host.
    pub(super) fn container_check(&self, facts: &HostFacts) -> Check {
        let maps = match sbx_sys::userns::maps_of(self.caller.uid, self.caller.gid) {
            Ok(maps) => maps,
            Err(missing) => return not(missing.reason, &missing.cure),
        };
        match self.tried(maps) {
            Ok(outcomes) => judged(
                &outcomes,
                &facts.control_group,
                &facts.fuse,
                Switches::read(),
            ),
            Err(error) => not(
                format!(
                    "it could not be tried: {error}: {}",
                    error.causes.join(": ")
                ),
                "make the state directory writable, or install sbx again",
            ),
        }
    }

    /// What came of a trial on the file system where sandboxes are.
    fn tried(&self, maps: Maps) -> Result<Vec<Outcome>, Error> {
        let failed = |source: sbx_sys::Error| {
            Error::new(Code::Io, "cannot try what a container is made of").because(source)
        };
        let sandboxes = self.directories.sandboxes();
        let there = sandboxes.ancestors().find(|path| path.is_dir());
        // As what is left of a sandbox is called: `gc` finds it, if this is killed.
        let name = format!(".gone-trial-{}", std::process::id());
        let place = there.unwrap_or(Path::new("/")).join(name);
        std::fs::create_dir(&place).map_err(|source| {
            Error::new(Code::State, format!("cannot make `{}`", place.display())).because(source)
        })?;
        let directory = place.join(OWN_FILES);
        let outcomes = sbx_images::directory_of(&maps, &directory)
            .map_err(|source| super::image_error(&source))
            .and_then(|()| self.trial(&TrialConfig { maps, directory }).map_err(failed));
        erase(&place)?;
        outcomes
    }

    fn trial(&self, config: &TrialConfig) -> sbx_sys::Result<Vec<Outcome>> {
        let io = |what: &'static str| move |source| sbx_sys::Error::new(what, source);
        let text = serde_json::to_vec(config)
            .map_err(|source| sbx_sys::Error::new("write", std::io::Error::from(source)))?;
        let (near, far) = unix::stream_pair()?;
        let mut spawn = Spawn::path(PathBuf::from(&self.caller.program))
            .with_fd(memfd::sealed("sbx-trial", &text)?, 3)
            .with_fd(far, 4);
        spawn.argv = vec!["sbx".into(), "trial".into()];
        let child = spawn.spawn()?;
        near.set_read_timeout(Some(PATIENCE))
            .map_err(io("wait for the trial"))?;
        let outcomes = heard(near);
        // It has ended, or stands still at a step that is not there yet.
        let _ = child.signal(Signal::KILL);
        child.wait()?;
        Ok(outcomes)
    }
}

fn heard(from: UnixStream) -> Vec<Outcome> {
    let lines = BufReader::new(from.take(MAX_SAID)).lines();
    let lines = lines.map_while(Result::ok);
    lines
        .filter_map(|line| serde_json::from_str(&line).ok())
        .collect()
}

/// The isolation `container` by what was tried.
fn judged(
    outcomes: &[Outcome],
    group: &Result<Vec<Controller>, String>,
    fuse: &Result<(), String>,
    switches: Switches,
) -> Check {
    let of = |step| outcomes.iter().find(|outcome| outcome.step == step);
    for (step, cure) in [
        (Step::Ids, switches.cure()),
        (Step::Namespaces, switches.cure()),
        (
            Step::Wire,
            "load the kernel's module `veth`, or use a kernel that has it".to_owned(),
        ),
    ] {
        let refused = match of(step) {
            Some(Outcome { refused: None, .. }) => continue,
            Some(Outcome {
                refused: Some(why), ..
            }) => why.clone(),
            None => unreached(),
        };
        return not(refused, &cure);
    }
    let mut limits = Vec::new();
    let mut cures = Vec::new();
    if let Err(why) = fuse {
        limits.push(format!("it needs `--workspace-guard existing` ({why})"));
        cures.push("let this user open /dev/fuse: `modprobe fuse`, mode 0666");
    }
    let missing = match group {
        Err(why) => Some(format!(
            "no bound of memory, processors and processes ({why})"
        )),
        Ok(held) => {
            let all = [
                (Controller::Memory, "memory"),
                (Controller::Cpu, "processors"),
                (Controller::Pids, "processes"),
            ];
            let missing = all.iter().filter(|(one, _)| !held.contains(one));
            let names: Vec<_> = missing.map(|(_, name)| *name).collect();
            (!names.is_empty()).then(|| format!("no bound of {}", names.join(", ")))
        }
    };
    if let Some(missing) = missing {
        limits.push(missing);
        cures.push(
            "log in through systemd, which delegates a control group, and for all three: \
             `Delegate=memory cpu pids` of user@.service",
        );
    }
    if let Some(why) = of(Step::Clocks).and_then(|outcome| outcome.refused.clone()) {
        limits.push(format!("the uptime of this host is seen ({why})"));
        cures.push("boot a kernel of 5.6 or later with time namespaces");
    }
    match of(Step::Layers) {
        Some(Outcome { refused: None, .. }) => {}
        Some(Outcome {
            refused: Some(why), ..
        }) => {
            limits.push(format!("each sandbox copies the template ({why})"));
            cures.push(
                "put the state directory (SBX_STATE_DIR) on a file system that overlayfs can \
                 write to, such as ext4, XFS or btrfs, and no overlay; kernel 5.11 or later",
            );
        }
        None => return not(unreached(), &switches.cure()),
    }
    if limits.is_empty() {
        return pass(
            ID,
            TITLE,
            "works: all that it is made of was tried".to_owned(),
        );
    }
    let found = format!("works with limits: {}", limits.join("; "));
    warn(ID, TITLE, found, &cures.join("; "))
}

fn unreached() -> String {
    "the trial ended before it got there".to_owned()
}

const ID: &str = "container";
const TITLE: &str = "isolation container";

fn not(why: String, cure: &str) -> Check {
    warn(ID, TITLE, format!("does not work: {why}"), cure)
}

/// The isolation `microvm`.
pub(super) fn microvm(facts: &HostFacts) -> Check {
    const ID: &str = "microvm";
    const TITLE: &str = "isolation microvm";
    let wsl = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .is_ok_and(|release| release.to_lowercase().contains("microsoft"));
    if facts.qemu.is_none() {
        let found = "does not work: no qemu-system-x86_64".to_owned();
        return fail(ID, TITLE, found, "apt-get install qemu-system-x86");
    }
    match &facts.virtualisation {
        Virtualisation::Usable => pass(ID, TITLE, "works, with KVM".to_owned()),
        Virtualisation::NotPermitted { reason, cure } => {
            fail(ID, TITLE, format!("does not work: {reason}"), cure)
        }
        Virtualisation::Unusable { reason } => warn(
            ID,
            TITLE,
            format!("works with limits: emulated, about 20 times slower ({reason})"),
            if wsl {
                "set `nestedVirtualization=true` under `[wsl2]` in .wslconfig, then \
                 `wsl --shutdown`"
            } else {
                "a host with KVM is faster; so is `--isolation container`, a weaker boundary"
            },
        ),
    }
}

/// The isolation `docker` with an engine that says this of itself.
pub(super) fn docker(facts: &EngineFacts) -> Check {
    const ID: &str = "docker";
    const TITLE: &str = "isolation docker";
    let name = match facts.rootless {
        true => format!("{} of an ordinary user", facts.name),
        false => facts.name.clone(),
    };
    let limits = [
        (facts.memory_limit, "it cannot hold memory"),
        (facts.cpu_quota, "it cannot hold processors"),
        (facts.pids_limit, "it cannot hold processes"),
        (
            facts.seccomp,
            "it filters no system calls, which the first process inside then does alone",
        ),
        (facts.local, "it takes no workspace, since it is elsewhere"),
        (
            !facts.remapped || !facts.local,
            "it takes no workspace, since ids of its containers are nobody's here (userns-remap)",
        ),
    ];
    let limits: Vec<_> = limits
        .into_iter()
        .filter_map(|(there, what)| (!there).then_some(what))
        .collect();
    if limits.is_empty() {
        return pass(ID, TITLE, format!("works, with {name}"));
    }
    let found = format!("works with limits, with {name}: {}", limits.join("; "));
    let cure = "an engine on this host with its control groups has none: as root, or under systemd";
    warn(ID, TITLE, found, cure)
}

/// Kernels whose policy nobody has tried this with.
pub(super) fn labels() -> Option<Check> {
    let enforcing = std::fs::read_to_string("/sys/fs/selinux/enforce").ok()?;
    (enforcing.trim() == "1").then(|| {
        warn(
            "selinux",
            "SELinux",
            "enforcing, with which sbx was never tried".to_owned(),
            "if a start fails, `ausearch -m avc -ts recent` says what was refused",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Outcome as Word;

    #[test]
    fn an_engine_that_can_hold_everything_works_and_others_say_what_they_cannot() {
        let whole = EngineFacts {
            name: "Podman 5".to_owned(),
            podman: true,
            rootless: true,
            remapped: false,
            local: true,
            tap: false,
            seccomp: true,
            memory_limit: true,
            cpu_quota: true,
            pids_limit: true,
            cpus: 2,
            memory: sbx_spec::ByteSize::gib(1),
        };
        let works = docker(&whole);
        assert_eq!(works.outcome, Word::Pass, "{works:?}");
        assert!(works.found.contains("Podman 5 of an ordinary user"));
        for (facts, what) in [
            (
                EngineFacts {
                    memory_limit: false,
                    ..whole.clone()
                },
                "memory",
            ),
            (
                EngineFacts {
                    local: false,
                    ..whole.clone()
                },
                "elsewhere",
            ),
            (
                EngineFacts {
                    remapped: true,
                    ..whole.clone()
                },
                "userns-remap",
            ),
            (
                EngineFacts {
                    seccomp: false,
                    ..whole.clone()
                },
                "system calls",
            ),
        ] {
            let limited = docker(&facts);
            assert_eq!(limited.outcome, Word::Warn, "{limited:?}");
            assert!(limited.found.contains(what), "{limited:?}");
        }
    }

    fn said(refused: &[(Step, &str)]) -> Vec<Outcome> {
        let all = [
            Step::Ids,
            Step::Namespaces,
            Step::Clocks,
            Step::Wire,
            Step::Layers,
        ];
        let told = |step| Outcome {
            step,
            refused: refused
                .iter()
                .find(|(which, _)| *which == step)
                .map(|(_, why)| (*why).to_owned()),
        };
        all.map(told).to_vec()
    }

    fn all() -> Result<Vec<Controller>, String> {
        Ok(vec![Controller::Memory, Controller::Cpu, Controller::Pids])
    }

    #[test]
    fn a_host_that_grants_everything_works_and_one_without_limits_says_which() {
        let whole = judged(&said(&[]), &all(), &Ok(()), Switches::default());
        assert_eq!(whole.outcome, Word::Pass, "{whole:?}");
        let unheld = judged(
            &said(&[]),
            &Err("none".to_owned()),
            &Ok(()),
            Switches::default(),
        );
        assert!(
            unheld
                .found
                .starts_with("works with limits: no bound of memory")
        );
        let part = judged(
            &said(&[]),
            &Ok(vec![Controller::Memory]),
            &Ok(()),
            Switches::default(),
        );
        assert!(part.found.contains("no bound of processors, processes"));
        let layers = judged(
            &said(&[(Step::Layers, "no")]),
            &all(),
            &Ok(()),
            Switches::default(),
        );
        assert!(
            layers
                .found
                .contains("each sandbox copies the template (no)")
        );
        assert!(layers.cure.unwrap().contains("SBX_STATE_DIR"));
        let fuse = Err("no device".to_owned());
        let served = judged(&said(&[]), &all(), &fuse, Switches::default());
        assert!(
            served.found.contains("--workspace-guard existing"),
            "{served:?}"
        );
        let clocks = judged(
            &said(&[(Step::Clocks, "none")]),
            &all(),
            &Ok(()),
            Switches::default(),
        );
        assert!(clocks.found.contains("uptime") && clocks.outcome == Word::Warn);
    }

    #[test]
    fn a_host_that_refuses_a_step_is_told_why_and_what_would_help() {
        let apparmor = Switches {
            apparmor: true,
            ..Switches::default()
        };
        for (step, switches, cure) in [
            (Step::Ids, apparmor, "AppArmor"),
            (Step::Ids, Switches::default(), "boot a kernel"),
            (Step::Wire, Switches::default(), "veth"),
        ] {
            let check = judged(&said(&[(step, "because")]), &all(), &Ok(()), switches);
            assert_eq!(check.found, "does not work: because");
            assert!(check.cure.unwrap().contains(cure), "{cure}");
        }
        // A trial that says nothing more has not passed.
        for told in 0..5 {
            let cut = judged(&said(&[])[..told], &all(), &Ok(()), Switches::default());
            assert!(cut.found.starts_with("does not work"), "{cut:?}");
        }
    }
}
