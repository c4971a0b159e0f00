//! Probes: what root in a sandbox tries, from a list, each beside the same act
//! where it is allowed.

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::id;

use e2e::{
    Fact, Home, Isolation, Kept, Listener, Promise, Sandbox, WorkspaceGuard, host,
    in_each_isolation,
};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

in_each_isolation![no_probe_gets_out_and_each_works_where_it_is_allowed];

const LIST: &str = include_str!("probes.txt");
const ACTS: &str = include_str!("probes.py");

/// Least of them that are tried of an isolation without a kernel of its own.
const LEAST: usize = 60;

/// What of them a plain container of an engine lets through at least: some
/// others as well, by kernel and version.
const PLAIN: &[&str] = &[
    "proc/symbols",
    "proc/variables-of-init",
    "proc/root-of-init",
    "proc/memory-of-init",
    "core_pattern/core-limit",
    "sys/kernel-objects",
    "sys/device-classes",
    "sys/modules",
    "devices/disk-node",
    "devices/memory-node",
    "devices/harmless-node",
    "ptrace/trace-init",
    "leaked-descriptors/of-init",
    "set-user-ID-on-the-share/by-chmod",
    "set-user-ID-on-the-share/by-fchmod",
    "set-user-ID-on-the-share/by-open",
    "set-user-ID-on-the-share/by-creat",
    "set-user-ID-on-the-share/by-mknod",
    "set-user-ID-on-the-share/set-group-ID",
    "device-nodes-on-the-share/made-there",
    "IPv6/raw",
    "raw-sockets/icmp",
    "raw-sockets/packets",
];

/// A line of the list.
struct Probe {
    field: &'static str,
    id: &'static str,
    act: &'static str,
    object: &'static str,
    twin: Twin,
    allowed: &'static str,
}

/// Where the same act is allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Twin {
    Inside,
    Host,
    Apart,
    Guest,
}

impl Probe {
    fn read(line: &'static str) -> Self {
        let mut parts = line.split(';').map(str::trim);
        let mut next = || parts.next().unwrap_or_default();
        let (field, id, act, object) = (next(), next(), next(), next());
        let twin = match next() {
            "inside" => Twin::Inside,
            "host" => Twin::Host,
            "apart" => Twin::Apart,
            "guest" => Twin::Guest,
            other => panic!("`{other}` is no place for a twin: {line}"),
        };
        let allowed = Some(next()).filter(|object| !object.is_empty());
        Self {
            field,
            id,
            act,
            object,
            twin,
            allowed: allowed.unwrap_or(object),
        }
    }

    /// Its name among all.
    fn name(&self) -> String {
        format!("{}/{}", self.field, self.id).replace(' ', "-")
    }

    /// Whether the things it is after are the host's, whatever kernel it is
    /// tried on.
    fn is_after_the_host(&self) -> bool {
        self.twin == Twin::Host
    }
}

fn probes() -> Vec<Probe> {
    let lines = LIST.lines().map(str::trim);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(Probe::read).collect()
}

/// What the script is called with, with the things of the test in their
/// places.
fn words<'a>(
    probes: impl IntoIterator<Item = &'a Probe>,
    object: fn(&Probe) -> &'static str,
    things: &BTreeMap<&str, String>,
) -> Vec<String> {
    let probes = probes.into_iter();
    let words = probes.map(|probe| {
        let mut word = format!("{} {} {}", probe.name(), probe.act, object(probe));
        for (name, thing) in things {
            word = word.replace(&format!("{{{name}}}"), thing);
        }
        assert!(!word.contains('{'), "a thing that nobody made: {word}");
        word
    });
    words.collect()
}

/// Those that did what they tried, of what the script said of `count`.
fn done(said: &str, count: usize) -> Vec<&str> {
    assert_eq!(said.lines().count(), count, "one line each: {said}");
    let did = said.lines().filter_map(|line| line.strip_suffix(" did"));
    did.collect()
}

/// The script, inside.
fn send(sandbox: &Sandbox<'_>) {
    let call = sandbox.exec_with(["-i"], ["tee", "/tmp/probes.py"]);
    call.input(ACTS).succeeds();
}

