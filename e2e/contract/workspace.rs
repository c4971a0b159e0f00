//! Work in the share: git, held names, package clients, the host's edits; in
//! a machine, and in a container whose workspace a file server serves.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use e2e::{
    Fact, Home, Isolation, Kept, Promise, WorkspaceGuard, host, in_each_isolation, where_kept,
};

in_each_isolation![
    git_works_in_the_share_and_leaves_the_hosts_index_as_it_was,
    the_share_behaves_as_a_local_disk_and_shows_the_hosts_edits,
    npm_ci_installs_from_a_lock_file,
    what_lies_in_the_home_of_root_is_reached_and_nothing_beside_it,
];

where_kept![Promise::Held =>
    git_does_all_of_its_work_inside_and_the_host_obeys_none_of_it,
    a_linked_work_tree_commits_to_its_repository_and_cannot_change_its_hooks,
    names_that_a_host_executes_are_held,
];

/// Names that a host would execute or obey.
const HELD: &[&str] = &[
    ".git/hooks/post-commit",
    ".vscode/tasks.json",
    ".idea/workspace.xml",
    ".claude/settings.json",
    ".mcp.json",
    ".envrc",
    "deep/below/.envrc",
    ".config/mise/config.toml",
    ".config/lefthook.yml",
];

fn git(home: &Home, dir: &Path, args: &[&str]) -> String {
    let fixed = ["-c", "user.name=Host", "-c", "user.email=host@example.org"];
    home.host("/usr/bin/git", &[&fixed, args].concat(), dir)
}

fn git_works_in_the_share_and_leaves_the_hosts_index_as_it_was(isolation: Isolation) {
    let home = Home::of(isolation);
    let app = home.project("git");
    git(&home, &app, &["init", "-q", "-b", "main", "."]);
    fs::write(app.join("file"), "one\n").unwrap();
    home.hand_over(&app);
    git(&home, &app, &["add", "."]);
    git(&home, &app, &["commit", "-q", "-m", "first"]);
    let sandbox = home.sandbox("git");
    sandbox.sh(
        "git config --global user.name Agent; git config --global user.email agent@example.org",
    );

    // The index holds what the file system said; both sides must agree.
    git(&home, &app, &["status"]);
    let index = fs::read(app.join(".git/index")).unwrap();
    assert_eq!(sandbox.sh("git status --porcelain"), "");
    assert_eq!(
        fs::read(app.join(".git/index")).unwrap(),
        index,
        "the index was rewritten"
    );

    sandbox.sh(
        "git switch -q -c topic && echo two >> file && git commit -qam second
        git switch -q main && echo other > other && git add . && git commit -qm third
        git switch -q topic && git rebase -q main
        git clone -q . copy && cd copy && git log --oneline | wc -l",
    );
    assert_eq!(
        git(&home, &app, &["log", "--format=%s", "topic"]),
        "second\nthird\nfirst\n"
    );
    assert_eq!(git(&home, &app, &["status", "--porcelain"]), "?? copy/\n");
    git(&home, &app, &["fsck", "--strict"]);
    let (made, owner) = (
        fs::metadata(app.join("copy")).unwrap(),
        fs::metadata(&app).unwrap(),
    );
    assert_eq!((made.uid(), made.gid()), (owner.uid(), owner.gid()));
}

const AGENT: &str = "git config --global user.name Agent
    git config --global user.email agent@example.org
    git config --global protocol.file.allow always";

