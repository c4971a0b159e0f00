//! The endpoint as a guest sees it, with servers on the host's loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use sbx_net::{layout, limits};
use smoltcp::socket::tcp;
use support::{address_in, query, start, syn_frame, udp_frame};

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Every host resolves its own name to itself or not at all.
fn own_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .to_lowercase()
}

fn host(port: u16) -> SocketAddr {
    (layout::HOST_V4, port).into()
}

/// Sends back what comes until the client is done.
fn echo(listener: TcpListener) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut from = stream.try_clone().unwrap();
                let mut to = stream;
                let _gone = std::io::copy(&mut from, &mut to);
                let _gone = to.shutdown(std::net::Shutdown::Write);
            });
        }
    });
}

#[test]
fn an_opened_port_of_the_host_is_reached_by_both_families() {
    let (server, port) = listener();
    echo(server);
    let mut guest = start(&[port]);
    for address in [host(port), (layout::HOST_V6, port).into()] {
        let connection = guest.established(address);
        assert_eq!(guest.exchange(connection, b"hello", 5), b"hello");
    }
    let flow = guest.control.next("flow");
    assert_eq!(flow["verdict"], "allow");
    assert!(
        flow["rule"]
            .as_str()
            .unwrap()
            .starts_with("user allow localhost:")
    );
    assert_eq!(flow["addr"], "127.0.0.1");
    guest.end().unwrap();
}

#[test]
fn every_other_port_of_the_host_is_refused_at_once() {
    let (_server, port) = listener();
    let (_other, closed) = listener();
    let mut guest = start(&[port]);
    guest.established(host(port));
    for address in [host(closed), (layout::HOST_V6, closed).into()] {
        guest.refused(address);
    }
    assert_eq!(guest.control.next("flow")["verdict"], "allow");
    let flow = guest.control.next("flow");
    assert_eq!(
        (flow["verdict"].as_str(), flow["rule"].as_str()),
        (Some("deny"), Some("default:loopback"))
    );
}

#[test]
fn denied_addresses_are_refused_at_once_and_recorded_with_their_rule() {
    let mut guest = start(&[]);
    for (address, rule) in [
        ("10.0.0.1", "default:private"),
        ("192.168.1.1", "default:private"),
        ("172.16.0.1", "default:private"),
        ("100.100.100.200", "default:shared-address"),
        ("169.254.169.254", "default:link-local"),
        ("168.63.129.16", "default:metadata"),
        ("198.18.7.7", "default:synthetic"),
        ("198.19.255.1", "gateway:no-such-service"),
        ("198.19.255.77", "default:synthetic"),
        ("0.1.2.3", "default:unspecified"),
        ("240.0.0.1", "default:reserved"),
        ("fd00:ec2::254", "default:unique-local"),
        ("64:ff9b::7f00:1", "default:loopback"),
        ("2002:a00:1::1", "default:private"),
        ("::127.0.0.1", "default:embedded-ipv4"),
    ] {
        let address: IpAddr = address.parse().unwrap();
        guest.refused((address, 8080));
        let flow = guest.control.next("flow");
        assert_eq!(flow["verdict"], "deny", "{address}");
        assert_eq!(flow["rule"], rule, "{address}");
    }
}

#[test]
fn a_name_that_resolves_to_the_hosts_loopback_is_denied() {
    let (server, port) = listener();
    echo(server);
    let mut guest = start(&[port]);
    let own = own_name();
    let address = address_in(&guest.ask(&query(&own, 1)));
    assert_eq!(address.octets()[..2], [198, 18]);
    guest.refused((address, port));
    let flow = guest.control.next("flow");
    assert_eq!(
        (flow["verdict"].as_str(), flow["host"].as_str()),
        (Some("deny"), Some(own.as_str()))
    );
    guest.established(host(port));
}

#[test]
fn a_refusal_outside_is_a_refusal_inside() {
    let (server, port) = listener();
    drop(server);
    let mut guest = start(&[port]);
    guest.refused(host(port));
    let flow = guest.control.next("flow");
    assert_eq!(
        (flow["verdict"].as_str(), flow["failed"].as_str()),
        (Some("allow"), Some("refused"))
    );
}

