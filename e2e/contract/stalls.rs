//! A part that stands still: no command hangs because a sandbox does.

use std::time::{Duration, Instant};

use e2e::{Home, Isolation, in_each_isolation};
use rustix::process::Signal;

in_each_isolation![no_command_hangs_because_a_supervisor_stands_still,];

/// Longer than any command waits for a supervisor, and shorter than anybody
/// waits for a command.
const PATIENCE: Duration = Duration::from_secs(45);

fn no_command_hangs_because_a_supervisor_stands_still(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("still");
    sandbox.sh("echo kept > ~/kept; sync");
    let supervisor = home.awaits("sbx supervise");
    supervisor.signal(Signal::STOP);

    let list = home.sbx(["ls", "--json"]).within(PATIENCE).succeeds();
    assert_eq!(list.json()["sandboxes"][0]["name"], "still");
    home.sbx(["logs", "still"]).within(PATIENCE).succeeds();
    // What only the supervisor knows is missing, the rest is told.
    home.sbx(["inspect", "still"]).within(PATIENCE).succeeds();
    let refused = sandbox.exec(["true"]).within(PATIENCE).output();
    assert_eq!(refused.code(), Some(125), "{refused}");
    assert!(refused.errors().contains("does not answer"), "{refused}");
    // Its twin: it goes on, and the same command works.
    supervisor.signal(Signal::CONT);
    sandbox.exec(["true"]).succeeds();

    supervisor.signal(Signal::STOP);
    home.sbx(["stop", "still"]).within(PATIENCE).succeeds();
    assert!(supervisor.ends(Duration::from_secs(10)), "it was forced");
    assert_eq!(sandbox.sh("cat ~/kept"), "kept");
}

#[test]
fn a_sandbox_stops_in_time_though_its_file_server_stands_still() {
    let home = Home::new();
    let sandbox = home.sandbox("still");
    let server = home.awaits("sbx share");
    server.signal(Signal::STOP);
    let started = Instant::now();
    home.sbx(["stop", "-t", "2", "still"])
        .within(PATIENCE)
        .succeeds();
    assert!(started.elapsed() < PATIENCE);
    assert_eq!(sandbox.sh("echo alive"), "alive");
}
