//! The share as an ordinary file system: what a guest may rely on, and what it can use up.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use fuse_backend_rs::api::filesystem::{FileSystem, ROOT_ID};
use libc::{EBADF, EINVAL, ENFILE, ENOENT, ENOSPC, EPERM, EROFS};
use sbx_share::ShareConfig;
use sbx_spec::Access;

use crate::world::{World, errno, name, put};

#[test]
fn a_read_only_share_refuses_every_change() {
    let mut config = ShareConfig::writable();
    config.access = Access::ReadOnly;
    let w = World::with(config, |root| {
        put(&root.join("f"), "text");
        put(&root.join(".envrc"), "text");
        put(&root.join("d/x"), "");
    });
    for path in ["f", ".envrc"] {
        assert_eq!(w.read(path).unwrap(), "text");
        assert_eq!(errno(w.open(path, libc::O_RDWR)), EROFS);
        assert_eq!(errno(w.open(path, libc::O_RDONLY | libc::O_TRUNC)), EROFS);
        assert_eq!(errno(w.truncate(path, 0)), EROFS);
        assert_eq!(errno(w.chmod(path, 0o600)), EROFS);
        assert_eq!(errno(w.chown(path, 1, 1)), EROFS);
        assert_eq!(errno(w.unlink(path)), EROFS);
        assert_eq!(errno(w.rename(path, "g")), EROFS);
        assert_eq!(errno(w.link(path, "g")), EROFS);
        let inode = w.inode(path).unwrap();
        let set = w.fs.setxattr(&w.ctx(), inode, &name("user.a"), b"", 0);
        assert_eq!(errno(set), EROFS);
        let remove = w.fs.removexattr(&w.ctx(), inode, &name("user.a"));
        assert_eq!(errno(remove), EROFS);
        let open = w.open(path, libc::O_RDONLY).unwrap();
        assert_eq!(errno(w.write_at(open, "x")), EROFS);
        let punch = w.fs.fallocate(&w.ctx(), open.0, open.1, 0, 0, 1);
        assert_eq!(errno(punch), EROFS);
    }
    for made in ["new", ".mcp.json"] {
        assert_eq!(errno(w.create(made, libc::O_WRONLY)), EROFS);
        assert_eq!(errno(w.mkdir(made)), EROFS);
        assert_eq!(errno(w.symlink("x", made)), EROFS);
        let node =
            w.fs.mknod(&w.ctx(), ROOT_ID, &name(made), libc::S_IFREG, 0, 0);
        assert_eq!(errno(node), EROFS);
    }
    assert_eq!(errno(w.rmdir("d")), EROFS);
    assert!(w.held().is_empty());
}

#[test]
fn an_unlinked_file_stays_usable_while_open() {
    let w = World::new(|root| put(&root.join("f"), "old"));
    let open = w.open("f", libc::O_RDWR).unwrap();
    w.unlink("f").unwrap();
    assert_eq!(errno(w.entry("f")), ENOENT);
    w.write_at(open, "new").unwrap();
    assert_eq!(w.read_at(open).unwrap(), "new");
    let (attr, _) = w.fs.getattr(&w.ctx(), open.0, Some(open.1)).unwrap();
    assert_eq!(attr.st_nlink, 0);
}

#[test]
fn an_inode_is_its_file_whatever_happens_to_the_name() {
    let w = World::new(|root| {
        put(&root.join("d/f"), "inside");
        put(&root.join("outside"), "secret");
    });
    let inode = w.inode("d/f").unwrap();
    let outside = tempfile::tempdir().unwrap();
    put(&outside.path().join("f"), "secret");
    fs::rename(w.host("d"), w.host("moved")).unwrap();
    std::os::unix::fs::symlink(outside.path(), w.host("d")).unwrap();
    let (handle, ..) = w.fs.open(&w.ctx(), inode, 0, 0).unwrap();
    assert_eq!(w.read_at((inode, handle.unwrap())).unwrap(), "inside");
    assert_ne!(
        errno(w.read("d/f")),
        0,
        "a link is never followed by the server"
    );
}

