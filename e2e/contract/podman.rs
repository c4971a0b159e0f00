//! The Podman of an ordinary user: it maps ids itself, and where that user may
//! open no device for taps its containers have a network all the same.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use e2e::{Fact, Home, Listener};
use rustix::process::{Pid, Signal, kill_process};

use crate::engines::TINY;

/// An ordinary user's number.
const USER: u32 = 1000;

/// What follows is done as that user, in a home of theirs.
const AS_USER: &str = "setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=-all \
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin";

/// The engine's service, by the file with its process id; ends with the test.
struct Service(PathBuf);

impl Drop for Service {
    fn drop(&mut self) {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        if let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).ok();
        }
    }
}

#[test]
fn a_container_of_an_ordinary_user_s_podman_has_a_network_without_a_device_for_it() {
    let name = "a_container_of_an_ordinary_user_s_podman_has_a_network_without_a_device_for_it";
    if !Fact::Root.holds_for(name) || !Fact::NoTap.holds_for(name) {
        return;
    }
    let mut home = Home::of_user(USER);
    let app = home.project("app");
    fs::write(app.join("made"), "on the host").unwrap();
    let own = home.root().join("user/podman").display().to_string();
    let socket = format!("{own}/run/podman.sock");
    let podman = format!(
        "{AS_USER} HOME={own} XDG_RUNTIME_DIR={own}/run podman --runtime=$(command -v runc) \
         --cgroup-manager=cgroupfs --events-backend=none"
    );
    let mut there = |line: &str| home.mounts(&format!("cd {own} && {line}"));
    fs::create_dir_all(format!("{own}/tree")).unwrap();
    fs::write(format!("{own}/tree.sh"), TINY).unwrap();
    // Ranges of ids as distributions give them.
    there(
        "echo 1000:100000:65536 >ids && mount --bind ids /etc/subuid \
         && mount --bind ids /etc/subgid",
    );
    there("mkdir run && (cd tree && sh -e ../tree.sh) && chown -R 1000:1000 . && chmod 700 run");
    there(&format!("tar -C tree -c . | {podman} import - tiny:1"));
    home.mounts(&format!(
        "cd {own}; {podman} system service --time=0 unix://{socket} >said 2>&1 & echo $! >{own}/pid; \
         until [ -S {socket} ]; do :; done"
    ));

    let service = Service(home.root().join("user/podman/pid"));
    let (open, shut) = (Listener::open(), Listener::open());
    let rule = format!("localhost:{}", open.port());
    let run = [
        "run",
        "--isolation",
        "docker",
        "-t",
        "tiny:1",
        "--name",
        "app",
    ];
    let script = format!(
        "id -u; cat made; echo; echo x >by-agent; cat /proc/net/dev; \
         wget -q -O - http://host.sbx.internal:{}/; \
         wget -q -O - http://host.sbx.internal:{}/ || echo refused",
        open.port(),
        shut.port()
    );
    let host = format!("unix://{socket}");
    let out = home
        .sbx(run)
        .args(["--network", "locked", "--allow-network", &rule])
        .args(["shell", "--", "-c", &script])
        .env("DOCKER_HOST", &host)
        .cwd(&app)
        .succeeds();
    let told = out.text();
    assert!(told.starts_with("0\non the host\n"), "{out}");
    assert!(told.ends_with("canary-sings\nrefused"), "{out}");
    assert!(told.contains("host0"), "{out}");
    assert_eq!(shut.visits(), 0);
    // Root inside is that user, and nobody else's files are.
    assert_eq!(fs::metadata(app.join("by-agent")).unwrap().uid(), USER);
    let doctor = home.sbx(["doctor"]).env("DOCKER_HOST", &host).output();
    assert!(
        doctor.text().contains("isolation docker: works"),
        "{doctor}"
    );
    home.sbx(["rm", "-f", "app"])
        .env("DOCKER_HOST", &host)
        .succeeds();
    drop(service);
    let mut there = |line: &str| home.mounts(&format!("cd {own} && {line}"));
    there(&format!("[ -z \"$({podman} ps -aq)\" ]"));
    there(&format!("{podman} system reset -f"));
    // What keeps its namespaces.
    there("[ ! -e run/libpod/tmp/pause.pid ] || kill $(cat run/libpod/tmp/pause.pid)");
}
