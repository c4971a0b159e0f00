//! Three namespaces: a guest with real clients, a jailed endpoint of a host,
//! and the public network behind it. Nothing in them can leave the machine.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};

use rustix::net::Shutdown;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sbx_net::Authority;
use sbx_spec::Rule;

use super::program::{example, program};

const IP: &str = "/usr/sbin/ip";
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

/// How the frames of the guest get to the endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From a tap device over the socket to a VMM, which a bridge stands for.
    Machine,
    /// From one end of a pair of interfaces, whose other end is a packet socket
    /// in a fourth namespace.
    Container,
}

impl Way {
    /// The guest's interface.
    fn device(self) -> &'static str {
        match self {
            Self::Machine => "tap0",
            Self::Container => "eth0",
        }
    }
}

/// Three namespaces, an endpoint and a bridge; all gone when dropped.
pub struct Bed {
    pub name: String,
    children: Vec<Child>,
    control: BufReader<UnixStream>,
    /// The VMM's end, where there is one.
    link: Option<OwnedFd>,
    /// Spaces of others beside the three.
    joined: Vec<&'static str>,
}

/// An endpoint beside that of the bed; it ends with its link.
pub struct Beside {
    /// Its process id.
    pub endpoint: u32,
    /// The guest's end of its link.
    pub guest: OwnedFd,
    /// Its supervisor's end.
    pub control: BufReader<UnixStream>,
}

/// Why the bed cannot be made here; printed, since a test has no other way
/// to say that it was skipped.
fn missing(way: Way) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let tun = (way == Way::Machine).then_some("/dev/net/tun");
    for path in [IP, "/usr/bin/curl"].into_iter().chain(tun) {
        if !Path::new(path).exists() {
            return Some(format!("no {path}"));
        }
    }
    python().is_none().then(|| "no python3".to_owned())
}

/// Python of the distribution.
pub fn python() -> Option<PathBuf> {
    ["/usr/bin/python3", "/usr/local/bin/python3"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| path.exists())
}

/// A bed with `open` rules and a port of the host.
pub fn bed(test: &str) -> Option<Bed> {
    bed_with(test, &super::rules(&[8080]), None)
}

/// A bed with other rules, whose endpoint believes the certificates in a file
/// and has an authority that the guest trusts.
pub fn bed_with(test: &str, rules: &[Rule], trust: Option<&Path>) -> Option<Bed> {
    bed_on(Way::Machine, test, rules, trust)
}

/// The same, where the guest is a container.
pub fn container(test: &str, rules: &[Rule]) -> Option<Bed> {
    bed_on(Way::Container, test, rules, None)
}

