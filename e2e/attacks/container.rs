//! Ways out of a container, tried as root inside, each with the same act where
//! it is allowed.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use e2e::{Home, host};

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
fn root_in_a_container_can_do_nothing_to_the_host() {
    let home = Home::new();
    let sandbox = home.sandbox_with("app", &["--isolation", "container"]);
    sandbox.sh(&format!("cat > /tmp/acts.py <<'EOF'\n{ACTS}\nEOF"));
    let said = sandbox.sh("mkdir here; sudo python3 /tmp/acts.py \"$PWD/here\"");
    let does: Vec<_> = said
        .lines()
        .filter(|line| line.starts_with("does: "))
        .collect();
    assert_eq!(does, Vec::<&str>::new(), "{said}");
    assert_eq!(said.lines().count(), 28, "{said}");

    // The twin: root of an ordinary user namespace, which has no such walls.
    let (script, there) = (home.root().join("acts.py"), home.project("there"));
    fs::write(&script, ACTS).unwrap();
    let inner = ["-Umnur", "--", "/usr/bin/python3"];
    let (script, at) = (script.to_str().unwrap(), there.to_str().unwrap());
    let args = [&inner[..], &[script, at, "twin"]].concat();
    let said = host("/usr/bin/unshare", &args, home.root());
    for line in said.lines() {
        assert!(line.starts_with("does: "), "the twin: {said}");
    }
    assert_eq!(said.lines().count(), 12, "{said}");
}

#[test]
fn a_container_sees_no_file_process_or_socket_of_the_host() {
    let home = Home::new();
    let secret = home.root().join("secret");
    fs::write(&secret, "canary").unwrap();
    let name = format!("sbx-canary-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listening = UnixListener::bind_addr(&address).unwrap();
    assert!(UnixStream::connect_addr(&address).is_ok(), "the twin");
    let sandbox = home.sandbox_with("app", &["--isolation", "container"]);
    let other = home.sandbox_with("other", &["--isolation", "container"]);
    other.exec_with(["-d"], ["sleep", "31415"]).succeeds();
    assert_eq!(other.sh("pgrep -fc 'sleep 3141[5]'"), "1", "the twin");

    let path = secret.to_str().unwrap();
    for way in [
        path.to_owned(),
        format!("/../../../..{path}"),
        format!("/proc/1/root{path}"),
        format!("/proc/self/root{path}"),
        format!("/proc/1/cwd/..{path}"),
        format!("/run/sbx/base/../../..{path}"),
    ] {
        let out = sandbox.try_sh(&format!("sudo cat '{way}'"));
        assert_ne!(out.code(), Some(0), "{way}: {out}");
    }
    let connect = format!("import socket; socket.socket(socket.AF_UNIX).connect('\\0{name}')");
    sandbox
        .exec(["python3", "-c", &connect])
        .output()
        .with_code(1);
    // Whatever is seen of processes is this container's own.
    let seen = sandbox.sh("ps -eo args=");
    assert!(seen.contains("sbx-guest contained"), "{seen}");
    for foreign in ["sleep 31415", "sbx supervise", "sbx net", "container-"] {
        assert!(!seen.contains(foreign), "{seen}");
    }
    // Nothing was inherited beside what a session has.
    let descriptors =
        sandbox.sh("ls /proc/$$/fd | tr '\\n' ' '; sudo sh -c 'ls /proc/$$/fd' | tr '\\n' ' '");
    assert_eq!(descriptors, "0 1 2 0 1 2", "{descriptors}");
}

#[test]
fn a_crash_in_a_container_starts_no_program_of_the_host() {
    let home = Home::new();
    let sandbox = home.sandbox_with("app", &["--isolation", "container"]);
    // With a limit of one byte the kernel neither writes a dump nor hands one
    // to the program of `core_pattern`; with any other it might.
    let script = "prlimit --core=0:0 --pid $$; ulimit -c 0; ulimit -n 99
        awk '/core/ { print $5, $6 } /open files/ { print $4 }' /proc/self/limits";
    for shell in ["sh", "sudo sh"] {
        let limits = sandbox.sh(&format!("{shell} <<'EOF'\n{script}\nEOF"));
        assert_eq!(limits, "1 1\n99", "{shell}");
    }
}

#[test]
fn a_container_that_planted_links_mounts_nothing_of_the_host_at_its_next_start() {
    let home = Home::new();
    let inner = format!("/sbx-planted-{}", std::process::id());
    let at = format!("data:/data{inner}");
    let sandbox = home.sandbox_with("app", &["--isolation", "container", "-v", &at]);
    sandbox.sh(&format!("echo kept | sudo tee /data{inner}/file"));
    sandbox.sh("sudo mv /data /gone; sudo ln -s / /data");
    home.sbx(["stop", "app"]).succeeds();
    home.sbx(["start", "app"]).succeeds();
    // The link led somewhere: within the container.
    assert_eq!(sandbox.sh(&format!("cat {inner}/file")), "kept");
    assert!(!std::path::Path::new(&inner).exists());
}
