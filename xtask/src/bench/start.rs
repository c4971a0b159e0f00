//! From the command to its end: `true` in a new sandbox, beside a bare machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::{Bench, MEMORY, Row, floor, milliseconds, run_quietly, timed};
use crate::programs::program;
use crate::tree::Failure;

/// Flags of the planned machine that the bare one shares.
const SHARED: [&str; 7] = [
    "-machine", "-accel", "-cpu", "-smp", "-m", "-object", "-append",
];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let whole = [
        "run",
        "--rm",
        "-q",
        "--memory",
        MEMORY,
        "--name",
        &bench.name,
    ];
    let whole: Vec<&str> = whole
        .iter()
        .chain(&["shell", "--", "-c", "true"])
        .copied()
        .collect();
    // Makes what is missing, and warms what is cold.
    run_quietly(&mut bench.sbx(&whole))?;
    let initrd = bench.directory.join("floor.cpio");
    std::fs::write(&initrd, floor::initramfs()).map_err(|e| Failure::new("write the floor", e))?;
    let plan = bench.ask(&["plan", "--memory", MEMORY, "--name", &bench.name, "shell"])?;
    let machine = Machine::of(&plan)
        .ok_or_else(|| Failure::new("read the plan", "it names no machine and no kernel"))?;
    let (mut bare, mut sandbox) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        bare.push(timed(&mut machine.bare(&initrd))?);
        sandbox.push(timed(&mut bench.sbx(&whole))?);
    }
    Ok(vec![Row {
        what: "`true` in a new sandbox, made, booted and removed".to_owned(),
        floor: Some(("bare QEMU, same kernel".to_owned(), milliseconds(&bare))),
        figure: milliseconds(&sandbox),
        unit: "ms",
    }])
}

/// What each further command costs in a sandbox that is up.
pub(super) fn measure_further(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let (mut version, mut further) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        version.push(timed(&mut bench.sbx(&["version", "-q"]))?);
        further.push(timed(&mut bench.sbx(&["exec", &bench.name, "true"]))?);
    }
    Ok(vec![Row {
        what: "`true` in a running sandbox".to_owned(),
        floor: Some(("`sbx version`".to_owned(), milliseconds(&version))),
        figure: milliseconds(&further),
        unit: "ms",
    }])
}

struct Machine {
    kernel: PathBuf,
    qemu: String,
    shared: Vec<String>,
}

impl Machine {
    /// From what `sbx plan --json` says.
    fn of(plan: &Value) -> Option<Self> {
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
        let mut words = detail("boot the machine")?.into_iter();
        let qemu = words.next()?;
        let words: Vec<String> = words.collect();
        let pairs = words.windows(2).filter_map(|pair| match pair {
            [flag, value] if SHARED.contains(&flag.as_str()) => Some([flag.clone(), value.clone()]),
            _ => None,
        });
        Some(Self {
            kernel,
            qemu,
            shared: pairs.flatten().collect(),
        })
    }

    /// The same processor, memory and kernel with a console and nothing else; ends by itself.
    fn bare(&self, initrd: &Path) -> Command {
        let mut command = program(&self.qemu, Path::new("/"));
        command
            .args(&self.shared)
            .args([
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
                "-display",
                "none",
            ])
            .args(["-serial", "null"])
            .arg("-kernel")
            .arg(&self.kernel)
            .arg("-initrd")
            .arg(initrd)
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
            {"what": "boot the machine", "detail": ["/q", "-cpu", "max", "-device", "x", "-m", "1024M"]},
        ]});
        let machine = Machine::of(&plan).unwrap();
        assert_eq!(machine.shared, ["-cpu", "max", "-m", "1024M"]);
        assert!(Machine::of(&serde_json::json!({"steps": []})).is_none());
    }
}
