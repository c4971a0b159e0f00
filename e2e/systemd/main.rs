//! What needs a host with systemd, run in a machine that is one: each file of
//! `checks/user` is a check that an ordinary user runs there, and each of
//! `checks/root` one that root runs. Nothing is skipped
//! here, for the machine brings what this host may lack.

use std::path::Path;

use e2e::{USERS, checked_by_systemd};

/// One machine for all of them: it takes longer to start than most checks.
#[test]
fn under_systemd_users_have_containers_with_limits() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let files = |user| std::fs::read_dir(directory.join("checks").join(user)).unwrap();
    let files: usize = USERS.map(|user| files(user).count()).into_iter().sum();
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
