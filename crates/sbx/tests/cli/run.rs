use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use snapbox::str;

use crate::{Home, sbx};

#[test]
fn every_failure_of_ours_is_125() {
    for args in [
        &["run", "--no-such-flag"][..],
        &["run", "--cpus", "none"],
        &["run", "--name", "a"],
        &["run", "/no/such/place"],
        &["run", "--isolation", "docker"],
        &["run", "--branch", "x"],
        &["run", "--dry-run", "--memory", "lots"],
        &["run", "--rm", "--detach"],
    ] {
        sbx(args).code(125).stdout_eq(str![""]);
    }
}

#[test]
fn an_unknown_flag_is_answered_with_the_nearest() {
    sbx(&["run", "--memroy", "4g"])
        .code(125)
        .stderr_eq(str![[r#"
error: no flag or argument `--memroy` here
hint: did you mean `--memory`?

"#]]);
}

#[test]
fn a_workspace_must_be_a_directory_that_exists() {
    let home = Home::new();
    std::fs::write(home.project().join("file"), "").unwrap();
    home.sbx(&["run", "claude", "./none"])
        .code(125)
        .stderr_eq(str![[r#"
error: workspace `./none` does not exist

"#]]);
    home.sbx(&["run", "claude", "./file"])
        .code(125)
        .stderr_eq(str![[r#"
error: workspace `./file` is a file
hint: name its directory, or mount the file: `-v FILE:PATH`

"#]]);
}

#[test]
fn a_workspace_with_a_name_that_lies_is_refused() {
    let home = Home::new();
    std::fs::create_dir(home.project().join("a\nb")).unwrap();
    home.sbx(&["run", "claude", "./a\nb"])
        .code(125)
        .stderr_eq(str![[r#"
error: workspace `./a/nb` has a control character in its name

"#]]);
    let bytes = OsStr::from_bytes(b"./a\xff");
    std::fs::create_dir(home.project().join(bytes)).unwrap();
    let assert = home.command(&home.project()).arg("run").arg(bytes).assert();
    assert.code(125).stderr_eq(str![[r#"
error: workspace `./a[..]` has a name that is not UTF-8

"#]]);
}

#[test]
fn the_current_directory_is_looked_at_too() {
    let home = Home::new();
    let cwd = home.project().join("a\nb");
    std::fs::create_dir(&cwd).unwrap();
    home.command(&cwd)
        .arg("run")
        .arg("claude")
        .assert()
        .code(125)
        .stderr_eq(str![[r#"
error: workspace `.` has a control character in its name

"#]]);
}

#[test]
fn a_name_has_2_to_63_characters() {
    sbx(&["run", "--name", &"x".repeat(64)]).code(125).stderr_eq(str![[r#"
error: --name xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx: a name has 2 to 63 characters

"#]]);
}

#[test]
fn amounts_that_are_none_are_refused() {
    sbx(&["run", "--memory", "lots"])
        .code(125)
        .stderr_eq(str![[r#"
error: --memory lots: a size is a number and a unit: 512m, 1.5g, 20g

"#]]);
    sbx(&["run", "--cpus", "-1"]).code(125);
    sbx(&["run", "--cpus", "0"]).code(125).stderr_eq(str![[r#"
error: --cpus 0: processors are a number from 0.01 to 1024, such as 2 or 1.5

"#]]);
}

#[test]
fn two_words_cannot_both_be_the_agent() {
    sbx(&["run", "claude", "src"]).code(125).stderr_eq(str![[r#"
error: `claude` and `src` cannot both be the agent
hint: a directory is written `./src`; arguments of the agent stand after `--`

"#]]);
}

#[test]
fn a_mount_follows_the_grammar() {
    sbx(&["run", "--mount", "type=bind,dst=/x"])
        .code(125)
        .stderr_eq(str![[r#"
error: --mount type=bind,dst=/x: type=bind needs source=PATH

"#]]);
    sbx(&["run", "-v", "/no/such:/x"])
        .code(125)
        .stderr_eq(str![[r#"
error: mount source `/no/such` does not exist

"#]]);
    sbx(&["run", "-v", "./x:y"]).code(125).stderr_eq(str![[r#"
error: --volume ./x:y: target `y`: a path inside the sandbox starts with /

"#]]);
}

#[test]
fn a_variable_is_named_without_its_value_when_it_is_wrong() {
    sbx(&["run", "-e", "A B=hidden"])
        .code(125)
        .stderr_eq(str![[r#"
error: --env A B: a variable's name is made of a-z A-Z 0-9 _ and starts with no digit

"#]]);
}

#[test]
fn a_sandbox_for_no_workspace_has_no_path() {
    sbx(&["run", "--no-workspace", "."])
        .code(125)
        .stderr_eq(str![[r#"
error: `--no-workspace` and a path contradict each other

"#]]);
}

#[test]
fn a_detached_sandbox_runs_no_agent() {
    sbx(&["run", "-d", "claude", "--", "-p", "hi"])
        .code(125)
        .stderr_eq(str![[r#"
error: `--detach` starts no agent that could take arguments
hint: `sbx exec -d NAME CMD…` runs a program in the background

"#]]);
}
