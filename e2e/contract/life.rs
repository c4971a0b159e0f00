//! The life of a sandbox: what is listed, told, entered again, stopped and
//! removed, in the JSON that scripts read.

use std::fs;
use std::path::PathBuf;

use e2e::{Home, Isolation, in_each_isolation};
use serde_json::{Value, json};

in_each_isolation![
    a_sandbox_is_listed_told_stopped_started_and_removed,
    run_twice_in_one_directory_enters_the_same_sandbox,
    a_sandbox_stops_by_itself_after_its_last_session_and_starts_again,
    create_makes_and_starts_nothing,
    home_and_volumes_are_kept_over_a_restart_and_what_is_temporary_is_not,
    root_inside_makes_accounts_and_becomes_them,
    a_sandbox_is_entered_in_its_own_isolation_alone,
    workspaces_may_be_read_only_or_several,
];

fn names(list: &Value) -> Vec<&str> {
    let sandboxes = list["sandboxes"].as_array().unwrap();
    sandboxes
        .iter()
        .filter_map(|sandbox| sandbox["name"].as_str())
        .collect()
}

/// The status that `ls` gives.
fn status(home: &Home, name: &str) -> Value {
    let list = home.sbx(["ls", "--json", "-a"]).succeeds().json();
    assert_eq!(list["version"], 1);
    let sandboxes = list["sandboxes"].as_array().unwrap();
    let found = sandboxes.iter().find(|sandbox| sandbox["name"] == name);
    found.map_or(Value::Null, |sandbox| sandbox["status"].clone())
}

fn a_sandbox_is_listed_told_stopped_started_and_removed(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("life");
    let workspace = sandbox.workspace().to_str().unwrap();

    let list = home.sbx(["ls", "--json"]).succeeds().json();
    let [entry] = list["sandboxes"].as_array().unwrap().as_slice() else {
        panic!("one sandbox: {list}");
    };
    for (key, value) in [
        ("name", json!("life")),
        ("agent", json!("shell")),
        ("isolation", json!(isolation)),
        ("status", json!("running")),
        ("ports", json!([])),
        ("workspace", json!(workspace)),
    ] {
        assert_eq!(entry[key], value, "{key}");
    }
    assert_eq!(home.sbx(["ls", "-q"]).succeeds().text(), "life");

    let told = sandbox.inspect();
    assert_eq!(told["version"], 1);
    assert_eq!(told["sandbox"]["status"], "running");
    assert_eq!(told["sessions"], 0);
    assert_eq!(told["problem"], Value::Null);
    assert!(
        told["supervisor"].as_u64().is_some_and(|pid| pid > 1),
        "{told}"
    );
    let walls = told["walls"].as_array().unwrap();
    let processes: &[&str] = match isolation {
        Isolation::MicroVm => &["vmm", "net", "share"],
        Isolation::Container => &["box", "net", "share"],
        Isolation::Docker => &["dock", "net"],
    };
    for process in processes {
        for wall in ["landlock", "seccomp"] {
            let stands = walls.iter().any(|w| {
                let text = |key: &str| w[key].as_str().unwrap_or_default();
                text("process").contains(process)
                    && text("wall").contains(wall)
                    && w["up"] == json!(true)
            });
            assert!(stands, "{wall} around {process}: {walls:?}");
        }
    }

    sandbox.sh("echo kept > ~/kept; sudo touch /etc/kept");
    let stopped = home.sbx(["stop", "--json", "life"]).succeeds().json();
    assert_eq!(stopped["act"], "stopped");
    assert_eq!(stopped["done"], json!(["life"]));
    assert_eq!(status(&home, "life"), "stopped");
    assert_eq!(sandbox.inspect()["supervisor"], Value::Null);
    home.sbx(["start", "life"]).succeeds();
    assert_eq!(status(&home, "life"), "running");
    assert_eq!(sandbox.sh("cat ~/kept; ls /etc/kept"), "kept\n/etc/kept");
    home.sbx(["stop", "life"]).succeeds();
    assert_eq!(
        sandbox.sh("cat ~/kept"),
        "kept",
        "exec starts a stopped one"
    );

    let logs = home.sbx(["logs", "--json", "life"]).succeeds().json();
    let sources = logs["lines"].as_array().unwrap();
    assert!(
        sources.iter().any(|line| line["source"] == "supervisor"),
        "{logs}"
    );

    // Nobody can be asked: the flag is named.
    let asked = home.sbx(["--json", "rm", "life"]).output();
    assert_ne!(asked.code(), Some(0), "{asked}");
    assert_ne!(status(&home, "life"), Value::Null);
    let removed = home.sbx(["rm", "-f", "--json", "life"]).succeeds().json();
    assert_eq!(removed["done"], json!(["life"]));
    assert_eq!(status(&home, "life"), Value::Null);
    home.sbx(["inspect", "life"]).output().with_code(3);
    assert!(sandbox.workspace().is_dir(), "workspace files stay");
}

