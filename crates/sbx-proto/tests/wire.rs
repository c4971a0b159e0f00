//! The bytes on the wire are frozen per generation, and no bytes hurt.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;
use sbx_proto::client::{Progress, Reply, Request};
use sbx_proto::flow::{Channel, Credit};
use sbx_proto::link::*;
use sbx_proto::session::*;
use sbx_proto::{
    Bytes, Decoder, Frame, FrameError, HEADER, Kind, MAX_MESSAGE, MAX_PAYLOAD, Message, Side,
    encode,
};

fn bytes(text: &str) -> Bytes {
    Bytes::from(text.as_bytes().to_vec())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn setup() -> Setup {
    Setup {
        generation: 1,
        hostname: "box".into(),
        clock_ns: 1_700_000_000_000_000_000,
        timezone: Some("UTC".into()),
        agent: AgentUser {
            uid: 1000,
            gid: 1001,
            groups: vec![44],
        },
        disks: Disks {
            base: "base".into(),
            scratch: Some("scratch".into()),
        },
        kits: vec![KitDisk {
            serial: "kit-a".into(),
            mount_point: "/k/a".into(),
        }],
        shares: vec![ShareMount {
            tag: "s0".into(),
            guest_path: bytes("/w"),
            read_only: true,
            file: Some(bytes("f")),
        }],
        volumes: vec![VolumeMount {
            name: "v".into(),
            guest_path: bytes("/v"),
        }],
        tmpfs: vec![TmpfsMount {
            guest_path: bytes("/t"),
            size: Some(4096),
        }],
        network: Some(NetSetup {
            v4: Ipv4Addr::new(198, 19, 255, 2),
            v4_prefix: 24,
            v4_gateway: Ipv4Addr::new(198, 19, 255, 1),
            v6: Ipv6Addr::new(0xfd73, 0x6278, 0x7800, 0, 0, 0, 0, 2),
            v6_prefix: 64,
            v6_gateway: Ipv6Addr::new(0xfd73, 0x6278, 0x7800, 0, 0, 0, 0, 1),
            dns: vec![IpAddr::V4(Ipv4Addr::new(198, 19, 255, 1))],
            mtu: 65520,
            hosts: vec![HostEntry {
                address: IpAddr::V6(Ipv6Addr::LOCALHOST),
                names: vec!["h".into()],
            }],
        }),
        trust_pem: bytes("pem"),
        pids_limit: Some(200),
        memory_limit: None,
        env: vec![(bytes("A"), bytes("1"))],
        workdir: Some(bytes("/w")),
        git_config: None,
    }
}

fn exec() -> Exec {
    Exec {
        argv: vec![bytes("sh"), bytes("-c")],
        env: vec![(bytes("A"), bytes("b"))],
        cwd: Some(bytes("/w")),
        user: User::Ids { uid: 5, gid: 6 },
        tty: Some(Tty {
            rows: 24,
            cols: 80,
            term: "xterm".into(),
        }),
        files: vec![HomeFile {
            path: bytes(".a"),
            mode: 0o600,
            content: bytes("x"),
            when: When::Always,
        }],
        clock_ns: 5,
        login: true,
    }
}

fn golden<M: Message + PartialEq + std::fmt::Debug>(message: &M, want: &str) {
    let frame = message.to_frame(1).unwrap();
    assert_eq!(hex(&frame.payload), want, "{message:?}");
    assert_eq!(&M::from_frame(&frame).unwrap(), message);
}

#[test]
fn messages_have_these_bytes() {
    golden(
        &Hello {
            generation: 1,
            guest_version: "0.1.0".into(),
            kernel: "6.12".into(),
        },
        "830165302e312e3064362e3132",
    );
    golden(
        &setup(),
        "900163626f781b17979cfe362a000063555443831903e81903e981182c82646261736567736372617463688182656b69742d61642f6b2f618184627330422f77f5416681826176422f768182422f741910008944c613ff02181844c613ff0150fd736278780000000000000000000002184050fd73627878000000000000000000000181820044c613ff0119fff08182820150000000000000000000000000000000018161684370656d18c8f6818241414131422f77",
    );
    golden(
        &Setup {
            git_config: Some(bytes("[user]")),
            ..setup()
        },
        "910163626f781b17979cfe362a000063555443831903e81903e981182c82646261736567736372617463688182656b69742d61642f6b2f618184627330422f77f5416681826176422f768182422f741910008944c613ff02181844c613ff0150fd736278780000000000000000000002184050fd73627878000000000000000000000181820044c613ff0119fff08182820150000000000000000000000000000000018161684370656d18c8f6818241414131422f77465b757365725d",
    );
    golden(
        &Ready {
            boot_ms: 500,
            walls: vec!["pids".into()],
            warnings: vec![],
        },
        "831901f481647069647380",
    );
    golden(&SetupFailed { what: "no".into() }, "81626e6f");
    golden(
        &Clock {
            ns: 1_700_000_000_000_000_000,
        },
        "811b17979cfe362a0000",
    );
    golden(&Shutdown { grace_ms: 5000 }, "81191388");
    golden(&Event::OutOfMemory { kills: 2 }, "82008102");
    golden(&Event::PidsLimit { hits: 3 }, "82018103");
    golden(&Event::Warning { what: "w".into() }, "8202816177");
    golden(
        &StatusReply {
            processes: 3,
            memory_total: 1 << 29,
            memory_available: 1 << 28,
            disk_total: 1 << 34,
            disk_free: 1 << 33,
            sessions: 1,
            uptime_s: 60,
        },
        "87031a200000001a100000001b00000004000000001b000000020000000001183c",
    );
    golden(
        &exec(),
        "8882427368422d63818241414162422f778202820506831818185065787465726d8184422e6119018041780105f5",
    );
    golden(&Started { pid: 300 }, "8119012c");
    golden(
        &Refused {
            code: 127,
            message: "x".into(),
        },
        "82187f6178",
    );
    golden(
        &Exit {
            code: Some(3),
            signal: None,
        },
        "8103",
    );
    golden(
        &Exit {
            code: None,
            signal: Some(9),
        },
        "82f609",
    );
    golden(
        &Resize {
            rows: 24,
            cols: 300,
        },
        "82181819012c",
    );
    golden(&Signal { number: 2 }, "8102");
    golden(&Request::Attach, "820080");
    golden(&Request::Inspect, "820180");
    golden(&Request::Stop { grace_ms: 10 }, "8202810a");
    golden(&Request::Ping, "820380");
    golden(&Request::Call { json: bytes("{}") }, "820481427b7d");
    golden(&Reply::Attached, "820080");
    golden(&Reply::Inspected { json: bytes("{}") }, "820181427b7d");
    golden(&Reply::Stopped, "820280");
    golden(
        &Reply::Pong {
            generation: 1,
            pid: 9,
        },
        "8203820109",
    );
    golden(&Reply::Answered { json: bytes("{}") }, "820481427b7d");
    golden(
        &Reply::Failed {
            code: 125,
            message: "m".into(),
            hint: Some("h".into()),
        },
        "820583187d616d6168",
    );
    golden(
        &Progress {
            text: "t".into(),
            percent: Some(50),
        },
        "8261741832",
    );
    golden(
        &Exec {
            argv: vec![bytes("a")],
            env: vec![],
            cwd: None,
            user: User::Name { name: "n".into() },
            tty: None,
            files: vec![],
            clock_ns: 0,
            login: false,
        },
        "8881416180f6820381616ef68000f4",
    );
}
#[test]
fn frame_header_has_these_bytes() {
    let mut out = Vec::new();
    encode(&Frame::new(0x0102, Kind::Stdout, *b"hi"), &mut out).unwrap();
    assert_eq!(hex(&out), "0200000002010000140000006869");
    assert_eq!(out.len(), HEADER + 2);
    assert_eq!(Channel::Stderr.eof(1).payload, [2]);
}

#[test]
fn frames_survive_any_cutting_of_the_stream() {
    let frames = [
        exec().to_frame(7).unwrap(),
        Frame::new(7, Kind::Stdin, vec![9; MAX_PAYLOAD]),
        Channel::Stdin.eof(7),
        Frame::new(0, Kind::Status, []),
        setup().to_frame(0).unwrap(),
    ];
    let mut wire = Vec::new();
    for frame in &frames {
        encode(frame, &mut wire).unwrap();
    }
    for size in [1, 2, 11, 12, 13, 4096, wire.len()] {
        let mut decoder = Decoder::new(Side::Host);
        let mut got = Vec::new();
        for piece in wire.chunks(size) {
            decoder.push(piece);
            while let Some(frame) = decoder.next().unwrap() {
                got.push(frame);
            }
        }
        assert_eq!(got, frames);
        assert_eq!(decoder.pending(), 0);
    }
}

fn header(len: u32, stream: u32, kind: u8) -> Vec<u8> {
    let mut out = len.to_le_bytes().to_vec();
    out.extend(stream.to_le_bytes());
    out.extend([kind, 0, 0, 0]);
    out
}

fn refusal(side: Side, wire: &[u8]) -> FrameError {
    let mut decoder = Decoder::new(side);
    decoder.push(wire);
    let error = decoder.next().unwrap_err();
    decoder.push(&[0; 100]);
    assert_eq!(decoder.next().unwrap_err(), error, "an error is final");
    assert_eq!(decoder.pending(), 0);
    error
}

#[test]
fn refuses_what_the_side_may_not_say_on_the_header_alone() {
    let long = u32::try_from(MAX_PAYLOAD).unwrap() + 1;
    assert_eq!(
        refusal(Side::Guest, &header(0, 0, 99)),
        FrameError::Kind(99)
    );
    assert_eq!(
        refusal(Side::Guest, &header(0, 1, 16)),
        FrameError::Unexpected(Kind::Open)
    );
    assert_eq!(
        refusal(Side::Client, &header(10, 0, 2)),
        FrameError::Unexpected(Kind::Setup)
    );
    assert_eq!(
        refusal(Side::Guest, &header(long, 1, 20)),
        FrameError::Long(Kind::Stdout, long)
    );
    assert_eq!(
        refusal(Side::Guest, &header(0, 0, 20)),
        FrameError::Stream(Kind::Stdout, 0)
    );
    assert_eq!(
        refusal(Side::Guest, &header(0, 3, 1)),
        FrameError::Stream(Kind::Hello, 3)
    );
    let mut spare = header(0, 1, 20);
    spare[10] = 1;
    assert_eq!(refusal(Side::Guest, &spare), FrameError::Spare);
}

#[test]
fn accepts_the_same_header_from_the_right_side() {
    for (side, stream, kind) in [
        (Side::Host, 1, Kind::Open),
        (Side::Host, 0, Kind::Setup),
        (Side::Guest, 1, Kind::Stdout),
        (Side::Guest, 0, Kind::Hello),
        (Side::Client, 0, Kind::Request),
        (Side::Supervisor, 0, Kind::Reply),
    ] {
        let mut decoder = Decoder::new(side);
        decoder.push(&header(0, stream, kind as u8));
        assert!(decoder.next().unwrap().is_some(), "{kind:?}");
    }
}

#[test]
fn every_kind_has_one_number_and_a_sender() {
    for &kind in Kind::ALL {
        assert_eq!(Kind::from_number(kind as u8), Some(kind));
        assert!(kind.max_payload() <= MAX_MESSAGE);
        assert!(
            [Side::Guest, Side::Host, Side::Client, Side::Supervisor]
                .iter()
                .any(|&side| kind.is_sent_by(side))
        );
    }
}

#[test]
fn a_message_that_is_too_long_is_not_sent() {
    let mut exec = exec();
    exec.argv.push(Bytes::from(vec![b'x'; MAX_MESSAGE]));
    assert!(exec.to_frame(1).is_err());
    let mut out = Vec::new();
    let frame = Frame::new(1, Kind::Stdin, vec![0; MAX_PAYLOAD + 1]);
    assert!(encode(&frame, &mut out).is_err());
    assert!(out.is_empty());
}

#[test]
fn fields_of_a_newer_generation_are_ignored() {
    // {0: 7, 9: "new"} in the array form: [7, "new"]
    let started = Started::from_payload(&[0x82, 0x07, 0x63, b'n', b'e', b'w']).unwrap();
    assert_eq!(started.pid, 7);
    assert!(
        Started::from_payload(&[0x81, 0x07, 0x00]).is_err(),
        "bytes after it"
    );
}

/// Decodes `payload` as every message; the result does not matter.
fn decode_all(payload: &[u8]) {
    let _ = Hello::from_payload(payload);
    let _ = Setup::from_payload(payload);
    let _ = Ready::from_payload(payload);
    let _ = SetupFailed::from_payload(payload);
    let _ = Clock::from_payload(payload);
    let _ = Shutdown::from_payload(payload);
    let _ = Event::from_payload(payload);
    let _ = StatusReply::from_payload(payload);
    let _ = Exec::from_payload(payload);
    let _ = Started::from_payload(payload);
    let _ = Refused::from_payload(payload);
    let _ = Exit::from_payload(payload);
    let _ = Resize::from_payload(payload);
    let _ = Signal::from_payload(payload);
    let _ = Request::from_payload(payload);
    let _ = Reply::from_payload(payload);
    let _ = Progress::from_payload(payload);
    let _ = Credit::from_payload(payload);
    let _ = Channel::from_eof(payload);
}

#[test]
fn claims_of_huge_lengths_allocate_nothing() {
    // Arrays, byte strings and texts of 2^63 and 2^32 items, as whole
    // messages and as the first field.
    for major in [0x40u8, 0x60, 0x80, 0xa0] {
        for size in [0x1bu8, 0x1a] {
            let mut claim = vec![major | size];
            claim.extend([0x7f; 8]);
            decode_all(&claim);
            let mut nested = vec![0x98, 0x10];
            nested.extend(&claim);
            decode_all(&nested);
        }
    }
    // Nesting deeper than any stack.
    decode_all(&vec![0x81; MAX_MESSAGE]);
    decode_all(&vec![0x9f; MAX_MESSAGE]);
    decode_all(&vec![0xc1; MAX_MESSAGE]);
    let mut unknown = vec![0x82, 0x07];
    unknown.extend(vec![0x81; 200]);
    decode_all(&unknown);
}

proptest! {
    #[test]
    fn random_bytes_are_no_danger(wire in proptest::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&wire);
        for side in [Side::Guest, Side::Host, Side::Client, Side::Supervisor] {
            let mut decoder = Decoder::new(side);
            decoder.push(&wire);
            while let Ok(Some(_)) = decoder.next() {}
            prop_assert!(decoder.pending() <= wire.len());
        }
    }

    #[test]
    fn damaged_messages_are_no_danger(at in 0usize..400, with in any::<u8>(), cut in 0usize..400) {
        for good in [setup().to_frame(0).unwrap(), exec().to_frame(1).unwrap()] {
            let mut payload = good.payload;
            let len = payload.len();
            payload[at % len] = with;
            decode_all(&payload);
            payload.truncate(cut % len);
            decode_all(&payload);
        }
    }

    #[test]
    fn random_headers_hold_no_more_than_one_frame(len in any::<u32>(), stream in 0u32..3, kind in 0u8..40) {
        let mut decoder = Decoder::new(Side::Guest);
        decoder.push(&header(len, stream, kind));
        if let Ok(None) = decoder.next() {
            prop_assert!(len as usize <= MAX_MESSAGE);
        }
    }
}
