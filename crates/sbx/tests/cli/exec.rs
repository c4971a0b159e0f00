use snapbox::str;

use crate::sbx;

#[test]
fn wrong_usage_is_125_because_lower_codes_are_the_programs() {
    sbx(&["exec"]).code(125).stderr_eq(str![[r#"
error: <NAME> <CMD>... is missing
hint: usage: sbx exec [FLAGS] NAME CMD...

"#]]);
    sbx(&["exec", "box"]).code(125);
    sbx(&["exec", "--nope", "box", "sh"]).code(125);
    sbx(&["exec", "x", "sh"]).code(125).stderr_eq(str![[r#"
error: NAME x: a name has 2 to 63 characters

"#]]);
}

#[test]
fn a_user_is_a_name_or_a_number() {
    sbx(&["exec", "-u", "a b", "box", "sh"])
        .code(125)
        .stderr_eq(str![[r#"
error: --user a b: it is a name or number, with `:group` if need be

"#]]);
}

#[test]
fn a_directory_inside_starts_with_a_slash() {
    sbx(&["exec", "-w", "src", "box", "sh"])
        .code(125)
        .stderr_eq(str![[r#"
error: --workdir src: a path inside the sandbox starts with /

"#]]);
}
