//! From the command to its end: `true` in a new sandbox, beside a bare machine.

use super::machine::Machine;
use super::{Bench, MEMORY, Row, floor, milliseconds, run_quietly, timed};
use crate::tree::Failure;

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
    let machine = Machine::of(&plan)?;
    let (mut bare, mut sandbox) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        bare.push(timed(
            machine
                .bare("")
                .args(["-serial", "null", "-initrd"])
                .arg(&initrd),
        )?);
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
