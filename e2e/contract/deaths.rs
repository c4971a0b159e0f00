//! Death at a moment that is known: while the kernel boots, in the middle of a
//! stop and of a removal, and that of the guest's own PID 1.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{Home, Isolation, in_each_isolation};
use rustix::process::Signal;
use serde_json::Value;

use crate::faults::{assert_usable, kill, parts};

in_each_isolation![
    the_death_of_any_process_once_the_kernel_boots_is_survived,
    the_death_of_pid_1_of_the_guest_is_survived_in_a_session_and_in_a_stop,
    a_guest_whose_pid_1_ends_at_once_is_a_start_that_fails_and_can_be_removed,
    the_death_of_any_process_in_the_middle_of_a_removal_is_finished_by_the_next,
];

/// PID 1 of the guest takes no signal, but root inside may write to its
/// stack: the kernel then ends it, and itself.
const KILL_INIT: &str = "import os
for line in open('/proc/1/maps'):
    if '[stack]' in line:
        start, end = (int(part, 16) for part in line.split()[0].split('-'))
        os.pwrite(os.open('/proc/1/mem', os.O_WRONLY), b'\\xff' * (end - start), start)
";

/// A static program for x86-64 of two instructions: exit with code 1.
const ENDS_AT_ONCE: &[u8] = &[
    0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, // identity
    2, 0, 62, 0, 1, 0, 0, 0, // executable, x86-64, version
    0x78, 0, 0x40, 0, 0, 0, 0, 0, // entry
    64, 0, 0, 0, 0, 0, 0, 0, // program headers
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // no sections, flags
    64, 0, 56, 0, 1, 0, 64, 0, 0, 0, 0, 0, // sizes and counts
    1, 0, 0, 0, 5, 0, 0, 0, // load, read and execute
    0, 0, 0, 0, 0, 0, 0, 0, // from the start of the file
    0, 0, 0x40, 0, 0, 0, 0, 0, // to here
    0, 0, 0x40, 0, 0, 0, 0, 0, //
    0x82, 0, 0, 0, 0, 0, 0, 0, // so many bytes
    0x82, 0, 0, 0, 0, 0, 0, 0, //
    0, 0x10, 0, 0, 0, 0, 0, 0, // alignment
    0x6a, 60, 0x58, // push 60; pop rax
    0x6a, 1, 0x5f, // push 1; pop rdi
    0x0f, 0x05, // syscall
    0xeb, 0xfe, // never reached
];

fn the_death_of_any_process_once_the_kernel_boots_is_survived(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox_with("mortal", &home.memory("512m"));
    sandbox.sh("echo kept > ~/kept; sync");
    for (what, line) in parts(isolation) {
        home.sbx(["stop", "mortal"]).succeeds();
        let starting = home.sbx(["--progress", "plain", "start", "mortal"]).spawn();
        starting.says(match isolation {
            Isolation::MicroVm => "booting the guest",
            Isolation::Container | Isolation::Docker => "setting the container up",
        });
        kill(&home, line);
        let out = starting.output();
        assert!(
            out.code() == Some(0) || !out.errors().is_empty(),
            "{what}: {out}"
        );
        assert_usable(&home, &sandbox, &format!("{what} while the kernel boots"));
    }
}

/// Waits for a file in the share, which tells nobody on the host.
fn comes(file: &Path) {
    let until = Instant::now() + Duration::from_secs(60);
    while !file.exists() {
        assert!(Instant::now() < until, "no `{}`", file.display());
        std::thread::yield_now();
    }
}

/// Ends PID 1 of the guest: by the means of root inside, or where there are
/// none, from the host.
fn end_init(home: &Home, isolation: Isolation) {
    match isolation {
        Isolation::MicroVm => {
            home.sbx(["exec", "mortal", "sudo", "python3", "kill-init"])
                .output();
        }
        Isolation::Container => drop(kill(home, "sbx-guest contained")),
        Isolation::Docker => drop(kill(home, "sbx-guest docked")),
    }
}

