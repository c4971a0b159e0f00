//! Tests of the cache: races, interruption, damage.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::progress::Silent;

fn name(key: &[u8]) -> EntryName {
    EntryName {
        kind: "test",
        key: Key::of(&[key]),
        payload: "file",
        title: "a test".to_owned(),
    }
}

fn write(place: &Workplace<'_>, text: &str) -> Result<(), Error> {
    let path = place.entry.join("file");
    fs::write(&path, text).map_err(Error::file("write", &path))
}

fn cache() -> (tempfile::TempDir, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(&dir.path().join("c")).unwrap();
    (dir, cache)
}

#[test]
fn keys_differ_where_the_parts_do() {
    assert_ne!(Key::of(&[b"ab", b"c"]), Key::of(&[b"a", b"bc"]));
    assert_eq!(
        Key::parse(Key::of(&[b"a"]).as_str()),
        Some(Key::of(&[b"a"]))
    );
    assert_eq!(Key::parse("../../x"), None);
}

#[test]
fn an_entry_is_made_once_and_found_again() {
    let (_dir, cache) = cache();
    let made = cache
        .make(&name(b"k"), &Silent, |p| write(p, "hello"))
        .unwrap();
    let again = cache
        .make(&name(b"k"), &Silent, |_| panic!("made twice"))
        .unwrap();
    assert_eq!(made, again);
    assert_eq!(fs::read(&made.path).unwrap(), b"hello");
    made.verify_full().unwrap();
}

#[test]
fn racing_callers_make_one_entry() {
    let (_dir, cache) = cache();
    let built = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                cache
                    .make(&name(b"k"), &Silent, |p| {
                        built.fetch_add(1, Ordering::SeqCst);
                        write(p, "hello")
                    })
                    .unwrap();
            });
        }
    });
    assert_eq!(built.load(Ordering::SeqCst), 1);
}

#[test]
fn a_failed_build_leaves_no_entry_and_keeps_its_work() {
    let (_dir, cache) = cache();
    let failed = cache.make(&name(b"k"), &Silent, |p| {
        fs::write(p.work()?.join("half"), b"1").unwrap();
        write(p, "half")?;
        Err(Error::Cancelled)
    });
    assert!(matches!(failed, Err(Error::Cancelled)));
    assert!(cache.find(&name(b"k")).unwrap().is_none());
    cache
        .make(&name(b"k"), &Silent, |p| {
            assert_eq!(fs::read_dir(p.entry).unwrap().count(), 0);
            assert!(p.work()?.join("half").exists());
            write(p, "whole")
        })
        .unwrap();
    assert!(
        cache
            .list()
            .unwrap()
            .iter()
            .all(|item| item.state == ItemState::Entry)
    );
}

#[test]
fn what_a_killed_process_left_is_removed_by_the_next() {
    let (_dir, cache) = cache();
    let temp = cache.root().join("tmp").join(name(b"k").directory());
    fs::create_dir(&temp).unwrap();
    fs::write(temp.join("junk"), b"x").unwrap();
    let stale = cache.unused(&CacheUse::default(), Duration::MAX).unwrap();
    assert_eq!(stale.len(), 1);
    let made = cache
        .make(&name(b"k"), &Silent, |p| write(p, "hello"))
        .unwrap();
    assert!(!made.path.with_file_name("junk").exists());
}

#[test]
fn a_changed_file_is_made_again_and_a_copied_one_is_taken() {
    let (_dir, cache) = cache();
    let made = cache
        .make(&name(b"k"), &Silent, |p| write(p, "hello"))
        .unwrap();

    let copy = made.path.with_extension("copy");
    fs::copy(&made.path, &copy).unwrap();
    fs::rename(&copy, &made.path).unwrap();
    let taken = cache.find(&name(b"k")).unwrap().unwrap();
    assert_ne!(taken.ident, made.ident);
    assert_eq!(taken.sha256, made.sha256);

    fs::set_permissions(&made.path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&made.path, "hallo").unwrap();
    assert!(taken.verify_full().is_err());
    assert!(cache.find(&name(b"k")).unwrap().is_none());
    let remade = cache
        .make(&name(b"k"), &Silent, |p| write(p, "hello"))
        .unwrap();
    assert_eq!(fs::read(&remade.path).unwrap(), b"hello");
}

#[test]
fn a_corrupt_record_means_the_entry_is_made_again() {
    let (_dir, cache) = cache();
    let made = cache
        .make(&name(b"k"), &Silent, |p| write(p, "hello"))
        .unwrap();
    fs::write(made.path.with_file_name("record.json"), b"{\"version\":1").unwrap();
    assert!(cache.find(&name(b"k")).unwrap().is_none());
    cache
        .make(&name(b"k"), &Silent, |p| write(p, "hello"))
        .unwrap();
}

#[test]
fn only_what_nobody_uses_is_removed() {
    let (_dir, cache) = cache();
    cache
        .make(&name(b"used"), &Silent, |p| write(p, "1"))
        .unwrap();
    cache
        .make(&name(b"idle"), &Silent, |p| write(p, "2"))
        .unwrap();
    let mut used = CacheUse::default();
    used.add(Key::of(&[b"used"]));
    let idle = cache.unused(&used, Duration::ZERO).unwrap();
    assert_eq!(idle.len(), 1);
    assert!(
        cache
            .unused(&used, Duration::from_secs(3600))
            .unwrap()
            .is_empty()
    );
    assert!(cache.remove(&idle[0]).unwrap());
    assert!(cache.find(&name(b"used")).unwrap().is_some());
    assert!(cache.find(&name(b"idle")).unwrap().is_none());
}

#[test]
fn an_entry_that_is_being_made_is_not_removed() {
    let (_dir, cache) = cache();
    cache
        .make(&name(b"k"), &Silent, |p| {
            let items = cache.list()?;
            assert!(!cache.remove(&items[0])?);
            write(p, "hello")
        })
        .unwrap();
}