#[test]
fn owners_set_inside_never_reach_the_host() {
    let w = World::new(|root| put(&root.join("f"), ""));
    let host = |w: &World| fs::metadata(w.host("f")).unwrap();
    let before = (host(&w).uid(), host(&w).gid());
    w.chown("f", 999, 998).unwrap();
    let attr = w.entry("f").unwrap().attr;
    assert_eq!((attr.st_uid, attr.st_gid), (999, 998));
    assert_eq!((host(&w).uid(), host(&w).gid()), before);
    let mut other = w.ctx();
    other.uid = 4242;
    let made =
        w.fs.mkdir(&other, ROOT_ID, &name("by-other"), 0o755, 0)
            .unwrap();
    assert_eq!(made.attr.st_uid, 4242);
    assert_eq!(fs::metadata(w.host("by-other")).unwrap().uid(), before.0);
}

#[test]
fn a_reused_inode_number_does_not_inherit_an_owner() {
    let w = World::new(|_| {});
    for round in 0..20 {
        let file = format!("f{round}");
        w.write(&file, "").unwrap();
        assert_eq!(w.entry(&file).unwrap().attr.st_uid, w.ctx().uid);
        w.chown(&file, 999, 999).unwrap();
        w.unlink(&file).unwrap();
    }
}

#[test]
fn set_id_bits_are_shown_inside_and_stripped_on_the_host() {
    let w = World::new(|root| put(&root.join("f"), ""));
    assert_eq!(w.chmod("f", 0o6755).unwrap(), 0o6755);
    let mode = fs::metadata(w.host("f")).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
    w.chown("f", 5, 5).unwrap();
    assert_eq!(w.entry("f").unwrap().attr.st_mode & 0o7777, 0o755);
}

#[test]
fn device_nodes_are_refused_and_fifos_are_not_opened() {
    let w = World::new(|_| {});
    for kind in [libc::S_IFCHR, libc::S_IFBLK] {
        let made =
            w.fs.mknod(&w.ctx(), ROOT_ID, &name("dev"), kind | 0o666, 0x103, 0);
        assert_eq!(errno(made), EPERM);
    }
    w.fs.mknod(
        &w.ctx(),
        ROOT_ID,
        &name("fifo"),
        libc::S_IFIFO | 0o666,
        0,
        0,
    )
    .unwrap();
    assert_eq!(errno(w.open("fifo", libc::O_RDONLY)), libc::ENXIO);
    assert_eq!(errno(w.open("fifo", libc::O_WRONLY)), libc::ENXIO);
}

#[test]
fn a_single_file_share_shows_nothing_else() {
    let mut config = ShareConfig::writable();
    config.file = Some(b"only".to_vec());
    let w = World::with(config, |root| {
        put(&root.join("only"), "1");
        put(&root.join("secret"), "2");
    });
    assert_eq!(w.list("").unwrap(), ["only"]);
    assert_eq!(errno(w.entry("secret")), ENOENT);
    assert_eq!(errno(w.create("new", libc::O_WRONLY)), ENOENT);
    assert_eq!(errno(w.link("only", "new")), ENOENT);
    assert_eq!(errno(w.rename("only", "secret")), ENOENT);
    w.write("only", "3").unwrap();
    assert_eq!(w.host_text("only").unwrap(), "3");
}

#[test]
fn a_greedy_guest_runs_into_its_limits_and_not_the_server() {
    let mut config = ShareConfig::writable();
    config.limits.inodes = 8;
    config.limits.handles = 4;
    config.limits.owners = 2;
    let w = World::with(config, |root| {
        for n in 0..40 {
            put(&root.join(format!("f{n}")), "");
        }
    });
    let results: Vec<i32> = (0..40).map(|n| errno(w.entry(&format!("f{n}")))).collect();
    assert_eq!(results.iter().filter(|e| **e == 0).count(), 7);
    assert!(results.iter().all(|e| matches!(*e, 0 | ENFILE)));
    let opened: Vec<i32> = (0..6).map(|_| errno(w.open("f0", 0))).collect();
    assert_eq!(opened, [0, 0, 0, 0, ENFILE, ENFILE]);
    let owned: Vec<i32> = (0..4)
        .map(|n| errno(w.chown(&format!("f{n}"), 9, 9)))
        .collect();
    assert_eq!(owned, [0, 0, ENOSPC, ENOSPC]);
    let inode = w.inode("f5").unwrap();
    w.fs.forget(&w.ctx(), inode, u64::MAX);
    assert_eq!(errno(w.entry("f20")), 0, "a forgotten inode makes room");
}

