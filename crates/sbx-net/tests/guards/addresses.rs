//! Where a connection may go to, by address and port.

use std::net::Ipv4Addr;

use sbx_net::layout;
use sbx_spec::Rule;

use super::support::bed::Bed;
use super::support::{self, allow, echo_frame, query, start_with, udp_frame};
use super::{PAGE, allowing, net, reaches, say, stopped};

const LIMITLESS: [&str; 2] = ["0.0.0.0/0", "::/0"];

/// A bed with `open` rules whose public network has IPv6, and addresses that
/// are near a host: everywhere a server answers.
fn everywhere(test: &str) -> Option<Bed> {
    let servers = ["http,::,80", "http,0.0.0.0,53", "http,0.0.0.0,853"];
    let bed = net(test, &support::rules(&[8080]), &servers, &[])?;
    for (space, address, device) in [
        ("host", "2001:db8:5::1/64", "out"),
        ("public", "2001:db8:5::2/64", "in"),
        ("public", "2001:db8:80::80/128", "lo"),
        ("public", "fd00:7::7/128", "lo"),
        ("public", "64:ff9b::a01:203/128", "lo"),
        ("public", "64:ff9b::c000:250/128", "lo"),
        ("public", "2002:a01:203::1/128", "lo"),
    ] {
        bed.within(space, &["addr", "add", address, "dev", device, "nodad"]);
    }
    for address in ["172.16.7.7", "192.168.7.7", "100.64.7.7", "169.254.7.7"] {
        bed.within("public", &["addr", "add", address, "dev", "lo"]);
    }
    let way = ["-6", "route", "add", "default", "via", "2001:db8:5::2"];
    bed.within("host", &way);
    Some(bed)
}

#[test]
fn no_address_near_the_host_is_reached_in_either_family() {
    let Some(bed) = everywhere("ranges") else {
        return;
    };
    for address in [
        "10.1.2.3",
        "172.16.7.7",
        "192.168.7.7",
        "100.64.7.7",
        "169.254.7.7",
        "[fd00:7::7]",
    ] {
        stopped(address, reaches(&bed, &format!("http://{address}/")));
    }
}

#[test]
fn the_hosts_loopback_is_reached_by_no_name_and_no_proxy() {
    let Some(bed) = everywhere("loopback") else {
        return;
    };
    stopped("a name", reaches(&bed, "http://loop.example:8080/"));
    let asked =
        b"CONNECT 127.0.0.1:8080 HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\
                  Connection: close\r\n\r\n";
    let said = say(&bed, ("tcp", "198.19.255.1", "3128"), asked);
    stopped("a proxy", said.ends_with(PAGE));
}

#[test]
fn public_addresses_are_reached_in_either_family() {
    let Some(bed) = everywhere("both") else {
        return;
    };
    for address in ["192.0.2.80", "[2001:db8:80::80]", "[64:ff9b::c000:250]"] {
        assert!(reaches(&bed, &format!("http://{address}/")), "{address}");
    }
}

#[test]
fn a_private_address_is_reached_in_no_form_that_carries_it() {
    let Some(bed) = everywhere("carried") else {
        return;
    };
    for address in ["[64:ff9b::a01:203]", "[2002:a01:203::1]"] {
        stopped(address, reaches(&bed, &format!("http://{address}/")));
    }
}

#[test]
fn the_hosts_own_addresses_are_not_reached() {
    let Some(bed) = everywhere("own") else { return };
    for host in ["198.51.100.1", "self.example"] {
        stopped(host, reaches(&bed, &format!("http://{host}:8081/")));
    }
}

#[test]
fn the_hosts_neighbour_with_a_public_address_is_reached() {
    let Some(bed) = everywhere("neighbour") else {
        return;
    };
    assert!(reaches(&bed, "http://198.51.100.2/"));
}

#[test]
fn a_rule_for_every_address_opens_no_private_one() {
    let Some(bed) = allowing("wide", &LIMITLESS, &[], &[]) else {
        return;
    };
    stopped("0.0.0.0/0", reaches(&bed, "http://10.1.2.3/"));
}

#[test]
fn a_rule_that_names_a_private_address_opens_it() {
    let Some(bed) = allowing("named", &["10.1.2.0/24"], &[], &[]) else {
        return;
    };
    assert!(reaches(&bed, "http://10.1.2.3/"));
}

#[test]
fn a_rule_for_every_name_opens_no_address() {
    let Some(bed) = allowing("everyname", &["**"], &[], &[]) else {
        return;
    };
    stopped("an address", reaches(&bed, "http://192.0.2.80/"));
}

#[test]
fn a_rule_for_every_name_opens_every_public_one() {
    let Some(bed) = allowing("names", &["**"], &[], &[]) else {
        return;
    };
    assert!(reaches(&bed, "http://www.example/"));
    assert!(reaches(&bed, "http://other.example/"));
}

