//! An endpoint beside others of its trade and beside none, by turns: a plain
//! stream, connections and small requests beside loopback, passt and
//! slirp4netns; judged requests beside mitmproxy. Prints `WHAT WAY FIGURE`
//! lines for `cargo xtask bench net`; a peer that is not installed has none.
//! `--only WHAT` measures one of them, for whoever looks for its cause.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench fails by panicking and says what it measured"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;

use sbx_net::layout;
use support::bed::{Bed, bed_with};
use support::program::example;
use support::web::{allowed, certificates};

/// Where the plain server listens, on the host's loopback.
const PORT: u16 = 9_000;

/// Together less than an endpoint's connections.
const BUSY: &str = "100";
const IDLE: &str = "4900";

/// How a client gets to it: from which space, and by which address.
struct Way {
    name: &'static str,
    space: &'static str,
    address: String,
}

/// What to measure, and how often.
struct Plan {
    rounds: usize,
    only: Option<String>,
}

impl Plan {
    fn wants(&self, what: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == what)
    }
}

fn main() {
    let mut plan = Plan {
        rounds: 5,
        only: None,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--rounds" => {
                plan.rounds = words.next().and_then(|count| count.parse().ok()).unwrap();
            }
            "--only" => plan.only = words.next(),
            _ => {}
        }
    }
    let directory = std::env::temp_dir().join(format!("sbx-peers-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    certificates(&directory);
    measure(&plan, &directory);
    fs::remove_dir_all(&directory).unwrap();
}

fn measure(plan: &Plan, directory: &Path) {
    let rules = allowed(&["localhost:9000", "www.example:443 GET,PUT /**"]);
    let root = directory.join("root.pem");
    let Some(mut bed) = bed_with("peers", &rules, Some(&root)) else {
        return;
    };
    let load = example("load");
    let load = load.to_str().unwrap();
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (leaf, key) = (path("leaf.pem"), path("key.pem"));
    let plain = format!("127.0.0.1:{PORT}");
    drop(bed.server("host", &[load, "serve", &plain]));
    drop(bed.server("public", &[load, "serve", "192.0.2.80:443", &leaf, &key]));

    let mut ways = vec![
        Way {
            name: "loopback",
            space: "host",
            address: plain,
        },
        Way {
            name: "sbx",
            space: "guest",
            address: format!("{}:{PORT}", layout::HOST_V4),
        },
    ];
    ways.extend(passt(&mut bed));
    ways.extend(slirp4netns(&mut bed));
    for _ in 0..plan.rounds {
        for arguments in [
            &["stream", "1"][..],
            &["stream", "16"],
            &["connect"],
            &["request"],
        ] {
            let name = arguments.join("-");
            for way in ways.iter().filter(|_| plan.wants(&name)) {
                let (what, rest) = arguments.split_first().unwrap();
                let argv = [&[load, what, &way.address], rest].concat();
                let figure = said(&bed, way.space, &argv);
                println!("{name} {} {figure}", way.name);
            }
        }
    }

    let own = ways.iter().find(|way| way.name == "sbx").unwrap();
    for _ in 0..if plan.wants("busy") { plan.rounds } else { 0 } {
        beside_idle(&bed, own, load);
    }

    let server = "192.0.2.80:443".to_owned();
    let authority = bed.trusted().to_str().unwrap().to_owned();
    let mut judges = vec![
        ("direct", "host", server, path("root.pem"), "-".to_owned()),
        (
            "sbx",
            "guest",
            "www.example:443".to_owned(),
            authority,
            "-".to_owned(),
        ),
    ];
    if let Some((proxy, authority)) = mitmproxy(&mut bed, directory) {
        judges.push(("mitmproxy", "host", proxy.clone(), authority, proxy));
    }
    for _ in 0..plan.rounds {
        for how in ["each", "kept"] {
            for (way, space, address, root, proxy) in judges.iter().filter(|_| plan.wants(how)) {
                let argv = [load, "web", address, "www.example", root, proxy, how];
                println!("{how} {way} {}", said(&bed, space, &argv));
            }
        }
    }
}

/// How much connections carry, first alone and then beside others that stand
/// and say nothing.
fn beside_idle(bed: &Bed, way: &Way, load: &str) {
    let stream = [load, "stream", &way.address, BUSY];
    println!("busy alone {}", said(bed, way.space, &stream));
    let mut idle = bed.start(&[load, "idle", &way.address, IDLE]);
    let mut up = String::new();
    let mut says = BufReader::new(idle.stdout.take().unwrap());
    says.read_line(&mut up).unwrap();
    assert_eq!(up, "up\n");
    println!("busy sbx {}", said(bed, way.space, &stream));
    drop(idle.stdin.take());
    assert!(idle.wait().unwrap().success());
}

fn said(bed: &Bed, space: &str, argv: &[&str]) -> String {
    let output = bed.run_in(space, argv);
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{argv:?} in {space}: {failed}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Its splice is for the loopback of its namespace; by the gateway, which is
/// the host's loopback to it, it carries packets.
fn passt(bed: &mut Bed) -> Option<Way> {
    let pasta = installed("/usr/bin/pasta")?;
    let space = bed.join("pasta");
    let argv = [
        pasta,
        "--foreground",
        "--quiet",
        "--runas",
        "0",
        "--config-net",
        "--netns",
        &space,
        "-t",
        "none",
        "-u",
        "none",
        "-T",
        "none",
        "-U",
        "none",
    ];
    bed.peer(&argv, "pasta");
    Some(Way {
        name: "passt",
        space: "pasta",
        address: format!("198.51.100.2:{PORT}"),
    })
}

fn slirp4netns(bed: &mut Bed) -> Option<Way> {
    let slirp = installed("/usr/bin/slirp4netns")?;
    let space = bed.join("slirp");
    let argv = [
        slirp,
        "--configure",
        "--mtu=65520",
        "--netns-type=path",
        &space,
        "tap0",
    ];
    bed.peer(&argv, "slirp");
    Some(Way {
        name: "slirp4netns",
        space: "slirp",
        address: format!("10.0.2.2:{PORT}"),
    })
}

/// Its address, and the certificate that it is believed by.
fn mitmproxy(bed: &mut Bed, directory: &Path) -> Option<(String, String)> {
    let mitmdump = installed("/usr/bin/mitmdump")?;
    let own = directory.join("mitmproxy");
    let set = |name: &str, value: &Path| format!("{name}={}", value.display());
    let argv = [
        mitmdump,
        "--quiet",
        "--listen-host",
        "127.0.0.1",
        "--listen-port",
        "8088",
        "--set",
        &set("confdir", &own),
        "--set",
        &set(
            "ssl_verify_upstream_trusted_ca",
            &directory.join("root.pem"),
        ),
    ];
    bed.listener("host", &argv, 8_088);
    let authority = own.join("mitmproxy-ca-cert.pem");
    Some((
        "127.0.0.1:8088".to_owned(),
        authority.to_str().unwrap().to_owned(),
    ))
}

fn installed(program: &'static str) -> Option<&'static str> {
    Path::new(program).exists().then_some(program)
}
