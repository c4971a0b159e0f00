use snapbox::str;

use crate::sbx;

#[test]
fn every_command_has_its_help() {
    for word in [
        "run",
        "create",
        "ls",
        "inspect",
        "exec",
        "start",
        "stop",
        "rm",
        "logs",
        "plan",
        "doctor",
        "gc",
        "version",
        "completion",
        "diagnose",
        "list",
        "remove",
        "delete",
    ] {
        sbx(&[word, "--help"]).success();
        sbx(&[word, "-h"]).success();
    }
}

#[test]
fn help_goes_to_standard_output_and_names_the_commands() {
    sbx(&["--help"]).success().stdout_eq(str![[r#"
Run coding agents in sandboxes that the rest of the machine is safe from
...
  run         Run an agent in a sandbox for this directory
...
Environment:
  SBX_ISOLATION    isolation of new sandboxes, before the configuration
...
"#]]);
}

#[test]
fn help_of_run_holds_an_example() {
    sbx(&["run", "--help"]).success().stdout_eq(str![[r#"
...
Usage: sbx run [FLAGS] [AGENT] [PATH[:ro]]... [-- AGENT_ARGS...]
...
  sbx run --rm shell -- -c 'make test'
...
"#]]);
}
