//! Host memory of an idle sandbox: proportional set sizes of its processes.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::{Bench, Row, median};
use crate::tree::Failure;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, Failure> {
    // Idle is what has settled after its start.
    std::thread::sleep(Duration::from_secs(2));
    let (mut ours, mut machine) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds {
        let known = bench.ask(&["inspect", &bench.name])?;
        let supervisor = known
            .get("supervisor")
            .and_then(Value::as_u64)
            .ok_or_else(|| Failure::new("find the supervisor", "`sbx inspect` names none"))?;
        let (mut beside, mut monitor) = (0.0, 0.0);
        for pid in family(supervisor) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let size = proportional(pid)?;
            if name.starts_with("qemu") {
                monitor += size;
            } else {
                beside += size;
            }
        }
        ours.push(beside);
        machine.push(monitor);
    }
    let row = |what: &str, values| Row {
        what: what.to_owned(),
        floor: None,
        figure: median(values),
        unit: "MB",
    };
    Ok(vec![
        row("memory of an idle sandbox beside the machine", ours),
        row("memory of its machine (given 1 GiB)", machine),
    ])
}

/// A process and all that it started, and they.
fn family(first: u64) -> Vec<u64> {
    let mut found = vec![first];
    let mut at = 0;
    while let Some(&pid) = found.get(at) {
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = fs::read_to_string(path).unwrap_or_default();
        found.extend(
            children
                .split_whitespace()
                .filter_map(|c| c.parse::<u64>().ok()),
        );
        at += 1;
    }
    found
}

/// In megabytes. Our processes hide from others of their user, so only root can look.
fn proportional(pid: u64) -> Result<f64, Failure> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path)
        .map_err(|e| Failure::new(format!("read `{path}` (root can)"), e))?;
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:"));
    let kib: f64 = line
        .and_then(|l| l.trim().trim_end_matches(" kB").parse().ok())
        .ok_or_else(|| Failure::new(format!("read `{path}`"), "it has no size"))?;
    Ok(kib * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_size_and_is_its_own_family() {
        let pid = u64::from(std::process::id());
        assert!(proportional(pid).unwrap() > 0.1);
        assert!(family(pid).contains(&pid));
    }
}
