//! ^C at a start that stands still: it ends at once, whichever part of it
//! does not go on, and nothing of it is left.

use std::os::unix::net::UnixListener;
use std::time::Duration;

use e2e::{Home, Isolation, in_each_isolation};
use rustix::process::Signal;

in_each_isolation![ctrl_c_at_a_start_that_stands_still_ends_it,];

/// Between the signal and the end; with no wait in it that is for an answer.
const SOON: Duration = Duration::from_secs(8);

fn ctrl_c_at_a_start_that_stands_still_ends_it(isolation: Isolation) {
    let home = Home::of(isolation);
    let (event, part) = match isolation {
        Isolation::MicroVm => ("booting the guest", "qemu -machine"),
        Isolation::Container => ("making the container", "sbx box"),
        Isolation::Docker => ("asking the engine", "sbx dock"),
    };
    let call = home
        .sbx(["run", "--progress", "plain", "--no-workspace"])
        .args(["--name", "halted", "shell"])
        .spawn();
    call.says(event);
    home.awaits(part).signal(Signal::STOP);
    call.signal(Signal::INT);
    let out = call.output_within(SOON).with_code(125);
    assert!(out.errors().contains("interrupted"), "{out}");
    assert_eq!(home.running(), Vec::<String>::new());
    let again = home.sbx(["run", "--no-workspace", "--name", "halted", "shell"]);
    assert_eq!(again.args(["--", "-c", "echo up"]).succeeds().text(), "up");
    home.sbx(["rm", "-f", "halted"]).succeeds();
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
