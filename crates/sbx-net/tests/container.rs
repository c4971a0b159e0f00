//! A container's wire: real clients behind a pair of interfaces whose other end
//! is the packet socket of a jailed endpoint.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use support::bed::{container, python};

/// Numbered blocks, so that none can be lost, doubled or swapped, of a length
/// that falls on no border.
const BLOCKS: &str = "
import hashlib, http.server, sys
def blocks(count):
    for number in range(count):
        yield number.to_bytes(8, 'big') * 8191 + b'end'
";
const SERVER: &str = "
class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        count = int(self.path[1:])
        self.send_response(200)
        self.send_header('Content-Length', str(count * 65531))
        self.end_headers()
        for block in blocks(count): self.wfile.write(block)
    def do_PUT(self):
        left, digest = int(self.headers['Content-Length']), hashlib.sha256()
        while left:
            part = self.rfile.read(min(left, 1 << 16))
            digest.update(part)
            left -= len(part)
        answer = digest.hexdigest().encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('0.0.0.0', 81), Server)
print('up', flush=True)
server.serve_forever()
";
const CLIENT: &str = "
import http.client
def connect(): return http.client.HTTPConnection('www.example', 81, timeout=60)
count = int(sys.argv[1])
expected = hashlib.sha256()
for block in blocks(count): expected.update(block)
down, got = connect(), hashlib.sha256()
down.request('GET', '/' + str(count))
answer = down.getresponse()
while part := answer.read(1 << 16): got.update(part)
up = connect()
up.request('PUT', '/', blocks(count), {'Content-Length': str(count * 65531)})
print(got.hexdigest() == expected.hexdigest())
print(up.getresponse().read().decode() == expected.hexdigest())
";

#[test]
fn what_is_allowed_is_reached_over_a_packet_socket_and_the_rest_is_not() {
    let rules = [support::allow("www.example"), support::allow("192.0.2.80")];
    let Some(mut bed) = container("wire", &rules) else {
        return;
    };
    for url in ["http://www.example/", "http://192.0.2.80/"] {
        assert_eq!(bed.get(url).as_deref(), Ok("xxxxx"), "{url}");
        assert_eq!(bed.flow()["verdict"], "allow", "{url}");
    }
    let page = bed.get("http://other.example/").unwrap();
    assert!(page.contains("rule: default:unlisted\n"), "{page}");
    assert_eq!(bed.flow()["rule"], "default:unlisted");
    assert_eq!(bed.get("http://other.example:8080/"), Err(7));
}

#[test]
fn a_long_stream_arrives_intact_both_ways() {
    let Some(mut bed) = container("long", &support::rules(&[])) else {
        return;
    };
    let python = python().unwrap();
    let python = python.to_str().unwrap();
    drop(bed.server("public", &[python, "-c", &format!("{BLOCKS}{SERVER}")]));
    // 150 MB each way.
    let output = bed.run(&[python, "-c", &format!("{BLOCKS}{CLIENT}"), "2289"]);
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert_eq!(said, "True\nTrue\n");
}

#[test]
fn a_root_inside_that_has_its_end_finish_nothing_is_served_all_the_same() {
    let Some(bed) = container("lazy", &support::rules(&[])) else {
        return;
    };
    // Frames leave with half a checksum, which nobody believes here anyway.
    let lazy = "
import array, fcntl, socket, struct
value = array.array('I', [0x17, 1])
request = struct.pack('16sP16x', b'eth0', value.buffer_info()[0])
fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8946, request)
";
    let python = python().unwrap();
    let output = bed.run(&[python.to_str().unwrap(), "-c", lazy]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(bed.get("http://www.example/").as_deref(), Ok("xxxxx"));
}

#[test]
fn an_end_that_was_down_is_served_again() {
    let Some(bed) = container("down", &support::rules(&[])) else {
        return;
    };
    let ip = |arguments: &[&str]| {
        let output = bed.run(&[&["/usr/sbin/ip"], arguments].concat());
        assert!(output.status.success(), "{output:?}");
    };
    assert_eq!(bed.get("http://www.example/").as_deref(), Ok("xxxxx"));
    ip(&["link", "set", "eth0", "down"]);
    assert!(bed.get("http://www.example/").is_err());
    ip(&["link", "set", "eth0", "up"]);
    ip(&["route", "add", "default", "via", "198.19.255.1"]);
    assert_eq!(bed.get("http://www.example/").as_deref(), Ok("xxxxx"));
}

#[test]
fn the_endpoint_ends_in_good_order_with_the_container() {
    let Some(mut bed) = container("ends", &support::rules(&[])) else {
        return;
    };
    assert_eq!(bed.get("http://www.example/").as_deref(), Ok("xxxxx"));
    bed.end_guest();
    assert!(bed.ended());
}
