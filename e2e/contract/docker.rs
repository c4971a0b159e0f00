//! What the isolation `docker` does as a machine does, with an engine of the
//! test's own: sessions, files, network, restarts, and the end of any of its
//! processes, the engine's too.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use e2e::{Engine, Home, Kind, Listener, Sandbox};
use rustix::process::Signal;

use crate::faults::{assert_usable, kill};

/// Its processes of ours on the host, by what their command lines hold.
const PARTS: &[(&str, &str)] = &[
    ("supervisor", "sbx supervise"),
    ("spawner", "sbx spawner"),
    ("network engine", "sbx net"),
    ("who speaks with the engine", "sbx dock"),
    ("keeper of the network", "sbx-guest wire"),
    ("first process", "sbx-guest docked"),
];

/// Whom the workspaces of these tests belong to: an ordinary user, as almost
/// everybody's do.
pub(super) const OWNER: u32 = 1000;

pub(super) fn docked<'h>(home: &'h Home, flags: &[&str]) -> Sandbox<'h> {
    own(&home.project("app"));
    let flags = [&["--isolation", "docker", "--memory", "512m"], flags].concat();
    home.sandbox_with("app", &flags)
}

pub(super) fn own(path: &Path) {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(OWNER), Some(OWNER)).unwrap();
    }
}

#[test]
fn sessions_in_a_container_of_an_engine_are_those_of_a_machine() {
    let name = "sessions_in_a_container_of_an_engine_are_those_of_a_machine";
    let Some(home) = Home::with_engine(name, Kind::Docker, None) else {
        return;
    };
    let sandbox = docked(&home, &["-e", "GREETING=a b", "-v", "data:/data"]);
    for code in [0, 3, 126] {
        sandbox.try_sh(&format!("exit {code}")).with_code(code);
    }
    sandbox.exec(["no-such-program"]).output().with_code(127);
    sandbox.try_sh("kill -9 $$").with_code(137);
    let every: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let back = sandbox
        .exec_with(["-i"], ["cat"])
        .input(every.clone())
        .output();
    assert_eq!(back.with_code(0).bytes(), every);

    let workspace = sandbox.workspace();
    let owner = fs::metadata(workspace).unwrap();
    assert_eq!(
        sandbox.sh("id -un; id -u; hostname; pwd; echo $GREETING; sudo id -u"),
        format!("agent\n{OWNER}\napp\n{}\na b\n0", workspace.display())
    );
    assert_eq!(sandbox.sh("sudo useradd bob && sudo -u bob id -un"), "bob");
    let names = sandbox.sh("env -u PWD | cut -d= -f1 | sort | tr '\\n' ' '");
    for foreign in ["SBX_", "XDG_", "TMPDIR", "DOCKER_"] {
        assert!(!names.contains(foreign), "{names}");
    }

    sandbox
        .sh("echo inside > made; echo kept > ~/kept; echo d > /data/file; sudo touch /installed");
    let made = fs::metadata(workspace.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (owner.uid(), owner.gid()));
    fs::write(workspace.join("outside"), "from the host").unwrap();
    assert_eq!(
        sandbox.sh("stat -c %U:%G made; cat outside"),
        "agent:agent\nfrom the host"
    );

    home.sbx(["stop", "app"]).succeeds();
    assert_eq!(home.engine().list(&["ps", "-q"]), Vec::<String>::new());
    // Made differently, since there is something to hold, and the same inside.
    fs::write(workspace.join(".envrc"), "").unwrap();
    home.sbx(["start", "app"]).succeeds();
    assert_eq!(
        sandbox.sh("cat ~/kept /data/file made; ls /installed; rm .envrc 2>/dev/null || echo held"),
        "kept\nd\ninside\n/installed\nheld"
    );
    let known = sandbox.inspect();
    assert_eq!(known["spec"]["isolation"], "docker");
    let walls = known["walls"].to_string();
    for wall in ["engine", "landlock", "seccomp", "no_new_privs"] {
        assert!(walls.contains(wall), "{walls}");
    }
    let list = home.sbx(["ls"]).succeeds().text();
    assert!(list.contains("docker"), "{list}");
    let other = home.sbx(["run", "--name", "app", "--isolation", "microvm", "shell"]);
    let other = other.cwd(workspace).output();
    assert!(other.errors().contains("--isolation"), "{other}");
}

