//! Tests of trees, unpacked from images that the tests make.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::*;
use crate::cache::{CacheUse, ItemState};
use crate::prepare::prepare_container;
use crate::{Kit, template};

/// The maps of whoever runs the test, where the host has what it takes.
fn maps() -> Option<Maps> {
    if !missing(&NEEDS).is_empty() {
        println!("skipped: needs erofs-utils and tar");
        return None;
    }
    mapped::own_maps()
        .inspect_err(|error| println!("skipped: {error}"))
        .ok()
}

fn shell(maps: &Maps, at: &Path, script: &str) {
    let inside = Inside::new(maps).unwrap();
    let tool = inside.tool("sh", "run a test").args(["-ec", script]);
    tool.directory(at).run(&Silent, &mut |_| {}).unwrap();
}

const ROOT: &str = "mkdir -p bin var/mail secret; echo hello >bin/hello; chmod 755 bin/hello; \
    cp bin/hello bin/raised; chmod 6755 bin/raised; ln bin/hello bin/again; \
    ln -s /etc/shadow bin/link; ln -s bin door; echo key >secret/key; chmod 600 secret/key; \
    chown -R 5:6 secret; chmod 700 secret; chmod 2775 var/mail; chown 7:8 var/mail; \
    touch -d @978307200 bin/hello";

struct Scene {
    /// Holds the cache.
    home: tempfile::TempDir,
    cache: Cache,
    maps: Maps,
}

impl Scene {
    fn new() -> Option<Self> {
        let maps = maps()?;
        let home = tempfile::tempdir().unwrap();
        let cache = Cache::open(&home.path().join("cache")).unwrap();
        Some(Self { home, cache, maps })
    }

    /// An image of what `script` makes as root of a container, as an entry.
    fn image(&self, name: &EntryName, script: &str) -> Artifact {
        let make = |place: &Workplace<'_>| {
            let work = self.home.path().join("image");
            fs::create_dir(&work).unwrap();
            fs::set_permissions(&work, fs::Permissions::from_mode(0o755)).unwrap();
            mapped::give(&Inside::new(&self.maps)?, &self.maps, &work)?;
            let script = format!("mkdir root; cd root; {script}; cd ..; chmod 755 root");
            shell(&self.maps, &work, &script);
            shell(
                &self.maps,
                &work,
                "mkfs.erofs --quiet --preserve-mtime x.erofs root",
            );
            let to = place.entry.join(name.payload);
            fs::copy(work.join("x.erofs"), &to).map_err(Error::file("copy", &to))?;
            mapped::remove_tree_of(&self.maps, &work)
        };
        self.cache.make(name, &Silent, make).unwrap()
    }

    fn base(&self, script: &str) -> Artifact {
        self.image(&template::entry_name(&self.cache).unwrap(), script)
    }

    fn host(&self) -> Host {
        Host::new("/nonexistent".into(), None, [])
    }

    fn tree(&self) -> Result<Tree, Error> {
        tree(&self.cache, &self.host(), &self.maps, &Silent)
    }

    fn present(&self) -> Option<Tree> {
        present_tree(&self.cache, &self.maps).unwrap()
    }

    /// What is in the cache, without the images.
    fn others(&self) -> Vec<crate::CacheItem> {
        let mut items = self.cache.list().unwrap();
        items.retain(|item| !["base", "kit"].contains(&item.kind.as_str()));
        items
    }
}

/// A word of the root of a container about a file of a tree.
fn stat(tree: &Tree, path: &str) -> (Option<u32>, Option<u32>, u32) {
    let out = Inside::new(&tree.maps)
        .unwrap()
        .tool("stat", "look at a file")
        .args(["--format=%u %g %a", path])
        .directory(&tree.path)
        .output(100)
        .unwrap();
    let text = String::from_utf8(out).unwrap();
    let fields: Vec<&str> = text.split_whitespace().collect();
    let id = |n: usize| fields[n].parse().ok();
    (id(0), id(1), u32::from_str_radix(fields[2], 8).unwrap())
}

