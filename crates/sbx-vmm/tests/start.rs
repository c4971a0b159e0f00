//! What a started monitor may open, and that QEMU runs with no more.

#![cfg(test)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use sbx_sys::jail::{Access, InForce, Wall};
use sbx_sys::memfd;
use sbx_sys::process::Ended;
use sbx_sys::spawn::{Child, Spawn};
use sbx_vmm::{Config, Ids, Limits, Namespaces};

const QEMU: &str = "/usr/bin/qemu-system-x86_64";
const NOBODY: u32 = 65534;

fn config(argv: &[&str]) -> Config {
    let root = rustix::process::geteuid().is_root();
    Config {
        argv: argv.iter().map(|&argument| argument.to_owned()).collect(),
        kvm: false,
        fds: Vec::new(),
        report: None,
        limits: Limits {
            descriptors: 64,
            file_size: 1 << 30,
            processes: None,
        },
        ids: root.then(|| Ids {
            uid: NOBODY,
            gid: NOBODY,
            groups: Vec::new(),
        }),
        namespaces: Namespaces::Try,
    }
}

/// Starts `sbx-vmm` for QEMU with its errors in a pipe.
fn start(config: OwnedFd, fds: Vec<(OwnedFd, i32)>) -> (Child, File) {
    start_as(QEMU, config, fds)
}

/// The same for another program.
fn start_as(program: &str, config: OwnedFd, fds: Vec<(OwnedFd, i32)>) -> (Child, File) {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let mut spawn = Spawn::path(env!("CARGO_BIN_EXE_sbx-vmm"))
        .arg(program)
        .with_fd(write, 2)
        .with_fd(config, 3);
    spawn.fds.extend(fds);
    (spawn.spawn().unwrap(), File::from(read))
}

fn sealed(config: &Config) -> OwnedFd {
    memfd::sealed("config", &serde_json::to_vec(config).unwrap()).unwrap()
}

fn refusal(config: OwnedFd) -> String {
    refused(start(config, Vec::new()))
}

fn refused((child, mut log): (Child, File)) -> String {
    let mut said = String::new();
    log.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap(), Ended::Exit(1), "{said}");
    said
}

#[test]
fn every_file_that_qemu_could_open_is_listed_with_its_reason() {
    // The whole list: whoever adds to it changes this test and says why.
    let expected = [
        (QEMU, Access::Execute),
        ("/lib64/ld-linux-x86-64.so.2", Access::Execute),
        ("/etc/ld.so.cache", Access::Read),
        ("/usr/lib/x86_64-linux-gnu", Access::Read),
        ("/usr/lib64", Access::Read),
        ("/usr/share/qemu", Access::Read),
        ("/usr/share/seabios", Access::Read),
        ("/dev/urandom", Access::Read),
        ("/dev/kvm", Access::Device),
    ];
    for rule in sbx_vmm::rules(Path::new(QEMU), true) {
        assert!(
            expected
                .iter()
                .any(|(path, access)| rule.path == Path::new(path) && rule.access == *access),
            "{rule:?} is not expected"
        );
    }
    let devices = |kvm: bool| -> Vec<_> {
        let mut rules = sbx_vmm::rules(Path::new(QEMU), kvm);
        rules.retain(|rule| rule.access == Access::Device);
        rules.into_iter().map(|rule| rule.path).collect()
    };
    assert_eq!(devices(true), [Path::new("/dev/kvm")]);
    assert!(devices(false).is_empty());
    for needed in sbx_vmm::QEMU_FILES {
        assert!(!needed.why.is_empty(), "{needed:?}");
        assert!(
            matches!(needed.access, Access::Read | Access::Execute),
            "{needed:?}"
        );
    }
}

