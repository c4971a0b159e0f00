//! What a sandbox asks about, answered by a command and at the terminal.

use std::time::{Duration, Instant};

use e2e::{Home, Isolation, Listener, Terminal, in_each_isolation};
use serde_json::Value;

in_each_isolation![
    what_asks_waits_for_a_command_that_lets_it_go_on_once_or_always_or_not,
    whoever_sits_at_the_terminal_is_asked_and_gets_the_screen_back,
];

/// How long a question may take to come up: an emulated curl starts first.
const PATIENCE: Duration = Duration::from_secs(100);

const GREETED: &str = "canary-sings";

/// The question that comes up.
fn question(home: &Home) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let pending = home.sbx(["policy", "pending", "--json"]).succeeds().json();
        if let Some(first) = pending["questions"].get(0) {
            return first.clone();
        }
        assert!(Instant::now() < until, "no question came up");
    }
}

fn script(port: u16) -> String {
    format!("curl -s --max-time 60 http://host.sbx.internal:{port}/ || echo code-$?")
}

fn what_asks_waits_for_a_command_that_lets_it_go_on_once_or_always_or_not(isolation: Isolation) {
    let home = Home::of(isolation);
    let (first, second) = (Listener::open(), Listener::open());
    let sandbox = home.sandbox("asker");
    for listener in [&first, &second] {
        let resource = format!("localhost:{}", listener.port());
        home.sbx(["policy", "ask", "network", &resource]).succeeds();
        let checked = home.sbx(["policy", "check", &resource]).succeeds().text();
        assert!(checked.starts_with("ask "), "{checked}");
    }
    let asked = |port: u16, words: &[&str]| {
        let client = sandbox.exec(["bash", "-c", &script(port)]);
        let client = client.within(PATIENCE).spawn();
        let question = question(&home);
        assert_eq!(question["resource"], format!("localhost:{port}"));
        let id = question["id"].as_str().unwrap();
        home.sbx(["policy"]).args(words).arg(id).succeeds();
        client.output().with_code(0).text()
    };
    assert_eq!(asked(first.port(), &["dismiss"]), "code-7");
    assert_eq!(asked(second.port(), &["approve"]), GREETED);
    // An answer is gone with the sandbox's network, and no longer open.
    let gone = home.sbx(["policy", "approve", "asker:1"]).output();
    assert_eq!(gone.with_code(3).text(), "");

    home.sbx(["stop", "asker"]).succeeds();
    assert_eq!(asked(second.port(), &["approve", "--always"]), GREETED);
    let rules = home.sbx(["policy", "ls", "asker"]).succeeds().text();
    let approved = format!("approve  localhost:{}", second.port());
    assert!(rules.contains(&approved), "{rules}");
    assert_eq!(sandbox.sh(&script(second.port())), GREETED);
}

fn whoever_sits_at_the_terminal_is_asked_and_gets_the_screen_back(isolation: Isolation) {
    let home = Home::of(isolation);
    let app = home.project("app");
    let listener = Listener::open();
    let resource = format!("localhost:{}", listener.port());
    home.sbx(["policy", "ask", "network", &resource]).succeeds();
    let run = home.sbx(["run", "--memory", "768m", "shell"]).cwd(&app);
    let mut screen = Terminal::start(run);
    screen.shows("$ ");
    screen.send("clear; echo before-$((1+1))\r");
    screen.shows("before-2");
    screen.send(&format!("{}\r", script(listener.port())));
    screen.shows(&format!("    {resource}"));
    assert!(!screen.screen().contains("before-2"));
    screen.shows("Press y, a or n.");
    screen.send("y");
    screen.shows(GREETED);
    screen.shows("before-2");
    screen.send("clear; exit\r");
    assert_eq!(screen.ends().code(), Some(0));
}
