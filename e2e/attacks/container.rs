//! Ways out of a container that take more than one act; the others are in
//! `probes.rs`.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use e2e::{Home, host};
use rustix::fs::{Mode, OFlags};

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
    let list = "import os; print([n for n in range(1024) if os.path.exists(f'/proc/self/fd/{n}')])";
    for user in ["agent", "root"] {
        let call = sandbox.exec_with(["-u", user], ["python3", "-c", list]);
        assert_eq!(call.succeeds().text(), "[0, 1, 2]", "{user}");
    }
    let by_sudo = sandbox.exec(["sudo", "python3", "-c", list]).succeeds();
    assert_eq!(by_sudo.text(), "[0, 1, 2]");
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

#[test]
fn sockets_and_pipes_of_the_host_in_a_workspace_lead_to_nobody_there() {
    const CONNECT: &str = "import socket; socket.socket(socket.AF_UNIX).connect('socket')";
    const WRITE: &str = "import os; os.write(os.open('pipe', os.O_WRONLY | os.O_NONBLOCK), b'x')";
    let home = Home::new();
    for (name, guard, reached) in [("app", "full", 1), ("twin", "existing", 0)] {
        let project = home.project(name);
        let _listening = UnixListener::bind(project.join("socket")).unwrap();
        let pipe = project.join("pipe");
        host("/usr/bin/mkfifo", &[pipe.to_str().unwrap()], &project);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let read = rustix::fs::open(&pipe, flags, Mode::empty()).unwrap();
        let flags = ["--isolation", "container", "--workspace-guard", guard];
        let sandbox = home.sandbox_with(name, &flags);
        for act in [CONNECT, WRITE] {
            let out = sandbox.exec(["python3", "-c", act]).output();
            assert_eq!(out.code(), Some(reached), "{guard}: {act}: {out}");
        }
        let came = rustix::io::read(&read, &mut [0u8; 8]);
        assert_eq!(came, Ok(usize::from(guard == "existing")));
    }
}