fn git_does_all_of_its_work_inside_and_the_host_obeys_none_of_it(isolation: Isolation) {
    let home = Home::of(isolation);
    let app = home.project("work");
    git(&home, &app, &["init", "-q", "-b", "main", "."]);
    git(&home, &app, &["config", "core.hooksPath", "tools/hooks"]);
    fs::create_dir_all(app.join("tools/hooks")).unwrap();
    fs::write(app.join("tools/hooks/pre-commit"), "true\n").unwrap();
    git(
        &home,
        &app,
        &["commit", "-q", "--allow-empty", "-m", "first"],
    );
    let sandbox = home.sandbox("work");
    sandbox.sh(AGENT);
    // Hooks run where they were changed, a rebase runs the commands of its list.
    sandbox.sh("set -e
        echo '#!/bin/sh' > tools/hooks/pre-commit; chmod +x tools/hooks/pre-commit
        echo 'touch ~/hooked' >> tools/hooks/pre-commit
        for n in two three; do echo $n > $n; git add $n; git commit -qm $n; done
        test -e ~/hooked
        GIT_SEQUENCE_EDITOR=true git rebase -q -i --exec 'touch ~/executed' main~1 2>&1
        test -e ~/executed
        git switch -qc ours; echo x > four; git add four; git commit -qm ours
        git switch -qc theirs main; echo y > four; git add four; git commit -qm theirs
        ! git rebase -q ours >/dev/null 2>&1
        echo 'exec touch ~/continued' >> .git/rebase-merge/git-rebase-todo");
    assert!(!app.join(".git/rebase-merge").exists(), "held");
    sandbox.sh("set -e
        echo z > four; git add four; GIT_EDITOR=true git rebase --continue 2>&1
        test -e ~/continued; ! test -e .git/rebase-merge; git switch -q main
        git worktree add -q -b side side 2>&1
        cd side; echo 5 > five; git add five; git commit -qm side; cd ..
        git worktree list | grep -q side
        git submodule --quiet add ./ sub 2>&1; git commit -qm sub
        git gc -q 2>&1; git fsck --strict 2>&1");
    let log = |branch: &str| git(&home, &app, &["log", "--format=%s", branch, "--"]);
    assert_eq!(log("main"), "sub\nthree\ntwo\nfirst\n");
    assert_eq!(log("theirs"), "theirs\nours\nthree\ntwo\nfirst\n");
    assert_eq!(log("side"), "side\nthree\ntwo\nfirst\n");
    git(&home, &app, &["worktree", "prune"]);
    git(&home, &app, &["fsck"]);
    assert_eq!(
        fs::read_to_string(app.join("tools/hooks/pre-commit")).unwrap(),
        "true\n"
    );
    assert_eq!(
        sandbox.sh("cd side && git log -1 --format=%s"),
        "side",
        "what the host prunes is not what was made inside"
    );
}

fn a_linked_work_tree_commits_to_its_repository_and_cannot_change_its_hooks(isolation: Isolation) {
    let home = Home::of(isolation);
    let repo = home.project("repo");
    git(&home, &repo, &["init", "-q", "-b", "main", "."]);
    git(
        &home,
        &repo,
        &["commit", "-q", "--allow-empty", "-m", "first"],
    );
    git(
        &home,
        &repo,
        &["worktree", "add", "-q", "-b", "linked", "../tree"],
    );
    let config = fs::read(repo.join(".git/config")).unwrap();
    let sandbox = home.sandbox("tree");
    sandbox.sh(AGENT);
    sandbox.sh("set -e; echo one > file; git add file; git commit -qm inside; git status");
    assert_eq!(
        git(&home, &repo, &["log", "--format=%s", "linked"]),
        "inside\nfirst\n"
    );
    let tree = sandbox.workspace();
    assert_eq!(git(&home, tree, &["status", "--porcelain"]), "");
    sandbox.sh(
        "set -e; own=$(git rev-parse --git-dir); common=$(git rev-parse --git-common-dir)
        git config core.fsmonitor 'touch /tmp/owned'
        echo planted > $common/hooks/post-commit; echo planted > $own/gitdir
        echo planted > $own/config.worktree; echo planted > $common/data",
    );
    assert_eq!(fs::read(repo.join(".git/config")).unwrap(), config);
    assert!(!repo.join(".git/hooks/post-commit").exists());
    let own = repo.join(".git/worktrees/tree");
    assert!(!own.join("config.worktree").exists());
    let back = fs::read_to_string(own.join("gitdir")).unwrap();
    assert_eq!(Path::new(back.trim_end()), tree.join(".git"));
    assert!(repo.join(".git/data").exists(), "the rest is shared");
}

fn names_that_a_host_executes_are_held(isolation: Isolation) {
    let home = Home::of(isolation);
    let app = home.project("held");
    git(&home, &app, &["init", "-q", "."]);
    fs::write(app.join(".envrc"), "export HOST=1\n").unwrap();
    let before = tree(&app);
    let sandbox = home.sandbox("held");
    for name in HELD {
        sandbox.sh(&format!(
            "mkdir -p $(dirname {name}) && echo planted > {name} && chmod +x {name}"
        ));
        assert_eq!(
            sandbox.sh(&format!("cat {name}")),
            "planted",
            "{name}: seen inside"
        );
    }
    sandbox.sh("git config core.fsmonitor 'touch /tmp/owned'; git config core.fsmonitor");
    // The same by rename, by a directory made elsewhere, and by a link.
    sandbox.sh("echo planted > innocent && mv innocent .git/hooks/pre-push");
    sandbox.sh("mkdir swap && echo planted > swap/tasks.json && mv swap moved && mkdir -p sub && mv moved sub/.vscode");
    sandbox.try_sh("echo planted > plain && ln plain .git/hooks/pre-commit; rm -f plain");
    // The twin: an ordinary name goes through.
    sandbox.sh("echo through > ordinary.json");

    let after = tree(&app);
    let new: Vec<_> = after.iter().filter(|path| !before.contains(path)).collect();
    for path in &new {
        let text = fs::read_to_string(app.join(path)).unwrap_or_default();
        assert!(
            !text.contains("planted"),
            "{path} reached the host: {new:?}"
        );
    }
    assert!(after.iter().any(|path| path == "ordinary.json"));
    assert_eq!(
        fs::read_to_string(app.join(".envrc")).unwrap(),
        "export HOST=1\n"
    );
    assert!(
        !fs::read_to_string(app.join(".git/config"))
            .unwrap()
            .contains("fsmonitor")
    );
    git(&home, &app, &["status"]);

    let told = sandbox.inspect()["held"].to_string();
    assert!(
        told.contains(".git/hooks/post-commit") && told.contains(".mcp.json"),
        "{told}"
    );
    let end = home.sbx(["run", "shell", "--", "-c", "echo more > .vscode/more.json"]);
    let end = home_run(end, &app);
    assert!(
        end.contains("held") && end.contains(".vscode"),
        "the end block says it: {end}"
    );
}

fn home_run(call: e2e::Sbx, app: &Path) -> String {
    call.arg("--name").arg("held").cwd(app).output().errors()
}

/// Every file below a directory.
fn tree(dir: &Path) -> Vec<String> {
    let found = host(
        "/usr/bin/find",
        &[".", "-type", "f", "-printf", "%P\\n"],
        dir,
    );
    found.lines().map(str::to_owned).collect()
}

fn the_share_behaves_as_a_local_disk_and_shows_the_hosts_edits(isolation: Isolation) {
    let home = Home::of(isolation);
    let app = home.project("disk");
    fs::write(app.join("edited"), "before\n").unwrap();
    fs::write(app.join("index.lock"), "").unwrap();
    let sandbox = home.sandbox("disk");
    assert_eq!(
        sandbox.sh("cat edited; ls index.lock"),
        "before\nindex.lock"
    );
    fs::write(app.join("edited"), "afterwards\n").unwrap();
    fs::write(app.join("new"), "new\n").unwrap();
    fs::remove_file(app.join("index.lock")).unwrap();
    // Within a second, and exec alone takes a part of it.
    let script = "for i in $(seq 20); do
            test \"$(cat edited new 2>/dev/null)\" = $'afterwards\\nnew' && ! test -e index.lock && exit 0
            sleep 0.05
        done; exit 1";
    sandbox.try_sh(script).with_code(0);

    let long = "n".repeat(255);
    let script = format!(
        "set -e
        exec 5>unlinked; rm unlinked; echo still >&5; grep -q still /proc/self/fd/5; exec 5>&-
        mkdir a b; echo x > a/f; mv a/f b/g; test ! -e a/f; test \"$(cat b/g)\" = x
        truncate -s 1G sparse; test $(du -k sparse | cut -f1) -lt 1024
        touch {long}; ls | grep -q {long}
        ln -s b/g link; test \"$(readlink link)\" = b/g; ln b/g hard; test $(stat -c %h hard) = 2
        chmod 751 b/g; test $(stat -c %a hard) = 751
        touch -d 2001-02-03 b/g; test $(stat -c %Y b/g) = $(date -d 2001-02-03 +%s)
        flock lockfile -c 'flock -n lockfile -c true && exit 1 || exit 0'
        python3 - <<'END'
import mmap, os
with open('mapped', 'wb+') as f:
    f.truncate(8192)
    m = mmap.mmap(f.fileno(), 8192)
    m[4096:4100] = b'page'
    m.flush()
assert open('mapped', 'rb').read()[4096:4100] == b'page'
END"
    );
    sandbox.sh(&script);
    assert_eq!(&fs::read(app.join("mapped")).unwrap()[4096..4100], b"page");
    assert_eq!(
        fs::metadata(app.join("b/g")).unwrap().permissions().mode() & 0o7777,
        0o751
    );
    let owner = fs::metadata(&app).unwrap().uid();
    sandbox
        .sh("sudo touch by-root && sudo chown 999:999 by-root && test $(stat -c %u by-root) = 999");
    let by_root = fs::metadata(app.join("by-root")).unwrap().uid();
    match Promise::Owners.kept(isolation, WorkspaceGuard::Full) {
        Kept::Yes => assert_eq!(by_root, owner, "chown stays inside"),
        // What root inside makes is nobody's of the host.
        _ => assert!(by_root != 0 && by_root != owner, "{by_root}"),
    }
}

fn what_lies_in_the_home_of_root_is_reached_and_nothing_beside_it(isolation: Isolation) {
    let home = Home::of(isolation);
    let deep = home.project("deep");
    fs::write(deep.join("file"), "reached\n").unwrap();
    let mount = format!("{}:/root/own/deep", deep.display());
    let sandbox = home.sandbox_with("app", &["-v", &mount]);
    let reached = sandbox.exec_with(["-w", "/root/own/deep"], ["sh", "-c", "cat file; pwd"]);
    assert_eq!(reached.succeeds().text(), "reached\n/root/own/deep");
    assert_ne!(sandbox.try_sh("ls /root").code(), Some(0));
    assert_eq!(sandbox.sh("sudo ls /root"), "own");
}

fn npm_ci_installs_from_a_lock_file(isolation: Isolation) {
    if !Fact::NpmRegistry.holds_for("npm_ci_installs_from_a_lock_file") {
        return;
    }
    let home = Home::of(isolation);
    let sandbox = home.sandbox_with("npm", &["--memory", "1g"]);
    let manifest =
        r#"{"name":"app","version":"1.0.0","dependencies":{"ms":"2.1.3","depd":"2.0.0"}}"#;
    fs::write(sandbox.workspace().join("package.json"), manifest).unwrap();
    home.hand_over(sandbox.workspace());
    let script = "npm install --package-lock-only --no-audit --no-fund >&2 && npm ci --no-audit --no-fund >&2 \
         && node -e 'console.log(require(\"ms\")(60000))'";
    let out = sandbox
        .exec(["bash", "-c", script])
        .within(std::time::Duration::from_secs(400))
        .succeeds();
    assert_eq!(out.text(), "1m");
    assert!(
        sandbox
            .workspace()
            .join("node_modules/depd/package.json")
            .exists()
    );
}
