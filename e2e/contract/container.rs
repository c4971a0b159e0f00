//! What the isolation `container` does as a machine does: sessions, files,
//! network, ports, restarts, and the end of any of its processes.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use e2e::{Home, Listener, Sandbox};
use rustix::process::Signal;

use crate::faults::{assert_usable, kill};

/// Its processes, by what their command lines hold.
const PARTS: &[(&str, &str)] = &[
    ("supervisor", "sbx supervise"),
    ("spawner", "sbx spawner"),
    ("network engine", "sbx net"),
    ("launcher", "sbx box"),
    ("first process", "sbx-guest contained"),
];

/// How long a server inside may take to listen.
const PATIENCE: Duration = Duration::from_secs(100);

fn contained<'h>(home: &'h Home, flags: &[&str]) -> Sandbox<'h> {
    let flags = [&["--isolation", "container"], flags].concat();
    home.sandbox_with("app", &flags)
}

#[test]
fn sessions_in_a_container_are_those_of_a_machine() {
    let home = Home::new();
    let sandbox = contained(&home, &["-e", "GREETING=a b", "-v", "data:/data"]);
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
        sandbox.sh("id -un; hostname; pwd; echo $GREETING; sudo id -u"),
        format!("agent\napp\n{}\na b\n0", workspace.display())
    );
    // Accounts are made by programs that ask the kernel for its audit.
    assert_eq!(sandbox.sh("sudo useradd bob && sudo -u bob id -un"), "bob");
    let names = sandbox.sh("env -u PWD | cut -d= -f1 | sort | tr '\\n' ' '");
    for foreign in ["SBX_", "XDG_", "TMPDIR"] {
        assert!(!names.contains(foreign), "{names}");
    }

    sandbox.sh("echo inside > made; sudo touch by-root; echo kept > ~/kept; echo d > /data/file; echo t > /tmp/gone");
    let made = fs::metadata(workspace.join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (owner.uid(), owner.gid()));
    // What root inside makes is nobody's of the host.
    let by_root = fs::metadata(workspace.join("by-root")).unwrap().uid();
    assert!(by_root != 0 && by_root != owner.uid(), "{by_root}");
    fs::write(workspace.join("outside"), "from the host").unwrap();
    assert_eq!(
        sandbox.sh("stat -c %U:%G made by-root; cat outside"),
        "agent:agent\nroot:root\nfrom the host"
    );

    home.sbx(["stop", "app"]).succeeds();
    home.sbx(["start", "app"]).succeeds();
    assert_eq!(
        sandbox.sh("cat ~/kept /data/file made; ls -A /tmp | grep -c gone || true"),
        "kept\nd\ninside\n0"
    );
    let known = sandbox.inspect();
    assert_eq!(known["spec"]["isolation"], "container");
    let walls = known["walls"].to_string();
    for wall in ["few-capabilities", "landlock", "seccomp", "namespaces"] {
        assert!(walls.contains(wall), "{walls}");
    }
    let list = home.sbx(["ls"]).succeeds().text();
    assert!(list.contains("container"), "{list}");
    let other = home.sbx(["run", "--name", "app", "--isolation", "microvm", "shell"]);
    let other = other.cwd(workspace).output();
    assert!(other.errors().contains("--isolation"), "{other}");
}

#[test]
fn the_network_of_a_container_is_judged_by_the_same_rules() {
    let home = Home::new();
    let (open, shut) = (Listener::open(), Listener::open());
    let rule = format!("localhost:{}", open.port());
    let flags = [
        "--network",
        "locked",
        "--allow-network",
        &rule,
        "-p",
        "8080",
    ];
    let sandbox = contained(&home, &flags);
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

    let ports = home.sbx(["ports", "app", "--json"]).succeeds().json();
    let port = u16::try_from(ports["ports"][0]["host"].as_u64().unwrap()).unwrap();
    sandbox.sh("mkdir -p ~/www; echo inside > ~/www/x");
    sandbox
        .exec_with(
            ["-d"],
            [
                "python3",
                "-m",
                "http.server",
                "8080",
                "--directory",
                "/home/agent/www",
            ],
        )
        .succeeds();
    let until = Instant::now() + PATIENCE;
    while !published(port).is_some_and(|answer| answer.ends_with("inside\n")) {
        assert!(Instant::now() < until, "nothing came from port {port}");
    }
}

fn published(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(b"GET /x HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn the_death_of_any_process_of_a_container_is_survived() {
    let home = Home::new();
    let sandbox = contained(&home, &[]);
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
fn a_container_whose_start_is_broken_off_leaves_nothing() {
    let home = Home::new();
    let sandbox = contained(&home, &[]);
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
fn what_the_host_obeys_and_has_is_read_only_in_a_container() {
    let home = Home::new();
    let app = home.project("app");
    fs::create_dir_all(app.join(".git/hooks")).unwrap();
    fs::create_dir(app.join(".vscode")).unwrap();
    fs::write(app.join(".git/config"), "[core]\n\tbare = false\n").unwrap();
    fs::write(app.join(".envrc"), "").unwrap();
    let sandbox = contained(&home, &[]);
    for refused in [
        "echo x > .git/hooks/pre-commit",
        "echo x >> .git/config",
        "mv .git/config .git/other",
        "mv .git .other",
        "rm -rf .git/hooks",
        "echo x > .vscode/tasks.json",
        "rm .envrc",
    ] {
        let out = sandbox.try_sh(&format!("sudo sh -c '{refused}'"));
        assert_ne!(out.code(), Some(0), "{refused}: {out}");
    }
    // The twin: what the host does not obey is the sandbox's to change.
    sandbox.sh("echo x > .git/description; mkdir src; echo x > src/main.c");
    assert!(app.join("src/main.c").exists());
    assert!(!app.join(".git/hooks/pre-commit").exists());
    assert_eq!(
        fs::read_to_string(app.join(".git/config")).unwrap(),
        "[core]\n\tbare = false\n"
    );
}

#[test]
fn what_cannot_be_held_for_a_container_is_refused() {
    let home = Home::new();
    let app = home.project("app");
    let ask = |flags: &[&str]| {
        let call = home.sbx(["create", "--isolation", "container"]);
        call.args(flags).arg("shell").cwd(&app).output()
    };
    let disk = ask(&["--disk", "1g"]).with_code(1);
    assert!(disk.errors().contains("--disk"), "{disk}");
    for flags in [["--driver", "qemu"], ["--accel", "tcg"]] {
        let out = ask(&flags).with_code(2);
        assert!(out.errors().contains("a container has none"), "{out}");
    }
    home.configure("isolation = \"container\"\n");
    let plan = home.sbx(["plan", "--json", "shell"]).cwd(&app);
    assert_eq!(plan.succeeds().json()["spec"]["isolation"], "container");
}
