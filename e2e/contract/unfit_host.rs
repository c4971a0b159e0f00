//! A host that lacks something or lies about it: told with what to do, or
//! done without, and nothing is left.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use e2e::{Fact, Home, Isolation};

where_files_are_ours![a_workspace_on_another_file_system_is_served_like_any_other];

/// An ordinary user's number.
const USER: u32 = 1000;

/// What `plan` says: the accelerator, and what it found of KVM.
fn planned(home: &Home, flags: &[&str]) -> (&'static str, String) {
    let plan = home
        .sbx(["plan", "--json", "--no-workspace"])
        .args(flags)
        .arg("shell")
        .succeeds()
        .json();
    let steps = plan["steps"].to_string();
    let accel = match (steps.contains("\"tcg,"), steps.contains("\"kvm\"")) {
        (true, false) => "tcg",
        (false, true) => "kvm",
        _ => "neither",
    };
    let facts = plan["facts"].as_array().cloned().unwrap_or_default();
    let kvm = facts.iter().find(|fact| fact["name"] == "kvm");
    (
        accel,
        kvm.map_or_else(String::new, |fact| fact["value"].to_string()),
    )
}

#[test]
fn a_kvm_that_lies_is_seen_through_and_the_machine_is_emulated() {
    let name = "a_kvm_that_lies_is_seen_through_and_the_machine_is_emulated";
    if !Fact::KvmDevice.holds_for(name) {
        return;
    }
    let mut home = Home::new();
    fs::write(home.root().join("file"), "not a device").unwrap();
    for lie in ["/dev/null", "ROOT/file"] {
        let lie = lie.replace("ROOT", home.root().to_str().unwrap());
        home.mounts(&format!("mount --bind {lie} /dev/kvm"));
        let (accel, found) = planned(&home, &[]);
        assert_eq!(accel, "tcg", "{lie}");
        assert!(
            found.contains("not usable: ") && found.contains("of KVM"),
            "{found}"
        );
        // Where it is insisted on, the answer is no.
        let out = home
            .sbx(["run", "--json", "--no-workspace", "--accel", "kvm", "shell"])
            .output()
            .with_code(125);
        assert_eq!(out.json_error()["code"], "host_unfit", "{out}");
        assert!(out.json_error()["hint"].is_string(), "{out}");
    }
    let out = home
        .sbx(["run", "--rm", "--no-workspace", "--memory", "512m"])
        .args(["shell", "--", "-c", "echo up"])
        .succeeds();
    assert_eq!(out.text(), "up");
    let said = out.errors();
    let warnings: Vec<_> = said
        .lines()
        .filter(|line| line.contains("no usable KVM ("))
        .collect();
    assert_eq!(warnings.len(), 1, "one warning: {out}");
    for told in [
        "20 times",
        "--isolation container",
        "isolation = \"container\"",
    ] {
        assert!(warnings[0].contains(told), "{told}: {out}");
    }
}

#[test]
fn a_kvm_that_is_not_permitted_is_an_error_with_the_cure() {
    let name = "a_kvm_that_is_not_permitted_is_an_error_with_the_cure";
    if !Fact::Root.holds_for(name) || !Fact::KvmDevice.holds_for(name) {
        return;
    }
    let mut home = Home::of_user(USER);
    // A processor that virtualises, whatever this one does.
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap();
    let able = cpus.replace("\nflags\t\t: ", "\nflags\t\t: vmx ");
    fs::write(home.root().join("cpuinfo"), able).unwrap();
    fs::write(home.root().join("kvm"), "").unwrap();
    fs::set_permissions(home.root().join("kvm"), Permissions::from_mode(0o600)).unwrap();
    let root = home.root().display().to_string();
    home.mounts(&format!("mount --bind {root}/cpuinfo /proc/cpuinfo"));
    home.mounts(&format!("mount --bind {root}/kvm /dev/kvm"));
    let out = home
        .sbx(["run", "--json", "--no-workspace", "shell"])
        .output()
        .with_code(125);
    let error = out.json_error();
    assert_eq!(error["code"], "kvm_denied", "{out}");
    assert!(error.to_string().contains("chgrp kvm"), "the cure: {out}");
    assert!(error.to_string().contains("--accel tcg"), "a way: {out}");
    // Nothing was made, neither a sandbox nor, in many minutes, a kernel.
    assert_eq!(home.sbx(["ls", "-aq"]).succeeds().text(), "");
    let (accel, _) = planned(&home, &["--accel", "tcg"]);
    assert_eq!(accel, "tcg", "what the hint says works");
}

