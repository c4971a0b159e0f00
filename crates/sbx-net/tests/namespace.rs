//! Real clients in a network namespace, on a jailed endpoint in another, with
//! a public server in a third: nothing here can leave the machine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use rustix::net::Shutdown;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use support::program::{example, program};

const IP: &str = "/usr/sbin/ip";
const TAP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tap.py");
const SERVER: &str = "
import http.server, sys
class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        size = int(self.path[1:] or 5)
        self.send_response(200)
        self.send_header('Content-Length', str(size))
        self.end_headers()
        self.wfile.write(b'x' * size)
    def do_PUT(self):
        left = int(self.headers['Content-Length'])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 16)))
        self.send_response(204)
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Server)
print('up', flush=True)
server.serve_forever()
";

/// Three namespaces, an endpoint and a bridge; all gone when dropped.
struct Bed {
    name: String,
    children: Vec<Child>,
    control: BufReader<UnixStream>,
    link: OwnedFd,
}

/// Why the bed cannot be made here; printed, since a test has no other way
/// to say that it was skipped.
fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    for path in [IP, "/usr/bin/curl", "/dev/net/tun"] {
        if !Path::new(path).exists() {
            return Some(format!("no {path}"));
        }
    }
    python().is_none().then(|| "no python3".to_owned())
}

