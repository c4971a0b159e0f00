//! Outside witnesses of what the records say: a capture of the public network,
//! and mitmproxy in front of a server there.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fs;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;
use support::bed::{Bed, bed_with, python};
use support::program::example;
use support::web::{allowed, certificates, line};

const TCPDUMP: &str = "/usr/bin/tcpdump";
const MITMDUMP: &str = "/usr/bin/mitmdump";

/// Says which requests it hears, with their bodies.
const ADDON: &str = "
def running(): print('up', flush=True)
def request(flow): print(flow.request.method, flow.request.path, flow.request.text, flush=True)
";

/// What of it may leave is `/ok`, and the last word on port 8000.
const ACTS: &str = "
curl=\"/usr/bin/curl -s -m 20 -o answer -w %{http_code}\\\\n --cacert $TRUSTED\"
$curl https://www.example/ok/one
$curl --http1.1 -X PUT -d given https://www.example/ok/two?token=1
$curl -X POST -d secret https://www.example/ok/three || :
$curl https://www.example/secret || :
$curl -H 'Host: other.example' --http1.1 https://www.example/ok/four || :
$curl https://other.example/ok/five || :
$curl --cacert $TRUSTED --resolve other.example:443:192.0.2.80 https://other.example/ok/six || :
$curl http://10.1.2.3/secret || :
$curl http://192.0.2.80/secret || :
$curl http://198.51.100.1:8081/secret || :
$PYTHON - <<'EOF' || :
import socket
names = bytes.fromhex('abcd01000001000000000000') + b'\\x06secret\\x07example\\0\\0\\x10\\0\\1'
for to in [('198.19.255.1', 53), ('192.0.2.80', 53), ('192.0.2.80', 123), ('192.0.2.80', 443)]:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.sendto(names, to)
for port in [22, 53, 80, 853, 4444]:
    try:
        socket.create_connection(('192.0.2.80', port), 20).sendall(b'secret')
    except OSError:
        pass
EOF
$curl http://www.example:8000/last
";

fn missing(test: &str) -> bool {
    let absent = [TCPDUMP, MITMDUMP]
        .into_iter()
        .find(|path| !Path::new(path).exists());
    if let Some(path) = absent {
        #[expect(clippy::print_stdout, reason = "a skip says what is missing")]
        {
            println!("SKIPPED {test}: no {path}");
        }
    }
    absent.is_some()
}

/// What the host sends out: each beginning of a connection, each datagram.
fn capture(bed: &mut Bed) -> BufReader<UnixStream> {
    let what = "ip and src 198.51.100.1 and not igmp \
                and (not tcp or tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn) \
                or ip6 and (tcp or udp)";
    let script = format!(
        "exec {TCPDUMP} -l -n -q -t --immediate-mode -i in '{what}' \
         2> >(sed -u -n 's/^listening on.*/up/p')"
    );
    bed.server("public", &["/bin/bash", "-c", &script])
}

/// Where a line of the capture goes to, as `ADDRESS:PORT`.
fn destination(line: &str) -> String {
    let (_, rest) = line.split_once(" > ").unwrap();
    let (to, _) = rest.split_once(':').unwrap();
    let (address, port) = to.rsplit_once('.').unwrap();
    format!("{address}:{port}")
}

/// Every record up to the one of the last word.
fn records(bed: &mut Bed) -> Vec<Value> {
    let mut records = Vec::new();
    loop {
        let record = bed.line();
        let last = record["request"]["path"] == "/last";
        records.push(record);
        if last {
            return records;
        }
    }
}

#[test]
fn what_went_out_is_what_the_records_say_by_a_capture_and_by_mitmproxy() {
    if missing("witnesses") {
        return;
    }
    let directory = std::env::temp_dir().join(format!("sbx-{}-witness", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    certificates(&directory);
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let rules = ["www.example:443 GET,PUT /ok/**", "www.example:8000 GET /**"];
    let Some(mut bed) = bed_with(
        "witness",
        &allowed(&rules),
        Some(&directory.join("root.pem")),
    ) else {
        fs::remove_dir_all(&directory).unwrap();
        return;
    };
    let both = ["key.pem", "leaf.pem"].map(|name| fs::read_to_string(path(name)).unwrap());
    fs::write(path("both.pem"), both.concat()).unwrap();
    fs::write(path("addon.py"), ADDON).unwrap();

    let web = example("web");
    let web = web.to_str().unwrap();
    let _requests = bed.server("public", &[web, "192.0.2.80", "8000"]);
    let mut seen = bed.server(
        "public",
        &[
            MITMDUMP,
            "--quiet",
            "--mode",
            "reverse:http://192.0.2.80:8000",
            "--listen-host",
            "192.0.2.80",
            "--listen-port",
            "443",
            "--set",
            &format!("confdir={}", path("mitmproxy")),
            "--certs",
            &format!("*={}", path("both.pem")),
            "--scripts",
            &path("addon.py"),
        ],
    );
    bed.listening("public", 443);
    let mut packets = capture(&mut bed);

    let acts = format!(
        "cd {}; TRUSTED={}; PYTHON={}; {ACTS}",
        directory.display(),
        bed.trusted().display(),
        python().unwrap().display(),
    );
    let output = bed.run(&["/bin/bash", "-c", &acts]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.ends_with("200\n"), "{said}");

    let records = records(&mut bed);
    let mut flows: Vec<String> = (records.iter())
        .map(|record| &record["flow"])
        .filter(|flow| flow["verdict"] == "allow")
        .map(|flow| format!("{}:{}", flow["addr"].as_str().unwrap(), flow["port"]))
        .collect();
    let mut left = Vec::new();
    while left.last().is_none_or(|to| to != "192.0.2.80:8000") {
        left.push(destination(&line(&mut packets)));
    }
    flows.sort_unstable();
    left.sort_unstable();
    assert_eq!(left, flows, "{records:#?}");

    let went: Vec<(&str, &str)> = (records.iter())
        .map(|record| &record["request"])
        .filter(|request| request["verdict"] == "allow" && request["port"] == 443)
        .map(|request| {
            (
                request["method"].as_str().unwrap(),
                request["path"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(went, [("GET", "/ok/one"), ("PUT", "/ok/two")]);
    // The record leaves out the query, and the body it never had.
    assert_eq!(line(&mut seen), "GET /ok/one");
    assert_eq!(line(&mut seen), "PUT /ok/two?token=1 given");
    let denied = |path: &str| {
        (records.iter()).any(|record| {
            let request = &record["request"];
            request["verdict"] == "deny" && request["path"] == path
        })
    };
    for path in ["/ok/three", "/secret", "/ok/four"] {
        assert!(denied(path), "{path}: {records:#?}");
    }
    let refused = |proto: &str, host: Option<&str>, port: u16| {
        (records.iter()).any(|record| {
            let flow = &record["flow"];
            let there = flow["host"].as_str() == host && flow["port"] == port;
            flow["verdict"] == "deny" && flow["proto"] == proto && there
        })
    };
    assert!(refused("tcp", Some("other.example"), 443));
    assert!(refused("dns", Some("secret.example"), 53));
    for port in [22, 53, 80, 443, 853, 4444, 8081] {
        assert!(refused("tcp", None, port), "{port}: {records:#?}");
    }
    for port in [53, 123, 443] {
        assert!(refused("udp", None, port), "{port}: {records:#?}");
    }
    // Nothing more came there: its output ends with it.
    drop(bed);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut seen, &mut rest).unwrap();
    assert_eq!(rest, "");
    fs::remove_dir_all(&directory).unwrap();
}
