use snapbox::str;

use crate::sbx;

#[test]
fn an_error_is_one_object_with_json() {
    sbx(&["--json", "inspect", "a/b"])
        .code(2)
        .stdout_eq(str![""])
        .stderr_eq(str![[r#"
{"error":{"code":"usage","message":"NAME a/b: '/' cannot stand in a name","cause":[]}}

"#]]);
    sbx(&["run", "--json", "--nope"])
        .code(125)
        .stderr_eq(str![[r#"
{"error":{"code":"usage",[..]}}

"#]]);
    sbx(&["--format", "json", "policy"])
        .code(2)
        .stderr_eq(str![[r#"
{"error":{"code":"usage","message":"Show and change what sandboxes may reach","cause":[],"hint":"`sbx --help` lists the commands"}}

"#]]);
}

#[test]
fn what_the_program_inside_is_told_is_not_for_us() {
    sbx(&["exec", "x", "tool", "--json"])
        .code(125)
        .stderr_eq(str![[r#"
error: NAME x: a name has 2 to 63 characters

"#]]);
}

#[test]
fn colours_are_for_terminals_and_for_who_asks() {
    sbx(&["--color", "always", "inspect", "a/b"])
        .code(2)
        .stderr_eq(str![[r#"
[..]error:[..] NAME a/b: '/' cannot stand in a name

"#]]);
    let output = sbx(&["--color", "always", "inspect", "a/b"]);
    assert!(output.get_output().stderr.contains(&0x1b));
    let output = sbx(&["inspect", "a/b"]);
    assert!(!output.get_output().stderr.contains(&0x1b));
}

#[test]
fn the_version_is_one_line() {
    sbx(&["--version"]).success().stdout_eq(str![[r#"
sbx [..]

"#]]);
    sbx(&["-V"]).success();
}

#[test]
fn a_role_is_not_for_people() {
    for role in ["supervise", "spawner", "net", "share"] {
        let output = sbx(&[role]);
        assert_ne!(output.get_output().status.code(), Some(0), "{role}");
    }
}