fn python() -> Option<PathBuf> {
    ["/usr/bin/python3", "/usr/local/bin/python3"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
}

fn bed(test: &str) -> Option<Bed> {
    if let Some(fact) = missing() {
        #[expect(clippy::print_stdout, reason = "a skip says what is missing")]
        {
            println!("SKIPPED {test}: {fact}");
        }
        return None;
    }
    let name = format!("sbx{}{test}", std::process::id());
    let (link, vmm) = sbx_sys::unix::message_pair().unwrap();
    let (control, supervisor) = UnixStream::pair().unwrap();
    let mut bed = Bed {
        name,
        children: Vec::new(),
        control: BufReader::new(supervisor),
        link: vmm.try_clone().unwrap(),
    };
    bed.lay_out();
    bed.serve("public", "0.0.0.0", "80");
    bed.serve("host", "127.0.0.1", "8080");
    bed.serve("host", "198.51.100.1", "8081");
    let endpoint = example("endpoint");
    let endpoint = [endpoint.to_str().unwrap()];
    bed.spawn(
        "host",
        &endpoint,
        link.into(),
        OwnedFd::from(control).into(),
    );
    let python = python().unwrap();
    bed.spawn(
        "guest",
        &[python.to_str().unwrap(), TAP, "tap0"],
        vmm.into(),
        Stdio::null(),
    );
    let ready = bed.line();
    assert!(
        ready["ready"]["walls"]
            .as_array()
            .is_some_and(|walls| walls.len() >= 6),
        "{ready}"
    );
    let order = serde_json::json!({"policy": {"revision": 1, "rules": support::rules(&[8080])}});
    let control = bed.control.get_mut();
    control.write_all(format!("{order}\n").as_bytes()).unwrap();
    assert_eq!(bed.line()["policy"]["revision"], 1);
    Some(bed)
}

impl Bed {
    fn lay_out(&self) {
        for space in ["guest", "host", "public"] {
            self.ip(&["netns", "add", &self.space(space)]);
            self.within(space, &["link", "set", "lo", "up"]);
            fs::create_dir_all(format!("/etc/netns/{}", self.space(space))).unwrap();
        }
        let public = self.space("public");
        self.within(
            "host",
            &[
                "link", "add", "out", "type", "veth", "peer", "name", "in", "netns", &public,
            ],
        );
        self.within("host", &["addr", "add", "198.51.100.1/24", "dev", "out"]);
        self.within("host", &["link", "set", "out", "up"]);
        self.within("public", &["addr", "add", "198.51.100.2/24", "dev", "in"]);
        self.within("public", &["addr", "add", "192.0.2.80/32", "dev", "lo"]);
        self.within("public", &["addr", "add", "10.1.2.3/32", "dev", "lo"]);
        self.within("public", &["link", "set", "in", "up"]);
        self.within("host", &["route", "add", "default", "via", "198.51.100.2"]);
        self.within("guest", &["tuntap", "add", "tap0", "mode", "tap"]);
        self.within("guest", &["link", "set", "tap0", "mtu", "65520", "up"]);
        self.within("guest", &["addr", "add", "198.19.255.2/24", "dev", "tap0"]);
        self.within(
            "guest",
            &[
                "addr",
                "add",
                "fd73:6278:7800::2/64",
                "dev",
                "tap0",
                "nodad",
            ],
        );
        self.within("guest", &["route", "add", "default", "via", "198.19.255.1"]);
        self.within(
            "guest",
            &["-6", "route", "add", "default", "via", "fd73:6278:7800::1"],
        );
        self.file("guest", "resolv.conf", "nameserver 198.19.255.1\n");
        self.file("guest", "hosts", "127.0.0.1 localhost\n");
        self.file(
            "host",
            "resolv.conf",
            "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
        );
        self.file(
            "host",
            "hosts",
            "127.0.0.1 localhost loop.example\n192.0.2.80 www.example mixed.example\n\
             10.1.2.3 private.example mixed.example\n198.51.100.1 self.example\n",
        );
    }

    fn space(&self, which: &str) -> String {
        format!("{}-{which}", self.name)
    }

    fn ip(&self, arguments: &[&str]) {
        let output = program(IP).args(arguments).output().unwrap();
        assert!(
            output.status.success(),
            "ip {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn within(&self, space: &str, arguments: &[&str]) {
        let space = self.space(space);
        self.ip(&[&["-n", &space], arguments].concat());
    }

    fn file(&self, space: &str, name: &str, text: &str) {
        fs::write(format!("/etc/netns/{}/{name}", self.space(space)), text).unwrap();
    }

    fn spawn(&mut self, space: &str, argv: &[&str], input: Stdio, output: Stdio) {
        let space = self.space(space);
        let child = program(IP)
            .args(["netns", "exec", &space])
            .args(argv)
            .stdin(input)
            .stdout(output)
            .spawn()
            .unwrap();
        self.children.push(child);
    }

    fn serve(&mut self, space: &str, address: &str, port: &str) {
        let python = python().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let argv = [python.to_str().unwrap(), "-c", SERVER, address, port];
        self.spawn(space, &argv, Stdio::null(), OwnedFd::from(theirs).into());
        let mut line = String::new();
        BufReader::new(ours).read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
    }

    fn run(&self, argv: &[&str]) -> Output {
        program(IP)
            .args(["netns", "exec", &self.space("guest")])
            .args(argv)
            .output()
            .unwrap()
    }

    /// The body of a page, or curl's exit status.
    fn get(&self, url: &str) -> Result<String, i32> {
        let output = self.run(&["/usr/bin/curl", "-sS", "-m", "20", url]);
        match output.status.code() {
            Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
            code => Err(code.unwrap_or(-1)),
        }
    }

    fn line(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.control.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn flow(&mut self) -> serde_json::Value {
        loop {
            if let Some(flow) = self.line().get("flow") {
                return flow.clone();
            }
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        // Without its link the endpoint ends by itself; the rest is ended.
        let _gone = rustix::net::shutdown(&self.link, Shutdown::Both);
        for child in &mut self.children {
            let _gone = child.kill();
            let _gone = child.wait();
        }
        for space in ["guest", "host", "public"] {
            let space = self.space(space);
            let _gone = program(IP).args(["netns", "del", &space]).status();
            let _gone = fs::remove_dir_all(format!("/etc/netns/{space}"));
        }
    }
}

/// curl's "could not connect".
const REFUSED: Result<String, i32> = Err(7);

#[test]
fn a_name_is_resolved_on_the_host_and_only_its_public_addresses_are_dialled() {
    let Some(mut bed) = bed("names") else { return };
    assert_eq!(bed.get("http://www.example/").as_deref(), Ok("xxxxx"));
    let flow = bed.flow();
    assert_eq!(
        (flow["host"].as_str(), flow["addr"].as_str()),
        (Some("www.example"), Some("192.0.2.80"))
    );
    assert_eq!(bed.get("http://192.0.2.80/").as_deref(), Ok("xxxxx"));
    bed.flow();

    // One public and one private address: the private one is left out.
    assert_eq!(bed.get("http://mixed.example/").as_deref(), Ok("xxxxx"));
    assert_eq!(bed.flow()["addr"].as_str(), Some("192.0.2.80"));

    for (url, rule) in [
        ("http://private.example:8080/", "default:private"),
        ("http://loop.example:8080/", "default:loopback"),
        ("http://self.example:8081/", "default:host-interface"),
        ("http://198.51.100.1:8081/", "default:host-interface"),
        ("http://10.1.2.3:8080/", "default:private"),
        ("http://nowhere.example/", "default:no-address"),
        ("http://[fd00:ec2::254]:8080/", "default:unique-local"),
        ("http://192.0.2.80:53/", "default:dns-port"),
    ] {
        assert_eq!(bed.get(url), REFUSED, "{url}");
        assert_eq!(bed.flow()["rule"].as_str(), Some(rule), "{url}");
    }
}

#[test]
fn a_denied_page_says_so_and_an_allowed_one_is_itself() {
    let Some(bed) = bed("told") else { return };
    assert_eq!(bed.get("http://www.example/").as_deref(), Ok("xxxxx"));
    for (url, rule) in [
        ("http://private.example/", "default:private"),
        ("http://10.1.2.3/", "default:private"),
        ("http://[fd00:ec2::254]/", "default:unique-local"),
    ] {
        let page = bed.get(url).unwrap();
        assert!(page.contains(&format!("rule: {rule}\n")), "{page}");
    }
}

#[test]
fn the_opened_port_of_the_host_is_reached_by_its_names_and_no_other_way() {
    let Some(bed) = bed("host") else { return };
    for url in [
        "http://host.sbx.internal:8080/",
        "http://host.docker.internal:8080/",
        "http://[fd73:6278:7800::fe]:8080/",
    ] {
        assert_eq!(bed.get(url).as_deref(), Ok("xxxxx"), "{url}");
    }
    for url in [
        "http://host.sbx.internal:8081/",
        "http://198.19.255.1:8080/",
    ] {
        assert_eq!(bed.get(url), REFUSED, "{url}");
    }
}

#[test]
fn large_bodies_pass_both_ways_beside_each_other() {
    let Some(bed) = bed("bulk") else { return };
    let size = 50_000_000;
    let file = std::env::temp_dir().join(format!("{}-body", bed.name));
    fs::write(&file, vec![7; size]).unwrap();
    let down = format!("http://www.example/{size}");
    let output = bed.run(&[
        "/usr/bin/curl",
        "-sS",
        "-m",
        "60",
        "--parallel",
        "--parallel-immediate",
        "-w",
        "%{http_code} %{size_download} %{size_upload}\n",
        "-T",
        file.to_str().unwrap(),
        "http://www.example/put",
        &down,
        &down,
        &down,
        "-o",
        "/dev/null",
        "-o",
        "/dev/null",
        "-o",
        "/dev/null",
        "-o",
        "/dev/null",
    ]);
    fs::remove_file(&file).unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(text.matches(&format!("200 {size} 0")).count(), 3, "{text}");
    assert!(text.contains(&format!("204 0 {size}")), "{text}");
}
