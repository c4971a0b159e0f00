//! Engines and images that others made: what of them works, and what is said
//! where it does not.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;

use e2e::{Home, Kind, Listener};

/// Whom the workspaces of these homes belong to.
const OWNER: u32 = 1000;

/// Gives the engine an image of a name that people type, made of our own
/// template: no registry of images is in reach.
pub(super) fn node_image(home: &Home) {
    let load = ["create", "--no-workspace", "--name", "load", "shell"];
    home.sbx(load).succeeds();
    home.sbx(["rm", "-f", "load"]).succeeds();
    let engine = home.engine();
    let image = engine.list(&["images", "-q", "sbx-template"]);
    engine.cli(&["tag", &image[0], "node:20-slim"]);
}

/// A root with a few static programs and nothing else: no C library, no user,
/// no bash, no certificates.
pub(super) const TINY: &str = "mkdir -p bin tmp opt/tools
    cp /bin/busybox bin/busybox
    for name in sh id cat env ls stat touch wget; do ln -s busybox bin/$name; done
    printf '#!/bin/sh\\necho a tool of the image\\n' > opt/tools/tool
    chmod 755 opt/tools/tool";

#[test]
fn an_image_without_user_bash_sudo_or_c_library_works_or_says_what_it_lacks() {
    let name = "an_image_without_user_bash_sudo_or_c_library_works_or_says_what_it_lacks";
    let Some(home) = Home::docked(name) else {
        return;
    };
    home.engine().image("tiny:1", TINY);
    let app = home.project("app");
    fs::write(app.join("made"), "on the host").unwrap();
    let run = |flags: &[&str]| {
        home.sbx(["run", "--rm", "--memory", "256m"])
            .args(["-t", "tiny:1"])
            .args(flags)
            .cwd(&app)
    };
    let script = "id -u; cat made; echo; sudo id -u; cat /etc/passwd; echo x > by-agent";
    let out = run(&["shell", "--", "-c", script]).succeeds();
    assert_eq!(
        out.text(),
        format!("{OWNER}\non the host\n0\nagent:x:{OWNER}:{OWNER}::/home/agent:/bin/sh")
    );
    assert_eq!(fs::metadata(app.join("by-agent")).unwrap().uid(), OWNER);
    // The agent is a program for the GNU C library.
    let lacks = run(&["claude", "--", "--version"]).output().with_code(127);
    assert!(
        lacks.errors().contains("cannot run in this image"),
        "{lacks}"
    );
    let never = [
        "--pull",
        "never",
        "--no-workspace",
        "-t",
        "absent:1",
        "shell",
    ];
    let absent = home.sbx(["run"]).args(never);
    let absent = absent.output().with_code(125);
    assert!(
        absent.errors().contains("has no image `absent:1`"),
        "{absent}"
    );
    // Nobody listens there, and the engine says so.
    let closed = ["--no-workspace", "-t", "127.0.0.1:1/absent:1", "shell"];
    let closed = home.sbx(["run"]).args(closed);
    let closed = closed.output().with_code(125);
    assert!(
        closed.errors().contains("cannot fetch the image"),
        "{closed}"
    );
}

#[test]
fn the_limits_of_a_container_of_an_engine_are_the_engine_s() {
    let name = "the_limits_of_a_container_of_an_engine_are_the_engine_s";
    let Some(home) = Home::docked(name) else {
        return;
    };
    let flags = ["--memory", "512m", "--cpus", "0.5", "--pids-limit", "64"];
    let _sandbox = home.sandbox_with("limited", &flags);
    let (ours, agents) = (home.filter(), "name=-[0-9a-f]*$");
    let list = ["ps", "-q", "--filter", &ours, "--filter", agents];
    let id = home.engine().list(&list);
    let format = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}";
    let told = home.engine().cli(&["inspect", "--format", format, &id[0]]);
    assert_eq!(told.trim(), format!("{} 500000000 64", 512 << 20));
    let ask = home.sbx(["create", "--no-workspace", "--name", "other"]);
    let disk = ask.args(["--disk", "1g", "shell"]).output().with_code(1);
    assert!(disk.errors().contains("--disk"), "{disk}");
}

#[test]
fn a_container_of_podman_is_one_of_docker() {
    let name = "a_container_of_podman_is_one_of_docker";
    let Some(home) = Home::with_engine(name, Kind::Podman, None) else {
        return;
    };
    let (open, shut) = (Listener::open(), Listener::open());
    let rule = format!("localhost:{}", open.port());
    let flags = [
        "--network",
        "locked",
        "--allow-network",
        &rule,
        "-v",
        "data:/data",
        "--isolation",
        "docker",
    ];
    let sandbox = home.sandbox_with("app", &flags);
    let fetch = |port: u16| format!("curl -s --max-time 20 http://host.sbx.internal:{port}/");
    assert_eq!(sandbox.sh(&fetch(open.port())), "canary-sings");
    assert!(
        !sandbox
            .try_sh(&fetch(shut.port()))
            .text()
            .contains("canary")
    );
    assert_eq!(shut.visits(), 0);
    sandbox.sh("echo kept > ~/kept; echo d > /data/file; echo made > made");
    assert_eq!(
        sandbox.sh("id -u; sudo id -u; hostname"),
        format!("{OWNER}\n0\napp")
    );
    let powers = "awk '/CapBnd|NoNewPrivs/ { print $2 }' /proc/self/status";
    assert_eq!(sandbox.sh(powers), "00000000800405fb\n1");
    home.sbx(["stop", "app"]).succeeds();
    assert_eq!(home.engine().list(&["ps", "-q"]), Vec::<String>::new());
    home.sbx(["start", "app"]).succeeds();
    assert_eq!(sandbox.sh("cat ~/kept /data/file made"), "kept\nd\nmade");
    home.sbx(["rm", "-f", "app"]).succeeds();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

#[test]
fn an_engine_elsewhere_gets_programs_by_copy_and_no_workspace() {
    let port = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let name = "an_engine_elsewhere_gets_programs_by_copy_and_no_workspace";
    let Some(home) = Home::with_engine(name, Kind::Docker, Some(port)) else {
        return;
    };
    let open = Listener::open();
    let rule = format!("localhost:{}", open.port());
    let far = [
        "run",
        "--isolation",
        "docker",
        "--memory",
        "512m",
        "--allow-network",
        &rule,
    ];
    let app = home.project("app");
    let refused = home.sbx(far).arg("shell").cwd(&app).output().with_code(125);
    assert!(refused.errors().contains("--no-workspace"), "{refused}");
    let script = format!(
        "id -un; sudo id -u; curl -s --max-time 20 http://host.sbx.internal:{}/",
        open.port()
    );
    let flags = [
        "--no-workspace",
        "--name",
        "far",
        "shell",
        "--",
        "-c",
        &script,
    ];
    let out = home.sbx(far).args(flags).succeeds();
    assert_eq!(out.text(), "agent\n0\ncanary-sings");
    let again = home.sbx(["exec", "far", "sh", "-c", "echo kept > ~/kept"]);
    again.succeeds();
    home.sbx(["stop", "far"]).succeeds();
    let again = home.sbx(["exec", "far", "cat", "/home/agent/kept"]);
    assert_eq!(again.succeeds().text(), "kept");
    home.sbx(["rm", "-f", "far"]).succeeds();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}
