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
        room: ByteSize::mib(1),
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

#[test]
fn work_that_cannot_be_cleared_up_does_not_undo_its_entry() {
    let (_dir, cache) = cache();
    let made = cache
        .make(&name(b"k"), &Silent, |p| {
            p.work()?;
            write(p, "hello")
        })
        .unwrap();
    // As one who was killed between the two leaves it.
    let work = cache.root().join("work").join(name(b"k").directory());
    fs::create_dir(&work).unwrap();
    let mut used = CacheUse::default();
    used.add(made.key);
    let left = cache.unused(&used, Duration::MAX).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].path(), work);
    assert_eq!(left[0].state, ItemState::Stale);
    assert!(cache.remove(&left[0]).unwrap());
    assert!(!work.exists());
    assert!(cache.find(&name(b"k")).unwrap().is_some());
}

#[test]
fn work_without_its_entry_is_kept_for_the_next_attempt() {
    let (_dir, cache) = cache();
    let work = cache.root().join("work").join(name(b"k").directory());
    fs::create_dir(&work).unwrap();
    assert_eq!(cache.list().unwrap()[0].state, ItemState::Work);
}

#[test]
fn what_was_asked_for_since_it_was_listed_is_not_removed() {
    let (_dir, cache) = cache();
    cache
        .make(&name(b"k"), &Silent, |p| write(p, "hello"))
        .unwrap();
    let lock = File::open(cache.lock_path(&name(b"k").directory())).unwrap();
    lock.set_modified(std::time::UNIX_EPOCH).unwrap();
    let items = cache
        .unused(&CacheUse::default(), Duration::from_secs(60))
        .unwrap();
    assert!(cache.find(&name(b"k")).unwrap().is_some());
    assert!(!cache.remove(&items[0]).unwrap());
    lock.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert!(cache.remove(&items[0]).unwrap());
}

#[test]
fn a_full_disk_is_told_with_what_was_made_where_and_how_much_it_takes() {
    let (_dir, cache) = cache();
    let full = [
        Error::file("write", Path::new("/x"))(Errno::NOSPC.into()),
        Error::file("write", Path::new("/x"))(Errno::DQUOT.into()),
        Error::Program {
            task: "build".to_owned(),
            outcome: "exit status 1".to_owned(),
            tail: vec!["cc: No space left on device".to_owned()],
        },
    ];
    for error in full {
        let told = cache
            .make(&name(b"k"), &Silent, |_| Err(error))
            .unwrap_err();
        assert!(matches!(told, Error::NoRoom { .. }), "{told}");
        let text = told.to_string();
        assert!(text.contains("a test"), "{text}");
        assert!(text.contains(cache.root().to_str().unwrap()), "{text}");
        assert!(text.contains("1m"), "{text}");
        assert_eq!(cache.list().unwrap().len(), 0);
    }
    let other = cache.make(&name(b"k"), &Silent, |_| Err(Error::Cancelled));
    assert!(matches!(other, Err(Error::Cancelled)));
}

#[test]
fn readers_find_the_old_or_the_new_entry_while_one_is_replaced() {
    let (_dir, cache) = cache();
    let path = cache.entry_path(&name(b"k")).join("file");
    let temp = cache.root().join("tmp").join("next");
    let done = AtomicUsize::new(0);
    let publish = |text: &str| {
        make_directory(&temp).unwrap();
        fs::write(temp.join("file"), text).unwrap();
        cache.publish(&name(b"k"), &temp).unwrap();
        remove_tree(&temp).unwrap();
    };
    publish("0");
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..50 {
                publish(&round.to_string());
            }
            done.store(1, Ordering::SeqCst);
        });
        while done.load(Ordering::SeqCst) == 0 {
            assert!(path.exists());
        }
    });
}
