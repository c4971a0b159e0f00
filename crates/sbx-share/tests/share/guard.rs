//! Every way we know to write to a name that the host executes, and its allowed twin.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::world::{World, errno, name, put};
use libc::{EEXIST, ENOENT, ENOTEMPTY, EPERM, EXDEV};
use sbx_share::ShareConfig;

fn repository(root: &Path) {
    put(&root.join(".git/HEAD"), "ref: refs/heads/main\n");
    put(&root.join(".git/config"), "[core]\n");
    put(&root.join(".git/hooks/pre-commit.sample"), "#!/bin/sh\n");
    fs::create_dir_all(root.join(".git/objects")).unwrap();
    fs::create_dir_all(root.join(".git/refs/heads")).unwrap();
    put(&root.join(".vscode/tasks.json"), "{}");
    put(&root.join("src/main.rs"), "fn main() {}");
    put(&root.join(".envrc"), "export A=1");
}

#[test]
fn writes_to_held_names_stay_inside() {
    let w = World::new(repository);
    for path in [".git/config", ".vscode/tasks.json", ".envrc"] {
        let before = w.host_text(path);
        w.write(path, "evil").unwrap();
        assert_eq!(w.read(path).unwrap(), "evil", "{path}");
        assert_eq!(w.host_text(path), before, "{path}");
    }
    w.write("src/main.rs", "fine").unwrap();
    assert_eq!(w.host_text("src/main.rs").unwrap(), "fine");
    w.write(".git/index", "fine").unwrap();
    assert_eq!(w.host_text(".git/index").unwrap(), "fine");
}

#[test]
fn held_names_that_do_not_exist_yet_stay_inside() {
    let w = World::new(repository);
    w.mkdir("deep").unwrap();
    for path in [
        "deep/.mcp.json",
        "deep/.envrc",
        ".git/commondir",
        ".git/config.worktree",
        "HEAD",
    ] {
        w.write(path, "evil").unwrap();
        assert_eq!(w.read(path).unwrap(), "evil");
        assert!(!w.host(path).exists(), "{path}");
    }
    for path in ["deep/.idea", ".claude", ".git/modules"] {
        w.mkdir(path).unwrap();
    }
    w.write(".claude/settings.json", "evil").unwrap();
    w.write(".git/hooks/pre-commit", "evil").unwrap();
    w.mkdir(".git/modules/sub").unwrap();
    w.write(".git/modules/sub/config", "evil").unwrap();
    for path in [
        ".claude",
        "deep/.idea",
        ".git/hooks/pre-commit",
        ".git/modules/sub/config",
    ] {
        assert!(!w.host(path).exists(), "{path}");
    }
    assert!(
        w.host(".git/modules/sub").is_dir(),
        "the open part of .git is shared"
    );
    w.write("deep/ordinary.json", "fine").unwrap();
    assert_eq!(w.host_text("deep/ordinary.json").unwrap(), "fine");
}

#[test]
fn case_variants_are_the_same_name() {
    let w = World::new(repository);
    for path in [
        ".VSCode",
        ".Git/x",
        ".git/HOOKS/post-commit",
        ".git/CONFIG",
        "head",
        ".EnvRc",
        ".vscode. ",
        ".envrc..",
        "HEAD ",
        ".git/config.",
        ".git/HOOKS./post-commit",
    ] {
        let (dir, _) = path.split_once('/').unwrap_or((path, ""));
        if dir == ".Git" {
            w.mkdir(".Git").unwrap();
            w.write(".Git/config", "evil").unwrap();
            assert!(!w.host(".Git/config").exists());
            continue;
        }
        if path.contains("HOOKS") {
            w.mkdir(path.trim_end_matches("/post-commit")).unwrap();
        }
        w.write(path, "evil").unwrap();
        assert!(!w.host(path).exists(), "{path}");
    }
    for open in ["vscode", "vscode.", "head. x"] {
        w.write(open, "fine").unwrap();
        assert!(w.host(open).exists(), "{open}");
    }
}

#[test]
fn a_slash_is_no_part_of_a_name() {
    let w = World::new(repository);
    for bad in [".vscode/", "../x", "a/b", ".", "..", ""] {
        let made = w.fs_create(bad);
        assert_eq!(made, libc::EINVAL, "{bad:?}");
    }
    assert_eq!(w.fs_create("plain"), 0);
}

