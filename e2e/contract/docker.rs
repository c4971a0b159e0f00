//! What is of the isolation `docker` alone: what its engine has of a sandbox,
//! and an engine that ends, is others' too, or is none. What it has in common
//! with a machine stands in the other files.

use std::fs;

use e2e::{Engine, Home, Kind};

#[test]
fn a_container_of_an_engine_runs_as_long_as_its_sandbox_and_holds_what_is_there_at_its_start() {
    let name =
        "a_container_of_an_engine_runs_as_long_as_its_sandbox_and_holds_what_is_there_at_its_start";
    let Some(home) = Home::docked(name) else {
        return;
    };
    let sandbox = home.sandbox("app");
    let list = ["ps", "-q", "--filter", &home.filter()];
    let running = || home.engine().list(&list).len();
    assert_eq!(running(), 2, "the agent's and the keeper of its network");
    sandbox.sh("echo kept > ~/kept; sudo touch /installed; rm -f .envrc");
    home.sbx(["stop", "app"]).succeeds();
    assert_eq!(running(), 0);
    // Made differently, since there is something to hold, and the same inside.
    fs::write(sandbox.workspace().join(".envrc"), "").unwrap();
    home.sbx(["start", "app"]).succeeds();
    assert_eq!(
        sandbox.sh("cat ~/kept; ls /installed; rm -f .envrc 2>/dev/null || echo held"),
        "kept\n/installed\nheld"
    );
    let walls = sandbox.inspect()["walls"].to_string();
    for wall in ["engine", "landlock", "seccomp", "no_new_privs"] {
        assert!(walls.contains(wall), "{walls}");
    }
}

#[test]
fn an_engine_that_is_stopped_and_started_in_a_session_is_survived() {
    let name = "an_engine_that_is_stopped_and_started_in_a_session_is_survived";
    let Some(mut home) = Home::with_engine(name, Kind::Docker, None) else {
        return;
    };
    let flags = ["--isolation", "docker", "--memory", "512m"];
    home.sbx(["run", "-d", "--name", "app"])
        .args(flags)
        .arg("shell")
        .cwd(home.project("app"))
        .succeeds();
    let sh = |home: &Home, script: &str| home.sbx(["exec", "app", "sh", "-c", script]).output();
    sh(&home, "echo kept > ~/kept").with_code(0);
    for end in [Engine::down, Engine::crash] {
        let session = home.sbx(["exec", "-i", "app", "sh", "-c", "echo up >&2; cat"]);
        let session = session.spawn_open();
        session.says("up");
        end(home.engine_mut());
        let out = session.output();
        assert!(!out.errors().is_empty(), "{out}");
        let without = sh(&home, "true").with_code(125);
        assert!(
            without.errors().contains("cannot reach the engine"),
            "{without}"
        );
        home.engine_mut().up();
        assert_eq!(sh(&home, "cat ~/kept").with_code(0).text(), "kept");
    }
    home.sbx(["rm", "-f", "app"]).succeeds();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn what_others_have_with_the_engine_is_left_alone_and_what_nobody_has_goes() {
    let name = "what_others_have_with_the_engine_is_left_alone_and_what_nobody_has_goes";
    let Some(home) = Home::with_engine(name, Kind::Docker, None) else {
        return;
    };
    let flags = ["--isolation", "docker", "-v", "data:/data"];
    let sandbox = home.sandbox_with("app", &flags);
    sandbox.sh("true");
    let engine = home.engine();
    let image = engine.list(&["images", "-q", "sbx-template"]);
    // What somebody makes of a sandbox is theirs, whatever labels it inherits.
    let of_ours = format!("ancestor={}", image[0]);
    let id = engine.list(&["ps", "-q", "--filter", &of_ours]);
    engine.cli(&["commit", &id[0], "copy:1"]);
    engine.cli(&["create", "--name", "of-copy", "--network=none", "copy:1"]);
    engine.cli(&[
        "create",
        "--name",
        "theirs",
        "--network=none",
        &image[0],
        "true",
    ]);
    engine.cli(&[
        "volume",
        "create",
        "--label",
        "dev.sbx.owner=somebody",
        "foreign",
    ]);
    // As after a removal that was killed half way.
    let state = home.state().join("sandboxes/app");
    home.sbx(["stop", "app"]).succeeds();
    fs::rename(&state, home.root().join("gone")).unwrap();
    let dry = home.sbx(["gc", "--dry-run"]).succeeds().text();
    assert!(dry.contains("a container of `app`"), "{dry}");
    home.sbx(["gc"]).succeeds();
    let left = engine.list(&["ps", "-a", "--format", "{{.Names}}"]);
    assert_eq!(left, ["theirs", "of-copy"]);
    assert_eq!(engine.list(&["volume", "ls", "-q"]), ["foreign"]);
    engine.cli(&["rm", "theirs", "of-copy"]);
    engine.cli(&["rmi", "copy:1"]);
    engine.cli(&["volume", "rm", "foreign"]);
    fs::rename(home.root().join("gone"), &state).unwrap();
}

#[test]
fn what_an_engine_cannot_do_is_refused_with_the_cure() {
    let home = Home::new();
    let app = home.project("app");
    let ask = |host: &str, flags: &[&str]| {
        home.sbx(["run", "--isolation", "docker"])
            .args(flags)
            .args(["shell", "--", "-c", "true"])
            .env("DOCKER_HOST", host)
            .cwd(&app)
            .output()
            .with_code(125)
            .errors()
    };
    let absent = ask("unix:///nowhere/engine.sock", &[]);
    assert!(absent.contains("cannot reach the engine"), "{absent}");
    assert!(absent.contains("DOCKER_HOST"), "{absent}");
    let far = ask("ssh://-oProxyCommand=x", &[]);
    assert!(far.contains("no destination of ssh"), "{far}");
    let other = home.sbx(["run", "-t", "node:20-slim", "shell"]).cwd(&app);
    let other = other.output().with_code(125).errors();
    assert!(other.contains("--isolation docker"), "{other}");
    let doctor = home.sbx(["doctor"]).env("DOCKER_HOST", "unix:///nowhere/x");
    let doctor = doctor.output().text();
    assert!(
        doctor.contains("isolation docker: does not work"),
        "{doctor}"
    );
}
