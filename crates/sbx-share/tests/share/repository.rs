//! Ways into a repository that are not a hook or a configuration in plain sight.

use std::fs;
use std::path::Path;

use libc::{EXDEV, RENAME_EXCHANGE};
use sbx_share::ShareConfig;
use sbx_share::guard::{HeldPath, list};

use crate::world::{World, errno, put};

fn repository(root: &Path) {
    put(&root.join(".git/HEAD"), "ref: refs/heads/main\n");
    put(&root.join(".git/config"), "[core]\n");
    fs::create_dir_all(root.join(".git/objects")).unwrap();
    fs::create_dir_all(root.join(".git/refs/heads")).unwrap();
    fs::create_dir_all(root.join(".git/logs")).unwrap();
}

/// A share whose repository runs its hooks from `path`.
fn hooks_at(path: &str) -> ShareConfig {
    let mut config = ShareConfig::writable();
    config.guard.paths.push(HeldPath {
        anchored: true,
        names: path.split('/').map(|n| n.as_bytes().to_vec()).collect(),
    });
    config
}

#[test]
fn every_shipped_name_stays_inside_and_its_neighbour_does_not() {
    let w = World::new(repository);
    let paths = list::PATHS.iter().map(|held| held.name);
    for name in list::ANYWHERE.iter().map(|held| held.name).chain(paths) {
        let name = &*name.replace('*', "any");
        for (at, _) in name.match_indices('/') {
            // Of two that lie in one directory it is there already.
            let _there = w.mkdir(&name[..at]);
        }
        w.mkdir(name).unwrap();
        w.write(&format!("{name}/inner"), "evil").unwrap();
        assert!(!w.host(name).exists(), "{name}");
        let neighbour = format!("{name}-2");
        w.write(&neighbour, "fine").unwrap();
        assert_eq!(w.host_text(&neighbour).unwrap(), "fine");
    }
}

#[test]
fn what_is_read_in_a_directory_of_configurations_is_held_there_and_the_rest_is_open() {
    let w = World::new(|root| put(&root.join(".config/mise/conf.d/own.toml"), "own"));
    for held in [
        ".config/lefthook.yml",
        ".config/lefthook-local.toml",
        ".config/mise.toml",
        ".config/mise.dev.toml",
        ".config/mise/config.toml",
        ".config/mise/conf.d/own.toml",
        ".config/mise/conf.d/new.toml",
        ".config/miserc.toml",
        ".config/hk.pkl",
    ] {
        let before = w.host_text(held);
        w.write(held, "evil").unwrap();
        assert_eq!(w.read(held).unwrap(), "evil");
        assert_eq!(w.host_text(held), before, "{held}");
    }
    // Nor does another directory take its place.
    w.mkdir("other").unwrap();
    assert_eq!(errno(w.rename("other", ".config/mise")), EXDEV);
    assert_ne!(errno(w.symlink("other", ".config/mise")), 0);
    // Nor one with names that are open where it was made, of the directory above.
    w.mkdir("other/mise").unwrap();
    w.write("other/mise/tasks", "evil").unwrap();
    w.mkdir("deep").unwrap();
    assert_eq!(errno(w.rename("other", "deep/.config")), EXDEV);
    w.rename("other", "deep/config").unwrap();
    w.write(".config/prettier.toml", "fine").unwrap();
    assert_eq!(w.host_text(".config/prettier.toml").unwrap(), "fine");
    w.mkdir("mise").unwrap();
    w.write("mise/main.rs", "fine").unwrap();
    assert_eq!(w.host_text("mise/main.rs").unwrap(), "fine");
}

#[test]
fn a_directory_called_head_is_open_and_a_file_is_held() {
    let w = World::new(|_| {});
    w.mkdir("head").unwrap();
    w.write("head/page", "fine").unwrap();
    assert_eq!(w.host_text("head/page").unwrap(), "fine");
    w.rmdir("head").unwrap_err();
    w.unlink("head/page").unwrap();
    w.rmdir("head").unwrap();
    w.write("head", "ref: refs/heads/evil").unwrap();
    assert!(!w.host("head").exists());
}

#[test]
fn what_is_held_as_a_file_or_link_is_open_as_a_directory() {
    let w = World::new(|root| {
        std::fs::create_dir_all(root.join("venv/bin")).unwrap();
        std::os::unix::fs::symlink("/usr/bin/python3", root.join("venv/bin/python")).unwrap();
    });
    for name in list::OUTSIDE_GIT.iter().map(|held| held.name) {
        let (file, directory) = (format!("venv/{name}"), format!("lib-{name}"));
        w.write(&file, "evil").unwrap();
        assert!(!w.host(&file).exists(), "{file}");
        w.mkdir(&directory).unwrap();
        w.mkdir(&format!("{directory}/{name}")).unwrap();
        let inner = format!("{directory}/{name}/page");
        w.write(&inner, "fine").unwrap();
        assert_eq!(w.host_text(&inner).unwrap(), "fine");
    }
    w.unlink("venv/bin/python").unwrap();
    w.write("venv/bin/python", "evil").unwrap();
    let link = std::fs::read_link(w.host("venv/bin/python")).unwrap();
    assert_eq!(link.to_str(), Some("/usr/bin/python3"));
}

