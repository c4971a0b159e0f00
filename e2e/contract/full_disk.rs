//! The host's disk is full: while something is made, and while a sandbox
//! writes, to its own files and to its workspace. Each is told, nothing hangs,
//! and what takes the room can be removed.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use e2e::{Home, Isolation};

where_files_are_ours![
    what_does_not_fit_while_it_is_made_is_told_and_goes_on_with_more_room,
    a_state_directory_without_room_refuses_a_sandbox_and_keeps_nothing_of_it,
    a_host_that_fills_up_is_an_error_inside_which_the_next_start_mends,
    a_workspace_without_room_is_an_error_inside_and_holds_what_it_held,
];

/// A file system of this size where this home's calls see `name`.
pub(super) fn small(home: &mut Home, name: &str, size: &str) -> PathBuf {
    let path = home.root().join(name);
    fs::create_dir_all(&path).unwrap();
    let at = path.display();
    home.mounts(&format!("mount -t tmpfs -o size={size},mode=700 own {at}"));
    path
}

/// What is made once for a sandbox: its entry of the cache, and the room that
/// is enough for it, of what a test can have made anew.
fn made_once(isolation: Isolation) -> &'static [(&'static str, Option<&'static str>)] {
    match isolation {
        Isolation::MicroVm => &[("kernel", None), ("initramfs", Some("64m"))],
        Isolation::Container | Isolation::Docker => &[("tree", Some("900m"))],
    }
}

fn what_does_not_fit_while_it_is_made_is_told_and_goes_on_with_more_room(isolation: Isolation) {
    for (lacking, enough) in made_once(isolation) {
        let mut home = Home::of(isolation);
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
        assert_eq!(error["code"], "no_space", "{lacking}: {out}");
        assert!(error["hint"].to_string().contains("sbx gc"), "{out}");
        // Nothing half is an entry, and the commands still work.
        assert_eq!(home.sbx(["ls", "-aq"]).succeeds().text(), "");
        home.sbx(["gc"]).succeeds();
        let left = fs::read_dir(home.outside(&cache.join("tmp"))).unwrap();
        assert_eq!(left.count(), 0, "{lacking}: half-made entries");
        let Some(enough) = enough else {
            continue;
        };
        home.mounts(&format!("mount -o remount,size={enough} {at}"));
        let create = home.sbx(["create", "--no-workspace", "--name", "tight", "shell"]);
        create.succeeds();
        home.sbx(["rm", "-f", "tight"]).succeeds();
    }
}

fn a_state_directory_without_room_refuses_a_sandbox_and_keeps_nothing_of_it(isolation: Isolation) {
    let mut home = Home::of(isolation);
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

fn a_host_that_fills_up_is_an_error_inside_which_the_next_start_mends(isolation: Isolation) {
    let mut home = Home::of(isolation);
    // All of the big file fits once the ballast is gone: what the guest could
    // not write yet, it writes then.
    let state = small(&mut home, "state", "640m");
    let ballast = format!("head -c 520m /dev/zero > {}/ballast", state.display());
    home.mounts(&ballast);
    let sandbox = home.sandbox_with("filler", &home.memory("512m"));
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
    // What is held has no room either, and goes nowhere else.
    let held = "mkdir .vscode && head -c 1M /dev/zero > .vscode/tasks.json";
    sandbox.try_sh(held).with_code(1);
    assert!(!sandbox.workspace().join(".vscode").exists(), "held");
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

fn a_workspace_without_room_is_an_error_inside_and_holds_what_it_held(isolation: Isolation) {
    let mut home = Home::of(isolation);
    let app = home.project("app");
    home.mounts(&format!("mount -t tmpfs -o size=8m own {}", app.display()));
    let seen = home.outside(&app);
    fs::write(seen.join("notes"), "from the host").unwrap();
    let sandbox = home.sandbox_with("app", &home.memory("512m"));
    let full = sandbox.try_sh("head -c 16M /dev/zero > full && sync full");
    assert_eq!(full.code(), Some(1), "an error, told inside: {full}");
    assert!(
        full.errors().contains("rror") || full.errors().contains("No space"),
        "{full}"
    );
    // Files and names of before are as they were, and room helps at once.
    assert_eq!(sandbox.sh("cat notes"), "from the host");
    assert_eq!(
        fs::read_to_string(seen.join("notes")).unwrap(),
        "from the host"
    );
    sandbox.sh("rm full; head -c 1M /dev/zero > small; mv notes kept");
    assert_eq!(fs::metadata(seen.join("small")).unwrap().len(), 1 << 20);
    assert_eq!(
        fs::read_to_string(seen.join("kept")).unwrap(),
        "from the host"
    );
}