fn the_death_of_pid_1_of_the_guest_is_survived_in_a_session_and_in_a_stop(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox_with("mortal", &home.memory("512m"));
    sandbox.sh("echo kept > ~/kept; sync");
    fs::write(sandbox.workspace().join("kill-init"), KILL_INIT).unwrap();
    if isolation != Isolation::MicroVm {
        let refused = sandbox.try_sh("sudo python3 kill-init");
        assert!(refused.errors().contains("PermissionError"), "{refused}");
        assert_eq!(sandbox.sh("echo alive"), "alive");
    }

    let session = sandbox
        .exec(["sh", "-c", "echo up >&2; exec sleep 600"])
        .spawn();
    session.says("up");
    end_init(&home, isolation);
    let out = session.output();
    assert_eq!(out.code(), Some(125), "{out}");
    assert!(!out.errors().is_empty(), "the caller is told: {out}");
    assert_usable(&home, &sandbox, "the end of PID 1");

    // It ends while programs are told to end, by one of them or meanwhile.
    let leaving = sandbox.workspace().join("leaving");
    let last = match isolation {
        Isolation::MicroVm => "sudo python3 kill-init",
        _ => "touch leaving; until [ -e on ]; do :; done",
    };
    let trap = format!("trap '{last}' TERM; echo ready >&2; while :; do sleep 0.1; done");
    for order in [["stop", "mortal"].as_slice(), &["rm", "-f", "mortal"]] {
        let session = sandbox.exec(["bash", "-c", &trap]).spawn();
        session.says("ready");
        let ordered = home.sbx(order).spawn();
        if isolation != Isolation::MicroVm {
            comes(&leaving);
            end_init(&home, isolation);
            fs::remove_file(&leaving).unwrap();
        }
        let out = ordered.output();
        assert_eq!(out.code(), Some(0), "{order:?}: {out}");
        assert_ne!(session.output().code(), Some(0), "{order:?}");
        if order[0] == "stop" {
            assert_usable(&home, &sandbox, "the end of PID 1 in a stop");
        }
    }
    assert_eq!(home.sbx(["ls", "-aq"]).succeeds().text(), "");
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

fn a_guest_whose_pid_1_ends_at_once_is_a_start_that_fails_and_can_be_removed(isolation: Isolation) {
    let mut home = Home::of(isolation);
    home.programs_with("sbx-guest", ENDS_AT_ONCE);
    let app = home.project("app");
    let out = home
        .sbx(["run", "--json", "--name", "stillborn"])
        .args(home.memory("512m"))
        .arg("shell")
        .cwd(&app)
        .output()
        .with_code(125);
    assert!(out.json_error()["hint"].is_string(), "{out}");
    let logs = home.sbx(["logs", "stillborn"]).succeeds().text();
    // Of a container its process and its link end, in either order.
    let told: &[&str] = match isolation {
        Isolation::MicroVm => &["Attempted to kill init"],
        Isolation::Container => &["closed the link while starting", "box process ended"],
        Isolation::Docker => &["cannot set up the network of the container"],
    };
    assert!(told.iter().any(|told| logs.contains(told)), "{logs}");
    home.sbx(["gc"]).succeeds();
    home.sbx(["rm", "-f", "stillborn"]).succeeds();
    assert_eq!(home.sbx(["ls", "-aq"]).succeeds().text(), "");
}

fn the_death_of_any_process_in_the_middle_of_a_removal_is_finished_by_the_next(
    isolation: Isolation,
) {
    let home = Home::of(isolation);
    // Holds the removal up, and tells when it is in the middle of it.
    let trap = "trap 'touch leaving; until [ -e on ]; do :; done; exit' TERM
        echo ready >&2; while :; do sleep 0.1; done";
    for (what, line) in parts(isolation).chain([("command", "rm -f mortal")]) {
        let sandbox = home.sandbox_with("mortal", &home.memory("512m"));
        let leaving = sandbox.workspace().join("leaving");
        let session = sandbox.exec(["bash", "-c", trap]).spawn();
        session.says("ready");
        let removal = home.sbx(["rm", "-f", "mortal"]).spawn();
        comes(&leaving);
        if let Some(found) = home.process(line) {
            found.signal(Signal::KILL);
        }
        fs::write(sandbox.workspace().join("on"), "").unwrap();
        removal.output();
        session.output();
        home.sbx(["rm", "-f", "mortal"]).output();
        home.sbx(["gc"]).succeeds();
        let list = home.sbx(["ls", "--json", "-a"]).succeeds().json();
        assert_eq!(list["sandboxes"], Value::Array(Vec::new()), "{what}");
        assert_eq!(home.leftovers(), Vec::<String>::new(), "{what}");
        for file in ["leaving", "on"] {
            fs::remove_file(sandbox.workspace().join(file)).unwrap();
        }
    }
}
