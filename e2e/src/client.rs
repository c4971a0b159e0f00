//! The ordinary package clients of the host, as whoever runs the tests has
//! set them up: where they fetch from is theirs to know.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::call::start;
use crate::environment::{cache_home, whole};

/// The version whose cases `pjdfstest-differences.txt` names.
const PJDFSTEST: &str = "0.2.2";

/// A client of the host to its end, which must be success: its output.
pub fn client(program: &str, args: &[&str], cwd: &Path) -> String {
    let output = start(Path::new("/usr/bin/env"))
        .arg(program)
        .args(args)
        .env_clear()
        .envs(whole())
        .current_dir(cwd)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The directory with the program `pjdfstest`, installed once and kept
/// outside the checkout.
pub fn pjdfstest() -> PathBuf {
    let root = cache_home().join(format!("sbx-test/pjdfstest-{PJDFSTEST}"));
    let bin = root.join("bin");
    if !bin.join("pjdfstest").is_file() {
        let version = format!("pjdfstest@{PJDFSTEST}");
        let root = root.to_str().expect("the cache has a name in UTF-8");
        let args = ["install", "--locked", "--quiet", "--root", root, &version];
        client("cargo", &args, Path::new("/"));
    }
    bin
}

/// A JDK of the host that reads the store of the system, as those of Debian
/// do, and lies in one directory but for its configuration.
pub fn java() -> Option<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir("/usr/lib/jvm")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.path().canonicalize().ok())
        .filter(|jdk| {
            let store = std::fs::read_link(jdk.join("lib/security/cacerts"));
            store.is_ok_and(|store| store == Path::new("/etc/ssl/certs/java/cacerts"))
                && ["java", "javac", "keytool"]
                    .map(|program| jdk.join("bin").join(program).is_file())
                    == [true; 3]
        })
        .collect();
    all.sort();
    all.pop()
}
