//! The share beside the guest's own disk, as pjdfstest sees them.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use e2e::{Fact, Home, Sandbox, pjdfstest};

/// A case, how it ends on the share, the reason.
const LISTED: &str = include_str!("../pjdfstest-differences.txt");

/// Naps longer than a tick of the guest's clock, optional features that both
/// have, and two users that every Debian has.
const SETTINGS: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
stat_st_birthtime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.02

[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// What a container refuses wherever it is done: set-id bits.
const REFUSED: &[&str] = &[
    "chmod::clear_isgid_bit",
    "mkdir::uid_gid_eq_euid_egid",
    "mkfifo::uid_gid_eq_euid_egid",
    "mknod::uid_gid_eq_euid_egid",
    "open::uid_gid_eq_euid_egid",
];

#[test]
fn the_share_answers_as_the_guests_own_disk() {
    if Fact::CargoRegistry.holds_for("the_share_answers_as_the_guests_own_disk") {
        let home = Home::new();
        compare(&home, &[], |_| false);
    }
}

#[test]
fn the_share_of_a_container_answers_as_its_own_directory() {
    if Fact::CargoRegistry.holds_for("the_share_of_a_container_answers_as_its_own_directory") {
        let home = Home::new();
        let isolation = ["--isolation", "container"];
        // It makes no device nodes anywhere but the one of overlays.
        let nodes = |case: &str| case.ends_with("::block") || case.ends_with("::char");
        compare(&home, &isolation, |case| {
            nodes(case) || REFUSED.contains(&case)
        });
    }
}

/// Runs all cases beside each other. `refused`: what may fail on the own disk,
/// and fails on the share then.
fn compare(home: &Home, isolation: &[&str], refused: impl Fn(&str) -> bool) {
    let programs = format!(
        "type=bind,source={},target=/pjdfstest,readonly",
        pjdfstest().display()
    );
    let volume = "type=volume,source=disk,target=/disk";
    let flags = [isolation, &["--mount", &programs, "--mount", volume]].concat();
    let sandbox = home.sandbox_with("posix", &flags);
    fs::write(sandbox.workspace().join("settings.toml"), SETTINGS).unwrap();
    if isolation.is_empty() {
        assert_eq!(sandbox.sh("stat -f -c %T /disk"), "ext2/ext3");
    }
    let disk = cases(&sandbox, "/disk");
    let share = cases(&sandbox, ".");
    assert!(disk.len() > 350, "all cases were run: {}", disk.len());
    let broken = disk.iter().filter(|(_, end)| *end == "FAILED");
    let broken: Vec<_> = broken.filter(|(case, _)| !refused(case)).collect();
    assert_eq!(broken, [], "the own disk is what the share is measured by");

    let listed = listed();
    let mut wrong = Vec::new();
    for (case, on_disk) in &disk {
        let on_share = share.get(case).map_or("absent", String::as_str);
        let expected = match listed.get(case.as_str()) {
            None => on_disk,
            Some(&"fails") => "FAILED",
            Some(&"varies") if ["ok", "FAILED"].contains(&on_share) => on_share,
            Some(end) => end,
        };
        if on_share != expected {
            wrong.push(format!("{case}: {on_share} on the share, not {expected}"));
        }
    }
    let unknown = listed.keys().filter(|case| !disk.contains_key(**case));
    wrong.extend(unknown.map(|case| format!("{case}: listed, and no case")));
    assert_eq!(wrong, Vec::<String>::new());
}

/// Every case run by the guest's root below `directory`: how it ended.
fn cases(sandbox: &Sandbox<'_>, directory: &str) -> BTreeMap<String, String> {
    let script = format!("sudo /pjdfstest/pjdfstest -c settings.toml -p {directory}");
    // Its exit code says that a case failed, and on the share some do.
    let out = sandbox
        .exec(["bash", "-c", &script])
        .within(Duration::from_secs(300))
        .output();
    let text = out.text();
    assert!(text.contains("Summary"), "it ran to its end: {out}");
    let ends = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (case, end) = (words.next()?, words.next()?);
        let whole = words.next().is_none() && ["ok", "FAILED", "skipped"].contains(&end);
        whole.then(|| (case.to_owned(), end.to_owned()))
    });
    ends.collect()
}

fn listed() -> BTreeMap<&'static str, &'static str> {
    let lines = LISTED.lines().filter(|line| !line.starts_with('#'));
    let parsed = lines.map(|line| {
        let mut parts = line.splitn(3, ' ');
        let (case, end) = (parts.next().unwrap(), parts.next().unwrap());
        let known = ["fails", "skipped", "varies"].contains(&end);
        assert!(known && parts.next().is_some(), "{line}");
        (case, end)
    });
    parsed.collect()
}
