//! Limits hold: a hog of memory, a bomb of processes and a filler of the disk
//! are stopped, and the sandbox answers afterwards.

use std::path::PathBuf;
use std::time::Duration;

use e2e::{Home, Isolation, Kept, Promise, WorkspaceGuard, in_each_isolation};
use rustix::process::Signal;
use serde_json::Value;

in_each_isolation![hogs_are_stopped_at_the_limit_and_the_sandbox_answers_afterwards,];

fn hogs_are_stopped_at_the_limit_and_the_sandbox_answers_afterwards(isolation: Isolation) {
    let home = Home::of(isolation);
    let disk_is_held = Promise::Disk.kept(isolation, WorkspaceGuard::Full) == Kept::Yes;
    let mut limits = vec!["--memory", "512m", "--cpus", "1", "--pids-limit", "200"];
    if disk_is_held {
        limits.extend(["--disk", "1g"]);
    }
    let sandbox = home.sandbox_with("limits", &limits);
    if isolation == Isolation::MicroVm {
        assert_eq!(sandbox.sh("nproc"), "1");
    }
    let told = sandbox.inspect()["limits"].to_string();
    for limit in ["memory", "cpus", "disk", "pids"] {
        assert!(told.contains(limit), "{limit}: {told}");
    }
    let hog = |script: &str| {
        let out = sandbox
            .exec(["bash", "-c", script])
            .within(Duration::from_secs(180))
            .output();
        assert_ne!(out.code(), Some(0), "{script} was not stopped: {out}");
        assert_eq!(sandbox.sh("echo alive"), "alive", "after {script}");
        out
    };

    hog("head -c 2G /dev/zero | tail");
    let host = home.resident_kib();
    assert!(
        host < (512 + 128) << 10,
        "all processes together take {host} KiB"
    );

    if disk_is_held {
        let filler = hog("head -c 2G /dev/zero > ~/full");
        assert!(filler.errors().contains("No space left"), "{filler}");
        sandbox.sh("rm ~/full && echo room > ~/room");
    }

    let bomb = "import os, time\nn = 0\ntry:\n    while True:\n        if os.fork() == 0:\n            time.sleep(600)\n        n += 1\nexcept OSError as e:\n    print(n, e.strerror, flush=True)\nos.kill(0, 9)\n";
    let bomb = sandbox.exec(["python3", "-c", bomb]).output();
    let count: u32 = bomb
        .text()
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(9999);
    // The control group of a container holds our own processes as well.
    let most = match isolation {
        Isolation::MicroVm | Isolation::Docker => 200,
        Isolation::Container => 200 + 128 + 8,
    };
    assert!((50..=most).contains(&count), "stopped at the limit: {bomb}");
    assert_eq!(sandbox.sh("echo alive"), "alive");
}

/// The directories of control groups that were made for the sandbox `name`
/// by the supervisor `pid`.
pub(super) fn groups(name: &str, pid: &Value) -> Vec<PathBuf> {
    let wanted = format!("sbx-{name}-{pid}");
    let mut found = Vec::new();
    let mut open = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = open.pop() {
        let entries = std::fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            if entry.file_name().to_str() == Some(&wanted) {
                found.push(entry.path());
            }
            open.push(entry.path());
        }
    }
    found
}

#[test]
fn a_fraction_of_a_processor_is_held_by_a_control_group_that_goes_away() {
    let home = Home::new();
    let half = ["--cpus", "0.5", "--memory", "512m"];
    let sandbox = home.sandbox_with("half", &half);
    let supervisor = sandbox.inspect()["supervisor"].clone();
    let made = groups("half", &supervisor);
    assert!(!made.is_empty(), "no group of {supervisor}");
    let vmm = home.process("qemu -machine").map(|found| found.id());
    for group in &made {
        let inside = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
        for pid in [supervisor.to_string(), vmm.unwrap().to_string()] {
            assert!(
                inside.lines().any(|line| line == pid),
                "{group:?}: {inside}"
            );
        }
    }
    home.sbx(["stop", "half"]).succeeds();
    assert_eq!(groups("half", &supervisor), Vec::<PathBuf>::new());

    // Neither does a supervisor that is killed leave one for good.
    sandbox.sh("true");
    let supervisor = sandbox.inspect()["supervisor"].clone();
    assert!(!groups("half", &supervisor).is_empty());
    let found = home.process("sbx supervise").unwrap();
    found.signal(Signal::KILL);
    assert!(found.ends(Duration::from_secs(10)));
    home.sbx(["rm", "-f", "half"]).succeeds();
    assert_eq!(groups("half", &supervisor), Vec::<PathBuf>::new());
}

#[test]
fn a_container_whose_limit_nothing_holds_any_more_does_not_start() {
    let mut home = Home::new();
    for (name, flags) in [("held", &["--memory", "512m"][..]), ("plain", &[])] {
        let app = home.project(name);
        let call = home.sbx(["create", "--isolation", "container", "--name", name]);
        call.args(flags).arg("shell").cwd(&app).succeeds();
    }
    home.mounts("mount -t tmpfs none /sys/fs/cgroup");
    let run = |name: &str| {
        let call = home.sbx([
            "run", "--json", "--name", name, "shell", "--", "-c", "echo up",
        ]);
        call.cwd(home.project(name)).output()
    };
    let refused = run("held").with_code(125);
    let error = refused.json_error();
    assert_eq!(error["code"], "limit", "{refused}");
    assert!(error["message"].to_string().contains("memory"), "{refused}");
    // What nobody asked for is not missed, and told.
    let started = run("plain").with_code(0);
    assert!(started.errors().contains("no control group"), "{started}");
    let limits = home.sbx(["inspect", "--json", "plain"]).succeeds().json();
    let limits = limits["limits"].to_string();
    assert!(limits.contains("nothing: no control group"), "{limits}");
}
