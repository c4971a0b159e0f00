use snapbox::str;

use crate::sbx;

#[test]
fn needs_an_agent() {
    sbx(&["create"]).code(2).stderr_eq(str![[r#"
error: <AGENT|PATH[:ro]>... is missing
hint: usage: sbx create [FLAGS] AGENT [PATH[:ro]]...

"#]]);
}

#[test]
fn wrong_usage_is_2_since_no_program_inside_could_be_meant() {
    sbx(&["create", "--memory", "x", "claude"]).code(2);
    sbx(&["create", "--driver", "krun", "claude"]).code(2);
    sbx(&["plan", "--driver", "krun"])
        .code(2)
        .stderr_eq(str![[r#"
error: `--driver krun` is not in this version

"#]]);
}

#[test]
fn a_word_that_is_nearly_right_is_named() {
    sbx(&["create", "--accel", "kmv", "claude"])
        .code(2)
        .stderr_eq(str![[r#"
error: --accel kmv: it is one of auto, kvm, tcg
hint: did you mean `--accel kvm`?

"#]]);
}
