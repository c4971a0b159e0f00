//! Makes artefacts without starting a sandbox: for releases and developers.
//!
//! `artefact CACHE kernel|base|<kit>` prints the path of the result, shows
//! progress on standard error, and ends with 1 on failure.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program of its own that talks to a developer"
)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use parking_lot::Mutex;
use sbx_images::{Artifact, Cache, Error, Host, Kit, Progress};

/// Prints a step when its percentage changes.
struct Lines(Mutex<(String, u64)>);

impl Progress for Lines {
    fn step(&self, name: &str, done: u64, total: u64) {
        let percent = done.saturating_mul(100).checked_div(total).unwrap_or(0);
        let mut last = self.0.lock();
        if last.0 != name || last.1 / 5 != percent / 5 {
            eprintln!("{name}: {percent} %");
            *last = (name.to_owned(), percent);
        }
    }

    fn note(&self, text: &str) {
        eprintln!("{text}");
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let [_, cache, what] = args.as_slice() else {
        eprintln!("usage: artefact CACHE kernel|base|KIT");
        return ExitCode::from(2);
    };
    match make(Path::new(cache), what) {
        Ok(path) => {
            println!("{}", path.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            error.hint().inspect(|hint| eprintln!("hint: {hint}"));
            ExitCode::FAILURE
        }
    }
}

fn make(cache: &Path, what: &str) -> Result<PathBuf, Error> {
    let cache = Cache::open(cache)?;
    let env = std::env::vars_os()
        .filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)));
    let host = Host::new(PathBuf::from("/nonexistent/bin"), std::env::home_dir(), env);
    let progress = Lines(Mutex::new((String::new(), 0)));
    let path = |image: Artifact| image.path;
    match what {
        "kernel" => sbx_images::kernel(&cache, &host, &progress).map(|k| path(k.image)),
        "base" => sbx_images::base(&cache, &host, &progress).map(|b| path(b.image)),
        kit => {
            let form = |reason: String| Error::Form {
                what: format!("kit {kit}"),
                reason,
            };
            let name = kit
                .parse()
                .map_err(|e: sbx_spec::NameError| form(e.to_string()))?;
            let kit = Kit::named(&name)?.ok_or_else(|| form("there is none".to_owned()))?;
            let image = kit.image(&cache, &host, &progress)?;
            image
                .map(path)
                .ok_or_else(|| form("it brings no program".to_owned()))
        }
    }
}
