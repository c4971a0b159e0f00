//! Ways out of a container of the user's engine, tried as root inside, each
//! with the same act where it is allowed.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use e2e::{Home, Kind, Sandbox};

fn docked<'h>(home: &'h Home, name: &str) -> Sandbox<'h> {
    if rustix::process::geteuid().is_root() {
        chown(home.project(name), Some(1000), Some(1000)).unwrap();
    }
    home.sandbox_with(name, &["--isolation", "docker", "--memory", "512m"])
}

/// Tries one act after the other and says which it could do.
const ACTS: &str = r#"
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
where = sys.argv[1]
def call(number, *arguments):
    return libc.syscall(number, *arguments) >= 0
def opened(*arguments):
    socket.socket(*arguments).close()
    return True
def set_id():
    path = os.path.join(where, "set-id")
    open(path, "w").close()
    os.chmod(path, 0o4755)
    return True
def made_set_id():
    path = os.path.join(where, "made-set-id")
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o4755))
    return os.stat(path).st_mode & 0o4000 != 0
def hidden_set_id():
    how = (ctypes.c_uint64 * 3)(os.O_CREAT | os.O_WRONLY, 0o4755, 0)
    path = os.path.join(where, "hidden-set-id").encode()
    return call(437, -100, path, how, 24)
def traced():
    return libc.ptrace(16, 1, 0, 0) == 0
acts = {
    "mounts": lambda: libc.mount(b"x", where.encode(), b"tmpfs", 0, None) == 0,
    "detaches mounts": lambda: call(428, -100, where.encode(), 1),
    "makes file systems": lambda: call(430, b"tmpfs", 0),
    "enters namespaces": lambda: call(308, os.open("/proc/self/ns/uts", os.O_RDONLY), 0),
    "opens raw sockets": lambda: opened(socket.AF_INET, socket.SOCK_RAW, 1),
    "opens packet sockets": lambda: opened(socket.AF_PACKET, socket.SOCK_RAW, 0),
    "sets the set-user-ID bit": set_id,
    "makes set-user-ID files": made_set_id,
    "makes them unseen": hidden_set_id,
    "sets the host name": lambda: libc.sethostname(b"y", 1) == 0,
    "makes mount namespaces": lambda: call(272, 0x00020000),
    "makes user namespaces": lambda: call(272, 0x10000000),
}
never = {
    "traces the first process": traced,
    "reads the kernel's log": lambda: libc.klogctl(3, ctypes.create_string_buffer(64), 64) >= 0,
    "makes devices": lambda: os.mknod(os.path.join(where, "disk"), 0o60600, os.makedev(254, 0)) is None,
    "adds keys": lambda: call(248, b"user", b"k", b"v", 1, -3),
    "has io_uring": lambda: call(425, 1, ctypes.create_string_buffer(256)),
    "loads programs": lambda: call(321, 5, ctypes.create_string_buffer(128), 128),
    "opens by handle": lambda: libc.open_by_handle_at(3, ctypes.create_string_buffer(64), 0) >= 0,
    "sets the clock": lambda: call(227, 0, ctypes.create_string_buffer(16)),
    "writes kernel settings": lambda: open("/proc/sys/kernel/core_pattern", "w").close() is None,
    "reads memory of the host": lambda: open("/proc/kcore", "rb").read(1) != b"",
    "reads the host's keys": lambda: open("/proc/keys").read() != "",
    "asks for a reset": lambda: open("/proc/sysrq-trigger", "w").fileno() >= 0 and os.fstat(open("/proc/sysrq-trigger").fileno()).st_rdev == 0,
    "sees the root of the first process": lambda: os.listdir("/proc/1/root") != [],
    "sees its descriptors": lambda: os.readlink("/proc/1/fd/3") != "",
    "changes our program": lambda: open("/run/sbx/bin/sbx-guest", "r+b").close() is None,
    "changes the template": lambda: open("/run/sbx/base/etc/passwd", "a").close() is None,
}
if len(sys.argv) == 2:
    acts = never | acts
for name, act in acts.items():
    try:
        done = act()
    except OSError:
        done = False
    print(("does: " if done else "does not: ") + name)
"#;

