//! What sandboxes may reach, changed while they run.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use e2e::{Home, Isolation, Listener, Sandbox, in_each_isolation};

in_each_isolation![
    the_network_is_judged_by_the_same_rules_in_every_isolation,
    rules_count_at_once_in_a_running_sandbox_and_outlive_it,
    a_new_denial_ends_the_open_connections_that_it_is_about,
    a_name_that_no_rule_is_about_is_refused_at_once_and_the_log_names_why,
    every_verdict_and_every_end_is_on_record_and_found_by_what_is_asked,
    a_locked_sandbox_says_which_rules_its_agent_wants_and_is_silent_once_it_has_them,
];

/// Connects, says so, and tells how the connection ended.
const WAITING: &str = r#"
import socket, sys
held = socket.create_connection(("host.sbx.internal", int(sys.argv[1])))
print("held", file=sys.stderr, flush=True)
try:
    held.recv(1)
    print("closed")
except ConnectionResetError:
    print("reset")
"#;

/// What curl says of the listener: its greeting, or its exit code.
fn asked(sandbox: &Sandbox<'_>, port: u16) -> String {
    sandbox.sh(&format!(
        "curl -s --max-time 20 http://host.sbx.internal:{port}/ || echo $?"
    ))
}

const REFUSED: &str = "7";
const GREETED: &str = "canary-sings";

fn rules_count_at_once_in_a_running_sandbox_and_outlive_it(isolation: Isolation) {
    let home = Home::of(isolation);
    let listener = Listener::open();
    let resource = format!("localhost:{}", listener.port());
    let sandbox = home.sandbox("ruled");
    let check = || {
        home.sbx(["policy", "check", &resource, "--sandbox", "ruled"])
            .output()
            .code()
    };
    assert_eq!(
        (asked(&sandbox, listener.port()).as_str(), check()),
        (REFUSED, Some(1))
    );

    let allow = [
        "policy",
        "allow",
        "network",
        &resource,
        "--sandbox",
        "ruled",
    ];
    let said = home.sbx(allow).succeeds().text();
    assert!(said.contains("in force in ruled"), "{said}");
    assert_eq!(
        (asked(&sandbox, listener.port()).as_str(), check()),
        (GREETED, Some(0))
    );

    // The user's denial beats the sandbox's own leave.
    home.sbx(["policy", "deny", "network", &resource])
        .succeeds();
    assert_eq!(
        (asked(&sandbox, listener.port()).as_str(), check()),
        (REFUSED, Some(1))
    );
    home.sbx(["policy", "rm", "--resource", &resource])
        .succeeds();
    home.sbx(["stop", "ruled"]).succeeds();
    assert_eq!(
        (asked(&sandbox, listener.port()).as_str(), check()),
        (GREETED, Some(0))
    );
    assert_eq!(listener.visits(), 2);
}

fn a_new_denial_ends_the_open_connections_that_it_is_about(isolation: Isolation) {
    let home = Home::of(isolation);
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        // Held and silent until the test ends.
        let _held: Vec<_> = server.incoming().collect();
    });
    let resource = format!("localhost:{port}");
    let sandbox = home.sandbox_with("cut", &["--allow-network", &resource]);
    let waiting = sandbox
        .exec(["python3", "-c", WAITING, &port.to_string()])
        .spawn();
    waiting.says("held");

    let deny = ["policy", "deny", "network", &resource, "--sandbox", "cut"];
    let said = home.sbx(deny).succeeds().text();
    assert!(said.contains("one open connection ended"), "{said}");
    assert_eq!(waiting.output().text(), "reset");
    assert_eq!(asked(&sandbox, port), REFUSED);
}

fn a_name_that_no_rule_is_about_is_refused_at_once_and_the_log_names_why(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("unlisted");
    let ask = "curl -s --max-time 20 https://unlisted.example/ || echo $?";
    for (url, port) in [("http", 80), ("https", 443)] {
        let page = sandbox.sh(&format!("curl -si --max-time 60 {url}://unlisted.example/"));
        let command = format!("sbx policy allow network unlisted.example:{port}");
        for said in [
            "403 Forbidden",
            "X-Sbx-Verdict: deny",
            "rule: default:unlisted",
            &command,
        ] {
            assert!(page.contains(said), "{page}");
        }
    }
    let ask_ssh = "curl -s --max-time 20 telnet://unlisted.example:22 || echo $?";
    assert_eq!(sandbox.sh(ask_ssh), REFUSED);
    let log = home.sbx(["logs", "unlisted"]).succeeds().text();
    let denied = log
        .lines()
        .find(|line| line.contains("denied tcp unlisted.example:443"));
    assert!(
        denied.is_some_and(|line| line.contains("default:unlisted")),
        "{log}"
    );

    // The twin: allowed by rule, it gets as far as the host's resolver.
    let allow = ["policy", "allow", "network", "**.example:443"];
    home.sbx(allow).succeeds();
    sandbox.sh(ask);
    let log = home.sbx(["logs", "unlisted"]).succeeds().text();
    let allowed = log.lines().rfind(|line| line.contains("unlisted.example"));
    assert!(
        allowed.is_some_and(|line| line.contains("default:no-address")
            || line.contains("user allow **.example:443")),
        "{log}"
    );
}

