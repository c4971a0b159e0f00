use snapbox::str;

use crate::{Home, sbx};

#[test]
fn words_of_later_versions_say_so() {
    for word in [
        "secret", "template", "kit", "init", "review", "cp", "tui", "serve",
    ] {
        sbx(&[word, "ls"]).code(2).stdout_eq(str![""]);
    }
    sbx(&["secret", "set"]).code(2).stderr_eq(str![[r#"
error: `sbx secret` is not in this version

"#]]);
}

#[test]
fn the_old_word_for_a_preset_works_and_the_new_one_is_told() {
    let home = Home::new();
    let told = home.sbx(&["policy", "set-default", "locked"]).code(0);
    told.stderr_eq(str![[r#"
warning: `sbx policy set-default` is spelled `sbx policy init` now
...
"#]]);
    let checked = home.sbx(&["policy", "check", "example.com"]).code(1);
    checked.stdout_eq(str![[r#"
deny example.com:443: default:unlisted

"#]]);
}

#[test]
fn words_of_later_versions_are_not_in_the_help() {
    let output = sbx(&["--help"]).success();
    let help = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    for word in ["secret", "snapshot", "supervise"] {
        assert!(!help.contains(&format!("\n  {word} ")), "{word}");
    }
}

#[test]
fn flags_of_later_versions_say_so_and_are_not_in_the_help() {
    for args in [
        &["run", "--kit", "x"][..],
        &["run", "--clone"],
        &["run", "--hide", ".env"],
        &["run", "--plain-env", "X"],
        &["run", "--workspace-mode", "overlay"],
        &["run", "--driver", "krun"],
    ] {
        sbx(args).code(125).stderr_eq(str![[r#"
error: `--[..]` is not in this version
...
"#]]);
    }
    let output = sbx(&["run", "--help"]).success();
    let help = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
    for flag in ["--kit", "--clone", "--hide"] {
        assert!(!help.contains(flag), "{flag}");
    }
}

#[test]
fn images_are_of_an_engine_and_of_no_other_isolation_yet() {
    let home = Home::new();
    for flags in [["-t", "python"], ["--image", "x/y:1"], ["--pull", "always"]] {
        let args = [&["run", "--no-workspace"], &flags[..]].concat();
        home.sbx(&args).code(125).stderr_eq(str![[r#"
error: `--[..]` is not in this version but for `--isolation docker`
...
"#]]);
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
