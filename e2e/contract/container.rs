//! What is of the isolation `container` alone: what it holds of a workspace,
//! and what it refuses. What it has in common with a machine stands in the
//! other files.

use std::fs;

use e2e::{Home, Isolation};

#[test]
fn what_the_host_obeys_and_has_is_read_only_where_the_guard_is_existing() {
    let home = Home::of(Isolation::Container);
    let app = home.project("app");
    fs::create_dir_all(app.join(".git/hooks")).unwrap();
    fs::create_dir(app.join(".vscode")).unwrap();
    fs::write(app.join(".git/config"), "[core]\n\tbare = false\n").unwrap();
    fs::write(app.join(".envrc"), "").unwrap();
    let sandbox = home.sandbox_with("app", &["--workspace-guard", "existing"]);
    for refused in [
        "echo x > .git/hooks/pre-commit",
        "echo x >> .git/config",
        "mv .git/config .git/other",
        "mv .git .other",
        "rm -rf .git/hooks",
        "echo x > .vscode/tasks.json",
        "rm .envrc",
    ] {
        let out = sandbox.try_sh(&format!("sudo sh -c '{refused}'"));
        assert_ne!(out.code(), Some(0), "{refused}: {out}");
    }
    // The twin: what the host does not obey is the sandbox's to change.
    sandbox.sh("echo x > .git/description; mkdir src; echo x > src/main.c");
    assert!(app.join("src/main.c").exists());
    assert!(!app.join(".git/hooks/pre-commit").exists());
    assert_eq!(
        fs::read_to_string(app.join(".git/config")).unwrap(),
        "[core]\n\tbare = false\n"
    );
}

#[test]
fn what_cannot_be_held_for_a_container_is_refused() {
    let home = Home::new();
    let app = home.project("app");
    let ask = |flags: &[&str]| {
        let call = home.sbx(["create", "--isolation", "container"]);
        call.args(flags).arg("shell").cwd(&app).output()
    };
    let disk = ask(&["--disk", "1g"]).with_code(1);
    assert!(disk.errors().contains("--disk"), "{disk}");
    for flags in [["--driver", "qemu"], ["--accel", "tcg"]] {
        let out = ask(&flags).with_code(2);
        assert!(out.errors().contains("a container has none"), "{out}");
    }
    home.configure("isolation = \"container\"\n");
    let plan = home.sbx(["plan", "--json", "shell"]).cwd(&app);
    assert_eq!(plan.succeeds().json()["spec"]["isolation"], "container");
}

#[test]
fn a_container_counts_from_its_own_start_where_the_kernel_has_time_namespaces() {
    let uptime = |text: &str| text.split('.').next().unwrap().parse::<u64>().unwrap();
    let of_the_host = uptime(&fs::read_to_string("/proc/uptime").unwrap());
    let home = Home::of(Isolation::Container);
    let sandbox = home.sandbox("app");
    let inside = uptime(&sandbox.sh("cat /proc/uptime"));
    let walls = sandbox.inspect()["walls"].to_string();
    if fs::exists("/proc/self/ns/time").unwrap() {
        assert!(inside < of_the_host, "{inside} of {of_the_host} s");
        assert!(walls.contains(" time"), "{walls}");
    } else {
        assert!(walls.contains("time: "), "{walls}");
    }
}

#[test]
fn a_container_that_can_have_no_layers_has_a_copy_and_says_what_it_took() {
    let mut home = Home::of(Isolation::Container);
    let app = home.project("app");
    // Layers on layers: overlayfs takes no upper one that is an overlay.
    let root = home.root().display().to_string();
    home.mounts(&format!("mkdir -p {root}/a {root}/b {root}/c {root}/state"));
    home.mounts(&format!(
        "mount -t overlay -o lowerdir={root}/a,upperdir={root}/b,workdir={root}/c none {root}/state"
    ));
    let doctor = home.sbx(["doctor"]).output().text();
    assert!(
        doctor.contains("each sandbox copies the template"),
        "{doctor}"
    );
    let run = |script: &str| {
        let call = home.sbx(["run", "--name", "whole", "shell", "--", "-c", script]);
        call.cwd(&app).output().with_code(0)
    };
    let first = run("sudo rm /etc/motd; echo kept | sudo tee /etc/kept; id -un");
    assert_eq!(first.text(), "kept\nagent");
    let told = first.errors();
    assert!(told.contains("overlayfs is refused"), "{told}");
    assert!(told.contains("a copy of the template"), "{told}");
    home.sbx(["stop", "whole"]).succeeds();
    // The template below is as it was, the sandbox's own root is not.
    let again = run("cat /etc/kept; ls /run/sbx/base/etc/motd; test -e /etc/motd || echo gone");
    assert_eq!(again.text(), "kept\n/run/sbx/base/etc/motd\ngone");
    let walls = home.sbx(["inspect", "--json", "whole"]).succeeds().json();
    assert!(walls["walls"].to_string().contains("copy of the template"));
    home.sbx(["rm", "-f", "whole"]).succeeds();
}

#[test]
fn doctor_has_tried_each_part_of_a_container_and_leaves_nothing_of_it() {
    let home = Home::of(Isolation::Container);
    let sandbox = home.sandbox("app");
    let doctor = home.sbx(["doctor", "--json"]).output().json();
    let checks = doctor["checks"].as_array().unwrap();
    let of = |id: &str| checks.iter().find(|check| check["id"] == id).unwrap();
    let container = &of("container")["found"];
    assert!(container.as_str().unwrap().starts_with("works"), "{doctor}");
    assert!(
        of("microvm")["found"]
            .as_str()
            .unwrap()
            .starts_with("works")
    );
    assert_eq!(sandbox.sh("echo it does"), "it does", "what works works");
}
