//! A cache that somebody or something changed: noticed at the next look, or
//! by the full check where the file system says that nothing happened.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use e2e::{Home, Isolation, host};
use serde_json::{Value, json};

use crate::full_disk::small;

/// A home with a kernel of its own to spoil, and the path of it.
fn with_own_kernel() -> (Home, PathBuf) {
    let mut home = Home::new();
    let plan = home.sbx(["plan", "--json", "--no-workspace", "shell"]);
    let steps = plan.succeeds().json()["steps"].clone();
    let steps = steps.as_array().unwrap();
    let kernel = steps
        .iter()
        .find(|step| step["what"] == "build the guest kernel");
    let kernel = PathBuf::from(kernel.unwrap()["detail"][0].as_str().unwrap());
    let entry = kernel.parent().unwrap();
    home.cache_without(&["kernel"]);
    let entries = home.cache().join("entries");
    let (from, to) = (entry.to_str().unwrap(), entries.to_str().unwrap());
    host("/bin/cp", &["-a", from, to], home.root());
    let own = entries.join(entry.file_name().unwrap());
    (home, own.join(kernel.file_name().unwrap()))
}

fn is_taken(home: &Home) -> Value {
    let plan = home.sbx(["plan", "--json", "--no-workspace", "shell"]);
    plan.succeeds().json()["steps"][0]["cached"].clone()
}

/// What the full check says of images and trees.
fn contents(home: &Home) -> Value {
    let doctor = home.sbx(["doctor", "--full", "--json"]).output().json();
    let checks = doctor["checks"].as_array().cloned().unwrap_or_default();
    let found = checks.into_iter().find(|check| check["id"] == "contents");
    found.unwrap()
}

fn flip_a_byte(path: &PathBuf) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    host(
        "/bin/chmod",
        &["u+w", path.to_str().unwrap()],
        &path.with_file_name(""),
    );
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_changed_or_cut_kernel_is_not_taken_and_an_unchanged_copy_is() {
    let (home, kernel) = with_own_kernel();
    assert_eq!(is_taken(&home), true, "a copy with the same contents");
    flip_a_byte(&kernel);
    assert_eq!(is_taken(&home), false, "one bit is another");
    let (home, kernel) = {
        drop(home);
        with_own_kernel()
    };
    assert_eq!(is_taken(&home), true);
    host(
        "/bin/chmod",
        &["u+w", kernel.to_str().unwrap()],
        home.root(),
    );
    fs::File::options()
        .write(true)
        .open(&kernel)
        .unwrap()
        .set_len(4096)
        .unwrap();
    assert_eq!(is_taken(&home), false, "cut short");
}

#[test]
fn a_kernel_that_decayed_unseen_is_found_by_the_full_check() {
    let (home, kernel) = with_own_kernel();
    assert_eq!(contents(&home)["outcome"], "pass");
    flip_a_byte(&kernel);
    // The record says that this is the file that was verified.
    let meta = fs::metadata(&kernel).unwrap();
    let record = kernel.with_file_name("record.json");
    let mut text: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
    let name = kernel.file_name().unwrap().to_str().unwrap();
    let ns = |s: i64, ns: i64| s * 1_000_000_000 + ns;
    text["files"][name]["ident"] = json!({
        "dev": meta.dev(), "ino": meta.ino(), "size": meta.size(),
        "mtime_ns": ns(meta.mtime(), meta.mtime_nsec()),
        "ctime_ns": ns(meta.ctime(), meta.ctime_nsec()),
    });
    host(
        "/bin/chmod",
        &["u+w", record.to_str().unwrap()],
        home.root(),
    );
    fs::write(&record, text.to_string()).unwrap();
    assert_eq!(is_taken(&home), true, "nothing shows it");
    let found = contents(&home);
    assert_eq!(found["outcome"], "fail", "{found}");
    assert!(found["found"].to_string().contains(name), "{found}");
}

/// The tree that the next container would stand on, if there is one.
fn tree_of(home: &Home) -> Option<PathBuf> {
    let plan = home.sbx(["plan", "--json", "--no-workspace", "shell"]);
    let plan = plan.succeeds().json();
    let mut steps = plan["steps"].as_array().unwrap().iter();
    let step = steps.find(|step| step["what"] == "unpack the base template");
    let path = step.unwrap()["detail"][0].as_str();
    path.map(PathBuf::from)
}

#[test]
fn a_changed_tree_of_containers_is_made_again_and_one_that_decayed_is_found_by_the_full_check() {
    let mut home = Home::of(Isolation::Container);
    home.cache_without(&["tree", "kernel", "kit", "program"]);
    // In memory, where it is made in no time.
    let entries = home.cache().join("entries").display().to_string();
    let cache = small(&mut home, "own", "900m");
    home.mounts(&format!("cp -a {entries} {}", cache.display()));
    home.use_cache(cache.clone());
    let create = || {
        let call = home.sbx(["create", "--no-workspace", "--name", "made", "shell"]);
        call.succeeds();
        home.sbx(["rm", "-f", "made"]).succeeds();
    };
    create();
    let made = tree_of(&home).expect("it was made");
    let tree = home.outside(&made);
    assert_eq!(contents(&home)["outcome"], "pass");
    let deep = tree.join("etc/ssl/openssl.cnf");
    let text = fs::read(&deep).unwrap();
    fs::write(&deep, [&text[1..], b"x"].concat()).unwrap();
    assert!(tree_of(&home).is_some(), "nothing shows it");
    let found = contents(&home);
    assert_eq!(found["outcome"], "fail", "{found}");
    assert!(found["found"].to_string().contains("tree"), "{found}");

    // What the file system shows of it needs no such check.
    fs::write(tree.join("planted"), "").unwrap();
    assert_eq!(tree_of(&home), None, "a name more at its top");
    let elsewhere = home.outside(&cache.join("elsewhere"));
    fs::rename(&tree, &elsewhere).unwrap();
    assert_eq!(tree_of(&home), None, "none");
    let most = ["-rf", "--one-file-system", "usr"];
    host("/bin/rm", &most, &elsewhere);
    symlink(cache.join("elsewhere"), &tree).unwrap();
    assert_eq!(tree_of(&home), None, "a link");
    for (file, text) in [
        ("tree.json", "{}"),
        ("record.json", ""),
        ("record.json", "[["),
    ] {
        let path = tree.with_file_name(file);
        host("/bin/chmod", &["u+w", path.to_str().unwrap()], home.root());
        fs::write(path, text).unwrap();
        assert_eq!(tree_of(&home), None, "{text:?} as {file}");
    }
    create();
    assert_eq!(tree_of(&home), Some(made), "made again");
    assert_eq!(contents(&home)["outcome"], "pass");
    assert!(elsewhere.join("planted").exists(), "no link was followed");
}