#[test]
fn root_in_a_container_of_an_engine_can_do_nothing_to_the_host() {
    let name = "root_in_a_container_of_an_engine_can_do_nothing_to_the_host";
    let Some(home) = Home::with_engine(name, Kind::Docker, None) else {
        return;
    };
    let sandbox = docked(&home, "app");
    sandbox.sh(&format!("cat > /tmp/acts.py <<'EOF'\n{ACTS}\nEOF"));
    let said = sandbox.sh("mkdir here; sudo python3 /tmp/acts.py \"$PWD/here\"");
    let does: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("does: "))
        .collect();
    assert_eq!(does, Vec::<&str>::new(), "{said}");
    assert_eq!(said.lines().count(), 28, "{said}");

    // The twin: a container of the same engine and image without such walls.
    let engine = home.engine();
    let image = engine.list(&["images", "-q", "sbx-template"]);
    let script = home.root().join("acts.py");
    fs::write(&script, ACTS).unwrap();
    let mount = format!("{}:/acts.py:ro", script.display());
    let said = engine.cli(&[
        "run",
        "--rm",
        "--cap-add=SYS_ADMIN",
        "--cap-add=NET_RAW",
        "--security-opt=seccomp=unconfined",
        "--network=none",
        "-v",
        &mount,
        &image[0],
        "python3",
        "/acts.py",
        "/srv",
        "twin",
    ]);
    for line in said.lines() {
        assert!(line.starts_with("does: "), "the twin: {said}");
    }
    assert_eq!(said.lines().count(), 12, "{said}");
}

#[test]
fn the_keeper_of_the_network_is_out_of_reach_of_root_inside() {
    let name = "the_keeper_of_the_network_is_out_of_reach_of_root_inside";
    let Some(home) = Home::with_engine(name, Kind::Docker, None) else {
        return;
    };
    let sandbox = docked(&home, "app");
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
    // The twin: who is given the capability does the same in the same network.
    let engine = home.engine();
    let keeper = engine.list(&["ps", "-q", "--filter", "name=-net$"]);
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
fn a_container_of_an_engine_sees_no_engine_no_file_and_no_process_of_the_host() {
    let name = "a_container_of_an_engine_sees_no_engine_no_file_and_no_process_of_the_host";
    let Some(home) = Home::with_engine(name, Kind::Docker, None) else {
        return;
    };
    let secret = home.root().join("secret");
    fs::write(&secret, "canary").unwrap();
    let sandbox = docked(&home, "app");
    let other = docked(&home, "other");
    other.exec_with(["-d"], ["sleep", "31415"]).succeeds();
    assert_eq!(other.sh("pgrep -fc 'sleep 3141[5]'"), "1", "the twin");
    let path = secret.to_str().unwrap();
    for way in [
        path.to_owned(),
        format!("/../../../..{path}"),
        format!("/proc/1/root{path}"),
        format!("/proc/1/cwd/..{path}"),
    ] {
        let out = sandbox.try_sh(&format!("sudo cat '{way}'"));
        assert_ne!(out.code(), Some(0), "{way}: {out}");
    }
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
    let inside = home.sbx(["run", "--isolation", "docker", "--name", "in", "shell"]);
    let inside = inside.arg(socket.parent().unwrap()).output().with_code(125);
    assert!(
        inside.errors().contains("the engine's own socket"),
        "{inside}"
    );
    let seen = sandbox.sh("ps -eo args=");
    assert!(!seen.contains("sleep 31415"), "{seen}");
    // Whatever a session prints is in no log of the engine.
    sandbox.sh("echo canary-in-a-session");
    let logged = home.engine().list(&["ps", "-q"]);
    for id in logged {
        let driver = ["inspect", "--format", "{{.HostConfig.LogConfig.Type}}", &id];
        assert_eq!(home.engine().cli(&driver).trim(), "none");
    }
    let descriptors = sandbox.sh("ls -m /proc/$$/fd; sudo sh -c 'ls -m /proc/$$/fd'");
    assert_eq!(descriptors, "0, 1, 2\n0, 1, 2");
}

#[test]
fn a_workspace_of_root_s_is_worked_on_by_a_root_without_powers() {
    let name = "a_workspace_of_root_s_is_worked_on_by_a_root_without_powers";
    let Some(home) = Home::with_engine(name, Kind::Docker, None) else {
        return;
    };
    let app = home.project("app");
    let call = home.sbx(["run", "-d", "--name", "app", "--isolation", "docker"]);
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
