//! The floor of the machines: what `sbx plan` would boot, without what makes it a sandbox.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::programs::program;
use crate::tree::Failure;

/// Flags of the planned machine that the bare one shares.
const SHARED: [&str; 8] = [
    "-machine", "-global", "-accel", "-cpu", "-smp", "-m", "-object", "-append",
];

/// Processor, memory, kernel and images of a plan.
pub(super) struct Machine {
    kernel: PathBuf,
    qemu: String,
    shared: Vec<(String, String)>,
    /// The base template and, where the plan has one, the agent's program.
    pub(super) images: Vec<PathBuf>,
}

impl Machine {
    /// From what `sbx plan --json` says.
    pub(super) fn of(plan: &Value) -> Result<Self, Failure> {
        Self::read(plan)
            .ok_or_else(|| Failure::new("read the plan", "it names no machine and no kernel"))
    }

    fn read(plan: &Value) -> Option<Self> {
        let steps = plan.get("steps")?.as_array()?;
        let detail = |what: &str| -> Option<Vec<String>> {
            let step = steps
                .iter()
                .find(|s| s.get("what").and_then(Value::as_str) == Some(what))?;
            let words = step.get("detail")?.as_array()?;
            Some(
                words
                    .iter()
                    .filter_map(|w| w.as_str().map(str::to_owned))
                    .collect(),
            )
        };
        let kernel = detail("build the guest kernel")?.into_iter().next()?.into();
        let images = ["build the base template", "fetch the agent's program"]
            .into_iter()
            .filter_map(|step| Some(PathBuf::from(detail(step)?.into_iter().next()?)))
            .collect();
        let mut words = detail("boot the machine")?.into_iter();
        let qemu = words.next()?;
        let words: Vec<String> = words.collect();
        let pairs = words.windows(2).filter_map(|pair| match pair {
            [flag, value] if SHARED.contains(&flag.as_str()) => Some((flag.clone(), value.clone())),
            _ => None,
        });
        Some(Self {
            kernel,
            qemu,
            shared: pairs.collect(),
            images,
        })
    }

    /// The same processor, memory and kernel and no device; `further` is added to the arguments
    /// of the kernel.
    pub(super) fn bare(&self, further: &str) -> Command {
        let mut command = program(&self.qemu, Path::new("/"));
        for (flag, value) in &self.shared {
            let more = if flag == "-append" { further } else { "" };
            command.arg(flag).arg(format!("{value}{more}"));
        }
        command
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-kernel"])
            .arg(&self.kernel)
            .stdin(Stdio::null());
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bare_machine_shares_processor_and_memory_and_no_device() {
        let plan = serde_json::json!({"steps": [
            {"what": "build the guest kernel", "detail": ["/k"]},
            {"what": "boot the machine",
             "detail": ["/q", "-cpu", "max", "-device", "x", "-append", "quiet"]},
        ]});
        let command = Machine::of(&plan).unwrap().bare(" init=/i");
        let words: Vec<_> = command.get_args().take(5).collect();
        assert_eq!(
            words,
            ["-cpu", "max", "-append", "quiet init=/i", "-nodefaults"]
        );
        assert!(Machine::of(&serde_json::json!({"steps": []})).is_err());
    }
}
