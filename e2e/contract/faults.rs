//! Death of any one process of ours, at any moment: the next command repairs
//! or explains, and nothing is left over. The home's end checks the latter.

use std::net::TcpListener;
use std::time::Duration;

use e2e::{Home, Isolation, Process, Sandbox, in_each_isolation};
use rustix::process::Signal;
use serde_json::Value;

in_each_isolation![
    the_death_of_any_process_during_a_session_is_survived,
    the_death_of_the_network_engine_ends_connections_and_nothing_else,
    the_death_of_any_process_during_boot_is_survived,
    a_removal_that_is_killed_is_finished_by_the_next,
];

/// The processes of a sandbox: what their command lines hold.
pub(super) fn parts(isolation: Isolation) -> impl Iterator<Item = (&'static str, &'static str)> {
    const ALL: [(&str, &str); 3] = [
        ("supervisor", "sbx supervise"),
        ("spawner", "sbx spawner"),
        ("network engine", "sbx net"),
    ];
    let own: &[_] = match isolation {
        Isolation::MicroVm => &[
            ("file server", "sbx share"),
            ("virtual machine", "qemu -machine"),
        ],
        Isolation::Container => &[
            ("file server", "sbx share"),
            ("launcher", "sbx box"),
            ("first process", "sbx-guest contained"),
        ],
        Isolation::Docker => &[
            ("who speaks with the engine", "sbx dock"),
            ("keeper of the network", "sbx-guest wire"),
            ("first process", "sbx-guest docked"),
        ],
    };
    ALL.into_iter().chain(own.iter().copied())
}

pub(super) fn kill(home: &Home, what: &str) -> Process {
    // The monitor's jailer becomes the monitor a moment after it has said
    // that its walls stand.
    let found = home.awaits(what);
    found.signal(Signal::KILL);
    assert!(
        found.ends(Duration::from_secs(10)),
        "{what} survives SIGKILL"
    );
    found
}

/// Whatever happened: ls answers, the sandbox can be entered or removed, gc
/// finds nothing to complain about.
pub(super) fn assert_usable(home: &Home, sandbox: &Sandbox<'_>, after: &str) {
    let list = home.sbx(["ls", "--json", "-a"]).succeeds().json();
    let status = &list["sandboxes"][0]["status"];
    assert!(status.is_string(), "after {after}: {list}");
    home.sbx(["gc"]).succeeds();
    assert_eq!(
        sandbox.sh("echo alive; cat ~/kept"),
        "alive\nkept",
        "after {after}"
    );
}

fn the_death_of_any_process_during_a_session_is_survived(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("mortal");
    sandbox.sh("echo kept > ~/kept; sync");
    for (what, line) in parts(isolation) {
        let mut session = sandbox.exec_with(["-i"], ["cat"]).spawn_open();
        session.send(b"up\n");
        sandbox.sh("until pgrep -x cat; do :; done");
        kill(&home, line);
        if line == "sbx net" {
            // Another one is started; the session goes on.
            session.end_input();
            session.output();
        } else {
            let out = session.output();
            assert_ne!(
                out.code(),
                Some(0),
                "the session cannot have ended well: {out}"
            );
            assert!(
                !out.errors().is_empty(),
                "{what}: the caller is told: {out}"
            );
        }
        assert_usable(&home, &sandbox, what);
    }
    // The guest's own end.
    sandbox.exec(["sudo", "reboot", "-f"]).output();
    assert_usable(&home, &sandbox, "the guest's end");
}

/// Holds a connection that says nothing, and prints how it ends.
const WAITING: &str = "
import socket, sys
held = socket.create_connection(('host.sbx.internal', int(sys.argv[1])))
print('held', file=sys.stderr, flush=True)
try:
    print(held.recv(1), flush=True)
except ConnectionResetError:
    print('reset', flush=True)
";

fn the_death_of_the_network_engine_ends_connections_and_nothing_else(isolation: Isolation) {
    let home = Home::of(isolation);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        // Held and silent until the test ends.
        let _held: Vec<_> = server.incoming().collect();
    });
    let sandbox = home.sandbox_with("mortal", &["--allow-network", &format!("localhost:{port}")]);
    let address = sandbox.sh("getent hosts one.example");
    let mut session = sandbox.exec_with(["-i"], ["cat"]).spawn_open();
    session.send(b"before\n");
    let waiting = sandbox
        .exec(["python3", "-c", WAITING, &port.to_string()])
        .spawn();
    waiting.says("held");

    kill(&home, "sbx net");

    assert_eq!(waiting.output().text(), "reset");
    sandbox.sh(&format!("exec 3<>/dev/tcp/host.sbx.internal/{port}"));
    assert_eq!(sandbox.sh("getent hosts one.example"), address);
    session.send(b"after\n");
    session.end_input();
    assert_eq!(session.output().text(), "before\nafter");
    let log = home.sbx(["logs", "mortal"]).succeeds().text();
    assert!(log.contains("another one is started"), "{log}");

    home.sbx(["stop", "mortal"]).succeeds();
    assert_eq!(sandbox.sh("getent hosts one.example"), address);
}

fn the_death_of_any_process_during_boot_is_survived(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("mortal");
    sandbox.sh("echo kept > ~/kept; sync");
    for (what, line) in parts(isolation) {
        home.sbx(["stop", "mortal"]).succeeds();
        let starting = home.sbx(["start", "mortal"]).spawn();
        let found = home.awaits(line);
        found.signal(Signal::KILL);
        let out = starting.output();
        assert!(
            out.code() == Some(0) || !out.errors().is_empty(),
            "{what}: {out}"
        );
        assert_usable(&home, &sandbox, &format!("{what} during boot"));
    }
    home.sbx(["rm", "-f", "mortal"]).succeeds();
    assert_eq!(home.leftovers(), Vec::<String>::new());
}

fn a_removal_that_is_killed_is_finished_by_the_next(isolation: Isolation) {
    let home = Home::of(isolation);
    for (what, line) in parts(isolation) {
        let sandbox = home.sandbox("mortal");
        let removal = home.sbx(["rm", "-f", "mortal"]).spawn();
        if let Some(found) = home.process(line) {
            found.signal(Signal::KILL);
        }
        removal.output();
        home.sbx(["rm", "-f", "mortal"]).output();
        home.sbx(["gc"]).succeeds();
        let list = home.sbx(["ls", "--json", "-a"]).succeeds().json();
        assert_eq!(list["sandboxes"], Value::Array(Vec::new()), "{what}");
        assert_eq!(home.leftovers(), Vec::<String>::new(), "{what}");
        drop(sandbox);
    }
}
