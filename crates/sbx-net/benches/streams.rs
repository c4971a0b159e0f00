//! Streams through an endpoint whose TLS is looked into, beside the same
//! through one whose TLS passes: a real guest's network stack, a real server,
//! one after the other by turns. Prints `WHAT WAY FIGURE` lines for
//! `cargo xtask bench net`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench fails by panicking and says what it measured"
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;

use support::bed::{Bed, bed_with, python};
use support::web::{allowed, certificates};

/// Sends events with the time at which each was written, or many bytes, or
/// takes many; the clock is the host's for both ends.
const SERVER: &str = "
import http.server, ssl, sys, time
certificate, key = sys.argv[1:3]
class Streams(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        self.send_response(200)
        if self.path == '/events':
            self.send_header('Content-Type', 'text/event-stream')
            self.send_header('Connection', 'close')
            self.end_headers()
            for _ in range(200):
                self.wfile.write(b'data: %.6f\\n\\n' % time.monotonic())
                time.sleep(0.003)
            self.close_connection = True
            return
        left = int(self.path[1:])
        self.send_header('Content-Length', str(left))
        self.end_headers()
        block = b'x' * (1 << 18)
        while left:
            left -= self.wfile.write(block[:min(left, len(block))])
    def do_PUT(self):
        left = int(self.headers['Content-Length'])
        while left:
            left -= len(self.rfile.read(min(left, 1 << 18)))
        self.send_response(200)
        self.send_header('Content-Length', '0')
        self.end_headers()
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('192.0.2.80', 443), Streams)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
print('up', flush=True)
server.serve_forever()
";

/// Prints a median delay in microseconds, or a rate in MB a second.
const CLIENT: &str = "
import http.client, ssl, statistics, sys, time
what, host, trusted, size = sys.argv[1:5]
context = ssl.create_default_context(cafile=trusted)
connection = http.client.HTTPSConnection(host, context=context, timeout=300)
if what == 'events':
    connection.request('GET', '/events')
    answer = connection.getresponse()
    delays = []
    while line := answer.readline():
        if line.startswith(b'data: '):
            delays.append(1e6 * (time.monotonic() - float(line[6:])))
    print(statistics.median(delays))
    sys.exit()
size = int(size)
begun = time.monotonic()
if what == 'download':
    connection.request('GET', f'/{size}')
    answer = connection.getresponse()
    left = size
    while left:
        left -= len(answer.read(min(left, 1 << 18)))
else:
    def body():
        left = size
        block = b'x' * (1 << 18)
        while left:
            part = block[:min(left, len(block))]
            left -= len(part)
            yield part
    connection.request('PUT', '/', body(), {'Content-Length': str(size)})
    assert connection.getresponse().status == 200
print(size / 1e6 / (time.monotonic() - begun))
";

/// What is carried each way, in bytes.
const LARGE: &str = "2000000000";

fn main() {
    let mut rounds = 5;
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "--rounds" {
            rounds = words.next().and_then(|count| count.parse().ok()).unwrap();
        }
    }
    let directory = std::env::temp_dir().join(format!("sbx-bench-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    certificates(&directory);
    measure(rounds, &directory);
    fs::remove_dir_all(&directory).unwrap();
}

fn measure(rounds: usize, directory: &Path) {
    let rules = allowed(&["www.example:443", "other.example:443 GET,PUT /**"]);
    let root = directory.join("root.pem");
    let Some(mut bed) = bed_with("bench", &rules, Some(&root)) else {
        return;
    };
    let python = python().unwrap();
    let python = python.to_str().unwrap();
    let path = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    let (leaf, key) = (path("leaf.pem"), path("key.pem"));
    drop(bed.server("public", &[python, "-c", SERVER, &leaf, &key]));
    let authority = bed.trusted().to_str().unwrap().to_owned();
    let ways = [
        ("spliced", "www.example", path("root.pem")),
        ("inspected", "other.example", authority),
    ];
    for _ in 0..rounds {
        for (way, host, trusted) in &ways {
            println!(
                "events {way} {}",
                asked(&bed, python, "events", host, trusted)
            );
        }
    }
    for what in ["download", "upload"] {
        for (way, host, trusted) in &ways {
            println!("{what} {way} {}", asked(&bed, python, what, host, trusted));
            println!("memory-after-{what} {way} {}", memory(&bed));
        }
    }
}

fn asked(bed: &Bed, python: &str, what: &str, host: &str, trusted: &str) -> String {
    let output = bed.run(&[python, "-c", CLIENT, what, host, trusted, LARGE]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{what} {host}: {said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The most memory that the endpoint had so far, in MB.
fn memory(bed: &Bed) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", bed.endpoint())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes: f64 = most
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .and_then(|count| count.parse().ok())
        .unwrap();
    kilobytes / 1_000.0
}
