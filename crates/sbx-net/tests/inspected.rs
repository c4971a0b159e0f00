//! Requests that rules look into: real clients in a namespace, a jailed
//! endpoint, and a server that says what reached it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;

use support::bed::bed_with;
use support::program::example;
use support::web::{allowed, certificates, line, world};

const OK: &str = "www.example:443 GET,PUT,POST /ok/**";

#[test]
fn only_the_requests_that_a_rule_names_reach_the_server_in_tls() {
    let Some(mut world) = world("methods", &allowed(&[OK])) else {
        return;
    };
    for (version, number) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let text = world.curl(&[version, "https://www.example/ok/a?q=1"]);
        assert!(text.ends_with(&format!("200 {number}")), "{text}");
        let reached = line(&mut world.tls);
        assert!(reached.starts_with("GET /ok/a"), "{reached}");
        for (method, path) in [
            ("GET", "no"),
            ("DELETE", "ok/a"),
            ("GET", "ok/../no"),
            ("GET", "ok//a"),
        ] {
            let url = format!("https://www.example/{path}");
            let text = world.curl(&[version, "--path-as-is", "-X", method, &url]);
            assert!(
                text.ends_with(&format!("403 {number}")),
                "{method} {path}: {text}"
            );
            assert!(text.contains("rule: default:"), "{text}");
        }
        // What was denied left no trace there.
        world.curl(&[version, "https://www.example/ok/last"]);
        assert!(line(&mut world.tls).starts_with("GET /ok/last"));
    }
    let request = world.record("request");
    let told = [
        &request["verdict"],
        &request["method"],
        &request["path"],
        &request["host"],
    ];
    assert_eq!(told, ["allow", "GET", "/ok/a", "www.example"]);
    let denied = world.record("request");
    assert_eq!(
        [&denied["verdict"], &denied["rule"]],
        ["deny", "default:unlisted"]
    );
}

#[test]
fn a_denied_name_is_told_in_tls_and_an_allowed_one_is_itself() {
    let rules = allowed(&["other.example"]);
    let Some(world) = world("told443", &rules) else {
        return;
    };
    for version in ["--http1.1", "--http2"] {
        let text = world.curl(&[version, "-i", "https://www.example/"]);
        let lower = text.to_lowercase();
        assert!(lower.contains("x-sbx-verdict: deny"), "{text}");
        assert!(
            text.contains("sbx policy allow network www.example:443\n"),
            "{text}"
        );
    }
    // Nothing looks into what is allowed as a whole: the server is itself.
    let root = world.directory.join("root.pem");
    let text = world.curl(&[
        "--cacert",
        root.to_str().unwrap(),
        "https://other.example/x",
    ]);
    assert!(text.ends_with("200 2"), "{text}");
}

#[test]
fn tls_where_requests_come_in_clear_is_looked_into_like_them() {
    let Some(world) = world("tls80", &allowed(&["www.example"])) else {
        return;
    };
    let request = b"GET /x HTTP/1.1\r\nHost: www.example:80\r\nConnection: close\r\n\r\n";
    // The server there speaks no TLS, and the client believes nobody but the
    // sandbox's authority: what answers it is the endpoint.
    let text = world.raw("80", "www.example", request);
    assert!(text.contains("cannot speak TLS with www.example"), "{text}");
}

#[test]
fn a_server_name_other_than_the_connections_is_refused_and_its_own_passes() {
    let rules = allowed(&["www.example", "other.example"]);
    let Some(mut world) = world("sni", &rules) else {
        return;
    };
    let root = world.directory.join("root.pem");
    let root = root.to_str().unwrap();
    let text = world.curl(&["--cacert", root, "https://www.example/x"]);
    assert!(text.ends_with("200 2"), "{text}");
    let to = "other.example:443:www.example:443";
    let text = world.curl(&[
        "--cacert",
        root,
        "--connect-to",
        to,
        "https://other.example/x",
    ]);
    assert!(!text.contains("200"), "{text}");
    world.record("flow");
    world.record("flow");
    let denied = world.record("flow");
    assert_eq!(denied["rule"], "default:tls-server-name", "{denied}");
}

