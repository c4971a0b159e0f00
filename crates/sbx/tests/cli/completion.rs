use snapbox::str;

use crate::sbx;

#[test]
fn each_shell_gets_a_script_that_knows_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = sbx(&["completion", shell]).success();
        let script = String::from_utf8_lossy(&output.get_output().stdout).into_owned();
        assert!(
            script.contains("inspect") && script.contains("no-workspace"),
            "{shell}"
        );
        assert!(!script.contains("supervise"), "{shell}");
    }
}

#[test]
fn the_script_for_bash_is_one_that_bash_reads() {
    let output = sbx(&["completion", "bash"]).success();
    let script = output.get_output().stdout.clone();
    snapbox::cmd::Command::new("/bin/bash")
        .arg("-n")
        .stdin(script)
        .assert()
        .success();
}

#[test]
fn another_shell_is_answered_with_those_there_are() {
    sbx(&["completion", "tcsh"]).code(2).stderr_eq(str![[r#"
error: `tcsh` is no value of <SHELL>
hint: did you mean `zsh`?

"#]]);
}
