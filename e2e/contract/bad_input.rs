//! Wrong input that only shows once there is a host to look at: each is an
//! answer with a code, never a hang and never half a state.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use e2e::Home;

#[test]
fn bad_workspaces_sizes_and_names_are_refused_and_leave_nothing() {
    let home = Home::unprepared();
    let app = home.project("app");
    fs::write(app.join("file"), "").unwrap();
    let long = "n".repeat(64);
    let refused = |args: &[&OsStr], code: &str| {
        let out = home
            .sbx(["--json", "run", "--no-input"])
            .args(args)
            .cwd(&app)
            .output();
        let out = out.with_code(125);
        assert_eq!(out.json_error()["code"], code, "{out}");
    };
    let text = |args: &[&str], code: &str| {
        let args: Vec<&OsStr> = args.iter().map(OsStr::new).collect();
        refused(&args, code);
    };
    text(&["shell", "/no/such/place"], "workspace");
    text(&["shell", "/"], "workspace");
    text(&["shell", home.path().to_str().unwrap()], "workspace");
    text(&["shell", "./file"], "workspace");
    text(&["no-such-agent", "."], "unknown_agent");
    text(&["--memory", "1k", "shell", "."], "limit");
    text(&["--memory", "10t", "shell", "."], "limit");
    text(&["--cpus", "10000", "shell", "."], "usage");
    text(&["--name", &long, "shell", "."], "usage");
    text(&["--name", "-x", "shell", "."], "usage");
    for name in [b"new\nline".as_slice(), b"not-\xff-utf8"] {
        let dir = home.path().join(OsStr::from_bytes(name));
        fs::create_dir(&dir).unwrap();
        refused(&[OsStr::new("shell"), dir.as_os_str()], "workspace");
    }
    assert_eq!(home.sbx(["ls", "-aq"]).succeeds().text(), "");
}

#[test]
fn a_corrupt_state_is_told_and_can_be_removed() {
    let home = Home::new();
    let app = home.project("app");
    home.sbx(["create", "--name", "broken", "shell"])
        .cwd(&app)
        .succeeds();
    let dir = home.state().join("sandboxes/broken");
    let files = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    for file in files.filter(|path| path.extension().is_some_and(|e| e == "json")) {
        fs::write(file, "{ not json").unwrap();
    }
    let list = home.sbx(["ls", "-a", "--json"]).succeeds().json();
    assert_eq!(list["sandboxes"][0]["status"], "broken", "{list}");
    let out = home
        .sbx(["--json", "exec", "broken", "true"])
        .output()
        .with_code(125);
    assert_eq!(out.json_error()["code"], "broken_sandbox");
    home.sbx(["rm", "-f", "broken"]).succeeds();
    assert_eq!(home.sbx(["ls", "-aq"]).succeeds().text(), "");
}

#[test]
fn a_full_pipe_does_not_hang_a_list() {
    let home = Home::unprepared();
    let app = home.project("app");
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    drop(reader);
    let call = home
        .sbx(["plan", "shell"])
        .cwd(&app)
        .spawn_into(writer.into());
    let out = call.output();
    assert!(!out.errors().contains("panicked"), "{out}");
}