#[test]
fn the_network_of_a_container_of_an_engine_is_judged_by_the_same_rules() {
    let name = "the_network_of_a_container_of_an_engine_is_judged_by_the_same_rules";
    let Some(home) = Home::with_engine(name, Kind::Docker, None) else {
        return;
    };
    let (open, shut) = (Listener::open(), Listener::open());
    let rule = format!("localhost:{}", open.port());
    let flags = ["--network", "locked", "--allow-network", &rule];
    let sandbox = docked(&home, &flags);
    let fetch = |port: u16| format!("curl -s --max-time 20 http://host.sbx.internal:{port}/");
    assert_eq!(sandbox.sh(&fetch(open.port())), "canary-sings");
    let denied = sandbox.try_sh(&fetch(shut.port()));
    assert!(!denied.text().contains("canary-sings"), "{denied}");
    assert_eq!(shut.visits(), 0);
    sandbox.try_sh("curl -s --max-time 20 https://denied.example/");
    let log = home.sbx(["policy", "log", "app"]).succeeds().text();
    assert!(log.contains(&format!("allow {rule}")), "{log}");
    assert!(log.contains("denied.example:443"), "{log}");
    assert!(
        sandbox.try_sh("ping -c1 -W5 198.19.255.1").code() == Some(0),
        "the gateway answers"
    );
    // What an engine would have given is not there: one interface, one way.
    let interfaces = sandbox.sh("ls /sys/class/net | tr '\\n' ' '");
    for engine in ["docker0", "eth1", "veth"] {
        assert!(!interfaces.contains(engine), "{interfaces}");
    }
    assert_eq!(
        sandbox.sh("awk '$2 == \"00000000\" { print $1 }' /proc/net/route"),
        "eth0"
    );
}

#[test]
fn the_death_of_any_process_beside_an_engine_is_survived() {
    let name = "the_death_of_any_process_beside_an_engine_is_survived";
    let Some(home) = Home::with_engine(name, Kind::Docker, None) else {
        return;
    };
    let sandbox = docked(&home, &[]);
    sandbox.sh("echo kept > ~/kept");
    for (what, line) in PARTS {
        let mut session = sandbox.exec_with(["-i"], ["cat"]).spawn_open();
        session.send(b"up\n");
        sandbox.sh("until pgrep -x cat; do :; done");
        kill(&home, line);
        if *line == "sbx net" {
            session.end_input();
        }
        let out = session.output();
        assert!(
            out.code() == Some(0) || !out.errors().is_empty(),
            "{what}: {out}"
        );
        assert_usable(&home, &sandbox, what);
    }
}

#[test]
fn a_start_with_an_engine_that_is_broken_off_leaves_nothing() {
    let name = "a_start_with_an_engine_that_is_broken_off_leaves_nothing";
    let Some(home) = Home::with_engine(name, Kind::Docker, None) else {
        return;
    };
    let sandbox = docked(&home, &[]);
    sandbox.sh("echo kept > ~/kept");
    for (what, line) in PARTS {
        home.sbx(["stop", "app"]).succeeds();
        let starting = home.sbx(["start", "app"]).spawn();
        home.awaits(line).signal(Signal::KILL);
        let out = starting.output();
        assert!(
            out.code() == Some(0) || !out.errors().is_empty(),
            "{what}: {out}"
        );
        assert_usable(&home, &sandbox, &format!("{what} during the start"));
    }
    home.sbx(["rm", "-f", "app"]).succeeds();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn an_engine_that_is_stopped_and_started_in_a_session_is_survived() {
    let name = "an_engine_that_is_stopped_and_started_in_a_session_is_survived";
    let Some(mut home) = Home::with_engine(name, Kind::Docker, None) else {
        return;
    };
    own(&home.project("app"));
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
    let sandbox = docked(&home, &["-v", "data:/data"]);
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
    let far = ask("ssh://me@far.example", &[]);
    assert!(far.contains("ssh is not in this version"), "{far}");
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
