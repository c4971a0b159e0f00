//! The host's disk is full: while something is made, and while a sandbox
//! writes. Each is told, nothing hangs, and what takes the room can be
//! removed.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::Home;

/// A file system of this size where this home's calls see `name`.
fn small(home: &mut Home, name: &str, size: &str) -> PathBuf {
    let path = home.root().join(name);
    fs::create_dir_all(&path).unwrap();
    let at = path.display();
    home.mounts(&format!("mount -t tmpfs -o size={size},mode=700 own {at}"));
    path
}

#[test]
fn what_does_not_fit_while_it_is_made_is_told_and_goes_on_with_more_room() {
    for (lacking, title) in [("kernel", "kernel"), ("initramfs", "initramfs")] {
        let mut home = Home::new();
        home.cache_without(&[lacking]);
        let entries = home.cache().join("entries");
        let cache = small(&mut home, "small", "1m");
        let at = cache.display();
        home.mounts(&format!("cp -a {} {at}/entries", entries.display()));
        home.use_cache(cache.clone());
        let create = |json: &[&str]| {
            home.sbx(json)
                .args(["create", "--no-workspace", "--name", "tight", "shell"])
                .output()
        };
        let out = create(&["--json"]).with_code(1);
        let error = out.json_error();
        assert_eq!(error["code"], "no_space", "{title}: {out}");
        assert!(error["hint"].to_string().contains("sbx gc"), "{out}");
        // Nothing half is an entry, and the commands still work.
        assert_eq!(home.sbx(["ls", "-aq"]).succeeds().text(), "");
        home.sbx(["gc"]).succeeds();
        let left = fs::read_dir(home.outside(&cache.join("tmp"))).unwrap();
        assert_eq!(left.count(), 0, "{title}: half-made entries");
        if lacking == "kernel" {
            continue;
        }
        home.mounts(&format!("mount -o remount,size=64m {at}"));
        let create = home.sbx(["create", "--no-workspace", "--name", "tight", "shell"]);
        create.succeeds();
        home.sbx(["rm", "-f", "tight"]).succeeds();
    }
}

#[test]
fn a_state_directory_without_room_refuses_a_sandbox_and_keeps_nothing_of_it() {
    let mut home = Home::new();
    let state = small(&mut home, "state", "300m");
    let at = state.display().to_string();
    home.mounts(&format!("head -c 400m /dev/zero > {at}/full || true"));
    let create = |home: &Home| {
        home.sbx(["--json", "create", "--no-workspace", "--name", "tight"])
            .arg("shell")
            .output()
    };
    let out = create(&home).with_code(1);
    assert_eq!(out.json_error()["code"], "no_space", "{out}");
    home.sbx(["ls", "-a"]).succeeds();
    home.sbx(["gc"]).succeeds();
    assert_eq!(home.sbx(["ls", "-aq"]).succeeds().text(), "");
    home.mounts(&format!("rm {at}/full"));
    create(&home).with_code(0);
    home.sbx(["rm", "-f", "tight"]).succeeds();
}

#[test]
fn a_host_that_fills_up_is_an_error_inside_which_the_next_start_mends() {
    let mut home = Home::new();
    // All of the big file fits once the ballast is gone: what the guest could
    // not write yet, it writes then.
    let state = small(&mut home, "state", "640m");
    let ballast = format!("head -c 520m /dev/zero > {}/ballast", state.display());
    home.mounts(&ballast);
    let sandbox = home.sandbox_with("filler", &["--memory", "512m"]);
    let out = sandbox
        .exec([
            "bash",
            "-c",
            "head -c 400M /dev/zero > ~/full && sync ~/full",
        ])
        .within(Duration::from_secs(120))
        .output();
    assert_eq!(out.code(), Some(1), "an error, told inside: {out}");
    assert!(out.errors().contains("rror"), "{out}");
    // The supervisor and every part are still there.
    assert_eq!(sandbox.sh("echo alive"), "alive");
    let list = home.sbx(["ls", "--json", "-a"]).succeeds().json();
    assert_eq!(list["sandboxes"][0]["status"], "running", "{list}");
    home.sbx(["gc"]).succeeds();

    // With more room the next start mends the disk.
    fs::remove_file(home.outside(&state.join("ballast"))).unwrap();
    home.sbx(["stop", "filler"]).succeeds();
    assert_eq!(sandbox.sh("echo kept > ~/kept; sync; cat ~/kept"), "kept");

    home.sbx(["rm", "-f", "filler"]).succeeds();
    // A file is gone with the last process that has it open, which tells
    // nobody.
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let left = rustix::fs::statvfs(home.outside(&state)).unwrap();
        let taken = (left.f_blocks - left.f_bfree) * left.f_frsize;
        if taken < 1 << 20 {
            break;
        }
        assert!(Instant::now() < until, "{taken} bytes are still taken");
        std::thread::yield_now();
    }
}