#[test]
fn renames_across_the_boundary_are_refused() {
    let w = World::new(repository);
    w.write("free", "evil").unwrap();
    w.mkdir("dir").unwrap();
    w.mkdir("dir/hooks").unwrap();
    w.write("dir/hooks/pre-commit", "evil").unwrap();
    for (from, to) in [
        ("free", ".envrc"),
        ("free", ".vscode/tasks.json"),
        ("free", ".git/config"),
        ("free", "HEAD"),
        ("free", ".git"),
        ("dir", ".vscode"),
        ("dir", ".git"),
        ("dir", ".git/hooks"),
        ("dir", ".git/modules"),
        (".git", "gitdir"),
        (".git/objects", "objects"),
        (".git/refs", ".git/modules"),
        (".envrc", "free2"),
        (".vscode", "vscode"),
    ] {
        assert_eq!(errno(w.rename(from, to)), EXDEV, "{from} -> {to}");
        let back = w.rename_with(from, to, libc::RENAME_EXCHANGE);
        assert_ne!(errno(back), 0, "{from} <-> {to}");
    }
    assert_eq!(w.host_text(".envrc").unwrap(), "export A=1");
    assert_eq!(w.host_text(".git/config").unwrap(), "[core]\n");
    w.rename("free", "free3").unwrap();
    w.rename("free3", ".git/index").unwrap();
    w.rename("dir", "dir2").unwrap();
    w.rename(".git/objects", ".git/objects2").unwrap();
    assert!(w.host("dir2/hooks/pre-commit").exists());
    assert_eq!(w.host_text(".git/index").unwrap(), "evil");
}

#[test]
fn exchange_does_not_swap_a_directory_in() {
    let w = World::new(repository);
    w.mkdir("dir").unwrap();
    w.mkdir("dir2").unwrap();
    for (a, b) in [
        ("dir", ".git/objects"),
        (".git/objects", "dir"),
        ("dir", ".git"),
        (".git", "dir"),
    ] {
        assert_eq!(
            errno(w.rename_with(a, b, libc::RENAME_EXCHANGE)),
            EXDEV,
            "{a} {b}"
        );
    }
    w.rename_with("dir", "dir2", libc::RENAME_EXCHANGE).unwrap();
}

#[test]
fn hard_links_from_and_to_held_names_are_refused() {
    let w = World::new(repository);
    w.write("free", "evil").unwrap();
    for (from, to) in [
        (".git/config", "alias"),
        (".envrc", "alias"),
        (".vscode/tasks.json", "alias"),
        ("free", ".envrc2/../.envrc"),
        ("free", ".mcp.json"),
        ("free", ".git/config.worktree"),
        ("free", ".vscode/x"),
    ] {
        let got = errno(w.link(from, to));
        assert!(
            got == EXDEV || got == ENOENT || got == libc::EINVAL,
            "{from} -> {to}: {got}"
        );
        assert!(!w.host("alias").exists());
    }
    w.link("free", "alias").unwrap();
    assert_eq!(fs::metadata(w.host("alias")).unwrap().nlink(), 2);
}

#[test]
fn a_git_file_or_link_that_points_elsewhere_is_held() {
    let w = World::new(|_| {});
    w.mkdir("sub").unwrap();
    w.write("sub/.git", "gitdir: ../evil").unwrap();
    assert_eq!(w.read("sub/.git").unwrap(), "gitdir: ../evil");
    assert!(!w.host("sub/.git").exists());
    w.mkdir("other").unwrap();
    w.symlink("../evil", "other/.git").unwrap();
    assert!(fs::symlink_metadata(w.host("other/.git")).is_err());
    assert_eq!(errno(w.mkdir("sub/.git")), EEXIST);
    w.mkdir("third").unwrap();
    w.mkdir("third/.git").unwrap();
    assert!(w.host("third/.git").is_dir());
}

#[test]
fn links_inside_git_cannot_stand_in_for_held_directories() {
    let w = World::new(repository);
    w.mkdir("evil").unwrap();
    for (target, path) in [
        ("../evil", ".git/modules"),
        ("/tmp", ".git/info"),
        ("refs", ".git/modules"),
        ("objects/../refs", ".git/modules"),
    ] {
        assert_eq!(errno(w.symlink(target, path)), EPERM, "{path} -> {target}");
    }
    w.symlink("../evil", "planted").unwrap();
    assert_eq!(errno(w.rename("planted", ".git/modules")), EXDEV);
    assert_eq!(errno(w.link("planted", ".git/modules")), EXDEV);
    w.symlink("testing", ".git/tXXXX").unwrap();
    assert!(fs::symlink_metadata(w.host(".git/tXXXX")).is_ok());
    w.symlink("../../anywhere", "evil/link").unwrap();
}

