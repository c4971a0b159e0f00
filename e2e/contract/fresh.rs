//! A fresh sandbox: its kernel, the agent's user, the workspace, and
//! nothing of the host's environment.

use std::fs;
use std::os::unix::fs::MetadataExt;

use e2e::{Home, Isolation, Kept, Promise, WorkspaceGuard, in_each_isolation};
use rustix::process::geteuid;
use rustix::system::uname;

in_each_isolation![
    a_fresh_sandbox_holds_the_workspace_and_nothing_of_the_host,
    variables_enter_where_they_are_named,
];

/// What the environment inside may hold, all of it ours.
const KNOWN: &[&str] = &[
    "COLORTERM",
    "HOME",
    "LANG",
    "LC_ALL",
    "LOGNAME",
    "PATH",
    "PWD",
    "SANDBOX_NAME",
    "SHELL",
    "SHLVL",
    "TERM",
    "TZ",
    "USER",
    "_",
    // Where the clients inside find whom they may trust.
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
];

fn a_fresh_sandbox_holds_the_workspace_and_nothing_of_the_host(isolation: Isolation) {
    let home = Home::of(isolation);
    let app = home.project("app");
    fs::write(app.join("notes.txt"), "from the host\n").unwrap();
    let script = "uname -r; id -un; id -u; pwd; ls -A ~ | wc -l; cat notes.txt
        echo inside > made.txt; hostname; sudo id -u; env";
    let out = home
        .sbx(["run", "--rm"])
        .args(home.memory("768m"))
        .args(["shell", "--", "-c", script])
        .cwd(&app)
        .env("AWS_SECRET_ACCESS_KEY", "canary-in-env")
        .env("SSH_AUTH_SOCK", "/canary")
        .env("GIT_AUTHOR_NAME", "canary")
        .succeeds();
    let text = out.text();
    let mut lines = text.lines();
    let mut line = || lines.next().unwrap_or_default();

    let kernel = line();
    let of_the_host = kernel == uname().release().to_string_lossy();
    match Promise::Kernel.kept(isolation, WorkspaceGuard::Full) {
        Kept::Yes => assert!(kernel.ends_with("-sbx") && !of_the_host, "ours: {out}"),
        _ => assert!(of_the_host, "as it is promised: {out}"),
    }
    assert_eq!(line(), "agent");
    let owner = if geteuid().is_root() {
        1000
    } else {
        geteuid().as_raw()
    };
    assert_eq!(line(), owner.to_string());
    assert_eq!(line(), app.to_str().unwrap());
    assert_eq!(line(), "0", "an empty home: {out}");
    assert_eq!(line(), "from the host");
    assert_eq!(line(), "shell-app");
    assert_eq!(line(), "0", "root by sudo: {out}");
    for variable in lines {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        assert!(KNOWN.contains(&name), "{variable}: {out}");
        assert!(!value.contains("canary"), "{variable}: {out}");
    }

    let made = fs::metadata(app.join("made.txt")).unwrap();
    let project = fs::metadata(&app).unwrap();
    assert_eq!(
        (made.uid(), made.gid()),
        (project.uid(), project.gid()),
        "owned as the workspace"
    );
    assert_eq!(
        fs::read_to_string(app.join("made.txt")).unwrap(),
        "inside\n"
    );

    // The block before the first byte says what there is; -q hides it.
    for fact in [
        "shell-app",
        &isolation.to_string(),
        app.to_str().unwrap(),
        "network",
    ] {
        assert!(out.errors().contains(fact), "{fact}: {out}");
    }
    assert_eq!(
        home.sbx(["ls", "-q"]).succeeds().text(),
        "",
        "removed at the end"
    );
}

fn variables_enter_where_they_are_named(isolation: Isolation) {
    let home = Home::of(isolation);
    let app = home.project("app");
    fs::write(app.join("vars"), "FROM_FILE=one two\n# a comment\nALSO=\n").unwrap();
    let out = home
        .sbx(["run", "--rm", "-q"])
        .args(home.memory("768m"))
        .args(["-e", "NAMED", "-e", "GIVEN=a=b c", "--env-file", "vars"])
        .args(["shell", "--", "-c"])
        .arg(r#"printf '%s|%s|%s|%s|%s\n' "$NAMED" "$GIVEN" "$FROM_FILE" "${ALSO-unset}" "${OTHER-unset}""#)
        .cwd(&app)
        .env("NAMED", "by the caller")
        .env("OTHER", "not named")
        .succeeds();
    assert_eq!(out.text(), "by the caller|a=b c|one two||unset");
}
