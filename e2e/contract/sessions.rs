//! Sessions: exit codes, signals, exact pipes, several at once.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use e2e::{Home, Isolation, Sandbox, in_each_isolation};
use rustix::pipe::PipeFlags;
use rustix::process::Signal;
use sha2::{Digest, Sha256};

in_each_isolation![
    exec_returns_the_inner_commands_code_and_says_its_own_failures,
    run_returns_the_agents_code,
    exec_passes_arguments_directories_variables_and_users_exactly,
    pipes_carry_every_byte_both_ways,
    signals_reach_the_inner_command,
    a_stalled_session_holds_up_no_other,
];

/// What is sent through the pipes, in bytes.
const MUCH: usize = 100 << 20;

fn exec_returns_the_inner_commands_code_and_says_its_own_failures(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("codes");
    let code = |args: &[&str]| sandbox.exec(args).output();

    for inner in [0, 1, 3, 42, 125, 255] {
        let script = format!("exit {inner}");
        code(&["bash", "-c", &script]).with_code(inner);
    }
    code(&["bash", "-c", "kill -KILL $$"]).with_code(137);
    code(&["bash", "-c", "kill -TERM $$"]).with_code(143);
    code(&["no-such-program"]).with_code(127);
    code(&["/etc/hostname"]).with_code(126);
    code(&["/usr"]).with_code(126);
    sandbox
        .exec_with(["-w", "/no/such/dir"], ["true"])
        .output()
        .with_code(125);
    sandbox
        .exec_with(["--no-such-flag"], ["true"])
        .output()
        .with_code(125);
    let unknown = home
        .sbx(["--json", "exec", "nobody-here", "true"])
        .output()
        .with_code(125);
    assert_eq!(
        unknown.json_error()["code"],
        "sandbox_not_found",
        "{unknown}"
    );
    let json = sandbox
        .exec_with(["--json"], ["no-such-program"])
        .output()
        .with_code(127);
    assert_eq!(json.json_error()["code"], "program_not_found", "{json}");

    // Both streams, each its own.
    let out = sandbox
        .try_sh("echo to-out; echo to-err >&2; exit 3")
        .with_code(3);
    assert_eq!(out.bytes(), b"to-out\n");
    assert_eq!(out.errors(), "to-err\n");
}

fn run_returns_the_agents_code(isolation: Isolation) {
    let home = Home::of(isolation);
    let app = home.project("app");
    let run = |script: &str| {
        home.sbx(["run", "-q"])
            .args(home.memory("768m"))
            .args(["shell", "--", "-c", script])
            .cwd(&app)
            .output()
    };
    run("exit 0").with_code(0);
    run("exit 3").with_code(3);
    run("kill -KILL $$").with_code(137);
    let wrong = home
        .sbx(["--json", "run", "no-such-agent", "."])
        .cwd(&app)
        .output();
    assert_eq!(wrong.with_code(125).json_error()["code"], "unknown_agent");
}

fn exec_passes_arguments_directories_variables_and_users_exactly(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("exact");
    let awkward = [
        "printf",
        "<%s>",
        "",
        " a  b ",
        "$HOME",
        "'\"",
        "-n",
        "line\nline",
        "é",
    ];
    assert_eq!(
        sandbox.exec(awkward).succeeds().text(),
        "<>< a  b ><$HOME><'\"><-n><line\nline><é>"
    );
    let pwd = |flags: &[&str]| {
        sandbox
            .exec_with(flags.iter().copied(), ["pwd"])
            .succeeds()
            .text()
    };
    assert_eq!(pwd(&[]), sandbox.workspace().to_str().unwrap());
    assert_eq!(pwd(&["-w", "/usr/bin"]), "/usr/bin");
    let id = |user: &str| {
        sandbox
            .exec_with(["-u", user], ["id", "-un"])
            .succeeds()
            .text()
    };
    assert_eq!(id("root"), "root");
    assert_eq!(id("agent"), "agent");
    let variables = sandbox
        .exec_with(
            ["-e", "A=1 2", "-e", "FROM_CALLER"],
            ["bash", "-c", "echo $A-$FROM_CALLER"],
        )
        .env("FROM_CALLER", "here")
        .succeeds();
    assert_eq!(variables.text(), "1 2-here");
}