#[test]
fn a_branch_may_be_called_like_a_control_file() {
    let w = World::new(repository);
    w.write(".git/refs/heads/config", "abc").unwrap();
    assert_eq!(w.host_text(".git/refs/heads/config").unwrap(), "abc");
}

#[test]
fn a_bare_repository_of_the_host_keeps_its_control_files() {
    let w = World::new(|root| {
        put(&root.join("bare.git/HEAD"), "ref: x");
        put(&root.join("bare.git/config"), "[core]");
        fs::create_dir_all(root.join("bare.git/objects")).unwrap();
        fs::create_dir_all(root.join("bare.git/refs")).unwrap();
        fs::create_dir_all(root.join("app")).unwrap();
    });
    w.write("bare.git/config", "evil").unwrap();
    assert_eq!(w.host_text("bare.git/config").unwrap(), "[core]");
    w.mkdir("bare.git/hooks").unwrap();
    assert!(!w.host("bare.git/hooks").exists());
    w.write("app/config", "fine").unwrap();
    assert_eq!(w.host_text("app/config").unwrap(), "fine");
}

#[test]
fn attributes_of_held_host_files_do_not_change() {
    let w = World::new(repository);
    w.truncate(".envrc", 0).unwrap();
    assert_eq!(w.chmod(".git/config", 0o777).unwrap(), 0o777);
    let inode = w.inode(".vscode/tasks.json").unwrap();
    let set = fuse_backend_rs::api::filesystem::FileSystem::setxattr(
        &w.fs,
        &w.ctx(),
        inode,
        &name("user.x"),
        b"1",
        0,
    );
    assert!(matches!(errno(set), 0 | libc::EOPNOTSUPP));
    assert_eq!(w.host_text(".envrc").unwrap(), "export A=1");
    assert_eq!(
        fs::metadata(w.host(".git/config"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o644
    );
    w.truncate("src/main.rs", 2).unwrap();
    assert_eq!(w.host_text("src/main.rs").unwrap(), "fn");
}

#[test]
fn a_reader_opened_before_the_copy_cannot_write_and_sees_the_copy() {
    let w = World::new(repository);
    let open = w.open(".envrc", libc::O_RDONLY).unwrap();
    assert_eq!(w.read_at(open).unwrap(), "export A=1");
    w.write(".envrc", "inside").unwrap();
    assert_eq!(w.read_at(open).unwrap(), "inside");
    assert_eq!(errno(w.write_at(open, "x")), libc::EBADF);
    use fuse_backend_rs::api::filesystem::FileSystem;
    let punch = w.fs.fallocate(&w.ctx(), open.0, open.1, 3, 0, 4);
    assert_eq!(errno(punch), libc::EBADF);
    assert_eq!(w.host_text(".envrc").unwrap(), "export A=1");
}

#[test]
fn held_host_files_follow_the_host_until_written() {
    let w = World::new(repository);
    assert_eq!(w.read(".envrc").unwrap(), "export A=1");
    fs::write(w.host(".envrc.new"), "export B=2").unwrap();
    fs::rename(w.host(".envrc.new"), w.host(".envrc")).unwrap();
    assert_eq!(w.read(".envrc").unwrap(), "export B=2");
    w.write(".envrc", "mine").unwrap();
    fs::write(w.host(".envrc"), "export C=3").unwrap();
    assert_eq!(w.read(".envrc").unwrap(), "mine");
}

#[test]
fn deletions_of_held_names_are_seen_inside_only() {
    let w = World::new(repository);
    w.unlink(".vscode/tasks.json").unwrap();
    assert_eq!(errno(w.entry(".vscode/tasks.json")), ENOENT);
    assert!(w.list(".vscode").unwrap().is_empty());
    w.rmdir(".vscode").unwrap();
    assert!(!w.list("").unwrap().contains(&".vscode".to_owned()));
    assert!(w.host(".vscode/tasks.json").exists());
    w.mkdir(".vscode").unwrap();
    assert!(
        w.list(".vscode").unwrap().is_empty(),
        "a new directory is empty"
    );
    w.unlink("src/main.rs").unwrap();
    w.rmdir("src").unwrap();
    assert!(!w.host("src").exists());
}

#[test]
fn a_tree_with_held_files_can_be_removed_and_made_again() {
    let w = World::new(|root| put(&root.join("p/.envrc"), "a"));
    assert_eq!(errno(w.rmdir("p")), ENOTEMPTY);
    w.unlink("p/.envrc").unwrap();
    w.rmdir("p").unwrap();
    assert_eq!(errno(w.entry("p")), ENOENT);
    assert_eq!(w.host_text("p/.envrc").unwrap(), "a");
    w.mkdir("p").unwrap();
    assert!(w.list("p").unwrap().is_empty());
    w.write("p/x", "1").unwrap();
    assert_eq!(w.host_text("p/x").unwrap(), "1");
}

#[test]
fn held_files_follow_their_directory() {
    let w = World::new(|_| {});
    w.mkdir("a").unwrap();
    w.mkdir("a/.claude").unwrap();
    w.write("a/.claude/settings.json", "s").unwrap();
    w.mkdir("b").unwrap();
    w.rename("a", "b/c").unwrap();
    assert_eq!(w.read("b/c/.claude/settings.json").unwrap(), "s");
    assert_eq!(errno(w.rmdir("b/c")), ENOTEMPTY);
    w.mkdir("empty").unwrap();
    assert_eq!(errno(w.rename("empty", "b/c")), ENOTEMPTY);
    assert!(!w.host("b/c/.claude").exists());
}

#[test]
fn git_can_lock_and_rename_its_config() {
    let w = World::new(repository);
    let lock = w
        .create(".git/config.lock", libc::O_RDWR | libc::O_EXCL)
        .unwrap();
    w.write_at(lock, "[user]").unwrap();
    w.close(lock);
    w.rename(".git/config.lock", ".git/config").unwrap();
    assert_eq!(w.read(".git/config").unwrap(), "[user]");
    assert_eq!(errno(w.entry(".git/config.lock")), ENOENT);
    assert_eq!(w.host_text(".git/config").unwrap(), "[core]\n");
}

#[test]
fn listings_show_both_layers_once() {
    let w = World::new(repository);
    w.write(".git/hooks/pre-commit", "x").unwrap();
    w.write(".git/hooks/pre-commit.sample", "x").unwrap();
    assert_eq!(
        w.list(".git/hooks").unwrap(),
        ["pre-commit", "pre-commit.sample"]
    );
    w.write(".mcp.json", "x").unwrap();
    assert_eq!(
        w.list("").unwrap(),
        [".envrc", ".git", ".mcp.json", ".vscode", "src"]
    );
}

#[test]
fn what_is_held_is_announced_once_and_listed() {
    let w = World::new(repository);
    w.write(".envrc", "1").unwrap();
    w.write(".envrc", "2").unwrap();
    w.unlink(".vscode/tasks.json").unwrap();
    let heard: Vec<String> = w.heard.0.lock().iter().map(|e| e.path.clone()).collect();
    assert_eq!(heard, [".envrc", ".vscode/tasks.json"]);
    assert_eq!(w.held(), [".envrc changed", ".vscode/tasks.json deleted"]);
}

#[test]
fn the_shadow_outlives_the_server() {
    let w = World::new(repository);
    w.write(".envrc", "mine").unwrap();
    w.unlink(".vscode/tasks.json").unwrap();
    w.chown("src/main.rs", 999, 998).unwrap();
    let w = w.restarted(&ShareConfig::writable());
    assert_eq!(w.read(".envrc").unwrap(), "mine");
    assert_eq!(errno(w.entry(".vscode/tasks.json")), ENOENT);
    let attr = w.entry("src/main.rs").unwrap().attr;
    assert_eq!((attr.st_uid, attr.st_gid), (999, 998));
}

#[test]
fn links_planted_in_the_shadow_lead_nowhere() {
    let w = World::new(|root| put(&root.join("victim/x"), "v"));
    w.mkdir(".claude").unwrap();
    w.symlink("../../root/victim", ".claude/out").unwrap();
    assert_ne!(errno(w.write(".claude/out/x", "evil")), 0);
    assert_eq!(w.host_text("victim/x").unwrap(), "v");
    w.mkdir(".claude/in").unwrap();
    w.write(".claude/in/x", "fine").unwrap();
}

#[test]
fn the_common_directory_of_a_work_tree_is_inside_git() {
    let mut config = ShareConfig::writable();
    config.inside_git = true;
    let w = World::with(config, |root| put(&root.join("config"), "[core]"));
    w.write("config", "evil").unwrap();
    assert_eq!(w.host_text("config").unwrap(), "[core]");
    w.write("HEAD", "fine").unwrap();
    assert_eq!(w.host_text("HEAD").unwrap(), "fine");
}

fn small_store() -> ShareConfig {
    let mut config = ShareConfig::writable();
    config.limits.held_bytes = 4096;
    config.limits.held_entries = 8;
    config
}

#[test]
fn what_is_held_is_bounded_in_bytes_and_removing_makes_room() {
    let w = World::with(small_store(), repository);
    w.mkdir(".claude").unwrap();
    w.write(".claude/a", &"x".repeat(4000)).unwrap();
    assert_eq!(errno(w.write(".claude/b", &"x".repeat(4000))), libc::ENOSPC);
    assert_eq!(errno(w.truncate(".claude/a", 1 << 40)), libc::ENOSPC);
    let open = w.open(".claude/a", libc::O_RDWR).unwrap();
    use fuse_backend_rs::api::filesystem::FileSystem;
    for (mode, error) in [(0, libc::ENOSPC), (1, libc::EOPNOTSUPP)] {
        let grown = w.fs.fallocate(&w.ctx(), open.0, open.1, mode, 0, 1 << 40);
        assert_eq!(errno(grown), error);
    }
    w.write("free", &"x".repeat(9000)).unwrap();
    assert_eq!(w.host_text("free").unwrap().len(), 9000);
    // Removed but still open, it takes its room until it is closed.
    w.unlink(".claude/a").unwrap();
    assert_eq!(errno(w.write(".claude/b", &"x".repeat(4000))), libc::ENOSPC);
    w.close(open);
    w.fs.forget(&w.ctx(), open.0, u64::MAX);
    w.write(".claude/b", &"x".repeat(4000)).unwrap();
    assert_eq!(w.read(".claude/b").unwrap().len(), 4000);
    let w = w.restarted(&small_store());
    assert_eq!(errno(w.write(".claude/c", &"x".repeat(4000))), libc::ENOSPC);
    assert_eq!(w.read(".claude/b").unwrap().len(), 4000);
}

#[test]
fn what_is_held_is_bounded_in_entries_and_directories_above_count() {
    let w = World::with(small_store(), repository);
    w.mkdir(".claude").unwrap();
    let made: Vec<i32> = (0..9)
        .map(|n| errno(w.mkdir(&format!(".claude/{n}"))))
        .collect();
    assert_eq!(made.iter().filter(|e| **e == 0).count(), 7, "{made:?}");
    assert!(made.iter().all(|e| matches!(*e, 0 | libc::ENOSPC)));
    for n in 0..7 {
        w.rmdir(&format!(".claude/{n}")).unwrap();
    }
    // What the guest still knows of takes its room; after a new start it knows of nothing.
    let w = w.restarted(&small_store());
    w.mkdir("d").unwrap();
    let deep = (1..9).fold("d".to_owned(), |path, n| {
        let path = format!("{path}/{n}");
        w.mkdir(&path).unwrap();
        path
    });
    assert_eq!(errno(w.write(&format!("{deep}/.envrc"), "x")), libc::ENOSPC);
    w.write("d/1/.envrc", "x").unwrap();
    w.mkdir("e").unwrap();
    w.rename("d/1", "e/1").unwrap();
    assert_eq!(w.read("e/1/.envrc").unwrap(), "x");
}

#[test]
fn held_directories_by_the_thousand_can_still_be_listed() {
    let w = World::new(|_| {});
    w.mkdir(".claude").unwrap();
    let dir = w.inode(".claude").unwrap();
    for n in 0..1200 {
        use fuse_backend_rs::api::filesystem::FileSystem;
        let made = w.fs.mkdir(&w.ctx(), dir, &name(&n.to_string()), 0o755, 0);
        w.fs.forget(&w.ctx(), made.unwrap().inode, 1);
    }
    w.write(".claude/hook", "evil").unwrap();
    w.write(".envrc", "evil").unwrap();
    let before = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    assert!(before.current.is_none_or(|most| most > 256));
    let few = rustix::process::Rlimit {
        current: Some(256),
        maximum: before.maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, few).unwrap();
    assert_eq!(w.held(), [".claude/hook changed", ".envrc changed"]);
}