#[test]
fn numbers_the_guest_invents_lead_nowhere() {
    let w = World::new(|root| put(&root.join("f"), "x"));
    let open = w.open("f", libc::O_RDONLY).unwrap();
    for (inode, handle) in [
        (999, open.1),
        (open.0, 999),
        (ROOT_ID, open.1),
        (0, 0),
        (u64::MAX, 1),
    ] {
        assert_eq!(errno(w.read_at((inode, handle))), EBADF);
    }
    assert_eq!(errno(w.fs.getattr(&w.ctx(), 999, None)), EBADF);
    w.fs.forget(&w.ctx(), ROOT_ID, u64::MAX);
    assert_eq!(errno(w.fs.getattr(&w.ctx(), ROOT_ID, None)), 0);
    let in_file = w.fs.lookup(&w.ctx(), open.0, &name("x"));
    assert_eq!(errno(in_file), libc::ENOTDIR);
    assert_eq!(w.read_at(open).unwrap(), "x");
}

#[test]
fn a_deep_chain_of_forgotten_parents_is_let_go() {
    let w = World::new(|_| {});
    let mut at = ROOT_ID;
    for _ in 0..3000 {
        let made = w.fs.mkdir(&w.ctx(), at, &name("d"), 0o755, 0).unwrap();
        if at != ROOT_ID {
            w.fs.forget(&w.ctx(), at, 1);
        }
        at = made.inode;
    }
    w.fs.forget(&w.ctx(), at, 1);
    assert_eq!(errno(w.entry("d")), 0);
}

#[test]
fn sparse_files_keep_their_holes() {
    let w = World::new(|_| {});
    let open = w.create("sparse", libc::O_RDWR).unwrap();
    w.truncate("sparse", 1 << 20).unwrap();
    w.write_at(open, "data").unwrap();
    let at = |off, whence| w.fs.lseek(&w.ctx(), open.0, open.1, off, whence as u32);
    assert_eq!(at(0, libc::SEEK_DATA).unwrap(), 0);
    assert!(at(0, libc::SEEK_HOLE).unwrap() < 1 << 20);
    assert_eq!(errno(at(0, libc::SEEK_SET)), EINVAL);
    let keep_and_punch = 3;
    w.fs.fallocate(&w.ctx(), open.0, open.1, keep_and_punch, 0, 1 << 20)
        .unwrap();
    assert_eq!(fs::metadata(w.host("sparse")).unwrap().len(), 1 << 20);
    let mut bytes = [1; 4];
    fs::File::open(w.host("sparse"))
        .unwrap()
        .read_exact_at(&mut bytes, 0)
        .unwrap();
    assert_eq!(bytes, [0; 4]);
}

#[test]
fn names_may_be_255_bytes_of_anything_but_slash() {
    let w = World::new(|_| {});
    let long = "n".repeat(255);
    w.write(&long, "x").unwrap();
    assert_eq!(w.list("").unwrap(), std::slice::from_ref(&long));
    assert_eq!(
        errno(w.create(&"n".repeat(256), libc::O_WRONLY)),
        libc::ENAMETOOLONG
    );
    w.write("\u{1b}]0;x\n", "x").unwrap();
}

