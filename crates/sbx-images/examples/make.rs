//! Makes artefacts in a cache directory: `make CACHE kernel|base|kit NAME`.
#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "a program for developers")]

use std::path::Path;

use sbx_images::{Cache, Host, Progress};

struct Stderr;

impl Progress for Stderr {
    fn step(&self, name: &str, done: u64, total: u64) {
        eprint!("\r{name}: {done}/{total}    ");
        if done >= total {
            eprintln!();
        }
    }

    fn note(&self, text: &str) {
        eprintln!("note: {text}");
    }
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let cache = Cache::open(Path::new(&args[1])).unwrap();
    let home = std::env::home_dir();
    let exe = std::env::current_exe().unwrap();
    let host = Host::new(exe.parent().unwrap().to_path_buf(), home, std::env::vars_os().filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?))));
    let begin = std::time::Instant::now();
    match args[2].as_str() {
        "kernel" => eprintln!("{:#?}", sbx_images::kernel(&cache, &host, &Stderr)),
        "base" => eprintln!("{:#?}", sbx_images::base(&cache, &host, &Stderr)),
        kit => {
            let kit = sbx_images::Kit::named(&kit.parse().unwrap()).unwrap().unwrap();
            eprintln!("{:#?}", sbx_images::prepare(&cache, &host, &kit, &Stderr).map(|p| p.kit_image));
        }
    }
    eprintln!("{:?}", begin.elapsed());
}