#[test]
fn qemu_starts_behind_every_wall_and_answers() {
    if !Path::new(QEMU).exists() {
        println!("skipped: {QEMU} is not installed");
        return;
    }
    let (near, far) = UnixStream::pair().unwrap();
    let (report, report_far) = rustix::pipe::pipe().unwrap();
    let mut config = config(&[
        "qemu",
        "-machine",
        "microvm,acpi=on,rtc=on",
        "-accel",
        "tcg,tb-size=32",
        "-m",
        "64M",
        "-bios",
        "qboot.rom",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-S",
        "-chardev",
        "socket,id=qmp,fd=4",
        "-mon",
        "chardev=qmp,mode=control",
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    ]);
    config.fds = vec![4];
    config.report = Some(5);
    let (child, mut log) = start(sealed(&config), vec![(far.into(), 4), (report_far, 5)]);

    let mut line = String::new();
    BufReader::new(File::from(report))
        .read_line(&mut line)
        .unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| {
        let mut said = String::new();
        log.read_to_string(&mut said).unwrap();
        panic!("no report: {said}")
    });
    let walls: InForce = serde_json::from_value(ready["ready"].clone()).unwrap();
    assert!(
        walls
            .walls
            .iter()
            .any(|wall| matches!(wall, Wall::Landlock { .. })),
        "{walls}"
    );
    assert!(
        walls
            .walls
            .iter()
            .any(|wall| matches!(wall, Wall::Seccomp { .. })),
        "{walls}"
    );
    assert!(walls.walls.contains(&Wall::NoNewPrivs), "{walls}");

    let mut reader = BufReader::new(near.try_clone().unwrap());
    let mut greeting = String::new();
    reader.read_line(&mut greeting).unwrap();
    assert!(greeting.contains("QMP"), "{greeting}");

    let status = std::fs::read_to_string(format!("/proc/{}/status", child.pid())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    assert_eq!(field("CapEff"), "0000000000000000");
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    assert!(
        !field("Uid").split_whitespace().any(|uid| uid == "0"),
        "{status}"
    );

    (&near)
        .write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}")
        .unwrap();
    assert_eq!(child.wait().unwrap(), Ended::Exit(0));
}

#[test]
fn the_monitor_does_not_run_as_root() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut as_root = config(&["qemu"]);
    as_root.ids = None;
    assert!(refusal(sealed(&as_root)).contains("run the monitor as root"));
    let mut mapped = config(&["qemu"]);
    mapped.ids = Some(Ids {
        uid: 0,
        gid: NOBODY,
        groups: Vec::new(),
    });
    assert!(refusal(sealed(&mapped)).contains("drop to root's own id"));
}

#[test]
fn only_the_named_program_is_executed() {
    let (child, _log) = start_as("/usr/bin/true", sealed(&config(&["true"])), Vec::new());
    assert_eq!(child.wait().unwrap(), Ended::Exit(0));
    // A script may be named, but not its interpreter with it.
    let home = tempfile::tempdir().unwrap();
    let script = home.path().join("script");
    std::fs::write(&script, "#!/bin/sh\nexit 0\n").unwrap();
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&script, all).unwrap();
    let interpreted = start_as(
        script.to_str().unwrap(),
        sealed(&config(&["script"])),
        Vec::new(),
    );
    assert!(refused(interpreted).contains("ermission denied"));
}

#[test]
fn a_configuration_names_no_program_and_no_file() {
    for (field, value) in [
        ("program", serde_json::json!("/usr/bin/cat")),
        (
            "files",
            serde_json::json!([{"path": "/etc/shadow", "access": "read"}]),
        ),
        ("surprise", serde_json::json!(true)),
    ] {
        let mut json = serde_json::to_value(config(&["qemu"])).unwrap();
        json[field] = value;
        let fd = memfd::sealed("config", json.to_string().as_bytes()).unwrap();
        assert!(refusal(fd).contains("understand the configuration"));
    }
}

#[test]
fn a_descriptor_that_only_names_a_file_is_refused() {
    use rustix::fs::{Mode, OFlags};
    let file = tempfile::NamedTempFile::new().unwrap();
    let open = |flags| rustix::fs::open(file.path(), flags, Mode::empty()).unwrap();
    let mut keeping = config(&["true"]);
    keeping.fds = vec![4];
    let place = vec![(open(OFlags::PATH), 4)];
    let refused = refused(start_as("/usr/bin/true", sealed(&keeping), place));
    assert!(
        refused.contains("a place and not an open file"),
        "{refused}"
    );
    let opened = vec![(open(OFlags::RDONLY), 4)];
    let (child, _log) = start_as("/usr/bin/true", sealed(&keeping), opened);
    assert_eq!(child.wait().unwrap(), Ended::Exit(0));
}

#[test]
fn a_configuration_that_could_still_change_is_refused() {
    let bytes = serde_json::to_vec(&config(&["qemu"])).unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    assert!(refusal(file.into()).contains("memory file"));
}

#[test]
fn a_missing_descriptor_or_relative_program_is_refused() {
    let mut missing = config(&["qemu"]);
    missing.fds = vec![9];
    assert!(refusal(sealed(&missing)).contains("find descriptor 9"));
    let relative = start_as("qemu", sealed(&config(&["qemu"])), Vec::new());
    assert!(refused(relative).contains("not an absolute path"));
}
