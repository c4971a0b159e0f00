//! The same as an ordinary user: no root is needed for anything.

use std::fs;
use std::os::unix::fs::MetadataExt;

use e2e::{Fact, Home};

/// An ordinary user's number.
const USER: u32 = 1000;

#[test]
fn an_ordinary_user_needs_no_root() {
    if !Fact::Root.holds_for("an_ordinary_user_needs_no_root") {
        return;
    }
    let home = Home::of_user(USER);
    let app = home.project("app");
    let sandbox = home.sandbox_with("app", &["--accel", "tcg"]);
    assert_eq!(
        sandbox.sh("id -un; id -u; pwd"),
        format!("agent\n{USER}\n{}", app.display())
    );
    sandbox.sh("echo inside > made; sudo touch by-root; mkdir -p .vscode && echo held > .vscode/x");
    for name in ["made", "by-root"] {
        assert_eq!(fs::metadata(app.join(name)).unwrap().uid(), USER, "{name}");
    }
    assert!(!app.join(".vscode").exists(), "held");
    sandbox.try_sh("exit 3").with_code(3);
    let walls = sandbox.inspect()["walls"].to_string();
    for wall in ["landlock", "seccomp"] {
        assert!(walls.contains(wall), "{walls}");
    }
    home.sbx(["stop", "app"]).succeeds();
    assert_eq!(sandbox.sh("cat made"), "inside");
}
