//! Limits hold, or are refused where they are asked for: every flag that limits
//! something, in each isolation. What would take more is stopped, and the
//! sandbox answers afterwards.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use e2e::{Home, Isolation, Kept, Promise, WorkspaceGuard, in_each_isolation};
use rustix::process::Signal;
use serde_json::Value;

in_each_isolation![every_limit_holds_or_is_refused_and_the_sandbox_answers_afterwards,];

/// A limit: how it is asked for, the promise that says where it may be
/// refused, what takes more, which fails, and what takes less.
struct Limit {
    flag: &'static str,
    value: &'static str,
    promise: Option<Promise>,
    more: &'static str,
    less: &'static str,
}

const LIMITS: &[Limit] = &[
    Limit {
        flag: "--memory",
        value: "512m",
        promise: Some(Promise::Size),
        more: "head -c 2G /dev/zero | tail",
        less: "head -c 64M /dev/zero | tail | wc -c",
    },
    Limit {
        flag: "--cpus",
        value: "1",
        promise: Some(Promise::Size),
        // Two seconds of a processor, in less time than one has.
        more: "python3 -c 'import os, sys, time
began = time.monotonic()
for _ in range(2):
    if os.fork() == 0:
        while time.process_time() < 1: pass
        os._exit(0)
for _ in range(2): os.wait()
sys.exit(time.monotonic() - began > 1.8)'",
        less: "python3 -c 'import time
while time.process_time() < 0.2: pass'",
    },
    Limit {
        flag: "--pids-limit",
        value: "200",
        promise: Some(Promise::Size),
        // The control group of a container holds our own processes as well,
        // at most 136.
        more: "python3 -c 'import os, time
try:
    for _ in range(337):
        if os.fork() == 0: time.sleep(600)
except OSError:
    os.kill(0, 9)'",
        less: "python3 -c 'import os, time
made = []
for _ in range(50):
    made.append(os.fork())
    if made[-1] == 0: time.sleep(600)
for one in made: os.kill(one, 9)'",
    },
    Limit {
        flag: "--disk",
        value: "1g",
        promise: Some(Promise::Disk),
        more: "head -c 2G /dev/zero > ~/full",
        less: "rm ~/full && head -c 64M /dev/zero > ~/room",
    },
    Limit {
        flag: "--mount",
        value: "type=tmpfs,target=/scratch,tmpfs-size=8m",
        promise: None,
        more: "head -c 16M /dev/zero > /scratch/full",
        less: "head -c 4M /dev/zero > /scratch/full",
    },
];

/// The flags of `run` that limit something, by what its help says.
fn flags_of_help(home: &Home) -> BTreeSet<String> {
    let help = home.sbx(["run", "--help"]).succeeds().text();
    let lines: Vec<&str> = help.lines().map(str::trim).collect();
    let limiting = lines.windows(2).filter(|two| two[1].starts_with("Limit "));
    let flags = limiting.filter_map(|two| two[0].split(' ').find(|word| word.starts_with("--")));
    flags.map(str::to_owned).collect()
}

fn every_limit_holds_or_is_refused_and_the_sandbox_answers_afterwards(isolation: Isolation) {
    let home = Home::of(isolation);
    let known: BTreeSet<_> = LIMITS.iter().map(|limit| limit.flag.to_owned()).collect();
    let asked = flags_of_help(&home);
    assert!(asked.len() >= 4 && asked.is_subset(&known), "{asked:?}");

    let app = home.project("limits");
    let mut held: Vec<&Limit> = Vec::new();
    for limit in LIMITS {
        let call = home.sbx([
            "run",
            "--dry-run",
            "--json",
            limit.flag,
            limit.value,
            "shell",
        ]);
        let out = call.cwd(&app).output();
        if out.code() == Some(0) {
            held.push(limit);
            continue;
        }
        let error = out.with_code(125).json_error();
        let named = error["message"].as_str().unwrap().contains(limit.flag);
        assert!(named && error["code"] == "limit", "{error}");
        let kept = |promise: Promise| promise.kept(isolation, WorkspaceGuard::Full);
        assert_ne!(limit.promise.map(kept), Some(Kept::Yes), "{error}");
    }

    let flags: Vec<&str> = held.iter().flat_map(|one| [one.flag, one.value]).collect();
    let sandbox = home.sandbox_with("limits", &flags);
    let told = sandbox.inspect()["limits"].to_string();
    for limit in ["memory", "cpus", "disk", "pids"] {
        assert!(told.contains(limit), "{limit}: {told}");
    }
    for Limit { more, less, .. } in held {
        let call = sandbox.exec(["bash", "-c", more]);
        let out = call.within(Duration::from_secs(180)).output();
        assert_ne!(out.code(), Some(0), "{more} was not stopped: {out}");
        assert_eq!(sandbox.sh("echo alive"), "alive", "after {more}");
        let host = home.resident_kib();
        let most = (512 + 128) << 10;
        assert!(host < most, "all processes together take {host} KiB");
        sandbox.sh(less);
    }
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

    // One that is ended while no command waits for that leaves none either.
    sandbox.sh("true");
    let supervisor = sandbox.inspect()["supervisor"].clone();
    assert!(!groups("half", &supervisor).is_empty());
    let found = home.process("sbx supervise").unwrap();
    found.signal(Signal::TERM);
    assert!(found.ends(Duration::from_secs(60)));
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
