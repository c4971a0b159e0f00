//! Ways out that take more than one act; the others are in `probes.rs`.

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;

use e2e::{Home, Isolation, Kept, Promise, WorkspaceGuard, host, in_each_isolation, where_kept};
use rustix::fs::{Mode, OFlags};

in_each_isolation![
    no_file_process_or_socket_of_the_host_is_seen,
    a_crash_starts_no_program_of_the_host,
    planted_links_lead_no_mount_to_the_host_at_the_next_start,
    a_directory_that_became_a_link_is_shared_no_more,
];

where_kept![Promise::Sockets =>
    sockets_and_pipes_of_the_host_in_a_workspace_lead_to_nobody_there,
];

fn no_file_process_or_socket_of_the_host_is_seen(isolation: Isolation) {
    let home = Home::of(isolation);
    let secret = home.root().join("secret");
    fs::write(&secret, "canary").unwrap();
    let name = format!("sbx-canary-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _listening = UnixListener::bind_addr(&address).unwrap();
    assert!(UnixStream::connect_addr(&address).is_ok(), "the twin");
    let sandbox = home.sandbox("app");
    let other = home.sandbox("other");
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
    // Whatever is seen of processes is this sandbox's own.
    let seen = sandbox.sh("ps -eo args=");
    assert!(seen.contains("ps -eo args="), "{seen}");
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

fn a_crash_starts_no_program_of_the_host(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("app");
    let handler = || fs::read("/proc/sys/kernel/core_pattern").unwrap();
    let of_the_host = handler();
    let names = "echo /tmp/handled | sudo tee /proc/sys/kernel/core_pattern";
    let crash = "(ulimit -c unlimited; kill -SEGV $BASHPID)";
    if Promise::Kernel.kept(isolation, WorkspaceGuard::Full) == Kept::Yes {
        // A kernel of its own, which writes the dump where it was told.
        sandbox.sh(&format!("{names}; {crash}; test -s /tmp/handled"));
    } else {
        assert_ne!(
            sandbox.try_sh(&format!("set -o pipefail; {names}")).code(),
            Some(0)
        );
        // With a limit of one byte the kernel neither writes a dump nor hands one
        // to the program of `core_pattern`; with any other it might.
        let script = "prlimit --core=0:0 --pid $$; ulimit -c 0; ulimit -n 99
            awk '/core/ { print $5, $6 } /open files/ { print $4 }' /proc/self/limits";
        for shell in ["sh", "sudo sh"] {
            let limits = sandbox.sh(&format!("{shell} <<'EOF'\n{script}\nEOF"));
            assert_eq!(limits, "1 1\n99", "{shell}");
        }
        sandbox.try_sh(crash);
    }
    assert_eq!(handler(), of_the_host);
    assert!(!Path::new("/tmp/handled").exists());
}

fn planted_links_lead_no_mount_to_the_host_at_the_next_start(isolation: Isolation) {
    let home = Home::of(isolation);
    let name = format!("sbx-planted-{}", std::process::id());
    let (volume, share) = (format!("{name}-volume"), format!("{name}-share"));
    let shared = home.project("shared");
    let sandbox = home.sandbox_with(
        "app",
        &[
            "-v",
            &format!("data:/data/{volume}"),
            "-v",
            &format!("{}:/shared/{share}", shared.display()),
        ],
    );
    sandbox.sh(&format!(
        "echo kept | sudo tee /data/{volume}/file; echo kept > /shared/{share}/file
        for at in data shared; do sudo mv /$at /$at.gone; sudo ln -s / /$at; done"
    ));
    home.sbx(["stop", "app"]).succeeds();
    home.sbx(["start", "app"]).succeeds();
    // The links led somewhere: within the sandbox.
    let files = sandbox.sh(&format!("cat /{volume}/file /{share}/file"));
    assert_eq!(files, "kept\nkept");
    assert!(shared.join("file").exists());
    for inner in [volume, share] {
        assert!(!Path::new("/").join(&inner).exists(), "{inner}");
    }
}

fn a_directory_that_became_a_link_is_shared_no_more(isolation: Isolation) {
    let home = Home::of(isolation);
    let (outer, keys) = (home.project("outer"), home.root().join("keys"));
    for directory in [outer.join("inner"), keys.clone()] {
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), "").unwrap();
    }
    fs::write(outer.join("single"), "").unwrap();
    home.hand_over(&outer);
    let mount = |name: &str| format!("{}:/{name}", outer.join(name).display());
    let (inner, single) = (mount("inner"), mount("single"));
    let outside = format!("{}:/outer", outer.display());
    let flags = ["-v", &outside, "-v", &inner, "-v", &single];
    let sandbox = home.sandbox_with("app", &flags);
    let restart = || {
        home.sbx(["stop", "app"]).succeeds();
        home.sbx(["start", "app"]).output()
    };
    for (name, target) in [("inner", keys.clone()), ("single", keys.join("file"))] {
        // The twin: what was moved away and came back is shared.
        sandbox.sh(&format!(
            "mv /outer/{name} /outer/gone; mv /outer/gone /outer/{name}"
        ));
        restart().with_code(0);
        let target = target.display();
        sandbox.sh(&format!(
            "mv /outer/{name} /outer/gone; ln -s {target} /outer/{name}"
        ));
        let refused = restart();
        assert_ne!(refused.code(), Some(0), "{name}: {refused}");
        let link = outer.join(name).display().to_string();
        assert!(refused.errors().contains(&link), "{name}: {refused}");
        fs::remove_file(link).unwrap();
        fs::rename(outer.join("gone"), outer.join(name)).unwrap();
        home.sbx(["start", "app"]).succeeds();
    }
}

fn sockets_and_pipes_of_the_host_in_a_workspace_lead_to_nobody_there(isolation: Isolation) {
    const CONNECT: &str = "import socket; socket.socket(socket.AF_UNIX).connect('socket')";
    const WRITE: &str = "import os; os.write(os.open('pipe', os.O_WRONLY | os.O_NONBLOCK), b'x')";
    let home = Home::of(isolation);
    let existing = ["--isolation", "container", "--workspace-guard", "existing"];
    for (name, flags, reached) in [("app", &[][..], 1), ("twin", &existing[..], 0)] {
        let project = home.project(name);
        let _listening = UnixListener::bind(project.join("socket")).unwrap();
        let pipe = project.join("pipe");
        host("/usr/bin/mkfifo", &[pipe.to_str().unwrap()], &project);
        let read = OFlags::RDONLY | OFlags::NONBLOCK;
        let read = rustix::fs::open(&pipe, read, Mode::empty()).unwrap();
        let sandbox = home.sandbox_with(name, flags);
        for act in [CONNECT, WRITE] {
            let out = sandbox.exec(["python3", "-c", act]).output();
            assert_eq!(out.code(), Some(reached), "{name}: {act}: {out}");
        }
        let came = rustix::io::read(&read, &mut [0u8; 8]);
        assert_eq!(came, Ok(usize::from(reached == 0)));
    }
}
