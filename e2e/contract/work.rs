//! Real work in the share: what comes of it is right on the host.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use e2e::{Fact, Home, Isolation, Sandbox, client, host, in_each_isolation};

in_each_isolation![
    a_clone_is_committed_to_and_rebased_and_whole_on_the_host,
    a_commit_in_a_linked_worktree_is_in_the_repository_of_the_host,
    a_virtual_environment_is_made_and_pip_installs_into_it,
    a_crate_with_dependencies_is_built_by_the_hosts_toolchain,
];

/// Two dependencies of a size that an emulated processor can compile.
const CRATE: &str = r#"[package]
name = "small"
version = "0.1.0"
edition = "2021"

[dependencies]
cfg-if = "=1.0.1"
itoa = "=1.0.15"

[workspace]
"#;

const MAIN: &str = r#"cfg_if::cfg_if! {
    if #[cfg(unix)] { const SIDE: &str = "unix"; } else { const SIDE: &str = "other"; }
}
fn main() { println!("{SIDE} {}", itoa::Buffer::new().format(42)); }
"#;

const EXPRESS: &str = r#"{"name":"app","version":"1.0.0","dependencies":{"express":"4.21.2"}}"#;

fn git(home: &Home, dir: &Path, args: &[&str]) -> String {
    let fixed = ["-c", "user.name=Host", "-c", "user.email=host@example.org"];
    home.host("/usr/bin/git", &[&fixed, args].concat(), dir)
}

/// A repository of so many commits, each with a file of its own.
fn repository(home: &Home, dir: &Path, commits: usize) {
    fs::create_dir_all(dir).unwrap();
    home.hand_over(dir);
    git(home, dir, &["init", "-q", "-b", "main", "."]);
    for number in 0..commits {
        let sub = dir.join(format!("part{}", number % 3));
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join(format!("file{number}")), format!("{number}\n")).unwrap();
        home.hand_over(&sub);
        git(home, dir, &["add", "."]);
        git(
            home,
            dir,
            &["commit", "-q", "-m", &format!("host {number}")],
        );
    }
}

fn name_the_agent(sandbox: &Sandbox<'_>) {
    sandbox.sh(
        "git config --global user.name Agent; git config --global user.email agent@example.org",
    );
}

/// Everything below `dir` that belongs to somebody else than `dir`.
fn of_others(dir: &Path) -> String {
    let owner = fs::metadata(dir).unwrap().uid().to_string();
    host("/usr/bin/find", &[".", "!", "-uid", &owner], dir)
}

fn a_clone_is_committed_to_and_rebased_and_whole_on_the_host(isolation: Isolation) {
    let home = Home::of(isolation);
    let app = home.project("clone");
    repository(&home, &app.join("upstream"), 12);
    let sandbox = home.sandbox("clone");
    name_the_agent(&sandbox);
    sandbox.sh("git clone -q upstream work && cd work && git switch -q -c topic \
         && for i in 1 2 3; do echo $i > part0/file0 && git commit -qam \"agent $i\" || exit 1; done");
    // The host goes on meanwhile, once beside the agent's file and once in it.
    fs::write(app.join("upstream/beside"), "beside\n").unwrap();
    home.hand_over(&app.join("upstream/beside"));
    git(&home, &app.join("upstream"), &["add", "."]);
    git(
        &home,
        &app.join("upstream"),
        &["commit", "-q", "-m", "host beside"],
    );
    sandbox.sh("cd work && git fetch -q && git rebase -q origin/main");
    fs::write(app.join("upstream/part0/file0"), "host\n").unwrap();
    git(
        &home,
        &app.join("upstream"),
        &["commit", "-qam", "host against"],
    );
    sandbox.sh("cd work && git fetch -q && ! git rebase -q origin/main 2>/dev/null \
         && git checkout -q --theirs part0/file0 && git add part0/file0 \
         && GIT_EDITOR=true git rebase --continue >/dev/null \
         && git commit -q --amend -m 'agent amended' && echo kept > part1/new && git add part1/new \
         && git stash -q && git stash pop -q && git commit -qm 'agent new' && git tag done && git gc -q \
         && test -z \"$(git status --porcelain)\"");

    let work = app.join("work");
    assert_eq!(
        git(&home, &work, &["log", "--format=%s", "-6", "topic"]),
        "agent new\nagent amended\nagent 2\nagent 1\nhost against\nhost beside\n"
    );
    assert_eq!(git(&home, &work, &["status", "--porcelain"]), "");
    git(&home, &work, &["fsck", "--strict", "--no-dangling"]);
    assert_eq!(fs::read_to_string(work.join("part0/file0")).unwrap(), "3\n");
    assert_eq!(of_others(&app), "");
}

