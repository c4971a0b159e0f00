//! What the locked-down process can still do, tried in a process of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixListener;

use support::program::{example, program};

#[test]
fn the_jail_leaves_the_outward_path_and_nothing_else() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = server.local_addr().unwrap().to_string();
    let directory = std::env::temp_dir().join(format!("sbx-net-jail-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("engine.sock");
    let _listening = UnixListener::bind(&path).unwrap();

    let output = program(example("jailed"))
        .arg(address)
        .arg(&path)
        .output()
        .unwrap();
    std::fs::remove_dir_all(&directory).unwrap();

    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let outcomes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (act, outcome) in outcomes.as_object().unwrap() {
        let needed = [
            "connect",
            "resolve",
            "interfaces",
            "thread",
            "udp",
            "read hosts",
        ];
        assert_eq!(
            outcome == "ok",
            needed.contains(&act.as_str()),
            "{act}: {outcome}"
        );
    }
    assert_eq!(outcomes.as_object().unwrap().len(), 15);
    // Not for want of a file that may be opened: the calls do not exist.
    for act in ["connect unix", "listen unix", "listen tcp"] {
        let outcome = outcomes[act].as_str().unwrap();
        assert!(outcome.contains("code: 38"), "{act}: {outcome}");
    }
}
