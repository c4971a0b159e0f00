use snapbox::str;

use crate::sbx;

#[test]
fn words_of_later_versions_say_so() {
    for word in [
        "policy", "secret", "template", "kit", "init", "review", "cp", "tui", "serve",
    ] {
        sbx(&[word, "ls"]).code(2).stdout_eq(str![""]);
    }
    sbx(&["policy", "set-default"]).code(2).stderr_eq(str![[r#"
error: `sbx policy` is not in this version

"#]]);
}

#[test]
fn words_of_later_versions_are_not_in_the_help() {
    let output = sbx(&["--help"]).success();
    let help = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    for word in ["policy", "secret", "snapshot", "supervise"] {
        assert!(!help.contains(&format!("\n  {word} ")), "{word}");
    }
}

#[test]
fn flags_of_later_versions_say_so_and_are_not_in_the_help() {
    for args in [
        &["run", "-p", "8080:80"][..],
        &["run", "-t", "python"],
        &["run", "--kit", "x"],
        &["run", "--image", "x"],
        &["run", "--pull", "always"],
        &["run", "--clone"],
        &["run", "--hide", ".env"],
        &["run", "--plain-env", "X"],
        &["run", "--deny-network", "x"],
        &["run", "--network", "balanced"],
        &["run", "--allow-network", "example.com"],
        &["run", "--workspace-mode", "overlay"],
        &["run", "--isolation", "container"],
        &["run", "--driver", "krun"],
    ] {
        sbx(args).code(125).stderr_eq(str![[r#"
error: `--[..]` is not in this version
...
"#]]);
    }
    let output = sbx(&["run", "--help"]).success();
    let help = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    for flag in ["--template", "--kit", "--publish", "--clone", "--hide"] {
        assert!(!help.contains(flag), "{flag}");
    }
}

#[test]
fn a_branch_is_refused_with_the_word_for_it() {
    sbx(&["run", "--branch", "x"]).code(125).stderr_eq(str![[r#"
error: `--branch` is no flag of sbx: use --clone
hint: `--clone` itself comes in a later version

"#]]);
}

#[test]
fn words_of_other_tools_are_answered_with_ours() {
    sbx(&["ps"]).code(2).stderr_eq(str![[r#"
error: no command `ps`
hint: type `sbx ls`

"#]]);
    sbx(&["rnu"]).code(2).stderr_eq(str![[r#"
error: no command `rnu`
hint: did you mean `sbx run`?

"#]]);
}
