//! The keys in the caller's home, looked for by root inside.

use std::fs;

use e2e::{Home, Isolation, in_each_isolation};

in_each_isolation![
    keys_in_the_callers_home_are_nowhere_inside,
    a_token_in_the_callers_environment_is_nowhere_inside,
];

const PLACES: &[&str] = &[
    ".ssh/id_ed25519",
    ".aws/credentials",
    ".kube/config",
    ".npmrc",
    ".gitconfig",
];

/// In every file, so that a search finds whichever is in reach.
const CANARY: &str = "canary-e7a1c9";

fn keys_in_the_callers_home_are_nowhere_inside(isolation: Isolation) {
    let home = Home::of(isolation);
    for place in PLACES {
        let path = home.path().join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = match *place {
            ".gitconfig" => format!("[core]\n\tsshCommand = {CANARY}\n"),
            _ => format!("key = {CANARY}\n"),
        };
        fs::write(path, text).unwrap();
    }
    let app = home.project("app");
    // The way out that a repository can bring along.
    std::os::unix::fs::symlink("../.ssh", app.join("keys")).unwrap();
    std::os::unix::fs::symlink(home.path().join(".npmrc"), app.join("absolute")).unwrap();
    fs::write(app.join("twin"), CANARY).unwrap();
    let sandbox = home.sandbox_with("app", &[]);
    let host_home = home.path().display().to_string();

    for place in PLACES {
        let path = format!("{host_home}/{place}");
        let out = sandbox.try_sh(&format!("sudo cat {path} ~/{place} ../{place} 2>/dev/null"));
        assert!(!out.text().contains(CANARY), "{place} is in reach: {out}");
    }
    let links = sandbox.try_sh("sudo cat keys/id_ed25519 absolute; sudo ls -la keys/");
    assert!(!links.text().contains(CANARY), "by a link: {links}");
    let around = sandbox.sh(&format!("sudo ls -A {host_home}"));
    assert_eq!(around, "app", "only the workspace beside the caller's home");
    let found = sandbox.sh(&format!(
        "sudo grep -rlsI {CANARY} / --exclude-dir=proc --exclude-dir=sys --exclude-dir=usr || true"
    ));
    assert_eq!(
        found,
        format!("{}/twin", app.display()),
        "only the file that is shared"
    );
    let processes =
        sandbox.sh("sudo cat /proc/*/environ /proc/cmdline /proc/*/cmdline | tr '\\0' '\\n'");
    assert!(
        !processes.contains(&*home.root().join("config").to_string_lossy()),
        "{processes}"
    );
}

fn a_token_in_the_callers_environment_is_nowhere_inside(isolation: Isolation) {
    let home = Home::of(isolation);
    // Root of a container may not look into what others run.
    let all = "cat /proc/*/environ; sudo cat /proc/*/environ";
    let script = format!("({all}) 2>/dev/null | tr '\\0' '\\n' | grep -c {CANARY}");
    let run = |flags: &[&str]| {
        home.sbx(["run", "--rm", "-q"])
            .args(home.memory("768m"))
            .args(flags)
            .args(["shell", "--", "-c", &script])
            .cwd(home.project("app"))
            .env("GITHUB_TOKEN", CANARY)
            .output()
    };
    assert_eq!(run(&[]).text(), "0");
    assert_ne!(
        run(&["-e", "GITHUB_TOKEN"]).text(),
        "0",
        "the twin: named, it enters"
    );
}
