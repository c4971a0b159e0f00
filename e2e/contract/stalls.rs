//! A part that stands still: no command hangs because a sandbox does.

use std::time::Duration;

use e2e::{Home, Isolation, in_each_isolation};
use rustix::process::Signal;

use crate::faults::{assert_usable, parts};

in_each_isolation![
    no_command_hangs_because_a_supervisor_stands_still,
    a_sandbox_stops_in_time_whichever_part_of_it_stands_still,
];

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

fn a_sandbox_stops_in_time_whichever_part_of_it_stands_still(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("still");
    sandbox.sh("echo kept > ~/kept; sync");
    let all: Vec<_> = parts(isolation).map(|(_, line)| line).collect();
    // The supervisor cannot be asked then; the test above is for that.
    let [_, rest @ ..] = all.as_slice() else {
        panic!("no parts");
    };
    let server: Vec<_> = rest.iter().filter(|line| **line == "sbx share").collect();
    for still in [server, rest.iter().collect()] {
        for line in &still {
            home.awaits(line).signal(Signal::STOP);
        }
        let stop = home.sbx(["stop", "-t", "1", "still"]);
        stop.within(PATIENCE).succeeds();
        assert_eq!(
            home.running(),
            Vec::<String>::new(),
            "{still:?} stood still"
        );
        assert_usable(&home, &sandbox, &format!("{still:?} stood still"));
    }
}
