//! A whole session of the real agent: it reads a file, edits it, runs the
//! project's tests, sees them pass and answers. The program is the vendor's;
//! the model's answers come from a stand-in on the host's loopback.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use e2e::{Home, Isolation, Sbx, StandIn, Terminal, Turn, in_each_isolation};
use serde_json::json;

in_each_isolation![
    claude_repairs_a_project_unattended_with_a_stand_in_for_the_vendor_api,
    claude_on_a_terminal_asks_nothing_first_and_repairs_with_a_stand_in_for_the_vendor_api,
];

const ANSWER: &str = "The sum is right now and the tests pass.";
const KEY: &str = "sk-ant-api03-stand-in";

/// A project whose test fails.
fn project(home: &Home) -> PathBuf {
    let app = home.project("app");
    fs::write(app.join("calc.py"), "def add(a, b):\n    return a - b\n").unwrap();
    fs::write(
        app.join("test_calc.py"),
        "import unittest\nfrom calc import add\n\n\nclass Sum(unittest.TestCase):\n    \
         def test_sum(self):\n        self.assertEqual(add(2, 3), 5)\n",
    )
    .unwrap();
    home.hand_over(&app);
    app
}

fn repair(app: &Path) -> Vec<Turn> {
    let file = app.join("calc.py");
    vec![
        Turn::Use("Read", json!({"file_path": file})),
        Turn::Use(
            "Edit",
            json!({"file_path": file, "old_string": "a - b", "new_string": "a + b"}),
        ),
        Turn::Use(
            "Bash",
            json!({"command": "python3 -m unittest -v 2>&1", "description": "Run the tests"}),
        ),
        Turn::Say(ANSWER),
    ]
}

/// `sbx run FLAGS claude ARGS` in the project, with the stand-in as the
/// vendor.
fn claude(home: &Home, app: &Path, api: &StandIn, flags: &[&str], args: &[&str]) -> Sbx {
    let port = api.port();
    home.sbx(["run", "--memory", "2g", "--allow-network"])
        .arg(format!("localhost:{port}"))
        .args(["-e", "ANTHROPIC_API_KEY", "-e"])
        .arg(format!(
            "ANTHROPIC_BASE_URL=http://host.sbx.internal:{port}"
        ))
        .args(flags)
        .arg("claude")
        .args(args)
        .env("ANTHROPIC_API_KEY", KEY)
        .cwd(app)
}

/// The project is repaired, on the host, by its owner, and the agent saw it.
fn assert_repaired(app: &Path, api: &StandIn) {
    let file = app.join("calc.py");
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        "def add(a, b):\n    return a + b\n"
    );
    let (file, owner) = (fs::metadata(file).unwrap(), fs::metadata(app).unwrap());
    assert_eq!((file.uid(), file.gid()), (owner.uid(), owner.gid()));
    let results = api.tool_results();
    let [read, _, tests] = results.as_slice() else {
        panic!("three tools: {results:?}");
    };
    assert!(read.contains("return a - b"), "{read}");
    assert!(
        tests.contains("OK") && tests.contains("test_sum"),
        "{tests}"
    );
    let calls = api.calls();
    assert!(
        calls.iter().any(|call| call.key.as_deref() == Some(KEY)),
        "{calls:?}"
    );
}

fn claude_repairs_a_project_unattended_with_a_stand_in_for_the_vendor_api(isolation: Isolation) {
    let home = Home::of(isolation);
    let app = project(&home);
    let api = StandIn::serve(repair(&app));
    let prompt = ["--", "-p", "Repair calc.py and run the tests"];
    let flags = ["--rm", "--dangerously-skip-permissions"];
    let out = claude(&home, &app, &api, &flags, &prompt).succeeds();
    assert_eq!(out.text(), ANSWER);
    assert_repaired(&app, &api);
}

#[test]
fn the_line_that_everybody_types_runs_claude_in_an_image_of_the_engine() {
    let name = "the_line_that_everybody_types_runs_claude_in_an_image_of_the_engine";
    let Some(home) = Home::docked(name) else {
        return;
    };
    let app = project(&home);
    crate::engines::node_image(&home);
    let api = StandIn::serve(repair(Path::new("/workspace")));
    let port = api.port();
    let mount = format!("type=bind,src={},dst=/workspace", app.display());
    let line = home
        .sbx([
            "run",
            "--isolation",
            "docker",
            "--rm",
            "-it",
            "--memory=4g",
            "--cpus=2",
        ])
        .args(["--mount", &mount, "--workdir", "/workspace"])
        .args(["--env", "ANTHROPIC_API_KEY", "-t", "node:20-slim"])
        // What the stand-in needs, and who is not asked.
        .args(["--allow-network", &format!("localhost:{port}"), "-e"])
        .arg(format!(
            "ANTHROPIC_BASE_URL=http://host.sbx.internal:{port}"
        ))
        .args(["--dangerously-skip-permissions", "claude"])
        .args(["--", "-p", "Repair calc.py and run the tests"])
        .env("ANTHROPIC_API_KEY", KEY)
        .cwd(&app);
    let out = line.succeeds();
    assert_eq!(out.text(), ANSWER);
    assert_repaired(&app, &api);
}

fn claude_on_a_terminal_asks_nothing_first_and_repairs_with_a_stand_in_for_the_vendor_api(
    isolation: Isolation,
) {
    let home = Home::of(isolation);
    let app = project(&home);
    let api = StandIn::serve(repair(&app));
    let flags = ["--dangerously-skip-permissions"];
    let mut screen = Terminal::of_size(claude(&home, &app, &api, &flags, &[]), 40, 120);
    screen.shows("bypass permissions on");
    screen.send("Repair calc.py and run the tests");
    screen.shows("run the tests");
    screen.send("\r");
    screen.shows(ANSWER);
    assert_repaired(&app, &api);
    screen.send("/exit");
    screen.shows("/exit");
    screen.send("\r");
    assert_eq!(screen.ends().code(), Some(0));
}
