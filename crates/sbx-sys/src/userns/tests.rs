//! Tests of namespaces and their maps against the kernel.

use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The maps of this caller; they need `newuidmap` and ranges, or root.
fn own_maps() -> Option<Maps> {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    match maps_of(uid, gid) {
        Ok(maps) => Some(maps),
        Err(why) => {
            println!("skipped: {}", why.reason);
            None
        }
    }
}

fn one(inside: u32, outside: u32, count: u32) -> Range {
    Range {
        inside,
        outside,
        count,
    }
}

fn both(range: Range) -> Maps {
    Maps {
        uids: vec![range],
        gids: vec![range],
    }
}

/// What a kernel's map says, as numbers.
fn numbers(text: &str) -> Vec<u32> {
    let fields = text.split_ascii_whitespace();
    fields.map(|field| field.parse().unwrap()).collect()
}

fn as_numbers(ranges: &[Range]) -> Vec<u32> {
    let each = |range: &Range| [range.inside, range.outside, range.count];
    ranges.iter().flat_map(each).collect()
}

/// What `sh` says as root of the namespace, `at` being its descriptor 4.
fn run_in(namespace: &OwnedFd, at: impl AsFd, script: &str) -> String {
    let (said, words) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let child = Spawn::path("/usr/bin/nsenter")
        .args(["--user=/proc/self/fd/3", "--setuid", "0", "--setgid", "0"])
        .args(["--", "/bin/sh", "-c", script])
        .with_fd(words, 1)
        .with_fd(namespace.try_clone().unwrap(), 3)
        .with_fd(at.as_fd().try_clone_to_owned().unwrap(), 4)
        .spawn()
        .unwrap();
    let mut text = String::new();
    fs::File::from(said).read_to_string(&mut text).unwrap();
    child.wait().unwrap();
    text
}

#[test]
fn a_namespace_outlives_its_maker_and_has_the_maps() {
    let Some(maps) = own_maps() else {
        return;
    };
    let namespace = create(&maps).unwrap();
    let said = run_in(
        &namespace,
        &namespace,
        "id -u; cat /proc/self/uid_map /proc/self/gid_map",
    );
    let expected = [vec![0], as_numbers(&maps.uids), as_numbers(&maps.gids)].concat();
    assert_eq!(numbers(&said), expected);
    assert_ne!(maps.outside_uid(0), Some(0));
}

#[test]
fn root_inside_is_nobody_that_the_host_knows() {
    let Some(maps) = own_maps() else {
        return;
    };
    let namespace = create(&maps).unwrap();
    let home = tempfile::tempdir().unwrap();
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(home.path(), open).unwrap();
    let path = home.path().join("made");
    // By descriptor: the namespace may enter none of the directories above.
    let at = fs::File::open(home.path()).unwrap();
    run_in(
        &namespace,
        &at,
        "cd /proc/self/fd/4 && touch made && chown 33 made",
    );
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(Some(meta.uid()), maps.outside_uid(33));
    assert_eq!(Some(meta.gid()), maps.outside_gid(0));
    // And root's knobs stay root's.
    let knob = "/proc/sys/kernel/core_pattern";
    let said = run_in(&namespace, &at, &format!("exec 9>>{knob} && echo open"));
    assert_eq!(said, "");
}

#[test]
fn the_root_of_the_host_is_in_no_map() {
    for hostile in [
        one(0, 0, 1),
        one(1000, 0, 1),
        one(0, 0, COUNT),
        one(0, u32::MAX, 2),
        one(0, 1, u32::MAX),
        one(0, 100_000, 0),
        one(u32::MAX, 100_000, 2),
    ] {
        let good = one(0, ROOT_BASE, COUNT);
        for maps in [
            both(hostile),
            Maps {
                uids: vec![good],
                gids: vec![hostile],
            },
            Maps {
                uids: vec![one(70_000, 70_000, 1), hostile],
                gids: vec![good],
            },
        ] {
            let error = create(&maps).unwrap_err();
            assert!(error.errno().is_none(), "{maps:?}: {error}");
        }
    }
    let twice = Maps {
        uids: vec![one(0, ROOT_BASE, 10), one(20, ROOT_BASE + 9, 10)],
        ..both(one(0, ROOT_BASE, COUNT))
    };
    assert!(create(&twice).unwrap_err().errno().is_none());
    assert!(Maps::own(0, 5).is_none() && Maps::own(5, 0).is_none());
}

#[test]
fn containers_of_root_are_apart_from_all_else() {
    let maps = maps_of(0, 0).unwrap();
    assert_eq!(maps.outside_uid(0), Some(ROOT_BASE));
    assert_eq!(maps.outside_gid(65_535), Some(ROOT_BASE + 65_535));
    assert_eq!(maps.outside_uid(65_536), None);
    // Template builds, their client of packages, and our helpers.
    for other in [1_899_999_999, 1_900_000_000, 1_900_065_535, 2_013_265_920] {
        assert!(!(ROOT_BASE..ROOT_BASE + COUNT).contains(&other));
    }
}

#[test]
fn everybody_may_map_themselves() {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let Some(maps) = Maps::own(uid, gid) else {
        println!("skipped: root is mapped nowhere");
        return;
    };
    let child = Child::start().unwrap();
    write_maps(child.pid(), &maps).unwrap();
    let written = fs::read_to_string(format!("/proc/{}/uid_map", child.pid())).unwrap();
    assert_eq!(numbers(&written), [uid, uid, 1]);
}

#[test]
fn an_ordinary_user_gets_no_ids_that_are_not_theirs() {
    if is_root() {
        println!("skipped: root may map any");
        return;
    }
    let refused = create(&both(one(0, 2_500_000_000, 10))).unwrap_err();
    assert!(refused.to_string().contains("newuidmap"), "{refused}");
}

#[test]
fn a_namespace_has_its_maps_once() {
    let Some(maps) = own_maps() else {
        return;
    };
    let child = Child::start().unwrap();
    write_maps(child.pid(), &maps).unwrap();
    assert!(write_maps(child.pid(), &maps).is_err());
}

#[test]
fn leaves_no_child_behind() {
    let child = Child::start().unwrap();
    let pid = child.0;
    drop(child);
    assert!(rustix::process::test_kill_process(pid).is_err());
}