#[test]
fn an_image_becomes_a_tree_with_the_owners_of_its_container() {
    let Some(scene) = Scene::new() else {
        return;
    };
    let image = scene.base(ROOT);
    let tree = scene.tree().unwrap();
    assert_eq!(tree.image, image.sha256);

    let root = fs::metadata(&tree.path).unwrap();
    assert_eq!(Some(root.uid()), scene.maps.outside_uid(0));
    assert_eq!(root.mode() & 0o7777, 0o755);
    let above = fs::metadata(tree.path.parent().unwrap()).unwrap();
    assert_eq!(above.uid(), rustix::process::geteuid().as_raw());
    assert_eq!(above.mode() & 0o7777, 0o700);

    assert_eq!(fs::read(tree.path.join("bin/hello")).unwrap(), b"hello\n");
    let hello = fs::metadata(tree.path.join("bin/hello")).unwrap();
    assert_eq!(hello.mtime(), 978_307_200);
    assert_eq!(fs::read(tree.path.join("bin/again")).unwrap(), b"hello\n");
    let link = fs::read_link(tree.path.join("bin/link")).unwrap();
    assert_eq!(link, Path::new("/etc/shadow"));
    assert_eq!(stat(&tree, "secret"), (Some(5), Some(6), 0o700));
    assert_eq!(stat(&tree, "secret/key"), (Some(5), Some(6), 0o600));
    assert_eq!(stat(&tree, "var/mail"), (Some(7), Some(8), 0o2775));
    let secret = fs::symlink_metadata(tree.path.join("secret")).unwrap();
    assert_eq!(Some(secret.uid()), scene.maps.outside_uid(5));

    // Found again, and all of it is what it was.
    assert_eq!(scene.present().as_ref(), Some(&tree));
    tree.verify_full().unwrap();
    let absent = missing_for_tree(&scene.cache, &scene.host(), &scene.maps).unwrap();
    assert!(absent.is_empty());
}

#[test]
fn no_file_of_a_tree_raises_whoever_runs_it() {
    let Some(scene) = Scene::new() else {
        return;
    };
    scene.base(ROOT);
    let tree = scene.tree().unwrap();
    assert_eq!(stat(&tree, "bin/raised"), (Some(0), Some(0), 0o755));
}

#[test]
fn a_tree_whose_root_changed_is_made_again() {
    let Some(scene) = Scene::new() else {
        return;
    };
    scene.base(ROOT);
    let first = scene.tree().unwrap();
    shell(&scene.maps, &first.path, "touch added");
    assert_eq!(scene.present(), None);
    let second = scene.tree().unwrap();
    assert!(!second.path.join("added").exists());
    assert_eq!(second.sha256, first.sha256);

    // Another directory in its place, and a link to one.
    let kept = scene.home.path().join("kept");
    fs::create_dir_all(kept.join("bin")).unwrap();
    for put in [
        (|_: &Path, at: &Path| fs::create_dir(at)) as fn(&Path, &Path) -> _,
        |kept, at| symlink(kept, at),
    ] {
        mapped::remove_tree_of(&scene.maps, &first.path).unwrap();
        put(&kept, &first.path).unwrap();
        assert_eq!(scene.present(), None);
        let again = scene.tree().unwrap();
        assert!(again.path.join("bin/hello").is_file());
        assert!(kept.join("bin").is_dir());
    }
}

#[test]
fn a_link_in_the_place_of_an_entry_is_removed_and_the_tree_of_another_cache_stays() {
    let Some(scene) = Scene::new() else {
        return;
    };
    scene.base(ROOT);
    let tree = scene.tree().unwrap();
    let entry = tree.path.parent().unwrap();
    let other = scene.home.path().join("other");
    let cache = Cache::open(&other).unwrap();
    let link = other.join("entries").join(entry.file_name().unwrap());
    symlink(entry, &link).unwrap();

    let items = cache.list().unwrap();
    assert_eq!(items.len(), 1);
    assert!(cache.remove(&items[0]).unwrap());

    assert!(link.symlink_metadata().is_err());
    assert!(tree.path.join("bin/hello").is_file());
}

#[test]
fn a_change_deep_in_a_tree_is_found_by_the_full_check() {
    let Some(scene) = Scene::new() else {
        return;
    };
    scene.base(ROOT);
    let tree = scene.tree().unwrap();
    for change in [
        "echo hallo >bin/hello; touch -d @978307200 bin/hello",
        "chmod 4755 bin/raised",
        "chown 9 secret/key",
    ] {
        shell(&scene.maps, &tree.path, change);
        assert!(scene.present().is_some(), "{change}");
        let found = tree.verify_full();
        assert!(matches!(found, Err(Error::Corrupt { .. })), "{change}");
        let undo = "chown 5:6 secret/key; chmod 755 bin/raised; echo hello >bin/hello; \
                    touch -d @978307200 bin/hello bin/again";
        shell(&scene.maps, &tree.path, undo);
    }
}

#[test]
fn another_image_or_other_owners_are_another_tree() {
    let Some(scene) = Scene::new() else {
        return;
    };
    scene.base(ROOT);
    let first = scene.tree().unwrap();
    template::refresh_base(&scene.cache).unwrap();
    assert_eq!(scene.present(), None);
    scene.base("echo other >other");
    let second = scene.tree().unwrap();
    assert_ne!(first.key, second.key);
    assert!(first.path.join("bin/hello").exists());
    let mut less = scene.maps.clone();
    less.gids[0].count -= 1;
    assert_eq!(present_tree(&scene.cache, &less).unwrap(), None);
}

/// Asks to stop once there is something to stop.
struct StopAfterNote(AtomicBool);

