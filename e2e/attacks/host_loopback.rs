//! A service on the host's loopback, tried by every address that might mean
//! the host.

use std::net::UdpSocket;

use e2e::{Home, Isolation, Listener, in_each_isolation};

in_each_isolation![a_listener_on_host_loopback_is_reached_only_where_its_port_is_named];

fn a_listener_on_host_loopback_is_reached_only_where_its_port_is_named(isolation: Isolation) {
    let home = Home::of(isolation);
    let (canary, allowed) = (Listener::open(), Listener::open());
    let rule = format!("localhost:{}", allowed.port());
    let sandbox = home.sandbox_with("app", &["--allow-network", &rule]);

    let mut names = vec![
        "127.0.0.1",
        "[::1]",
        "localhost",
        "host.sbx.internal",
        "host.docker.internal",
        "198.19.255.1",
        "198.19.255.254",
        "[fd73:6278:7800::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "127.1.2.3",
        "169.254.169.254",
        "10.0.2.2",
    ];
    let own = own_address();
    names.extend(own.as_deref());
    let tries: String = names
        .iter()
        .map(|name| {
            let url = format!("http://{name}:{}/", canary.port());
            format!("curl -gs --noproxy '*' --max-time 5 '{url}'; echo $?\n")
        })
        .collect();
    let answers = sandbox.sh(&tries);
    assert!(!answers.contains("canary-sings"), "{answers}");
    // 28 is curl's time-out: a denial is an answer, at once.
    assert!(
        !answers.lines().any(|code| code == "28" || code == "0"),
        "{names:?}: {answers}"
    );
    assert_eq!(canary.visits(), 0);

    // The twin: the named port, by both names, and by no other address.
    for name in ["host.sbx.internal", "host.docker.internal"] {
        let url = format!("http://{name}:{}/", allowed.port());
        assert_eq!(
            sandbox.sh(&format!("curl -s --max-time 20 {url}")),
            "canary-sings"
        );
    }
    assert_eq!(allowed.visits(), 2);
    let url = format!("http://198.19.255.1:{}/", allowed.port());
    let gateway = sandbox.try_sh(&format!("curl -s --max-time 5 {url}"));
    assert!(!gateway.text().contains("canary-sings"), "{gateway}");
}

/// The address that this host would use to speak to others.
fn own_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}