#[test]
fn attributes_are_the_hosts_so_git_sees_no_change() {
    let w = World::new(|root| put(&root.join("f"), "x"));
    let host = fs::metadata(w.host("f")).unwrap();
    let attr = w.entry("f").unwrap().attr;
    assert_eq!(attr.st_ino, host.ino());
    assert_eq!(
        (attr.st_ctime, attr.st_ctime_nsec),
        (host.ctime(), host.ctime_nsec())
    );
    assert_eq!(
        (attr.st_mtime, attr.st_mtime_nsec),
        (host.mtime(), host.mtime_nsec())
    );
    assert_eq!((attr.st_uid, attr.st_gid), (host.uid(), host.gid()));
}

#[test]
fn cached_pages_are_kept_only_while_the_file_is_unchanged() {
    use fuse_backend_rs::api::filesystem::OpenOptions;
    let w = World::new(|root| put(&root.join("f"), "x"));
    let inode = w.inode("f").unwrap();
    let keeps = || {
        w.fs.open(&w.ctx(), inode, 0, 0)
            .unwrap()
            .1
            .contains(OpenOptions::KEEP_CACHE)
    };
    assert!(!keeps());
    assert!(keeps());
    fs::write(w.host("f"), "longer").unwrap();
    assert!(!keeps());
}

#[test]
fn what_was_told_a_moment_ago_is_listed_by_its_name_alone() {
    let w = World::new(|root| {
        put(&root.join("d/old"), "x");
        put(&root.join("d/other"), "x");
    });
    let told = |listed: &[(String, u64)], name: &str| {
        listed.iter().any(|(n, inode)| n == name && *inode != 0)
    };
    // As often as the machine takes so long that the moment is over.
    let alone = (0..1000).any(|_| {
        w.entry("d/old").unwrap();
        let listed = w.list_plus("d").unwrap();
        assert_eq!(listed.len(), 2);
        !told(&listed, "old")
    });
    assert!(alone, "told again, each time");
    w.entry("d/old").unwrap();
    fs::write(w.host("d/new"), "x").unwrap();
    fs::rename(w.host("d/new"), w.host("d/old")).unwrap();
    assert!(told(&w.list_plus("d").unwrap(), "old"), "another file");
    assert_eq!(w.entry("d/old").unwrap().attr.st_size, 1);
}

#[test]
fn a_file_has_its_inode_by_each_of_its_names_and_another_file_another() {
    let w = World::new(|root| put(&root.join("a"), "x"));
    fs::hard_link(w.host("a"), w.host("b")).unwrap();
    let inode = w.inode("a").unwrap();
    for name in ["b", "a", "b"] {
        assert_eq!(w.inode(name).unwrap(), inode, "{name}");
    }
    fs::write(w.host("c"), "new").unwrap();
    fs::rename(w.host("c"), w.host("b")).unwrap();
    assert_eq!(w.inode("a").unwrap(), inode);
    assert_ne!(w.inode("b").unwrap(), inode);
    fs::remove_file(w.host("a")).unwrap();
    assert_eq!(errno(w.inode("a")), libc::ENOENT);
}

#[test]
fn only_user_attributes_are_served() {
    let w = World::new(|root| put(&root.join("f"), "x"));
    let inode = w.inode("f").unwrap();
    for refused in [
        "security.capability",
        "trusted.x",
        "system.posix_acl_access",
        "user",
    ] {
        let set = w.fs.setxattr(&w.ctx(), inode, &name(refused), b"x", 0);
        assert_eq!(errno(set), libc::EOPNOTSUPP, "{refused}");
    }
    let big = vec![0; (64 << 10) + 1];
    let set = w.fs.setxattr(&w.ctx(), inode, &name("user.big"), &big, 0);
    assert_eq!(errno(set), ENOSPC);
}

#[test]
fn one_owner_is_shown_as_another_where_asked() {
    let mut config = ShareConfig::writable();
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    config.squash = Some(sbx_share::Squash {
        host_uid: uid,
        host_gid: gid,
        guest_uid: 1000,
        guest_gid: 1001,
    });
    let w = World::with(config, |root| put(&root.join("f"), "x"));
    let attr = w.entry("f").unwrap().attr;
    assert_eq!((attr.st_uid, attr.st_gid), (1000, 1001));
}
