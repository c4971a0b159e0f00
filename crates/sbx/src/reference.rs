//! `docs/cli.md`, made from the command line itself so that they cannot
//! differ: the test below fails when they do, and writes the file anew when
//! it is run with `SNAPSHOTS=overwrite`.

use crate::cli;
use crate::engine::ROLES;
use crate::environment::VARIABLES;

fn markdown() -> String {
    let mut text = String::from(
        "# The command line\n\n<!-- Made from the program: SNAPSHOTS=overwrite cargo test -p sbx reference -->\n\n\
         Data goes to standard output, all else to standard error.\n\n\
         | exit code | meaning |\n|---|---|\n\
         | 0 | done |\n| 1 | the answer is no, or the act failed |\n| 2 | wrong usage |\n\
         | 3 | no such sandbox or agent |\n| 4 | refused by policy or by the user |\n\n\
         `run` and `exec` return the code of the program inside (128+n if signal n ended it), 126 if it \
         cannot be executed, 127 if there is no such program, and 125 for every failure of sbx itself.\n\n\
         ## Environment\n\n| variable | meaning |\n|---|---|\n",
    );
    for variable in VARIABLES {
        text += &format!("| `{}` | {} |\n", variable.name, variable.help);
    }
    text += "\n## Configuration\n\n`config.toml` in the configuration directory. A key that is not in this \
             list is an error.\n\n| key | example | meaning |\n|---|---|---|\n";
    for (key, example, help) in sbx_spec::CONFIG_KEYS {
        text += &format!("| `{key}` | `{example}` | {help} |\n");
    }
    let mut command = cli::command();
    command.build();
    text += "\n## sbx\n\n";
    text += &help(command.clone());
    for found in command
        .get_subcommands()
        .filter(|found| !found.is_hide_set())
    {
        text += &format!("\n## sbx {}\n\n", found.get_name());
        text += &help(found.clone());
    }
    text
}

fn help(mut command: clap::Command) -> String {
    let text = command.render_long_help().to_string();
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    format!("```text\n{}\n```\n", lines.join("\n").trim_end())
}

#[test]
fn the_documentation_is_what_the_program_says() {
    snapbox::assert_data_eq!(markdown(), snapbox::file!["../../../docs/cli.md"]);
}

#[test]
fn the_roles_are_not_documented() {
    for role in ROLES.iter() {
        assert!(!markdown().contains(&format!("## sbx {role}")), "{role}");
    }
}

#[test]
fn every_code_of_an_error_is_documented_with_what_it_returns() {
    let text = include_str!("../../../docs/json.md");
    for code in sbx_engine::command::Code::ALL {
        let name = serde_json::to_value(code).unwrap();
        let (name, exit, session) = (name.as_str().unwrap(), code.exit(), code.session_exit());
        let row = text
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` |")));
        let row = row.unwrap_or_else(|| panic!("{name} is not in docs/json.md"));
        assert!(row.ends_with(&format!("| {exit} | {session} |")), "{row}");
    }
}
