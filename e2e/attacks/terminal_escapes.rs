//! Sequences that make the caller's terminal act for the sandbox: clipboard
//! writes, file transfers, requests to type an answer of its choice.

use e2e::{Home, Isolation, Terminal, in_each_isolation};

in_each_isolation![clipboard_writes_and_answerback_are_kept_from_the_terminal_unless_it_is_raw];

fn clipboard_writes_and_answerback_are_kept_from_the_terminal_unless_it_is_raw(
    isolation: Isolation,
) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("escapes");
    let hostile = r"printf 'A\033]52;c;Y2FuYXJ5\007B\033]1337;File=inline=1:AAAA\007C\033[21tF\005D\033[31mE\033[0m\n'";
    let bytes = |flags: &[&str]| {
        let call = sandbox.exec_with(flags.iter().copied(), ["bash", "-c", hostile]);
        let screen = Terminal::start(call);
        screen.until("shows the end", |screen| screen.contains('E'));
        let bytes = screen.bytes();
        assert_eq!(screen.ends().code(), Some(0));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let filtered = bytes(&["-it"]);
    for kept_out in ["]52;", "]1337;", "\x1b[21t", "\x05"] {
        assert!(!filtered.contains(kept_out), "{filtered:?}");
    }
    assert!(filtered.contains("\x1b[31m"), "colours pass: {filtered:?}");
    let raw = bytes(&["-it", "--raw-terminal"]);
    for twin in ["]52;", "]1337;", "\x1b[21t", "\x05"] {
        assert!(raw.contains(twin), "the twin: {raw:?}");
    }
}
