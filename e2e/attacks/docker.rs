//! Ways out of a container of the user's engine that take more than one act;
//! the others are in `probes.rs`.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use e2e::Home;

#[test]
fn the_keeper_of_the_network_is_out_of_reach_of_root_inside() {
    let name = "the_keeper_of_the_network_is_out_of_reach_of_root_inside";
    let Some(home) = Home::docked(name) else {
        return;
    };
    let sandbox = home.sandbox("app");
    for act in [
        "ip link set eth0 down",
        "ip address add 192.0.2.9/32 dev eth0",
        "ip route replace default via 198.19.255.9",
        "ip tuntap add mode tap name tap9",
        "ip netns add other",
        "mkdir -p /dev/net && mknod /dev/net/tun c 10 200",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
    ] {
        let out = sandbox.try_sh(&format!("sudo sh -c '{act}'"));
        assert_ne!(out.code(), Some(0), "{act}: {out}");
    }
    let seen = sandbox.sh("ps -eo args=");
    assert!(seen.contains("sbx-guest docked"), "{seen}");
    for foreign in ["wire", "dockerd", "sbx dock", "sbx supervise"] {
        assert!(!seen.contains(foreign), "{seen}");
    }
    // What an engine would have given is not there: one interface, one way.
    let interfaces = sandbox.sh("ls -m /proc/sys/net/ipv4/conf");
    for engine in ["docker0", "eth1", "veth"] {
        assert!(!interfaces.contains(engine), "{interfaces}");
    }
    assert!(interfaces.contains("eth0"), "{interfaces}");
    assert_eq!(
        sandbox.sh("awk '$2 == \"00000000\" { print $1 }' /proc/net/route"),
        "eth0"
    );
    // The twin: who is given the capability does the same in the same network.
    let engine = home.engine();
    let ours = home.filter();
    let keeper = engine.list(&["ps", "-q", "--filter", &ours, "--filter", "name=-net$"]);
    let image = engine.list(&["images", "-q", "sbx-template"]);
    engine.cli(&[
        "run",
        "--rm",
        "--cap-add=NET_ADMIN",
        &format!("--network=container:{}", keeper[0]),
        &image[0],
        "ip",
        "link",
        "set",
        "eth0",
        "down",
    ]);
}

#[test]
fn a_container_of_an_engine_reaches_no_engine_and_is_in_no_log_of_it() {
    let name = "a_container_of_an_engine_reaches_no_engine_and_is_in_no_log_of_it";
    let Some(home) = Home::docked(name) else {
        return;
    };
    let sandbox = home.sandbox("app");
    let sockets = sandbox.sh("sudo find / -xdev -type s; sudo find /run /var/run/ -type s");
    for line in sockets.lines() {
        assert!(line.ends_with("run/sbx/sudo.sock"), "{sockets}");
    }
    for engine in ["/var/run/docker.sock", "/run/podman/podman.sock"] {
        let ask = format!("sudo curl -s --max-time 5 --unix-socket {engine} http://engine/version");
        let out = sandbox.try_sh(&ask);
        assert_ne!(out.code(), Some(0), "{out}");
    }
    assert!(
        home.engine().cli(&["version"]).contains("Server"),
        "the twin"
    );
    // A workspace in which that socket lies is none; others are, as above.
    let address = home.engine().address();
    let socket = Path::new(address.trim_start_matches("unix://"));
    let inside = home.sbx(["run", "--name", "in", "shell"]);
    let inside = inside.arg(socket.parent().unwrap()).output().with_code(125);
    assert!(
        inside.errors().contains("the engine's own socket"),
        "{inside}"
    );
    // Whatever a session prints is in no log of the engine.
    for id in home
        .engine()
        .list(&["ps", "-q", "--filter", &home.filter()])
    {
        let driver = ["inspect", "--format", "{{.HostConfig.LogConfig.Type}}", &id];
        assert_eq!(home.engine().cli(&driver).trim(), "none");
    }
    let descriptors = sandbox.sh("ls -m /proc/$$/fd; sudo sh -c 'ls -m /proc/$$/fd'");
    assert_eq!(descriptors, "0, 1, 2\n0, 1, 2");
}

#[test]
fn a_workspace_of_root_s_is_worked_on_by_a_root_without_powers() {
    let name = "a_workspace_of_root_s_is_worked_on_by_a_root_without_powers";
    let Some(home) = Home::docked(name) else {
        return;
    };
    let app = home.project("app");
    chown(&app, Some(0), Some(0)).unwrap();
    let call = home.sbx(["run", "-d", "--name", "app"]);
    let out = call
        .args(["--memory", "512m", "shell"])
        .cwd(&app)
        .succeeds();
    assert!(out.errors().contains("root of its container"), "{out}");
    let sh = |script: &str| home.sbx(["exec", "app", "sh", "-c", script]).output();
    sh("echo x > made").with_code(0);
    assert_eq!(fs::read_to_string(app.join("made")).unwrap(), "x\n");
    let powers = sh("id -u; awk '/CapEff|CapBnd/ { print $2 }' /proc/self/status").with_code(0);
    assert_eq!(powers.text(), "0\n0000000000000000\n0000000000000000");
    for act in [
        "chown 7 made",
        "cat /etc/shadow && chroot / true",
        "kill -9 1",
    ] {
        sh(act);
    }
    assert_ne!(sh("chown 7 made").code(), Some(0));
    assert_ne!(sh("chroot / true").code(), Some(0));
    // The twin: what it asks for through sudo, it may.
    sh("sudo chroot / true").with_code(0);
    home.sbx(["rm", "-f", "app"]).succeeds();
}