fn bed_on(way: Way, test: &str, rules: &[Rule], trust: Option<&Path>) -> Option<Bed> {
    if let Some(fact) = missing(way) {
        #[expect(clippy::print_stdout, reason = "a skip says what is missing")]
        {
            println!("SKIPPED {test}: {fact}");
        }
        return None;
    }
    let name = format!("sbx{}{test}", std::process::id());
    let (control, supervisor) = UnixStream::pair().unwrap();
    let mut bed = Bed {
        name,
        children: Vec::new(),
        control: BufReader::new(supervisor),
        link: None,
        joined: Vec::new(),
    };
    bed.lay_out();
    let (link, vmm) = match way {
        Way::Machine => {
            let (link, vmm) = sbx_sys::unix::message_pair().unwrap();
            bed.link = Some(vmm.try_clone().unwrap());
            bed.within("guest", &["tuntap", "add", way.device(), "mode", "tap"]);
            (link, Some(vmm))
        }
        Way::Container => (bed.wire(way.device()), None),
    };
    bed.set_up(way.device());
    bed.serve("public", "0.0.0.0", "80");
    bed.serve("host", "127.0.0.1", "8080");
    bed.serve("host", "198.51.100.1", "8081");
    let endpoint = example(match cfg!(feature = "unguarded") {
        true => "unguarded",
        false => "endpoint",
    });
    let mut argv = vec![endpoint.to_str().unwrap()];
    argv.extend(trust.map(|path| path.to_str().unwrap()));
    bed.spawn("host", &argv, link.into(), OwnedFd::from(control).into());
    if let Some(vmm) = vmm {
        let tap = example("tap");
        let argv = [tap.to_str().unwrap(), way.device()];
        // What the guest says before would be lost, and said again much later.
        drop(bed.server_with("guest", &argv, vmm.into()));
    }
    let ready = bed.line();
    assert!(
        ready["ready"]["walls"]
            .as_array()
            .is_some_and(|walls| walls.len() >= 6),
        "{ready}"
    );
    if trust.is_some() {
        let authority = Authority::new("bed").unwrap();
        fs::write(bed.trusted(), &authority.certificate).unwrap();
        bed.order(&serde_json::json!({"authority": authority}));
    }
    bed.order_rules(1, rules);
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
            "127.0.0.1 localhost loop.example\n192.0.2.80 www.example other.example mixed.example\n\
             10.1.2.3 private.example mixed.example\n198.51.100.1 self.example\n",
        );
    }

    /// The guest's interface, as its init sets it up.
    fn set_up(&self, device: &str) {
        self.within("guest", &["link", "set", device, "mtu", "65520", "up"]);
        self.within("guest", &["addr", "add", "198.19.255.2/24", "dev", device]);
        let v6 = [
            "addr",
            "add",
            "fd73:6278:7800::2/64",
            "dev",
            device,
            "nodad",
        ];
        self.within("guest", &v6);
        self.within("guest", &["route", "add", "default", "via", "198.19.255.1"]);
        self.within(
            "guest",
            &["-6", "route", "add", "default", "via", "fd73:6278:7800::1"],
        );
    }

    /// Gives the guest its interface; the other end, in a namespace that the
    /// guest does not have.
    fn wire(&mut self, device: &'static str) -> OwnedFd {
        let wire = fs::File::open(self.join("wire")).unwrap();
        let guest = fs::File::open(format!("/run/netns/{}", self.space("guest"))).unwrap();
        // A thread of its own, since it stays there.
        let made = std::thread::spawn(move || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(wire.as_fd(), kind).unwrap();
            let mtu = u32::try_from(sbx_net::limits::MTU).unwrap();
            let made = sbx_sys::veth::pair("wire", device, None, mtu, guest.as_fd()).unwrap();
            move_into_link_name_space(guest.as_fd(), kind).unwrap();
            sbx_sys::veth::whole(device).unwrap();
            made
        });
        made.join().unwrap()
    }

    /// Ends the guest: its namespace goes with the last of its programs.
    pub fn end_guest(&self) {
        self.ip(&["netns", "del", &self.space("guest")]);
    }

    /// Waits until the endpoint has ended by itself; whether in good order.
    pub fn ended(&mut self) -> bool {
        let id = self.endpoint();
        let endpoint = self.children.iter_mut().find(|child| child.id() == id);
        endpoint.unwrap().wait().unwrap().success()
    }

    /// What the guest trusts.
    pub fn trusted(&self) -> PathBuf {
        std::env::temp_dir().join(format!("{}-authority.pem", self.name))
    }

    pub fn order(&mut self, order: &serde_json::Value) {
        let control = self.control.get_mut();
        control.write_all(format!("{order}\n").as_bytes()).unwrap();
    }

    /// Brings rules into force.
    pub fn order_rules(&mut self, revision: u64, rules: &[Rule]) {
        self.order(&serde_json::json!({"policy": {"revision": revision, "rules": rules}}));
        loop {
            if let Some(policy) = self.line().get("policy") {
                assert_eq!(policy["revision"], revision);
                return;
            }
        }
    }

    /// Another endpoint on the same host, whose guest is whoever has its link.
    pub fn beside(&mut self, rules: &[Rule]) -> Beside {
        let (link, guest) = sbx_sys::unix::message_pair().unwrap();
        let (control, supervisor) = UnixStream::pair().unwrap();
        let endpoint = example("endpoint");
        let argv = [endpoint.to_str().unwrap()];
        self.spawn("host", &argv, link.into(), OwnedFd::from(control).into());
        let policy = serde_json::json!({"policy": {"revision": 1, "rules": rules}});
        (&supervisor)
            .write_all(format!("{policy}\n").as_bytes())
            .unwrap();
        let mut control = BufReader::new(supervisor);
        let mut line = String::new();
        while !line.contains("\"policy\"") {
            line.clear();
            assert_ne!(control.read_line(&mut line).unwrap(), 0);
        }
        Beside {
            endpoint: self.children.last().unwrap().id(),
            guest,
            control,
        }
    }

    /// The process id of the endpoint.
    pub fn endpoint(&self) -> u32 {
        let named = |child: &&Child| {
            let name = fs::read_to_string(format!("/proc/{}/comm", child.id()));
            name.is_ok_and(|name| ["endpoint", "unguarded"].contains(&name.trim_end()))
        };
        self.children.iter().find(named).unwrap().id()
    }

    /// Starts a program that says `up` when it serves; the rest of what it
    /// says.
    pub fn server(&mut self, space: &str, argv: &[&str]) -> BufReader<UnixStream> {
        self.server_with(space, argv, Stdio::null())
    }

    /// The same, with something on its descriptor 0.
    pub fn server_with(
        &mut self,
        space: &str,
        argv: &[&str],
        input: Stdio,
    ) -> BufReader<UnixStream> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.spawn(space, argv, input, OwnedFd::from(theirs).into());
        let mut said = BufReader::new(ours);
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        said
    }

    /// Starts a program of the guest that goes on by itself.
    pub fn start(&self, argv: &[&str]) -> Child {
        program(IP)
            .args(["netns", "exec", &self.space("guest")])
            .args(argv)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap()
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

    /// Has `ip` do something in a space.
    pub fn within(&self, space: &str, arguments: &[&str]) {
        let space = self.space(space);
        self.ip(&[&["-n", &space], arguments].concat());
    }

    /// A file of that space's `/etc`.
    pub fn file(&self, space: &str, name: &str, text: &str) {
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
        let argv = [python.to_str().unwrap(), "-c", SERVER, address, port];
        drop(self.server(space, &argv));
    }

    pub fn run(&self, argv: &[&str]) -> Output {
        self.run_in("guest", argv)
    }

    pub fn run_in(&self, space: &str, argv: &[&str]) -> Output {
        program(IP)
            .args(["netns", "exec", &self.space(space)])
            .args(argv)
            .output()
            .unwrap()
    }

    /// Adds an empty space; the file that stands for it.
    pub fn join(&mut self, space: &'static str) -> String {
        self.ip(&["netns", "add", &self.space(space)]);
        self.joined.push(space);
        format!("/run/netns/{}", self.space(space))
    }

    /// Starts a program of the host's that gives a space its network, and
    /// waits until it has one.
    pub fn peer(&mut self, argv: &[&str], space: &'static str) {
        self.spawn("host", argv, Stdio::null(), Stdio::null());
        self.until(&["-n", &self.space(space), "route", "show", "default"]);
    }

    /// Starts a server and waits until it listens on this port.
    pub fn listener(&mut self, space: &str, argv: &[&str], port: u16) {
        self.spawn(space, argv, Stdio::null(), Stdio::null());
        self.listening(space, port);
    }

    /// Waits until the server that was started last listens on this port.
    pub fn listening(&mut self, space: &str, port: u16) {
        let port = format!("( sport = :{port} )");
        let space = self.space(space);
        self.until(&["netns", "exec", &space, "ss", "-Hltn", &port]);
    }

    /// Asks until there is an answer: these programs tell nobody when they
    /// are there.
    fn until(&mut self, arguments: &[&str]) {
        loop {
            let output = program(IP).args(arguments).output().unwrap();
            if !output.stdout.is_empty() {
                return;
            }
            let last = self.children.last_mut().unwrap();
            assert!(last.try_wait().unwrap().is_none(), "{arguments:?}");
            std::thread::yield_now();
        }
    }

    /// The body of a page, or curl's exit status.
    pub fn get(&self, url: &str) -> Result<String, i32> {
        let output = self.run(&["/usr/bin/curl", "-sS", "-m", "20", url]);
        match output.status.code() {
            Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
            code => Err(code.unwrap_or(-1)),
        }
    }

    pub fn line(&mut self) -> serde_json::Value {
        let mut line = String::new();
        self.control.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    pub fn flow(&mut self) -> serde_json::Value {
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
        if let Some(link) = &self.link {
            let _gone = rustix::net::shutdown(link, Shutdown::Both);
        }
        for child in &mut self.children {
            let _gone = child.kill();
            let _gone = child.wait();
        }
        for space in ["guest", "host", "public"].iter().chain(&self.joined) {
            let space = self.space(space);
            let _gone = program(IP).args(["netns", "del", &space]).status();
            let _gone = fs::remove_dir_all(format!("/etc/netns/{space}"));
        }
        let _gone = fs::remove_file(self.trusted());
    }
}