fn run_twice_in_one_directory_enters_the_same_sandbox(isolation: Isolation) {
    let home = Home::of(isolation);
    let app = home.project("app");
    let run = |flags: &[&str], script: &str| {
        home.sbx(["--json", "run", "-q"])
            .args(flags)
            .args(["shell", "--", "-c", script])
            .cwd(&app)
            .output()
    };
    run(&["--memory", "768m"], "echo first > ~/mark").with_code(0);
    assert_eq!(run(&[], "cat ~/mark").with_code(0).text(), "first");
    assert_eq!(
        run(&["--memory", "768m"], "cat ~/mark").with_code(0).text(),
        "first"
    );
    let differs = run(&["--memory", "900m"], "true").with_code(125);
    let error = differs.json_error();
    assert_eq!(error["code"], "sandbox_differs", "{error}");
    let text = error.to_string();
    for told in ["memory", "768m", "900m", "sbx rm", "--name"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let other = home.sbx(["run", "-q", "--memory", "768m", "--name", "other"]);
    let other = other
        .args(["shell", "--", "-c", "cat ~/mark"])
        .cwd(&app)
        .output();
    assert_ne!(other.text(), "first", "another name is another sandbox");
    let list = home.sbx(["ls", "--json", "-a"]).succeeds().json();
    assert_eq!(names(&list).len(), 2, "{list}");
}

fn a_sandbox_stops_by_itself_after_its_last_session_and_starts_again(isolation: Isolation) {
    let home = Home::of(isolation);
    home.configure("stop-grace = \"1s\"\n");
    let app = home.project("app");
    let run = |script: &str| {
        home.sbx(["run", "-q", "--memory", "768m", "shell", "--", "-c", script])
            .cwd(&app)
            .succeeds()
            .text()
    };
    run("echo kept > ~/kept; sleep 2");
    // The end of the supervisor is the event: with it the directory of
    // sockets is emptied.
    let told = home
        .sbx(["inspect", "--json", "shell-app"])
        .succeeds()
        .json();
    if let Some(pid) = told["supervisor"].as_i64() {
        assert!(e2e::ends(pid, 30), "still up: {told}");
    }
    assert_eq!(status(&home, "shell-app"), "stopped");
    assert_eq!(run("cat ~/kept"), "kept");
}

#[test]
fn plan_and_dry_run_say_the_steps_and_do_nothing() {
    let home = Home::unprepared();
    let app = home.project("app");
    let plan = home
        .sbx(["plan", "--json", "claude"])
        .cwd(&app)
        .succeeds()
        .json();
    assert_eq!(plan["version"], 1);
    assert_eq!(plan["exists"], json!(false));
    assert_eq!(plan["spec"]["name"], "claude-app");
    let steps = plan["steps"].as_array().unwrap();
    assert!(steps.len() > 3, "{plan}");
    assert!(
        steps
            .iter()
            .all(|step| step["what"].is_string() && step["cached"].is_boolean())
    );
    let dry = home
        .sbx(["run", "--dry-run", "--json", "claude"])
        .cwd(&app)
        .succeeds()
        .json();
    let whats = |plan: &Value| -> Vec<Value> {
        let steps = plan["steps"].as_array().unwrap();
        steps.iter().map(|step| step["what"].clone()).collect()
    };
    assert_eq!(whats(&dry), whats(&plan));
    assert_eq!(home.sbx(["ls", "-aq"]).succeeds().text(), "");
}

fn create_makes_and_starts_nothing(isolation: Isolation) {
    let home = Home::of(isolation);
    let app = home.project("app");
    let made = home
        .sbx(["create", "--json", "--memory", "768m", "shell"])
        .cwd(&app)
        .succeeds()
        .json();
    assert_eq!(made["created"], json!(true));
    assert_eq!(made["sandbox"]["name"], "shell-app");
    assert_eq!(status(&home, "shell-app"), "stopped");
    let again = home
        .sbx(["create", "--json", "shell"])
        .cwd(&app)
        .succeeds()
        .json();
    assert_eq!(again["created"], json!(false));
    let inside = home.sbx(["exec", "shell-app", "pwd"]).succeeds().text();
    assert_eq!(PathBuf::from(inside), app);
}

#[test]
fn gc_doctor_and_version_answer_without_a_sandbox() {
    let home = Home::unprepared();
    let version = home.sbx(["version", "--json"]).succeeds().json();
    for key in ["sbx", "protocol", "kernel", "template", "qemu"] {
        assert!(version.get(key).is_some(), "{key}: {version}");
    }
    let checks = home.sbx(["doctor", "--json"]).output().json();
    let checks = checks["checks"].as_array().unwrap();
    assert!(checks.len() > 3);
    for check in checks {
        let outcome = check["outcome"].as_str().unwrap();
        assert!(["pass", "warn", "fail"].contains(&outcome), "{check}");
        assert!(
            outcome == "pass" || check["cure"].is_string(),
            "a cure for each: {check}"
        );
    }
    let gc = home.sbx(["gc", "--dry-run", "--json"]).succeeds().json();
    assert_eq!(gc["dry_run"], json!(true));
    assert!(gc["items"].is_array() && gc["freed"].is_u64(), "{gc}");
}

fn workspaces_may_be_read_only_or_several(isolation: Isolation) {
    let home = Home::of(isolation);
    let (app, other, third) = (
        home.project("app"),
        home.project("other"),
        home.project("third"),
    );
    fs::write(other.join("file"), "other\n").unwrap();
    let script = format!(
        "touch mine && cat {other}/file; touch {other}/no 2>&1; touch {third}/yes; pwd",
        other = other.display(),
        third = third.display()
    );
    let out = home
        .sbx(["run", "--rm", "-q", "--memory", "768m", "shell", "."])
        .arg(format!("{}:ro", other.display()))
        .arg(&third)
        .args(["--", "-c", &script])
        .cwd(&app)
        .succeeds();
    assert!(
        out.text().starts_with("other\n") && out.text().contains("Read-only"),
        "{out}"
    );
    assert!(out.text().ends_with(app.to_str().unwrap()), "{out}");
    assert!(app.join("mine").exists() && third.join("yes").exists() && !other.join("no").exists());
}

fn home_and_volumes_are_kept_over_a_restart_and_what_is_temporary_is_not(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox_with(
        "kept",
        &["-v", "data:/data", "--mount", "type=tmpfs,target=/scratch"],
    );
    sandbox.sh(
        "echo home > ~/file; echo data > /data/file; sudo touch /etc/file
        echo gone | tee /tmp/gone /scratch/gone",
    );
    home.sbx(["stop", "kept"]).succeeds();
    home.sbx(["start", "kept"]).succeeds();
    assert_eq!(
        sandbox
            .sh("cat ~/file /data/file; ls /etc/file; ls -A /tmp /scratch | grep -c gone || true"),
        "home\ndata\n/etc/file\n0"
    );
}

fn root_inside_makes_accounts_and_becomes_them(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("accounts");
    assert_eq!(
        sandbox.sh("sudo useradd bob && sudo -u bob id -un && sudo id -u && id -un"),
        "bob\n0\nagent"
    );
    sandbox.sh("touch mine; sudo touch roots");
    assert_eq!(
        sandbox.sh("stat -c %U:%G mine roots"),
        "agent:agent\nroot:root"
    );
}

fn a_sandbox_is_entered_in_its_own_isolation_alone(isolation: Isolation) {
    let home = Home::of(isolation);
    let sandbox = home.sandbox("app");
    let enter = |other: &Isolation| {
        let call = home.sbx(["run", "--name", "app", "--isolation", &other.to_string()]);
        let call = call.args(["shell", "--", "-c", "echo entered"]);
        call.cwd(sandbox.workspace()).output()
    };
    for other in Isolation::ALL {
        let out = enter(other);
        if *other == isolation {
            assert_eq!(out.with_code(0).text(), "entered");
        } else {
            assert!(out.errors().contains("--isolation"), "{out}");
        }
    }
    let listed = home.sbx(["ls"]).succeeds().text();
    assert!(listed.contains(&isolation.to_string()), "{listed}");
}
