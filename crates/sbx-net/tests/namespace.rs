//! Real clients in a network namespace, on a jailed endpoint in another, with
//! a public server in a third: nothing here can leave the machine.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::fs;

use support::bed::bed;

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
        // A name has an address of each family, and both are tried.
        let tries = if url.contains(".example") { 2 } else { 1 };
        for _ in 0..tries {
            assert_eq!(bed.flow()["rule"].as_str(), Some(rule), "{url}");
        }
    }
}

#[test]
fn a_name_is_reached_by_each_family_alone() {
    let Some(bed) = bed("families") else { return };
    for family in ["-4", "-6"] {
        let argv = [
            "/usr/bin/curl",
            "-sS",
            "-m",
            "30",
            family,
            "http://www.example/",
        ];
        let output = bed.run(&argv);
        assert_eq!(output.stdout, b"xxxxx", "{family}");
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

#[test]
fn a_program_that_wants_a_proxy_gets_what_it_may_reach_and_is_told_of_the_rest() {
    let rules = [support::allow("www.example"), support::allow("192.0.2.80")];
    let Some(bed) = support::bed::bed_with("proxy", &rules, None) else {
        return;
    };
    let curl = |arguments: &[&str]| {
        let argv = [&["/usr/bin/curl", "-sS", "-m", "20"], arguments].concat();
        let output = bed.run(&argv);
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };
    let (http, socks) = ("http://198.19.255.1:3128", "198.19.255.1:1080");
    for way in [
        &["-x", http][..],
        &["-x", http, "-p"],
        &["--socks5-hostname", socks],
        &["--socks5", socks],
    ] {
        for url in ["http://www.example/", "http://192.0.2.80/"] {
            let passed = curl(&[way, &[url]].concat());
            assert_eq!(passed, (Some(0), "xxxxx".to_owned()), "{way:?} {url}");
        }
        for (url, rule) in [
            ("http://other.example/", "default:unlisted"),
            ("http://private.example/", "default:unlisted"),
            ("http://10.1.2.3/", "default:private"),
            ("http://127.0.0.1:8080/", "default:loopback"),
            ("http://host.docker.internal:8080/", "default:loopback"),
            ("http://localhost:8080/", "default:loopback"),
        ] {
            let (code, said) = curl(&[way, &["-v", url]].concat());
            let (is_socks, is_tunnel) = (way[0] != "-x", way.len() == 3);
            if is_socks {
                assert_eq!(code, Some(97), "{url}: {said}");
            } else if is_tunnel {
                assert!(said.contains("403"), "{url}: {said}");
            } else {
                assert!(said.contains("403 Forbidden"), "{url}: {said}");
                assert!(said.contains(&format!("rule: {rule}\n")), "{url}: {said}");
            }
        }
    }
    // A server that is allowed and not there.
    let (_, said) = curl(&["-x", http, "http://192.0.2.80:81/"]);
    assert!(said.contains("the host does not answer"), "{said}");
    let (code, _) = curl(&["--socks5-hostname", socks, "http://www.example:81/"]);
    assert_eq!(code, Some(97));
    // What is said through a tunnel agrees with its name as anywhere else.
    let (_, said) = curl(&[
        "-x",
        http,
        "-p",
        "-H",
        "Host: other.example",
        "-i",
        "http://www.example/",
    ]);
    assert!(said.contains("421 "), "{said}");
}
