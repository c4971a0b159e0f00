//! What is said on a connection: which server it is for, and what it asks.

use std::io::{BufRead, BufReader, Read};

use sbx_spec::Action;

use super::support::web::{World, allowed, line, rule, world, world_of};
use super::{allowing, say, stopped};

/// Rules about requests in clear.
const OK: &str = "www.example:8000 GET,POST /ok/**";
/// The same host as a whole.
const WHOLE: &str = "www.example:8000";

fn allows(test: &str, rules: &[&str]) -> Option<World> {
    world(test, &allowed(rules))
}

/// Whether the server answered this request, in clear.
fn answered(world: &World, request: &str) -> bool {
    world
        .raw("8000", "", request.as_bytes())
        .contains("HTTP/1.1 200 ")
}

/// A request with these fields.
fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: www.example:8000\r\nConnection: close\r\n{fields}\r\n")
}

/// Whether a hello for `name` on a connection to `www.example` is answered.
fn greeted(test: &str, name: &str) -> Option<bool> {
    let world = allows(test, &["www.example", "other.example"])?;
    let root = world.directory.join("root.pem");
    let (to, url) = (
        format!("{name}:443:www.example:443"),
        format!("https://{name}/x"),
    );
    let text = world.curl(&[
        "--cacert",
        root.to_str().unwrap(),
        "--connect-to",
        &to,
        &url,
    ]);
    Some(text.ends_with("200 2"))
}

#[test]
fn a_hello_for_another_server_is_not_answered() {
    let Some(greeted) = greeted("othersni", "other.example") else {
        return;
    };
    stopped("a hello", greeted);
}

#[test]
fn a_hello_for_the_connections_server_is_answered() {
    let Some(greeted) = greeted("ownsni", "www.example") else {
        return;
    };
    assert!(greeted);
}

/// Whether a server is spoken with that the host knows or does not, where its
/// requests are judged.
fn spoken_with(test: &str, is_known: bool) -> Option<bool> {
    let rules = allowed(&["www.example:443 GET /**"]);
    let world = world_of(test, &rules, is_known)?;
    Some(world.curl(&["https://www.example/a"]).ends_with("200 2"))
}

#[test]
fn a_server_that_the_host_does_not_know_is_not_spoken_with() {
    let Some(spoken) = spoken_with("unknown", false) else {
        return;
    };
    stopped("a server", spoken);
}

#[test]
fn a_server_that_the_host_knows_is_spoken_with() {
    let Some(spoken) = spoken_with("known", true) else {
        return;
    };
    assert!(spoken);
}

/// The ways to say which server a request is for, and whether it got there.
fn by_authority(test: &str, name: &str) -> Option<Vec<(&'static str, bool)>> {
    let rules = [WHOLE, "other.example:8000", "www.example:443 GET /**"];
    let world = allows(test, &rules)?;
    let trusted = world.bed.trusted();
    let each = [
        ("--http1.1", "http://www.example:8000/a", ":8000"),
        ("--http1.1", "https://www.example/a", ""),
        ("--http2", "https://www.example/a", ""),
        // curl makes one request of a connection so, and then loses it.
        (
            "--http2-prior-knowledge",
            "http://www.example:8000/a",
            ":8000",
        ),
    ]
    .map(|(version, url, port)| {
        let host = format!("Host: {name}{port}");
        let more = [
            "-sS",
            "-w",
            "%{http_code}",
            "--cacert",
            trusted.to_str().unwrap(),
        ];
        let first = [&[version, url, "--next", version][..], &more].concat();
        let alone = version.ends_with("knowledge");
        let before = if alone { &[version][..] } else { &first };
        let text = world.curl(&[before, &["-H", &host, url]].concat());
        let status = text.lines().last().unwrap_or_default();
        (version, status.starts_with("200"))
    });
    Some(each.to_vec())
}

#[test]
fn a_later_request_to_another_server_does_not_reach_it() {
    let Some(each) = by_authority("otherhost", "other.example") else {
        return;
    };
    for (way, reached) in each {
        stopped(way, reached);
    }
}

#[test]
fn a_later_request_to_the_same_server_reaches_it() {
    let Some(each) = by_authority("ownhost", "www.example") else {
        return;
    };
    for (way, reached) in each {
        assert!(reached, "{way}");
    }
}

#[test]
fn a_target_with_another_server_in_it_does_not_get_through() {
    let Some(world) = allows("target", &[WHOLE]) else {
        return;
    };
    stopped(
        "a target",
        answered(&world, &get("http://other.example/a", "")),
    );
}

#[test]
fn a_plain_request_gets_through() {
    let Some(mut world) = allows("plain", &[WHOLE]) else {
        return;
    };
    assert!(answered(&world, &get("/a", "X: b\r\n")));
    assert_eq!(line(&mut world.clear), "GET /a HTTP/1.1");
}

#[test]
fn a_later_request_that_no_rule_allows_does_not_get_through() {
    let Some(mut world) = allows("later", &[OK]) else {
        return;
    };
    let kept = get("/ok/1", "").replace("Connection: close\r\n", "");
    world.raw("8000", "", format!("{kept}{}", get("/no", "")).as_bytes());
    assert_eq!(line(&mut world.clear), "GET /ok/1 HTTP/1.1");
    answered(&world, &get("/ok/2", ""));
    stopped("a request", line(&mut world.clear) != "GET /ok/2 HTTP/1.1");
}