#[test]
fn no_repository_can_be_made_among_the_branches() {
    let w = World::new(repository);
    for at in [".git/refs/x", ".git/refs/heads/x", ".git/logs/x"] {
        w.mkdir(at).unwrap();
        w.write(&format!("{at}/HEAD"), "ref: refs/heads/main\n")
            .unwrap();
        w.write(&format!("{at}/config"), "[core]\nfsmonitor = evil\n")
            .unwrap();
        w.mkdir(&format!("{at}/refs")).unwrap();
        w.mkdir(&format!("{at}/objects")).unwrap();
        w.mkdir(&format!("{at}/staged")).unwrap();
        let onto = format!("{at}/objects2");
        w.mkdir(&onto).unwrap();
        for from in [format!("{at}/staged"), onto] {
            let to = format!("{at}/Objects");
            assert_eq!(errno(w.rename(&from, &to)), EXDEV);
            assert_ne!(errno(w.rename_with(&from, &to, RENAME_EXCHANGE)), 0);
        }
        w.symlink("staged", &format!("{at}/objects.lock")).unwrap();
        w.write(&format!("{at}/commondir"), "../../../evil")
            .unwrap();
        for piece in ["objects", "Objects", "objects.lock", "commondir"] {
            assert!(!w.host(&format!("{at}/{piece}")).exists(), "{at}/{piece}");
        }
    }
    w.write(".git/refs/heads/main", "abc").unwrap();
    w.mkdir(".git/refs/remotes").unwrap();
    w.mkdir(".git/refs/remotes/origin").unwrap();
    w.write(".git/refs/remotes/origin/HEAD", "ref: x").unwrap();
    assert_eq!(
        w.host_text(".git/refs/remotes/origin/HEAD").unwrap(),
        "ref: x"
    );
}

#[test]
fn no_repository_deeper_in_git_gets_a_configuration() {
    let w = World::new(repository);
    for at in [".git/info", ".git/objects/ab", ".git/modules"] {
        w.mkdir(at).unwrap();
        for dir in ["refs", "objects", "hooks"] {
            w.mkdir(&format!("{at}/{dir}")).unwrap();
        }
        for file in ["HEAD", "config", "commondir", "hooks/post-checkout"] {
            w.write(&format!("{at}/{file}"), "evil").unwrap();
        }
        for held in ["config", "commondir", "hooks"] {
            assert!(!w.host(&format!("{at}/{held}")).exists(), "{at}/{held}");
        }
        assert!(w.host(&format!("{at}/HEAD")).exists(), "the rest is data");
    }
}

#[test]
fn a_head_of_the_host_cannot_be_completed_to_a_repository() {
    let w = World::new(|root| {
        put(&root.join("odd/HEAD"), "ref: refs/heads/main\n");
        put(&root.join("plain/readme"), "");
    });
    for dir in ["odd", "plain"] {
        w.mkdir(&format!("{dir}/objects")).unwrap();
        w.mkdir(&format!("{dir}/refs")).unwrap();
        w.write(&format!("{dir}/config"), "text").unwrap();
        assert_eq!(w.host(&format!("{dir}/config")).exists(), dir == "plain");
    }
    assert_eq!(errno(w.rename("plain/config", "odd/config")), EXDEV);
}

#[test]
fn commands_of_a_stopped_rebase_stay_inside() {
    let w = World::new(|root| {
        repository(root);
        put(&root.join(".git/rebase-merge/git-rebase-todo"), "pick 1\n");
    });
    let todo = ".git/rebase-merge/git-rebase-todo";
    w.write(todo, "exec evil\n").unwrap();
    w.write(".git/rebase-merge/done", "exec evil\n").unwrap();
    assert_eq!(w.host_text(todo).unwrap(), "pick 1\n");
    assert!(!w.host(".git/rebase-merge/done").exists());
    for dir in [".git/rebase-apply", ".git/sequencer"] {
        w.mkdir(dir).unwrap();
        w.write(&format!("{dir}/todo"), "exec evil\n").unwrap();
        assert!(!w.host(dir).exists());
    }
    w.write(".git/CHERRY_PICK_HEAD", "abc").unwrap();
    assert!(w.host(".git/CHERRY_PICK_HEAD").exists());
}

