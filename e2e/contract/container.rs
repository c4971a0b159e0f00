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