#[test]
fn a_later_request_that_a_rule_allows_gets_through() {
    let Some(mut world) = allows("laterok", &[OK]) else {
        return;
    };
    let kept = get("/ok/1", "").replace("Connection: close\r\n", "");
    world.raw("8000", "", format!("{kept}{}", get("/ok/2", "")).as_bytes());
    for number in 1..=2 {
        assert_eq!(line(&mut world.clear), format!("GET /ok/{number} HTTP/1.1"));
    }
}

/// What comes back from an echo, of what is no request.
fn no_request(test: &str, rule: &str) -> Option<String> {
    let bed = allowing(test, &[rule], &["echo,192.0.2.80,7000"], &[])?;
    Some(say(&bed, ("tcp", "www.example", "7000"), b"SSH-2.0-x\r\n"))
}

#[test]
fn what_is_no_request_does_not_get_through_where_rules_are_about_requests() {
    let Some(said) = no_request("norequest", "www.example:7000 GET /**") else {
        return;
    };
    stopped("another protocol", said.starts_with("SSH"));
}

#[test]
fn what_is_no_request_gets_through_where_all_is_allowed() {
    let Some(said) = no_request("protocol", "www.example:7000") else {
        return;
    };
    assert!(said.starts_with("SSH"), "{said}");
}

#[test]
fn a_message_of_two_lengths_does_not_get_through() {
    let Some(world) = allows("lengths", &[WHOLE]) else {
        return;
    };
    for fields in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nContent-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    ] {
        let message = format!("{}0\r\n\r\n", get("/a", fields));
        stopped(fields, answered(&world, &message));
    }
}

#[test]
fn a_message_of_one_length_gets_through() {
    let Some(world) = allows("length", &[WHOLE]) else {
        return;
    };
    for fields in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
        assert!(
            answered(&world, &format!("{}0\r\n\r\n", get("/a", fields))),
            "{fields}"
        );
    }
}

#[test]
fn lines_that_not_everybody_sees_do_not_get_through() {
    let Some(world) = allows("lines", &[WHOLE]) else {
        return;
    };
    stopped("a bare LF", answered(&world, &get("/a", "X: a\nY: b\r\n")));
}

#[test]
fn a_field_that_would_vanish_on_the_way_does_not_get_through() {
    let Some(world) = allows("hop", &[WHOLE]) else {
        return;
    };
    stopped(
        "a field",
        answered(
            &world,
            &get("/a", "Connection: x-checked\r\nX-Checked: a\r\n"),
        ),
    );
}

#[test]
fn a_path_with_another_spelling_does_not_get_through_where_rules_are_about_paths() {
    let Some(world) = allows("paths", &[OK]) else {
        return;
    };
    for path in ["/ok/../no", "/ok/%2e%2e/no", "/ok//no", "/ok/..;/no"] {
        stopped(path, answered(&world, &get(path, "")));
    }
}

#[test]
fn a_path_that_a_rule_allows_gets_through() {
    let Some(world) = allows("path", &[OK]) else {
        return;
    };
    assert!(answered(&world, &get("/ok/a%20b", "")));
}

/// Whether a request with this method is answered where one is denied.
fn with_method(test: &str, method: &str) -> Option<bool> {
    let denied = rule(Action::Deny, "www.example:8000 DELETE");
    let world = world(test, &[allowed(&[WHOLE]), vec![denied]].concat())?;
    Some(answered(&world, &get("/a", "").replacen("GET", method, 1)))
}

#[test]
fn a_denied_method_in_small_letters_does_not_get_through() {
    let Some(answered) = with_method("small", "delete") else {
        return;
    };
    stopped("a method", answered);
}

#[test]
fn a_method_beside_a_denied_one_gets_through() {
    let Some(answered) = with_method("method", "POST") else {
        return;
    };
    assert!(answered);
}

/// How a client ends that waits for the rest of an answer while rules come:
/// its status, and whether it heard the rest.
fn under_way(test: &str, rules: &str, is_released: bool) -> Option<(Option<i32>, bool)> {
    let mut world = allows(test, &["www.example:8000 GET /**"])?;
    let url = "http://www.example:8000/events";
    let client = ["/usr/bin/curl", "-sSN", "-m", "10", url];
    let mut client = world.bed.start(&client);
    let mut said = BufReader::new(client.stdout.take().unwrap());
    let mut heard = String::new();
    said.read_line(&mut heard).unwrap();
    world.bed.order_rules(2, &allowed(&[rules]));
    if is_released {
        let release = ["/usr/bin/curl", "-sS", "http://192.0.2.80:8000/release"];
        world.bed.run_in("public", &release);
    }
    said.read_to_string(&mut heard).unwrap();
    Some((client.wait().unwrap().code(), heard.contains("data: 2")))
}

/// curl's status where it waited until its time was up.
const WAITED: Option<i32> = Some(28);

#[test]
fn a_request_under_way_that_new_rules_deny_is_cut() {
    let rules = "www.example:8000 GET /other";
    let Some((status, _)) = under_way("cutrequest", rules, false) else {
        return;
    };
    stopped("a request", status == WAITED);
}

#[test]
fn a_request_under_way_that_new_rules_allow_goes_on() {
    let rules = "www.example:8000 GET /events";
    let Some(ended) = under_way("keptrequest", rules, true) else {
        return;
    };
    assert_eq!(ended, (Some(0), true));
}
