use snapbox::str;

use crate::sbx;

#[test]
fn names_are_needed() {
    for word in ["start", "stop", "rm", "inspect", "logs"] {
        sbx(&[word]).code(2).stdout_eq(str![""]);
    }
}

#[test]
fn a_name_that_could_leave_a_directory_is_none() {
    for name in ["../x", "a/b", "..", "-x"] {
        sbx(&["rm", "--", name]).code(2);
    }
    sbx(&["inspect", "a/b"]).code(2).stderr_eq(str![[r#"
error: NAME a/b: '/' cannot stand in a name

"#]]);
}

#[test]
fn all_and_a_name_contradict_each_other() {
    sbx(&["rm", "--all", "box"]).code(2);
}

#[test]
fn a_grace_is_a_number_of_seconds() {
    sbx(&["stop", "-t", "soon", "box"]).code(2);
    sbx(&["stop", "-t", "9999", "box"])
        .code(2)
        .stderr_eq(str![[r#"
error: --time 9999: at most 3600 seconds

"#]]);
}