#[test]
fn name_servers_elsewhere_are_not_reached() {
    let Some(bed) = everywhere("elsewhere") else {
        return;
    };
    for port in [53, 853] {
        let url = format!("http://192.0.2.80:{port}/");
        stopped(&url, reaches(&bed, &url));
    }
}

#[test]
fn the_gateway_is_no_way_to_the_host() {
    let Some(bed) = everywhere("gateway") else {
        return;
    };
    for gateway in ["198.19.255.1", "[fd73:6278:7800::1]"] {
        stopped(gateway, reaches(&bed, &format!("http://{gateway}:8080/")));
    }
}

#[test]
fn the_hosts_opened_port_is_reached_by_its_own_address() {
    let Some(bed) = everywhere("opened") else {
        return;
    };
    for host in ["host.sbx.internal", "[fd73:6278:7800::fe]"] {
        assert!(reaches(&bed, &format!("http://{host}:8080/")), "{host}");
    }
}

/// A bed where ports of servers are open that rules may name or not.
fn ports(test: &str, rules: &[&str]) -> Option<Bed> {
    allowing(test, rules, &["http,0.0.0.0,22"], &["http,127.0.0.1,8082"])
}

const PORTS: [&str; 2] = ["http://www.example:22/", "http://host.sbx.internal:8082/"];

#[test]
fn a_port_that_no_rule_names_is_not_reached() {
    let Some(bed) = ports("port", &["www.example:80", "localhost:8080"]) else {
        return;
    };
    for url in PORTS {
        stopped(url, reaches(&bed, url));
    }
}

#[test]
fn a_port_that_a_rule_names_is_reached() {
    let Some(bed) = ports("itsport", &["www.example:22", "localhost:8082"]) else {
        return;
    };
    for url in PORTS {
        assert!(reaches(&bed, url), "{url}");
    }
}

/// What a server says to a datagram.
fn datagram(test: &str, rules: &[&str], port: &str) -> Option<String> {
    let rules: Vec<Rule> = support::web::allowed(rules);
    let server = format!("udp,192.0.2.80,{port}");
    let bed = net(test, &rules, &[&server], &[])?;
    Some(say(&bed, ("udp", "192.0.2.80", port), b"hello"))
}

#[test]
fn quic_goes_nowhere_although_a_rule_says_so() {
    let Some(said) = datagram("quic", &["192.0.2.80:443 udp"], "443") else {
        return;
    };
    stopped("UDP 443", said == "hello");
}

#[test]
fn a_rule_about_connections_lets_no_datagram_out() {
    let Some(said) = datagram("datagram", &["192.0.2.80"], "444") else {
        return;
    };
    stopped("a datagram", said == "hello");
}

#[test]
fn a_datagram_goes_where_a_rule_says_so() {
    let Some(said) = datagram("udp", &["192.0.2.80:444 udp"], "444") else {
        return;
    };
    assert_eq!(said, "hello");
}

/// Whether an echo is answered with one.
fn echoed(to: Ipv4Addr) -> bool {
    let mut guest = start_with(&[allow("192.0.2.0/24")]);
    guest.wire.send(&echo_frame(to));
    let mut answer = None;
    guest.until_raw("an answer", |frame| {
        answer = frame.get(34).copied().filter(|_| frame.get(23) == Some(&1));
        answer.is_some()
    });
    answer == Some(0)
}

#[test]
fn an_echo_to_a_host_that_is_denied_is_not_answered() {
    for to in [[10, 0, 0, 1], [198, 51, 100, 7]] {
        stopped("an echo", echoed(to.into()));
    }
}

#[test]
fn an_echo_to_a_host_that_is_allowed_is_answered() {
    assert!(echoed([192, 0, 2, 7].into()));
}

/// Whether the name server answers a packet that says it is from `source`.
fn heard_from(source: Ipv4Addr) -> bool {
    let mut guest = start_with(&[]);
    let gateway = layout::GATEWAY_V4.into();
    let mut frame = udp_frame(1000, gateway, 53, &query("a.example", 1));
    frame[26..30].copy_from_slice(&source.octets());
    guest.wire.send(&frame);
    guest
        .wire
        .send(&udp_frame(2000, gateway, 53, &query("a.example", 1)));
    let mut first = None;
    guest.until_raw("an answer", |frame| {
        first = frame.get(36..38).map(|port| port == 1000_u16.to_be_bytes());
        frame.get(23) == Some(&17)
    });
    first == Some(true)
}

#[test]
fn a_packet_that_says_it_is_anothers_is_not_heard() {
    for source in [[198, 19, 255, 3], [10, 0, 0, 1], [198, 19, 255, 1]] {
        stopped("a source", heard_from(source.into()));
    }
}

#[test]
fn a_packet_of_the_guests_own_is_heard() {
    assert!(heard_from(layout::GUEST_V4));
}
