//! ^C at a start that stands still: it ends at once, whichever part of it
//! does not go on, and nothing of it is left.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use e2e::{Home, Isolation, Kind, in_each_isolation};
use rustix::process::Signal;

in_each_isolation![ctrl_c_at_a_start_that_stands_still_ends_it,];

/// Between the signal and the end; with no wait in it that is for an answer.
const SOON: Duration = Duration::from_secs(8);

/// Starts a sandbox, stops the process `part` of it for good, and types ^C.
fn halted(home: &Home, isolation: &str, event: &str, part: &str) {
    let call = home
        .sbx(["run", "--progress", "plain", "--no-workspace"])
        .args(["--isolation", isolation, "--name", "halted", "shell"])
        .spawn();
    call.says(event);
    home.awaits(part).signal(Signal::STOP);
    call.signal(Signal::INT);
    let out = call.output_within(SOON).with_code(125);
    assert!(out.errors().contains("interrupted"), "{out}");
    let left = home.leftovers().into_iter();
    let left: Vec<_> = left.filter(|one| !one.starts_with("file: ")).collect();
    assert_eq!(left, Vec::<String>::new(), "beside the sandbox");
}

fn usable(home: &Home, isolation: &str) {
    let again = ["run", "--no-workspace", "--isolation", isolation];
    let again = home.sbx(again).args(["--name", "halted", "shell"]);
    assert_eq!(again.args(["--", "-c", "echo up"]).succeeds().text(), "up");
    home.sbx(["rm", "-f", "halted"]).succeeds();
}

fn ctrl_c_at_a_start_that_stands_still_ends_it(isolation: Isolation) {
    let home = Home::new();
    let (event, part) = match isolation {
        Isolation::MicroVm => ("booting the guest", "qemu -machine"),
        _ => ("making the container", "sbx box"),
    };
    halted(&home, &isolation.to_string(), event, part);
    usable(&home, &isolation.to_string());
}

#[test]
fn ctrl_c_at_a_start_that_an_engine_holds_up_ends_it() {
    let name = "ctrl_c_at_a_start_that_an_engine_holds_up_ends_it";
    let Some(home) = Home::with_engine(name, Kind::Docker, None) else {
        return;
    };
    halted(&home, "docker", "asking the engine", "sbx dock");
    usable(&home, "docker");
}

#[test]
fn ctrl_c_ends_a_call_whose_engine_never_answers() {
    let home = Home::new();
    let socket = home.root().join("mute.sock");
    let mute = UnixListener::bind(&socket).unwrap();
    let call = home
        .sbx(["run", "--isolation", "docker", "--no-workspace", "shell"])
        .env("DOCKER_HOST", format!("unix://{}", socket.display()))
        .spawn();
    let _heard = mute.accept().unwrap();
    call.signal(Signal::INT);
    let out = call.output_within(SOON).with_code(125);
    assert!(out.errors().contains("interrupted"), "{out}");
}