#[test]
fn a_host_without_the_machine_monitor_is_told_before_anything_is_made() {
    let mut home = Home::new();
    let shared = home.cache().to_owned();
    // With everything still to be made: the answer must not come after it.
    home.cache_without(&["kernel", "base"]);
    let entries = |home: &Home| {
        let read = fs::read_dir(home.cache().join("entries")).unwrap();
        let mut names: Vec<_> = read.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = entries(&home);
    for path in ["/usr/bin", "/usr/local/bin"] {
        let path = format!("{path}/qemu-system-x86_64");
        if Path::new(&path).exists() {
            home.mounts(&format!("mount --bind /dev/null {path}"));
        }
    }
    let out = home
        .sbx(["run", "--json", "--no-workspace", "shell"])
        .output()
        .with_code(125);
    let error = out.json_error();
    assert_eq!(error["code"], "host_unfit", "{out}");
    assert!(error.to_string().contains("qemu"), "{out}");
    let hint = error["hint"].as_str().unwrap();
    for way in [
        "apt-get",
        "--isolation container",
        "isolation = \"container\"",
    ] {
        assert!(hint.contains(way), "{way}: {out}");
    }
    assert_eq!(entries(&home), before, "nothing was fetched or built");
    let doctor = home.sbx(["doctor"]).output().with_code(1);
    assert!(doctor.text().contains("qemu-system-x86"), "{doctor}");
    assert_eq!(home.sbx(["ls", "-aq"]).succeeds().text(), "");
    // The way that it names is one.
    home.use_cache(shared);
    let call = home.sbx(["run", "--rm", "--isolation", "container", "--no-workspace"]);
    let out = call.args(["shell", "--", "-c", "echo up"]).succeeds();
    assert_eq!(out.text(), "up");
}

#[test]
fn a_host_that_gives_a_user_no_ids_for_containers_is_told_before_anything_is_made() {
    let name = "a_host_that_gives_a_user_no_ids_for_containers_is_told_before_anything_is_made";
    if !Fact::Root.holds_for(name) {
        return;
    }
    let mut home = Home::of_user(USER);
    let root = home.root().display().to_string();
    home.mounts(&format!(": > {root}/none; echo nobody:1:1 > {root}/other"));
    let refused = |home: &Home, cure: &str| {
        let call = home.sbx([
            "run",
            "--json",
            "--isolation",
            "container",
            "--no-workspace",
        ]);
        let out = call.arg("shell").output().with_code(125);
        let error = out.json_error();
        assert_eq!(error["code"], "host_unfit", "{out}");
        assert!(error["hint"].to_string().contains(cure), "{cure}: {out}");
        assert_eq!(home.sbx(["ls", "-aq"]).succeeds().text(), "");
    };
    for file in ["none", "other"] {
        home.mounts(&format!("mount --bind {root}/{file} /etc/subuid"));
        refused(&home, "--add-subuids");
    }
    home.mounts("mount --bind /dev/null /usr/bin/newuidmap");
    refused(&home, "uidmap");
    // A machine needs none of it.
    let plan = home.sbx([
        "plan",
        "--json",
        "--accel",
        "tcg",
        "--no-workspace",
        "shell",
    ]);
    assert!(plan.succeeds().json()["steps"].is_array());
}

#[test]
fn a_machine_monitor_in_the_callers_path_is_not_taken() {
    let home = Home::unprepared();
    let own = home.path().join("qemu-system-x86_64");
    fs::write(&own, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&own, Permissions::from_mode(0o755)).unwrap();
    let plan = |path: &str| {
        let call = home.sbx(["plan", "--json", "--no-workspace", "shell"]);
        call.env("PATH", path).succeeds().json()["steps"].to_string()
    };
    let steps = plan(home.path().to_str().unwrap());
    assert!(!steps.contains(own.to_str().unwrap()), "{steps}");
    assert!(steps.contains("/bin/qemu-system-x86_64"), "{steps}");
}

fn a_workspace_on_another_file_system_is_served_like_any_other(isolation: Isolation) {
    let mut home = Home::of(isolation);
    let app = home.project("app");
    home.mounts(&format!("mount -t tmpfs -o size=64m own {}", app.display()));
    let seen = home.outside(&app);
    assert_ne!(
        fs::metadata(&seen).unwrap().dev(),
        fs::metadata(home.path()).unwrap().dev(),
        "another file system"
    );
    fs::write(seen.join("notes"), "from the host").unwrap();
    let script = "cat notes && mkdir -p .vscode && echo held > .vscode/x && echo made > made";
    let out = home
        .sbx(["run", "--rm"])
        .args(home.memory("512m"))
        .args(["shell", "--", "-c", script])
        .cwd(&app)
        .succeeds();
    assert_eq!(out.text(), "from the host");
    assert_eq!(fs::read_to_string(seen.join("made")).unwrap(), "made\n");
    assert!(!seen.join(".vscode").exists(), "held here too");
}