#[test]
fn a_host_field_that_names_another_server_is_refused_in_clear_and_in_tls() {
    let rules = allowed(&["www.example:8000", "other.example", OK]);
    let Some(mut world) = world("host", &rules) else {
        return;
    };
    let text = world.curl(&["http://www.example:8000/a"]);
    assert!(text.ends_with("200 1.1"), "{text}");
    assert!(line(&mut world.clear).starts_with("GET /a"));
    for (version, url) in [
        ("--http1.1", "http://www.example:8000/b"),
        ("--http1.1", "https://www.example/ok/b"),
        ("--http2", "https://www.example/ok/b"),
        ("--http2-prior-knowledge", "http://www.example:8000/b"),
    ] {
        for host in [
            "other.example",
            "www.example:81",
            "www.example@other.example",
        ] {
            let text = world.curl(&[version, "-H", &format!("Host: {host}"), url]);
            assert!(text.contains("421 "), "{version} {url} {host}: {text}");
        }
    }
    world.curl(&["http://www.example:8000/last"]);
    assert!(line(&mut world.clear).starts_with("GET /last"));
}

/// Fronting: TLS to an allowed name, and in it a request to another server of
/// the same address.
#[test]
fn a_request_behind_a_front_passes_where_tls_does_and_is_refused_where_a_rule_is_marked() {
    let spliced = ["www.example"];
    let marked = ["www.example", "www.example:443 inspect"];
    let fronted = ["-H", "Host: other.example", "https://www.example/behind"];
    for (test, rules) in [("front", &spliced[..]), ("unfront", &marked)] {
        let Some(mut world) = world(test, &allowed(rules)) else {
            return;
        };
        let root = world.directory.join("root.pem");
        for version in ["--http1.1", "--http2"] {
            let asks = |arguments: &[&str]| {
                // Who is spliced sees the server's own certificate.
                let believed = ["--cacert", root.to_str().unwrap()];
                let believed = &believed[..if rules == spliced { 2 } else { 0 }];
                world.curl(&[believed, &[version], arguments].concat())
            };
            let behind = asks(&fronted);
            if rules == spliced {
                assert!(behind.contains("200 "), "{version}: {behind}");
                assert!(line(&mut world.tls).starts_with("GET /behind"));
                continue;
            }
            assert!(behind.contains("421 "), "{version}: {behind}");
            let honest = asks(&["--path-as-is", "https://www.example/honest/../%61"]);
            assert!(honest.contains("200 "), "{version}: {honest}");
            let heard = line(&mut world.tls);
            assert!(heard.starts_with("GET /honest/../%61"), "{heard}");
        }
        if rules == marked {
            // What is no HTTP does not pass there, in TLS or without.
            for (tls, said) in [("www.example", "EHLO a\r\n\r\n"), ("", "\0\r\n\r\n")] {
                let answer = world.raw("443", tls, said.as_bytes());
                assert!(!answer.contains("200"), "{answer}");
            }
            world.curl(&["https://www.example/last"]);
            assert!(line(&mut world.tls).starts_with("GET /last"));
        }
    }
}