#[test]
fn megabytes_come_through_unchanged_in_both_directions() {
    let (server, port) = listener();
    echo(server);
    let mut guest = start(&[port]);
    let connection = guest.established(host(port));
    let data: Vec<u8> = (0..8_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let back = guest.exchange(connection, &data, data.len());
    assert!(back == data, "bytes differ");
    guest.tcp(connection).close();
    guest.until("the end", |guest| !guest.tcp(connection).is_active());
    let end = guest.control.next("end");
    assert_eq!(
        (end["sent"].as_u64(), end["received"].as_u64()),
        (Some(8_000_000), Some(8_000_000))
    );
    assert_eq!(end["how"], "closed");
}

#[test]
fn a_guest_that_has_said_its_last_byte_still_hears_the_answer() {
    let (server, port) = listener();
    let served = thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut question = String::new();
        stream.read_to_string(&mut question).unwrap();
        stream
            .write_all(format!("you said {question}").as_bytes())
            .unwrap();
    });
    let mut guest = start(&[port]);
    let connection = guest.established(host(port));
    guest.tcp(connection).send_slice(b"hi").unwrap();
    guest.tcp(connection).close();
    assert_eq!(guest.exchange(connection, b"", 11), b"you said hi");
    served.join().unwrap();
}

#[test]
fn a_server_that_speaks_first_and_closes_is_heard_in_full() {
    let (server, port) = listener();
    thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        stream.write_all(&[7; 3_000_000]).unwrap();
    });
    let mut guest = start(&[port]);
    let connection = guest.established(host(port));
    assert_eq!(guest.exchange(connection, b"", 3_000_000).len(), 3_000_000);
    guest.until("the end", |guest| !guest.tcp(connection).may_recv());
    assert_eq!(guest.tcp(connection).state(), tcp::State::CloseWait);
}