#[test]
fn work_trees_are_open_as_far_as_the_host_has_them() {
    let w = World::new(|root| {
        repository(root);
        put(&root.join(".git/worktrees/host/gitdir"), "/host/.git\n");
        put(&root.join(".git/worktrees/host/commondir"), "../..\n");
    });
    w.write(".git/worktrees/host/index", "fine").unwrap();
    assert_eq!(w.host_text(".git/worktrees/host/index").unwrap(), "fine");
    for control in ["gitdir", "commondir", "config.worktree"] {
        let path = format!(".git/worktrees/host/{control}");
        let before = w.host_text(&path);
        w.write(&path, "/evil").unwrap();
        assert_eq!(w.host_text(&path), before);
    }
    w.mkdir(".git/worktrees/mine").unwrap();
    w.write(".git/worktrees/mine/gitdir", "/mine/.git").unwrap();
    assert!(!w.host(".git/worktrees/mine").exists());
    assert_eq!(w.list(".git/worktrees").unwrap(), ["host", "mine"]);
    let moved = w.rename(".git/worktrees/host", ".git/worktrees/other");
    assert_eq!(errno(moved), EXDEV);
}

#[test]
fn the_first_work_tree_made_inside_outlives_pruning_on_the_host() {
    let w = World::new(repository);
    w.mkdir(".git/worktrees").unwrap();
    w.mkdir(".git/worktrees/mine").unwrap();
    w.write(".git/worktrees/mine/HEAD", "ref: refs/heads/mine")
        .unwrap();
    assert!(!w.host(".git/worktrees").exists());
    fs::create_dir_all(w.host(".git/worktrees/host")).unwrap();
    assert_eq!(w.list(".git/worktrees").unwrap(), ["host", "mine"]);
    fs::remove_dir_all(w.host(".git/worktrees")).unwrap();
    assert_eq!(
        w.read(".git/worktrees/mine/HEAD").unwrap(),
        "ref: refs/heads/mine"
    );
}

#[test]
fn hooks_in_the_tree_are_held_where_the_repository_says_they_are() {
    let w = World::with(hooks_at("tools/hooks"), |root| {
        repository(root);
        put(&root.join("tools/hooks/pre-commit"), "true\n");
        put(&root.join("other/hooks/pre-commit"), "true\n");
    });
    w.write("tools/hooks/pre-commit", "evil").unwrap();
    w.write("tools/hooks/pre-push", "evil").unwrap();
    assert_eq!(w.host_text("tools/hooks/pre-commit").unwrap(), "true\n");
    assert!(!w.host("tools/hooks/pre-push").exists());
    w.write("tools/build", "fine").unwrap();
    w.write("other/hooks/pre-commit", "fine").unwrap();
    assert_eq!(w.host_text("tools/build").unwrap(), "fine");
    assert_eq!(w.host_text("other/hooks/pre-commit").unwrap(), "fine");
}

#[test]
fn no_directory_takes_the_place_of_one_above_the_hooks() {
    let w = World::with(hooks_at("tools/hooks"), |root| {
        put(&root.join("tools/hooks/pre-commit"), "true\n");
    });
    w.mkdir("evil").unwrap();
    w.mkdir("evil/hooks").unwrap();
    w.write("evil/hooks/pre-commit", "evil").unwrap();
    assert_eq!(errno(w.rename("tools", "elsewhere")), EXDEV);
    assert_eq!(errno(w.rename("evil", "tools")), EXDEV);
    let exchanged = w.rename_with("evil", "tools", RENAME_EXCHANGE);
    assert_ne!(errno(exchanged), 0);
    w.unlink("tools/hooks/pre-commit").unwrap();
    w.rmdir("tools/hooks").unwrap();
    w.rmdir("tools").unwrap();
    assert_ne!(errno(w.rename("evil", "tools")), 0);
    w.symlink("evil", "tools").unwrap();
    assert_eq!(w.host_text("tools/hooks/pre-commit").unwrap(), "true\n");
    w.rename("evil", "harmless").unwrap();
    assert!(w.host("harmless/hooks").exists());
}

#[test]
fn no_link_takes_the_place_of_hooks_that_do_not_exist_yet() {
    let w = World::with(hooks_at("tools/hooks"), |_| {});
    w.mkdir("evil").unwrap();
    w.symlink("evil", "tools").unwrap();
    assert!(fs::symlink_metadata(w.host("tools")).is_err());
    w.unlink("tools").unwrap();
    w.mkdir("tools").unwrap();
    w.symlink("../evil", "tools/hooks").unwrap();
    assert!(fs::symlink_metadata(w.host("tools/hooks")).is_err());
    assert!(w.host("tools").is_dir(), "the directory above is shared");
}