fn no_probe_gets_out_and_each_works_where_it_is_allowed(isolation: Isolation) {
    let home = Home::of(isolation);
    let secret = home.root().join("secret");
    fs::write(&secret, "canary").unwrap();
    let script = home.root().join("probes.py");
    fs::write(&script, ACTS).unwrap();
    let abstract_name = format!("sbx-canary-{}", id());
    let address = SocketAddr::from_abstract_name(&abstract_name).unwrap();
    let _named = UnixListener::bind_addr(&address).unwrap();
    let docker = home.root().join("docker.sock");
    let _engine = UnixListener::bind(&docker).unwrap();
    let (four, six) = (
        Listener::open(),
        std::net::TcpListener::bind("[::1]:0").unwrap(),
    );

    let sandbox = home.sandbox("probed");
    let other = home.sandbox("other");
    other.exec_with(["-d"], ["sleep", "31415"]).succeeds();
    let workspace = sandbox.workspace().to_owned();
    symlink(&secret, workspace.join("link")).unwrap();
    fs::write(other.workspace().join("file"), "others").unwrap();
    let node = workspace.join("node");
    let may_make_nodes =
        Fact::Root.holds_for("no_probe_gets_out_and_each_works_where_it_is_allowed");
    if may_make_nodes {
        // The log of the host's kernel.
        let mode = Mode::from_raw_mode(0o666);
        mknodat(CWD, &node, FileType::CharacterDevice, mode, makedev(1, 11)).unwrap();
    }
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let things = BTreeMap::from([
        ("abstract", format!("@{abstract_name}")),
        ("docker", text(&docker)),
        ("link", text(&workspace.join("link"))),
        ("node", text(&node)),
        ("nothing", String::new()),
        ("other file", text(&other.workspace().join("file"))),
        ("other", other.inspect()["supervisor"].to_string()),
        ("own", "/tmp/own".to_owned()),
        ("pid", id().to_string()),
        ("port", four.port().to_string()),
        ("port6", six.local_addr().unwrap().port().to_string()),
        ("secret", text(&secret)),
        ("state", text(&home.state().join("sandboxes"))),
        ("supervisor", sandbox.inspect()["supervisor"].to_string()),
        ("workspace", text(&workspace)),
    ]);
    // A kernel of its own is the sandbox's to do with as it likes.
    let own_kernel = Promise::Kernel.kept(isolation, WorkspaceGuard::Full) == Kept::Yes;
    let mut all = probes();
    all.retain(|probe| !own_kernel || probe.is_after_the_host());
    all.retain(|probe| may_make_nodes || probe.object != "{node}");
    assert!(own_kernel || all.len() >= LEAST, "{} probes", all.len());

    sandbox.sh("touch /tmp/own; chmod 666 /tmp/own");
    send(&sandbox);
    // As root, and as the agent, who has other ways.
    let attacks = words(&all, |probe| probe.object, &things);
    for user in ["root", "agent"] {
        let call = sandbox.exec_with(["-u", user], ["python3", "/tmp/probes.py"]);
        let said = call.args(&attacks).succeeds().text();
        assert_eq!(done(&said, all.len()), Vec::<&str>::new(), "{user}: {said}");
    }

    for place in [Twin::Inside, Twin::Host, Twin::Apart, Twin::Guest] {
        let here: Vec<&Probe> = all.iter().filter(|probe| probe.twin == place).collect();
        if here.is_empty() {
            continue;
        }
        let twins = words(here.iter().copied(), |probe| probe.allowed, &things);
        let script = script.to_str().unwrap();
        let words: Vec<&str> = twins.iter().map(String::as_str).collect();
        let said = match place {
            Twin::Inside => {
                let call = sandbox.exec_with(["-u", "root"], ["python3", "/tmp/probes.py"]);
                call.args(&twins).succeeds().text()
            }
            Twin::Host => {
                let words = [&[script], &words[..]].concat();
                host("/usr/bin/python3", &words, home.root())
            }
            Twin::Apart => {
                let apart = [
                    "-Umnpuir",
                    "--fork",
                    "--mount-proc",
                    "/usr/bin/python3",
                    script,
                ];
                host(
                    "/usr/bin/unshare",
                    &[&apart, &words[..]].concat(),
                    home.root(),
                )
            }
            Twin::Guest => {
                let flags = ["--isolation", "microvm", "--memory", "512m"];
                let guest = home.sandbox_with("guest", &flags);
                send(&guest);
                let call = guest.exec_with(["-u", "root"], ["python3", "/tmp/probes.py"]);
                call.args(&twins).succeeds().text()
            }
        };
        let did = done(&said, here.len());
        assert_eq!(did.len(), here.len(), "the twins, {place:?}: {said}");
    }
    if isolation == Isolation::Docker {
        a_plain_container_of_the_engine_does_many(&home, &workspace, &script, &attacks);
    }
}

/// The twin of them all: root in what `docker run` makes of the same image.
fn a_plain_container_of_the_engine_does_many(
    home: &Home,
    workspace: &Path,
    script: &Path,
    attacks: &[String],
) {
    let image = home.engine().list(&["images", "-q", "sbx-template"]);
    let (workspace, script) = (workspace.display(), script.display());
    let run = [
        "run",
        "--rm",
        "--network=none",
        "-v",
        &format!("{workspace}:{workspace}"),
        "-v",
        &format!("{script}:/probes.py:ro"),
        &image[0],
        "python3",
        "/probes.py",
    ];
    let attacks: Vec<&str> = attacks.iter().map(String::as_str).collect();
    let said = home.engine().cli(&[&run, &*attacks].concat());
    let did = done(&said, attacks.len());
    for known in PLAIN {
        assert!(did.contains(known), "{known}: {said}");
    }
}

#[test]
fn every_probe_has_an_id_of_its_own_that_attacks_names() {
    let document = include_str!("../../ATTACKS.md");
    let mut names = std::collections::BTreeSet::new();
    for probe in probes() {
        assert!(names.insert(probe.name()), "{} twice", probe.name());
        let row = document
            .lines()
            .find(|line| line.starts_with(&format!("| {} |", probe.field)));
        let listed = row.is_some_and(|row| {
            let mut ids = row.split([' ', ',', '|']);
            ids.any(|word| word == probe.id)
        });
        assert!(
            listed,
            "ATTACKS.md has no `{}` under `{}`",
            probe.id, probe.field
        );
    }
}
