use snapbox::str;

use crate::Home;

#[test]
fn a_wrong_configuration_is_an_error_with_its_place() {
    let home = Home::new();
    let directory = home.path().join(".config/sbx");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(
        directory.join("config.toml"),
        "cpus = 2\nmemory = \"lots\"\n",
    )
    .unwrap();
    home.sbx(&["ls"]).code(2).stderr_eq(str![[r#"
error: cannot read the configuration `[..]/.config/sbx/config.toml`
cause: line 2: memory = lots: a size is a number and a unit: 512m, 1.5g, 20g
hint: docs/cli.md lists the keys

"#]]);
}

#[test]
fn a_relative_directory_of_ours_is_an_error() {
    let home = Home::new();
    let command = home
        .command(&home.project())
        .env("SBX_STATE_DIR", "state")
        .arg("ls");
    command.assert().code(2).stderr_eq(str![[r#"
error: SBX_STATE_DIR is not an absolute path

"#]]);
}

#[test]
fn an_isolation_from_the_environment_is_read_like_the_flag() {
    let home = Home::new();
    let command = |args: &[&str]| {
        home.command(&home.project())
            .env("SBX_ISOLATION", "docker")
            .args(args)
            .assert()
    };
    command(&["run"]).code(125).stderr_eq(str![[r#"
error: there is no Docker or Podman engine here
hint: start one (`systemctl start docker`, `systemctl --user start podman.socket`), name one with DOCKER_HOST, or use `--isolation microvm`

"#]]);
}

#[test]
fn a_home_is_needed() {
    let home = Home::new();
    let command = home.command(&home.project()).env_remove("HOME").arg("ls");
    command.assert().code(2).stderr_eq(str![[r#"
error: HOME is not set to an absolute path
hint: type `HOME=/home/you sbx …`

"#]]);
}
