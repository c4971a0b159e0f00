//! What needs a host with systemd, run in a machine that is one: each file of
//! `checks/` is a check, which an ordinary user runs there. Nothing is skipped
//! here, for the machine brings what this host may lack.

use std::path::Path;

use e2e::checked_by_systemd;

/// One machine for all of them: it takes longer to start than most checks.
#[test]
fn an_ordinary_user_of_systemd_has_containers_with_limits() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let files = std::fs::read_dir(directory.join("checks")).unwrap().count();
    let checks = checked_by_systemd(&directory, |check| match check.status {
        0 => eprintln!("systemd: {}: ok, {} s", check.name, check.seconds),
        code => eprintln!(
            "systemd: {}: FAILED with {code}:\n{}",
            check.name, check.said
        ),
    });
    let failed = checks.iter().filter(|check| check.status != 0);
    let failed: Vec<_> = failed.map(|check| &check.name).collect();
    assert!(failed.is_empty(), "failed: {failed:?}");
    assert_eq!(checks.len(), files, "not every check was run");
}
