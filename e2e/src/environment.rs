//! The one place that reads the environment of the test run.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

#[expect(
    clippy::disallowed_methods,
    reason = "the environment of the test run is read here and nowhere else"
)]
fn value(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// The directory with `sbx` and its companions: `SBX_E2E_BIN`, else the
/// release or debug build beside the test program.
pub(crate) fn programs() -> PathBuf {
    if let Some(given) = value("SBX_E2E_BIN") {
        return given.into();
    }
    let me = std::env::current_exe().expect("the test program has a path");
    let target = me
        .ancestors()
        .find(|path| path.ends_with("target"))
        .expect("the test program lies in a target directory");
    ["release", "debug"]
        .map(|profile| target.join(profile))
        .into_iter()
        .find(|bin| {
            ["sbx", "sbx-vmm", "sbx-guest"]
                .iter()
                .all(|p| bin.join(p).is_file())
        })
        .expect("sbx, sbx-vmm and sbx-guest are built: `./x sbx version`")
}

/// A program of the host, by its name.
pub(crate) fn program(name: &str) -> PathBuf {
    [
        "/usr/local/bin",
        "/usr/bin",
        "/usr/local/sbin",
        "/usr/sbin",
        "/sbin",
        "/bin",
    ]
    .iter()
    .map(|directory| Path::new(directory).join(name))
    .find(|path| path.is_file())
    .unwrap_or_else(|| PathBuf::from(name))
}

/// The cache that all homes share: kernel, template and kits are made once.
pub(crate) fn cache() -> PathBuf {
    let of = |name| value(name).map(PathBuf::from);
    of("SBX_E2E_CACHE")
        .or_else(|| of("SBX_CACHE_DIR"))
        .unwrap_or_else(|| cache_home().join("sbx"))
}

/// Where whoever runs the tests keeps what can be made again.
pub(crate) fn cache_home() -> PathBuf {
    value("XDG_CACHE_HOME").map_or_else(|| caller_home().join(".cache"), PathBuf::from)
}

/// The home of whoever runs the tests.
pub(crate) fn caller_home() -> PathBuf {
    value("HOME").map_or_else(|| Path::new("/root").to_owned(), PathBuf::from)
}

/// Everything, for the one call that may have to fetch packages with the
/// caller's own clients.
pub(crate) fn whole() -> Vec<(OsString, OsString)> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the environment of the test run is read here and nowhere else"
    )]
    let all = std::env::vars_os();
    all.filter(|(name, _)| !name.to_string_lossy().starts_with("SBX_"))
        .collect()
}

/// Whether everything is to be run, and not the gate's share of it.
pub fn full_run() -> bool {
    value("SBX_TEST_ALL").is_some() || value("SBX_E2E_ALL").is_some()
}
