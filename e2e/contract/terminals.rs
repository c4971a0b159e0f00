//! Sessions on a terminal: size, ^C, ^Z.

use std::fs;

use e2e::{Home, Isolation, Terminal, in_each_isolation};

in_each_isolation![
    a_shell_on_a_terminal_knows_its_size_and_takes_keys,
    exec_takes_a_terminal_where_asked_and_none_where_not,
];

/// Says the size of its terminal once it changes.
const SIZES: &str = r#"
import os, signal

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})
print("listening", flush=True)
signal.sigwait({signal.SIGWINCH})
size = os.get_terminal_size()
print(f"now {size.lines} of {size.columns}", flush=True)
"#;

/// Says what it reads, and when it goes on after a stop.
const READS: &str = r#"
import os, signal, sys

signal.signal(signal.SIGCONT, lambda *_: os.write(1, b"continued\n"))
print("waiting", flush=True)
for line in sys.stdin:
    print("read", line.strip(), flush=True)
"#;

fn a_shell_on_a_terminal_knows_its_size_and_takes_keys(isolation: Isolation) {
    let home = Home::of(isolation);
    let app = home.project("app");
    let run = home.sbx(["run", "--memory", "768m", "shell"]).cwd(&app);
    let mut screen = Terminal::of_size(run, 30, 100);
    screen.shows("$ ");
    screen.send("clear; stty size; tty; echo $TERM\r");
    screen.shows("30 100");
    screen.shows("xterm-256color");

    // Seen inside as it changes, by the program that runs.
    fs::write(app.join("sizes.py"), SIZES).unwrap();
    screen.send("clear; python3 sizes.py\r");
    screen.shows("listening");
    screen.resize(41, 133);
    screen.shows("now 41 of 133");

    // ^C ends the command, not the session. It says itself that it runs: the
    // shell misses what comes before its command has the terminal.
    screen.send("clear; sh -c 'echo before-$((1+1)); exec sleep 1000'\r");
    screen.shows("before-2");
    screen.send("\x03");
    screen.shows("^C");
    screen.send("echo after-$?\r");
    screen.shows("after-130");

    // ^Z stops it, fg goes on with it.
    fs::write(app.join("reads.py"), READS).unwrap();
    screen.send("clear; python3 reads.py\r");
    screen.shows("waiting");
    screen.send("first\r");
    screen.shows("read first");
    screen.send("\x1a");
    screen.shows("Stopped");
    screen.send("fg\r");
    screen.shows("continued");
    screen.send("second\r");
    screen.shows("read second");
    screen.send("\x04");
    screen.send("clear; exit 5\r");
    assert_eq!(screen.ends().code(), Some(5));
}

fn exec_takes_a_terminal_where_asked_and_none_where_not(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("tty");
    let none = sandbox
        .exec(["bash", "-c", "test -t 0 || test -t 1; echo $?"])
        .succeeds();
    assert_eq!(none.text(), "1");
    let screen = Terminal::start(sandbox.exec_with(["-it"], ["bash", "-c", "tty; exit 4"]));
    screen.shows("/dev/pts/");
    assert_eq!(screen.ends().code(), Some(4));
    // A pipe out of a terminal stays exact: no carriage returns.
    let plain = sandbox.exec(["printf", "a\\nb\\n"]).succeeds();
    assert_eq!(plain.bytes(), b"a\nb\n");
}
