//! The workspace of a container whose file server holds what a machine's
//! does: what is served, what happens when the server is gone, and whom the
//! device lets in.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::{Fact, Home};
use rustix::process::Signal;

use crate::faults::{assert_usable, kill};

/// Nobody's on the host: no account and no file has it.
const USER: u32 = 64_178;

/// Longer than a sandbox takes to be forced, and shorter than anybody waits.
const PATIENCE: Duration = Duration::from_secs(45);

const CONTAINER: [&str; 2] = ["--isolation", "container"];

#[test]
fn a_file_and_a_read_only_directory_are_served_and_nothing_beside_them() {
    let home = Home::new();
    let (one, read) = (home.project("one"), home.project("read"));
    fs::write(one.join("file"), "first\n").unwrap();
    fs::write(one.join("other"), "canary\n").unwrap();
    fs::write(read.join("text"), "text\n").unwrap();
    let flags = [
        format!("{}:/in/file", one.join("file").display()),
        format!("{}:/in/read:ro", read.display()),
        "data:/in/read/data".to_owned(),
    ];
    fs::create_dir(read.join("data")).unwrap();
    let mut all = CONTAINER.to_vec();
    all.extend(flags.iter().flat_map(|flag| ["-v", flag]));
    let sandbox = home.sandbox_with("app", &all);
    assert_eq!(
        sandbox.sh("cat /in/file /in/read/text; ls /in"),
        "first\ntext\nfile\nread"
    );
    sandbox.sh("echo second > /in/file; echo d > /in/read/data/d");
    assert_eq!(fs::read_to_string(one.join("file")).unwrap(), "second\n");
    for refused in [
        "echo x > /in/read/text",
        "touch /in/read/new",
        "rm /in/read/text",
    ] {
        let out = sandbox.try_sh(&format!("sudo sh -c '{refused}'"));
        assert_ne!(out.code(), Some(0), "{refused}: {out}");
    }
    let seen = sandbox.sh("sudo grep -rs canary /in || true; awk '/ fuse /' /proc/mounts | wc -l");
    assert_eq!(seen, "3", "one for each share");
    assert_eq!(fs::read_to_string(read.join("text")).unwrap(), "text\n");
    assert!(!read.join("data/d").exists());
}

#[test]
fn a_container_stops_in_time_though_its_file_server_stands_still_and_leaves_no_connection() {
    let home = Home::new();
    let sandbox = home.sandbox_with("app", &CONTAINER);
    sandbox.sh("echo kept > ~/kept; echo text > text");
    let connection = connection(&sandbox);
    let asks = "while :; do stat text; touch made; rm made; done >/dev/null";
    for what in ["stands still", "is killed"] {
        sandbox.exec_with(["-d"], ["sh", "-c", asks]).succeeds();
        sandbox.sh("until test -e made; do :; done");
        if what == "is killed" {
            kill(&home, "sbx share");
        } else {
            home.awaits("sbx share").signal(Signal::STOP);
            let stop = home.sbx(["stop", "-t", "1", "app"]);
            stop.within(PATIENCE).succeeds();
            assert!(!connection.exists(), "{}", connection.display());
        }
        assert_usable(&home, &sandbox, what);
    }
    home.sbx(["rm", "-f", "app"]).succeeds();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

/// Where the host's kernel shows the connection that the workspace's mount is
/// served over.
fn connection(sandbox: &e2e::Sandbox<'_>) -> PathBuf {
    let minor = "import os; print(os.minor(os.stat('.').st_dev))";
    let minor = sandbox.exec(["python3", "-c", minor]).succeeds().text();
    Path::new("/sys/fs/fuse/connections").join(minor)
}

#[test]
fn an_ordinary_user_has_the_guard_where_the_device_lets_them_in_and_no_container_elsewhere() {
    let name =
        "an_ordinary_user_has_the_guard_where_the_device_lets_them_in_and_no_container_elsewhere";
    if !Fact::Root.holds_for(name) {
        return;
    }
    let mut home = Home::of_user(USER);
    let root = home.root().display().to_string();
    // Accounts and device are seen so in the world of this test alone.
    for line in [
        format!("cp /etc/passwd {root}/passwd"),
        format!("echo user:x:{USER}:{USER}::/nowhere:/bin/sh >> {root}/passwd"),
        format!("echo user:3100000000:65536 > {root}/ranges"),
        format!("mount --bind {root}/passwd /etc/passwd"),
        format!("mount --bind {root}/ranges /etc/subuid"),
        format!("mount --bind {root}/ranges /etc/subgid"),
        format!("mknod -m 600 {root}/fuse c 10 229"),
        format!("mount --bind {root}/fuse /dev/fuse"),
    ] {
        home.mounts(&line);
    }
    let app = home.project("app");
    let run = ["run", "--name", "app", "--isolation", "container", "shell"];
    let refused = home.sbx(run).cwd(&app).output();
    assert_eq!(refused.code(), Some(125), "{refused}");
    assert!(refused.errors().contains("/dev/fuse"), "{refused}");
    assert!(
        refused.errors().contains("--workspace-guard existing"),
        "{refused}"
    );

    home.mounts(&format!("chmod 666 {root}/fuse"));
    let sandbox = home.sandbox_with("app", &CONTAINER);
    sandbox.sh(
        "echo in > made; sudo touch by-root; mkdir .vscode; echo held > .vscode/x; cat .vscode/x",
    );
    for name in ["made", "by-root"] {
        assert_eq!(fs::metadata(app.join(name)).unwrap().uid(), USER, "{name}");
    }
    assert!(!app.join(".vscode").exists(), "held");
    assert_eq!(sandbox.sh("stat -c %U made by-root"), "agent\nroot");
}
