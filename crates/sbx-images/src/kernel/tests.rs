//! Tests of how a kernel is found and described.

use super::*;
use crate::progress::Silent;

/// A prefix with a kernel beside the program, as a release has it.
fn release(options: &str, image: &[u8]) -> (tempfile::TempDir, Host, Cache) {
    let dir = tempfile::tempdir().unwrap();
    let lib = dir.path().join("lib/sbx");
    fs::create_dir_all(&lib).unwrap();
    fs::write(lib.join(IMAGE), image).unwrap();
    let description = Description {
        version: 1,
        release: "6.12.0-sbx".to_owned(),
        source: "linux-source-6.12 6.12.0".to_owned(),
        key: Key::of(&[b"k"]).as_str().to_owned(),
        options: options.to_owned(),
        sha256: {
            let good = dir.path().join("good");
            fs::write(&good, b"a kernel").unwrap();
            hash_file(&good).unwrap()
        },
    };
    fs::write(
        lib.join(DESCRIPTION),
        serde_json::to_vec(&description).unwrap(),
    )
    .unwrap();
    let host = Host::new(dir.path().join("bin"), None, []);
    let cache = Cache::open(&dir.path().join("cache")).unwrap();
    (dir, host, cache)
}

#[test]
fn a_kernel_beside_the_program_is_taken() {
    let (_dir, host, cache) = release(&options_digest(), b"a kernel");
    let first = kernel(&cache, &host, &Silent).unwrap();
    assert!(first.shipped);
    assert_eq!(first.release, "6.12.0-sbx");
    assert_eq!(kernel(&cache, &host, &Silent).unwrap().image, first.image);
    assert!(missing_for_kernel(&cache, &host).unwrap().is_empty());
}

#[test]
fn a_kernel_with_other_options_or_contents_is_not() {
    let (_dir, host, cache) = release("0000", b"a kernel");
    assert!(shipped(&cache, &host).unwrap().is_none());
    let (_dir, host, cache) = release(&options_digest(), b"another!");
    assert!(shipped(&cache, &host).unwrap().is_none());
}

#[test]
fn a_replaced_kernel_is_noticed() {
    let (dir, host, cache) = release(&options_digest(), b"a kernel");
    assert!(shipped(&cache, &host).unwrap().is_some());
    fs::write(dir.path().join("lib/sbx").join(IMAGE), b"another!").unwrap();
    assert!(shipped(&cache, &host).unwrap().is_none());
}