fn a_commit_in_a_linked_worktree_is_in_the_repository_of_the_host(isolation: Isolation) {
    let home = Home::of(isolation);
    let main = home.project("repository");
    repository(&home, &main, 3);
    let linked = home.path().join("linked");
    let path = linked.to_str().unwrap();
    git(
        &home,
        &main,
        &["worktree", "add", "-q", "-b", "topic", path],
    );
    let sandbox = home.sandbox("linked");
    name_the_agent(&sandbox);
    assert_eq!(
        sandbox.sh("git status --porcelain; git branch --show-current"),
        "topic"
    );
    sandbox.sh("echo agent > part0/file0 && git add . && git commit -qm 'agent linked'");

    assert_eq!(
        git(&home, &main, &["log", "--format=%s", "-2", "topic"]),
        "agent linked\nhost 2\n"
    );
    assert_eq!(git(&home, &main, &["status", "--porcelain"]), "");
    assert_eq!(git(&home, &linked, &["status", "--porcelain"]), "");
    git(&home, &main, &["fsck", "--strict"]);
    assert_eq!(of_others(&main), "");
}

fn a_virtual_environment_is_made_and_pip_installs_into_it(isolation: Isolation) {
    if !Fact::PipIndex.holds_for("a_virtual_environment_is_made_and_pip_installs_into_it") {
        return;
    }
    let home = Home::of(isolation);
    let sandbox = home.sandbox_with("pip", &["--memory", "1g"]);
    let out = sandbox
        .exec(["bash", "-c"])
        .arg("python3 -m venv .venv && .venv/bin/pip install -q six==1.16.0 && .venv/bin/python -c 'import six; print(six.__version__)'")
        .within(Duration::from_secs(300))
        .succeeds();
    assert_eq!(out.text().lines().last(), Some("1.16.0"));
}

#[test]
#[ignore = "takes minutes: run by `./x test --all`"]
fn requests_and_what_it_needs_are_installed_by_pip() {
    if !Fact::PipIndex.holds_for("requests_and_what_it_needs_are_installed_by_pip") {
        return;
    }
    let home = Home::new();
    let sandbox = home.sandbox_with("pip", &["--memory", "1g"]);
    let script = "python3 -m venv .venv && .venv/bin/pip install -q requests==2.32.3 && \
         .venv/bin/python -c 'import requests; print(requests.__version__)'";
    let out = sandbox
        .exec(["bash", "-c", script])
        .within(Duration::from_secs(400))
        .succeeds();
    assert_eq!(out.text().lines().last(), Some("2.32.3"));

    let app = sandbox.workspace();
    let import = "import glob, sys; sys.dont_write_bytecode = True; sys.path.insert(0, glob.glob('.venv/lib/*/site-packages')[0]); \
         import requests, idna; print(requests.__version__)";
    assert_eq!(host("/usr/bin/python3", &["-c", import], app), "2.32.3\n");
    assert_eq!(of_others(app), "");
}

#[test]
#[ignore = "takes minutes: run by `./x test --all`"]
fn express_is_installed_from_a_lock_file() {
    if !Fact::NpmRegistry.holds_for("express_is_installed_from_a_lock_file") {
        return;
    }
    let home = Home::new();
    let app = home.project("express");
    fs::write(app.join("package.json"), EXPRESS).unwrap();
    let lock = ["install", "--package-lock-only", "--no-audit", "--no-fund"];
    client("npm", &lock, &app);
    let before = fs::read(app.join("package-lock.json")).unwrap();
    let sandbox = home.sandbox_with("express", &["--memory", "1g"]);
    let script =
        "npm ci --no-audit --no-fund >&2 && node -e 'console.log(typeof require(\"express\")())'";
    let out = sandbox
        .exec(["bash", "-c", script])
        .within(Duration::from_secs(500))
        .succeeds();
    assert_eq!(out.text(), "function");

    assert_eq!(fs::read(app.join("package-lock.json")).unwrap(), before);
    let listed = client("npm", &["ls", "--all"], &app);
    assert!(listed.contains("express@4.21.2"), "{listed}");
    let run = ["-e", "console.log(typeof require('express')())"];
    assert_eq!(client("node", &run, &app), "function\n");
    assert_eq!(of_others(&app), "");
}

fn a_crate_with_dependencies_is_built_by_the_hosts_toolchain(isolation: Isolation) {
    let name = "a_crate_with_dependencies_is_built_by_the_hosts_toolchain";
    if !Fact::CargoRegistry.holds_for(name) {
        return;
    }
    let home = Home::of(isolation);
    let app = home.project("crate");
    fs::create_dir(app.join("src")).unwrap();
    fs::write(app.join("Cargo.toml"), CRATE).unwrap();
    fs::write(app.join("src/main.rs"), MAIN).unwrap();
    client("cargo", &["generate-lockfile", "--quiet"], &app);
    home.hand_over(&app);
    let toolchain = client("rustc", &["--print", "sysroot"], &app);
    let mount = format!(
        "type=bind,source={},target=/opt/rust,readonly",
        toolchain.trim()
    );
    let sandbox = home.sandbox_with("crate", &["--memory", "1g", "--mount", &mount]);
    let script =
        "export PATH=/opt/rust/bin:$PATH; cargo build --locked --quiet && target/debug/small";
    let out = sandbox
        .exec(["bash", "-c", script])
        .within(Duration::from_secs(500))
        .succeeds();
    assert_eq!(out.text(), "unix 42");
    sandbox.try_sh("touch /opt/rust/bin/new").with_code(1);

    let built = app.join("target/debug/small");
    assert_eq!(host(built.to_str().unwrap(), &[], &app), "unix 42\n");
    assert_eq!(of_others(&app), "");
}