#[test]
fn messages_that_two_readers_could_read_in_two_ways_do_not_get_through() {
    let rules = allowed(&["www.example:8000", OK]);
    let Some(mut world) = world("smuggling", &rules) else {
        return;
    };
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: www.example\r\n\r\n";
    for (port, tls, path) in [("8000", "", "/a"), ("443", "www.example", "/ok/a")] {
        let host = if tls.is_empty() {
            "www.example:8000"
        } else {
            "www.example"
        };
        for fields in [
            "Content-Length: 0\r\nTransfer-Encoding: chunked",
            "Content-Length: 0\r\nContent-Length: 5",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding:\u{b}chunked",
            "Content-Length: +5",
            "Connection: content-length\r\nContent-Length: 5",
            "X: a\r\n folded",
            "X: a\nY: b",
            "Host: other.example",
        ] {
            let request = format!(
                "POST {path} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n\r\n0\r\n\r\n{smuggled}"
            );
            let answer = world.raw(port, tls, request.as_bytes());
            assert!(answer.starts_with("HTTP/1.1 400 "), "{fields:?}: {answer}");
        }
        for target in ["http://other.example/a", "other.example:443", "a"] {
            let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            let answer = world.raw(port, tls, request.as_bytes());
            assert!(!answer.starts_with("HTTP/1.1 200 "), "{target}: {answer}");
        }
        let sound = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let answer = world.raw(port, tls, sound.as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        let server = if tls.is_empty() {
            &mut world.clear
        } else {
            &mut world.tls
        };
        assert!(line(server).starts_with(&format!("GET {path}")));
    }
    // A server that does so is not believed either.
    let both = "GET /both HTTP/1.1\r\nHost: www.example:8000\r\n\r\n";
    let answer = world.raw("8000", "", both.as_bytes());
    assert!(!answer.contains("abc"), "{answer}");
}

#[test]
fn every_request_of_a_connection_is_judged_and_not_only_the_first() {
    let Some(mut world) = world("kept", &allowed(&[OK])) else {
        return;
    };
    let urls = [
        "https://www.example/ok/1",
        "https://www.example/no",
        "https://www.example/ok/2",
    ];
    let text = world.curl(&["--http2", urls[0], urls[1], urls[2]]);
    for status in ["200 2", "403 2"] {
        assert!(text.contains(status), "{text}");
    }
    let pipelined = "GET /ok/3 HTTP/1.1\r\nHost: www.example\r\n\r\nGET /no HTTP/1.1\r\nHost: \
                     www.example\r\n\r\nGET /ok/4 HTTP/1.1\r\nHost: www.example\r\n\r\n";
    let answer = world.raw("443", "www.example", pipelined.as_bytes());
    assert_eq!(answer.matches("HTTP/1.1 200 ").count(), 1, "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 403 ").count(), 1, "{answer}");
    let reached: Vec<String> = (0..3).map(|_| line(&mut world.tls)).collect();
    assert!(
        reached.iter().all(|line| line.starts_with("GET /ok/")),
        "{reached:?}"
    );
}

#[test]
fn a_server_that_the_host_does_not_believe_is_not_spoken_with() {
    let Some(world) = world("untrusted", &allowed(&[OK])) else {
        return;
    };
    let text = world.curl(&["https://www.example/ok/a"]);
    assert!(text.ends_with("200 2"), "{text}");
    drop(world);
    let stranger = std::env::temp_dir().join(format!("sbx-{}-stranger", std::process::id()));
    fs::create_dir_all(&stranger).unwrap();
    certificates(&stranger);
    let rules = allowed(&[OK]);
    let Some(mut bed) = bed_with("stranger", &rules, Some(&stranger.join("root.pem"))) else {
        return;
    };
    let other = std::env::temp_dir().join(format!("sbx-{}-untrusted", std::process::id()));
    fs::create_dir_all(&other).unwrap();
    certificates(&other);
    let web = example("web");
    let (leaf, key) = (other.join("leaf.pem"), other.join("key.pem"));
    let argv = [
        web.to_str().unwrap(),
        "192.0.2.80",
        "443",
        leaf.to_str().unwrap(),
        key.to_str().unwrap(),
    ];
    let _tls = bed.server("public", &argv);
    let trusted = bed.trusted();
    let argv = [
        "/usr/bin/curl",
        "-sS",
        "-w",
        "%{http_code}",
        "--cacert",
        trusted.to_str().unwrap(),
        "https://www.example/ok/a",
    ];
    let output = bed.run(&argv);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.ends_with("502") && text.contains("certificate"),
        "{text}"
    );
    fs::remove_dir_all(&stranger).unwrap();
    fs::remove_dir_all(&other).unwrap();
}

#[test]
fn what_is_no_request_does_not_pass_where_only_requests_may() {
    let Some(mut world) = world("nothttp", &allowed(&[OK, "www.example:8000 GET /**"])) else {
        return;
    };
    for bytes in [
        &b"SSH-2.0-x\r\n"[..],
        b"\x16\x03\x01\x00\x05noise",
        b"GET /a\r\n\r\n",
        b"\0\0\0\0",
    ] {
        let answer = world.raw("8000", "", bytes);
        assert!(
            answer.contains("RESET") || answer.is_empty(),
            "{bytes:?}: {answer}"
        );
    }
    let text = world.curl(&["http://www.example:8000/a"]);
    assert!(text.ends_with("200 1.1"), "{text}");
    assert!(line(&mut world.clear).starts_with("GET /a HTTP/1.1"));
}