fn pipes_carry_every_byte_both_ways(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("pipes");
    let echoed = sandbox.exec_with(["-i"], ["cat"]).input("x\n").succeeds();
    assert_eq!(echoed.bytes(), b"x\n");
    let every: Vec<u8> = (0..=255).cycle().take(3000).collect();
    let echoed = sandbox
        .exec_with(["-i"], ["cat"])
        .input(every.clone())
        .succeeds();
    assert_eq!(echoed.bytes(), every);
    // Without -i there is no input to wait for.
    assert_eq!(
        sandbox.exec(["cat"]).input("unread").succeeds().bytes(),
        b""
    );

    let much = pattern(MUCH);
    let sum = hex(&much);
    let long = Duration::from_secs(300);
    let into = sandbox
        .exec_with(["-i"], ["sha256sum"])
        .input(much)
        .within(long)
        .succeeds();
    assert_eq!(into.text().split(' ').next(), Some(&*sum), "100 MB in");
    sandbox.sh(&format!("head -c {MUCH} /dev/urandom > /tmp/much"));
    let inside = sandbox.sh("sha256sum < /tmp/much");
    let out = sandbox.exec(["cat", "/tmp/much"]).within(long).succeeds();
    assert_eq!(out.bytes().len(), MUCH);
    assert_eq!(
        inside.split(' ').next(),
        Some(&*hex(out.bytes())),
        "100 MB out"
    );
}

fn signals_reach_the_inner_command(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("signals");
    let script = "trap 'echo got-term; exit 7' TERM; trap 'echo got-int; exit 8' INT
        echo ready > $READY; while :; do read -t 1 < /dev/zero; sleep 0.1; done";
    for (signal, word, code) in [(Signal::TERM, "got-term", 7), (Signal::INT, "got-int", 8)] {
        let ready = sandbox.workspace().join(word);
        let mkfifo = format!("mkfifo /tmp/{word}");
        sandbox.sh(&mkfifo);
        let fifo = format!("READY=/tmp/{word}");
        let running = sandbox
            .exec_with(["-e", &fifo], ["bash", "-c", script])
            .spawn();
        // The reader of the fifo returns once the trap is set.
        sandbox.sh(&format!("cat /tmp/{word} > {}", ready.display()));
        running.signal(signal);
        let out = running.output().with_code(code);
        assert_eq!(out.text(), word);
    }
}

fn a_stalled_session_holds_up_no_other(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("stalled");
    let (never_read, write_end) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
    let stalled = sandbox
        .exec(["bash", "-c", "yes flood; true"])
        .spawn_into(write_end.into());
    // It floods by now, and nobody reads.
    sandbox.sh("until pgrep -x yes; do :; done");
    let (done, wait) = mpsc::channel();
    thread::scope(|scope| {
        let sandbox = &sandbox;
        for number in 0..2 {
            let done = done.clone();
            scope.spawn(move || {
                let text = format!("session {number}");
                let out = talk(sandbox, &text);
                done.send(out == text).ok();
            });
        }
    });
    assert_eq!(wait.iter().take(2).collect::<Vec<_>>(), [true, true]);
    assert_eq!(sandbox.inspect()["sessions"], 1);
    drop(never_read);
    // With its reader gone the session ends, as in any pipeline.
    stalled.output();
    sandbox.sh("while pgrep -x yes; do :; done");
}

fn talk(sandbox: &Sandbox<'_>, text: &str) -> String {
    sandbox
        .exec_with(["-i"], ["cat"])
        .input(text)
        .succeeds()
        .text()
}

/// Bytes that repeat late and hold every value.
fn pattern(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