impl Progress for StopAfterNote {
    fn step(&self, _: &str, _: u64, _: u64) {}
    fn note(&self, _: &str) {
        self.0.store(true, Ordering::SeqCst);
    }
    fn cancelled(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

#[test]
fn an_interrupted_unpacking_leaves_nothing() {
    let Some(scene) = Scene::new() else {
        return;
    };
    scene.base(ROOT);
    let stop = StopAfterNote(AtomicBool::new(false));
    let stopped = tree(&scene.cache, &scene.host(), &scene.maps, &stop);
    assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
    assert!(scene.others().is_empty());
    scene.tree().unwrap();
}

/// What a process leaves that is killed while it unpacks.
fn half_made(scene: &Scene, tree: &Tree) -> PathBuf {
    let entry = tree.path.parent().unwrap();
    let temp = scene
        .cache
        .root()
        .join("tmp")
        .join(entry.file_name().unwrap());
    fs::create_dir(&temp).unwrap();
    fs::copy(entry.join(STAMP), temp.join(STAMP)).unwrap();
    let half = temp.join(TREE);
    fs::create_dir(&half).unwrap();
    fs::set_permissions(&half, fs::Permissions::from_mode(0o755)).unwrap();
    mapped::give(&Inside::new(&scene.maps).unwrap(), &scene.maps, &half).unwrap();
    shell(
        &scene.maps,
        &half,
        "mkdir a; touch a/b; chown 5 a; chmod 700 a",
    );
    temp
}

#[test]
fn what_a_killed_unpacking_left_is_removed_by_the_next_and_by_gc() {
    let Some(scene) = Scene::new() else {
        return;
    };
    scene.base(ROOT);
    let tree = scene.tree().unwrap();
    let temp = half_made(&scene, &tree);
    let items = scene.others();
    let stale = items.iter().find(|item| item.state == ItemState::Stale);
    assert!(scene.cache.remove(stale.unwrap()).unwrap());
    assert!(!temp.exists() && scene.present().is_some());

    let temp = half_made(&scene, &tree);
    shell(&scene.maps, &tree.path, "touch added");
    assert!(!scene.tree().unwrap().path.join("a").exists());
    assert!(!temp.exists());

    // Without a word of whose it is.
    let temp = half_made(&scene, &tree);
    fs::remove_file(temp.join(STAMP)).unwrap();
    fs::write(temp.join(STAMP), "{").unwrap();
    let items = scene.others();
    let stale = items.iter().find(|item| item.state == ItemState::Stale);
    assert!(scene.cache.remove(stale.unwrap()).unwrap());
    assert!(!temp.exists());
}

#[test]
fn a_tree_that_nobody_uses_is_removed_and_one_in_use_is_not() {
    let Some(scene) = Scene::new() else {
        return;
    };
    scene.base(ROOT);
    let tree = scene.tree().unwrap();
    let mut used = CacheUse::default();
    used.add(template::entry_name(&scene.cache).unwrap().key);
    let mut all = used.clone();
    all.add(tree.key.clone());
    assert!(scene.cache.unused(&all, Duration::ZERO).unwrap().is_empty());
    let idle = scene.cache.unused(&used, Duration::ZERO).unwrap();
    assert_eq!(idle.len(), 1);
    assert_eq!(idle[0].kind, "tree");
    assert!(scene.cache.remove(&idle[0]).unwrap());
    assert!(!tree.path.exists() && scene.others().is_empty());
}

#[test]
fn a_caller_with_one_id_has_a_tree_that_is_all_theirs() {
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    let (Some(scene), Some(own)) = (Scene::new(), Maps::own(uid, gid)) else {
        println!("skipped: needs an ordinary user with ranges");
        return;
    };
    scene.base(ROOT);
    let made = tree(&scene.cache, &scene.host(), &own, &Silent).unwrap();
    assert_eq!(stat(&made, "secret/key"), (Some(uid), Some(gid), 0o600));
    made.verify_full().unwrap();
    let items = scene.others();
    assert!(scene.cache.remove(&items[0]).unwrap());
    assert!(!made.path.exists());
}

#[test]
fn a_container_gets_its_root_and_its_agent_without_a_kernel() {
    let Some(scene) = Scene::new() else {
        return;
    };
    scene.base(ROOT);
    let kit = Kit::named(&"claude".parse().unwrap()).unwrap().unwrap();
    let name = kit.image_entry().unwrap();
    scene.image(
        &name,
        "mkdir bin; echo program >bin/claude; chmod 755 bin bin/claude",
    );
    let prepare = |kit: &Kit| {
        prepare_container(&scene.cache, &scene.host(), kit, &scene.maps, &Silent).unwrap()
    };
    let made = prepare(&kit);
    let program = made.kit_directory.unwrap();
    assert_eq!(stat(&program, "bin/claude"), (Some(0), Some(0), 0o755));
    assert_eq!(scene.present(), Some(made.tree));
    let found = kit.present_program(&scene.cache, &scene.maps).unwrap();
    assert_eq!(found, Some(program));
    let shell = Kit::named(&"shell".parse().unwrap()).unwrap().unwrap();
    assert_eq!(prepare(&shell).kit_directory, None);
}