fn every_verdict_and_every_end_is_on_record_and_found_by_what_is_asked(isolation: Isolation) {
    let home = Home::of(isolation);
    let listener = Listener::open();
    let resource = format!("localhost:{}", listener.port());
    let sandbox = home.sandbox_with("recorded", &["--allow-network", &resource]);
    assert_eq!(asked(&sandbox, listener.port()), GREETED);
    sandbox.sh("curl -s --max-time 20 telnet://denied.example:22 || true");

    let log = |flags: &[&str]| {
        let call = home.sbx(["policy", "log", "recorded", "--json"]);
        let found = call.args(flags).succeeds().json();
        found["records"].as_array().unwrap().clone()
    };
    let all = log(&[]);
    let of = |event: &str, host: &str| {
        let found = all
            .iter()
            .find(|one| one["event"] == event && one["host"] == host);
        found.unwrap_or_else(|| panic!("no {event} of {host}: {all:?}"))
    };
    let (flow, end) = (
        of("flow", "host.sbx.internal"),
        of("end", "host.sbx.internal"),
    );
    assert_eq!(flow["verdict"], "allow");
    assert_eq!(flow["rule"], format!("sandbox allow {resource}"));
    assert_eq!(flow["flow"], end["flow"]);
    assert!(end["received"].as_u64().unwrap() > 13, "{end}");
    assert!(end["sent"].as_u64().unwrap() > 13, "{end}");

    let denied = log(&["--denied"]);
    assert!(
        denied.iter().all(|one| one["verdict"] == "deny"),
        "{denied:?}"
    );
    assert!(denied.iter().any(|one| one["host"] == "denied.example"
        && one["rule"] == "default:unlisted"
        && one["port"] == 22));
    assert_eq!(log(&["--limit", "1"]).len(), 1);
    assert!(log(&["--since", "2126-01-01T00:00:00Z"]).is_empty());
    let text = home.sbx(["policy", "log", "--denied"]).succeeds().text();
    assert!(text.contains("tcp denied.example:22"), "{text}");
    assert!(!text.contains("host.sbx.internal"), "{text}");
}

#[test]
fn a_policy_that_is_not_understood_is_an_error_and_never_a_looser_one() {
    let home = Home::new();
    let workspace = home.project("app");
    home.sbx(["policy", "init", "locked"]).succeeds();
    let check = |target: &str| home.sbx(["policy", "check", target]).output().code();
    assert_eq!(check("192.0.2.7"), Some(1));
    home.sbx(["policy", "allow", "network", "192.0.2.7,**.b.example:443"])
        .succeeds();
    assert_eq!(check("192.0.2.7"), Some(0));
    assert_eq!(check("b.example"), Some(1));

    let listed = home.sbx(["policy", "ls", "--json"]).succeeds().json();
    assert_eq!(listed["preset"], "locked");
    let rules = listed["rules"].as_array().unwrap();
    assert_eq!(rules.len(), 2, "{listed}");
    let id = rules[0]["id"].as_str().unwrap();
    home.sbx(["policy", "rm", "--id", id]).succeeds();
    home.sbx(["policy", "rm", "--id", id]).output().with_code(3);

    for wrong in [
        "*",
        "https://a.example",
        "127.0.0.1",
        "10.1.2.3/8",
        "localhost",
        "",
    ] {
        home.sbx(["policy", "allow", "network", wrong])
            .output()
            .with_code(2);
    }
    let file = home
        .sbx(["policy", "init", "locked", "--json"])
        .succeeds()
        .json();
    let file = file["file"].as_str().unwrap().to_owned();
    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{whole}\ndenied = [\"a.example\"]\n")).unwrap();
    home.sbx(["policy", "check", "b.example"])
        .output()
        .with_code(2);
    home.sbx(["policy", "init", "open"]).output().with_code(2);
    let run = home
        .sbx(["run", "--rm", "shell", "--", "-c", "true"])
        .cwd(&workspace)
        .output()
        .with_code(125);
    assert!(run.errors().contains("denied"), "{run}");
}

fn a_locked_sandbox_says_which_rules_its_agent_wants_and_is_silent_once_it_has_them(
    isolation: Isolation,
) {
    let home = Home::of(isolation);
    let enter = || {
        let call = home.sbx([
            "run",
            "--name",
            "locked",
            "--no-workspace",
            "--network",
            "locked",
        ]);
        let call = call.args(["--memory", "1g", "claude", "--", "--version"]);
        call.within(Duration::from_secs(200)).succeeds().errors()
    };
    let said = enter();
    let command = said
        .lines()
        .find_map(|line| line.split_once("to accept it: sbx "))
        .unwrap_or_else(|| panic!("{said}"))
        .1;
    assert!(command.contains("**.anthropic.com:443"), "{said}");
    home.sbx(command.split_whitespace()).succeeds();
    let said = enter();
    assert!(!said.contains("wants more"), "{said}");
    let listed = home.sbx(["policy", "ls", "locked"]).succeeds().text();
    assert!(listed.contains("**.anthropic.com:443"), "{listed}");
    home.sbx(["rm", "-f", "locked"]).succeeds();
}

fn the_network_is_judged_by_the_same_rules_in_every_isolation(isolation: Isolation) {
    let home = Home::of(isolation);
    let (open, shut) = (Listener::open(), Listener::open());
    let rule = format!("localhost:{}", open.port());
    let flags = ["--network", "locked", "--allow-network", &rule];
    let sandbox = home.sandbox_with("judged", &flags);
    assert_eq!(asked(&sandbox, open.port()), GREETED);
    assert_eq!(asked(&sandbox, shut.port()), REFUSED);
    assert_eq!(shut.visits(), 0);
    sandbox.try_sh("curl -s --max-time 20 https://denied.example/");
    let log = home.sbx(["policy", "log", "judged"]).succeeds().text();
    assert!(log.contains(&format!("allow {rule}")), "{log}");
    assert!(log.contains("denied.example:443"), "{log}");
    // The gateway answers, and what is not allowed does not.
    sandbox.try_sh("ping -c1 -W5 198.19.255.1").with_code(0);
    assert_ne!(sandbox.try_sh("ping -c1 -W1 192.0.2.1").code(), Some(0));
}
