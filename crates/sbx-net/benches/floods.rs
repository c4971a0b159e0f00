//! What an endpoint beside another one notices while that one's guest floods
//! it: small requests through the one, calm and under each flood by turns, and
//! beside the same flood program with nobody but a mirror at its other end,
//! which is what the program costs whoever it floods. Prints `WHAT WAY FIGURE`
//! lines for `cargo xtask bench net`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench fails by panicking and says what it measured"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::thread;

use sbx_net::layout;
use support::bed::{Bed, bed_with};
use support::program::example;
use support::web::allowed;

/// Servers on the host's loopback: of who is measured, and of the floods.
const ECHO: &str = "127.0.0.1:9000";
const QUIET: &str = "127.0.0.1:9001";
const LOUD: &str = "127.0.0.1:9002";

/// The floods and the ports that they ask for.
const FLOODS: [(&str, &str); 5] = [
    ("names", "0"),
    ("half", "9001"),
    ("denied", "0"),
    ("attempts", "9001"),
    ("slow", "9002"),
];

/// Longer than requests are measured.
const SECONDS: &str = "7";

fn main() {
    let (mut rounds, mut only, mut mirrors) = (5, None, true);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--rounds" => rounds = words.next().and_then(|count| count.parse().ok()).unwrap(),
            "--only" => only = words.next(),
            "--no-mirror" => mirrors = false,
            _ => {}
        }
    }
    let Some(mut bed) = bed_with("floods", &allowed(&["localhost:9000"]), None) else {
        return;
    };
    let load = example("load");
    let load = load.to_str().unwrap();
    let flood = example("flood");
    let flood = flood.to_str().unwrap();
    drop(bed.server("host", &[load, "serve", ECHO]));
    drop(bed.server("host", &[flood, "serve", "quiet", QUIET]));
    drop(bed.server("host", &[flood, "serve", "loud", LOUD]));
    for _ in 0..rounds {
        for (what, port) in FLOODS {
            if only.as_deref().is_some_and(|only| only != what) {
                continue;
            }
            let argv = [flood, what, SECONDS, port];
            say(what, "calm", &paced(&bed, load));
            if mirrors {
                let (guest, far) = sbx_sys::unix::message_pair().unwrap();
                drop(bed.server_with("guest", &[flood, "mirror"], far.into()));
                say(what, "mirror", &under(&mut bed, load, &argv, guest));
            }
            say(what, "sbx", &attacked(&mut bed, load, what, &argv));
        }
    }
}

/// The same beside an endpoint that is flooded.
fn attacked(bed: &mut Bed, load: &str, what: &str, argv: &[&str]) -> String {
    let mut beside = bed.beside(&allowed(&["localhost:9001", "localhost:9002"]));
    let link = beside.guest.try_clone().unwrap();
    // A supervisor that reads.
    let heard = thread::spawn(move || std::io::copy(&mut beside.control, &mut std::io::sink()));
    let figures = under(bed, load, argv, link);
    let busy = processor(beside.endpoint);
    println!("{what}-processor sbx {busy}");
    let status = fs::read_to_string(format!("/proc/{}/status", beside.endpoint)).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes: f64 = most
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .and_then(|count| count.parse().ok())
        .unwrap();
    println!("{what}-memory sbx {}", kilobytes / 1_000.0);
    // With its last guest it ends.
    drop(beside.guest);
    let _bytes = heard.join().unwrap().unwrap();
    figures
}

/// How much of one processor the endpoint had, in percent of the flood's time.
fn processor(endpoint: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{endpoint}/stat")).unwrap();
    // Behind the name in parentheses comes the third field.
    let fields = stat.rsplit_once(')').unwrap().1;
    let ticks: f64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<f64>().unwrap())
        .sum();
    let second = rustix::param::clock_ticks_per_second() as f64;
    ticks / second / SECONDS.parse::<f64>().unwrap() * 100.0
}

/// Paced requests while a flood goes on.
fn under(bed: &mut Bed, load: &str, argv: &[&str], link: OwnedFd) -> String {
    let mut flood = bed.server_with("guest", argv, link.into());
    let figures = paced(bed, load);
    let mut counts = String::new();
    flood.read_to_string(&mut counts).unwrap();
    let [_, what, ..] = argv else { return figures };
    println!("# {what}: frames to and from it: {}", counts.trim());
    figures
}

fn paced(bed: &Bed, load: &str) -> String {
    let server = format!("{}:9000", layout::HOST_V4);
    let output = bed.run(&[load, "paced", &server]);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{failed}");
    String::from_utf8(output.stdout).unwrap()
}

fn say(what: &str, way: &str, figures: &str) {
    for (kind, figure) in ["median", "99"].iter().zip(figures.split_whitespace()) {
        println!("{what}-{kind} {way} {figure}");
    }
}