#[test]
fn a_reset_is_passed_on_in_both_directions() {
    let (server, port) = listener();
    let mut guest = start(&[port]);

    let connection = guest.established(host(port));
    let (stream, _) = server.accept().unwrap();
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    guest.until("a reset", |guest| !guest.tcp(connection).is_open());
    assert_eq!(guest.control.next("end")["how"], "reset");

    let connection = guest.established(host(port));
    let (mut stream, _) = server.accept().unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    guest.tcp(connection).abort();
    guest.turn();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_slow_reader_stops_the_sender_and_nobody_else() {
    let (server, port) = listener();
    thread::spawn(move || {
        for mut stream in server.incoming().flatten() {
            thread::spawn(move || while stream.write_all(&[1; 65_536]).is_ok() {});
        }
    });
    let (echoing, other) = listener();
    echo(echoing);
    let mut guest = start(&[port, other]);
    let slow = guest.established(host(port));
    guest.until("a full window", |guest| {
        guest.tcp(slow).recv_queue() > 1 << 19
    });
    let quick = guest.established(host(other));
    assert_eq!(guest.exchange(quick, b"still here", 10), b"still here");
}

#[test]
fn names_are_answered_over_both_carriers_and_nothing_else_is() {
    let mut guest = start(&[]);
    let over_udp = address_in(&guest.ask(&query("Example.COM", 1)));
    assert_eq!(address_in(&guest.ask(&query("example.com.", 1))), over_udp);
    assert_eq!(
        address_in(&guest.ask(&query("host.docker.internal", 1))),
        layout::HOST_V4
    );
    let in_v6 = guest.ask(&query("example.com", 28));
    let address = sbx_spec::name_address_v6(over_udp).octets();
    assert!(in_v6.ends_with(&address), "{in_v6:02x?}");
    let none = guest.ask(&query("example.com", 65));
    assert_eq!((none[3] & 15, &none[6..8]), (0, &[0, 0][..]));
    let refused = guest.ask(&query("a\0b.example.com", 1));
    assert_eq!(refused[3] & 15, 5);
    assert_eq!(guest.control.next("flow")["rule"], "dns:malformed-name");

    let connection = guest.established((layout::GATEWAY_V4, 53));
    let question = query("example.com", 1);
    let mut framed = Vec::new();
    for _ in 0..300 {
        framed.extend_from_slice(&(question.len() as u16).to_be_bytes());
        framed.extend_from_slice(&question);
    }
    let length = 2 + question.len() + 16;
    let answers = guest.exchange(connection, &framed, 300 * length);
    assert_eq!(address_in(&answers[2..length]), over_udp);
    assert_eq!(answers.len(), 300 * length);
}

#[test]
fn datagrams_are_refused_with_icmp_so_that_clients_fall_back() {
    let mut guest = start(&[]);
    guest.wire.send(&udp_frame(
        5000,
        Ipv4Addr::new(1, 1, 1, 1).into(),
        443,
        b"quic",
    ));
    let flow = guest.control.next("flow");
    assert_eq!(
        (flow["proto"].as_str(), flow["verdict"].as_str()),
        (Some("udp"), Some("deny"))
    );
    guest.wire.wait(support::PATIENCE);
    guest.wire.read();
    let frame = guest.wire.frames.pop_front().unwrap();
    assert_eq!(
        (frame[23], frame[34], frame[35]),
        (1, 3, 3),
        "icmp port unreachable"
    );
    assert_eq!(
        &frame[62..64],
        &5000_u16.to_be_bytes(),
        "quotes the datagram"
    );
}

#[test]
fn a_flood_of_half_open_connections_leaves_room_for_a_whole_one_after_it() {
    let (server, port) = listener();
    thread::spawn(move || server.incoming().flatten().collect::<Vec<_>>());
    let (echoing, other) = listener();
    echo(echoing);
    let mut guest = start(&[port, other]);
    for from in 1..20_000 {
        guest.wire.send(&syn_frame(from, layout::HOST_V4, port));
    }
    guest.wire.read();
    guest.wire.frames.clear();
    // Nothing answers the SYN-ACKs, so the half-open ones go when their time is up.
    let connection = guest.established(host(other));
    assert_eq!(guest.exchange(connection, b"through", 7), b"through");
}

#[test]
fn a_flood_of_denials_is_summed_up_and_none_is_lost() {
    let mut guest = start(&[]);
    let many = 20_000_u64;
    for n in 0..many {
        let from = 1 + (n % 60_000) as u16;
        guest
            .wire
            .send(&syn_frame(from, Ipv4Addr::new(10, 0, 0, 1), 80));
        if n % 64 == 0 {
            guest.wire.read();
            guest.wire.frames.clear();
        }
    }
    let (mut lines, mut summed) = (0, 0);
    while lines + summed < many {
        let line = guest.control.line();
        if line.get("flow").is_some() {
            lines += 1;
        } else {
            summed += line["flood"]["denied"].as_u64().unwrap();
        }
    }
    assert_eq!(lines + summed, many);
    assert!(
        lines <= 10 * u64::from(limits::RECORD_RATE),
        "{lines} lines"
    );
}

#[test]
fn a_supervisor_that_does_not_read_holds_nothing_up() {
    let (server, port) = listener();
    echo(server);
    let mut guest = start(&[port]);
    for from in 1..60_000 {
        guest
            .wire
            .send(&syn_frame(from, Ipv4Addr::new(10, 0, 0, 1), 80));
        if from % 64 == 0 {
            guest.wire.read();
            guest.wire.frames.clear();
        }
    }
    let connection = guest.established(host(port));
    assert_eq!(guest.exchange(connection, b"ok", 2), b"ok");
}

#[test]
fn random_frames_change_nothing() {
    let mut guest = start(&[]);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let templates = [
        udp_frame(1, layout::GATEWAY_V4.into(), 53, &query("a.example", 1)),
        syn_frame(2, layout::HOST_V4, 80),
        syn_frame(3, Ipv4Addr::new(1, 2, 3, 4), 53),
        syn_frame(4, layout::GATEWAY_V4, 53),
    ];
    for round in 0..30_000_usize {
        let mut frame = templates[round % templates.len()].clone();
        match random() % 4 {
            0 => frame = (0..random() % 200).map(|_| random() as u8).collect(),
            1 => {
                for _ in 0..1 + random() % 4 {
                    let at = random() as usize % frame.len();
                    frame[at] = random() as u8;
                }
            }
            2 => frame.truncate(random() as usize % frame.len()),
            _ => {
                let kind = [[8, 0], [8, 6], [0x86, 0xdd]][random() as usize % 3];
                frame = (0..14 + random() % 120).map(|_| random() as u8).collect();
                frame[12..14].copy_from_slice(&kind);
                if let Some(version) = frame.get_mut(14) {
                    *version = if kind == [8, 0] { 0x45 } else { 0x60 };
                }
            }
        }
        guest.wire.send(&frame);
        if round % 64 == 0 {
            guest.wire.read();
            guest.wire.frames.clear();
        }
    }
    let address = address_in(&guest.ask(&query("after.example", 1)));
    assert_eq!(address.octets()[..2], [198, 18]);
    guest.end().unwrap();
}

#[test]
fn a_frame_beyond_the_largest_is_dropped_and_the_next_one_answered() {
    let mut guest = start(&[]);
    guest.wire.send(&vec![0xff; limits::FRAME + 1]);
    let address = address_in(&guest.ask(&query("after.example", 1)));
    assert_eq!(address.octets()[..2], [198, 18]);
    guest.end().unwrap();
}

#[test]
fn the_endpoint_ends_with_its_link_and_with_its_control() {
    start(&[]).end().unwrap();
    let mut guest = start(&[]);
    guest.control.close();
    guest.endpoint.take().unwrap().join().unwrap().unwrap();
}

#[test]
fn an_unknown_ipv6_address_of_the_network_is_refused_too() {
    let mut guest = start(&[]);
    let stranger: Ipv6Addr = "fd73:6278:7800::77".parse().unwrap();
    guest.refused((IpAddr::V6(stranger), 8080));
}

#[test]
fn hostile_segments_of_real_connections_harm_only_themselves() {
    let (server, port) = listener();
    echo(server);
    let mut guest = start(&[port]);
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..40_000_u32 {
        let from = 1 + (random() % 64) as u16;
        let server = if round % 5 == 0 {
            (layout::GATEWAY_V4, 53)
        } else {
            (layout::HOST_V4, port)
        };
        let mut frame = syn_frame(from, server.0, server.1);
        if round % 4 != 0 {
            // Sequence and acknowledgement close to what is expected, any flags,
            // any header length, any window, options and data at random.
            frame[38..42].copy_from_slice(&((random() % 6) as u32).to_be_bytes());
            frame[42..46].copy_from_slice(&(random() as u32).to_be_bytes());
            frame[46] = ((5 + random() % 11) as u8) << 4;
            frame[47] = random() as u8;
            frame[48..50].copy_from_slice(&(random() as u16).to_be_bytes());
            frame.extend((0..random() % 90).map(|_| random() as u8));
            let length = (frame.len() - 14) as u16;
            frame[16..18].copy_from_slice(&length.to_be_bytes());
        }
        guest.wire.send(&frame);
        if round % 64 == 0 {
            guest.wire.read();
            // Acknowledge what was answered, so that connections come to stand.
            while let Some(answer) = guest.wire.frames.pop_front() {
                if answer.len() < 54 || answer[23] != 6 || answer[47] & 2 == 0 {
                    continue;
                }
                let to = u16::from_be_bytes([answer[36], answer[37]]);
                let port = u16::from_be_bytes([answer[34], answer[35]]);
                let from: [u8; 4] = answer[26..30].try_into().unwrap();
                let mut ack = syn_frame(to, from.into(), port);
                let sequence = u32::from_be_bytes(answer[38..42].try_into().unwrap());
                ack[38..42].copy_from_slice(&answer[42..46]);
                ack[42..46].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
                ack[47] = 0x10;
                guest.wire.send(&ack);
            }
        }
    }
    guest.wire.read();
    guest.wire.frames.clear();
    let connection = guest.established(host(port));
    assert_eq!(guest.exchange(connection, b"unharmed", 8), b"unharmed");
    guest.end().unwrap();
}

#[test]
fn packets_from_any_other_source_are_met_with_silence() {
    let mut guest = start(&[]);
    for source in [
        [198, 19, 255, 3],
        [10, 0, 0, 1],
        [127, 0, 0, 1],
        [255; 4],
        [0; 4],
        [198, 19, 255, 1],
    ] {
        let mut frame = udp_frame(1000, layout::GATEWAY_V4.into(), 53, &query("a.example", 1));
        frame[26..30].copy_from_slice(&source);
        guest.wire.send(&frame);
        let mut frame = syn_frame(1000, Ipv4Addr::new(10, 0, 0, 1), 80);
        frame[26..30].copy_from_slice(&source);
        guest.wire.send(&frame);
    }
    // The answer to this one is the first that comes.
    let own = udp_frame(2000, layout::GATEWAY_V4.into(), 53, &query("b.example", 1));
    guest.wire.send(&own);
    guest.wire.wait(support::PATIENCE);
    guest.wire.read();
    let first = guest.wire.frames.pop_front().unwrap();
    assert_eq!(first[36..38], 2000_u16.to_be_bytes());
    assert!(guest.wire.frames.is_empty());
}
