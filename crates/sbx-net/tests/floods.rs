//! Floods from inside, one after the other: a jailed endpoint keeps what it
//! has, stays small, counts what it refuses and serves new work afterwards.
//! What others notice of it is measured by the bench of the same name.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::HashSet;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Instant;
use std::{fs, thread};

use sbx_net::{layout, limits};
use smoltcp::iface::SocketHandle;
use support::{Alone, PATIENCE, query, rules, start_alone, syn_frame, udp_frame};

const MB: usize = 1 << 20;

/// What an endpoint may come to whose guest asks and asks.
const REFUSING: usize = 64 * MB;

/// The ports that floods come from; the guest's own are above.
const FIRST: u16 = 1_024;
const LAST: u16 = 30_000;

/// Sent between two looks at what the flood has not to touch.
const BURST: usize = 2_000;
const BURSTS: usize = 10;

const RST: u8 = 4;

fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::listen(&listener, 4_096).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn host(port: u16) -> SocketAddr {
    (layout::HOST_V4, port).into()
}

/// Sends back what comes; its port.
fn echo() -> u16 {
    let (listener, port) = listener();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut from = stream.try_clone().unwrap();
                let mut to = stream;
                let _gone = std::io::copy(&mut from, &mut to);
            });
        }
    });
    port
}

/// Holds every connection, and says so many bytes first; its port.
fn holder(says: usize) -> u16 {
    let (listener, port) = listener();
    thread::spawn(move || {
        let words = vec![7; says];
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            stream.set_nonblocking(true).unwrap();
            // What the kernel does not take is not said.
            let _most = stream.write(&words);
            held.push(stream);
        }
    });
    port
}

/// An endpoint under attack, and a connection that stood before.
struct Attacked {
    alone: Alone,
    old: SocketHandle,
    echo: u16,
    begun: Instant,
}

impl Attacked {
    fn start(port: u16) -> Self {
        let files = rustix::process::Resource::Nofile;
        let mut open = rustix::process::getrlimit(files);
        open.current = open.maximum;
        rustix::process::setrlimit(files, open).unwrap();
        let echo = echo();
        let mut alone = start_alone(&rules(&[echo, port]));
        let old = alone.guest.established(host(echo));
        let mut attacked = Self {
            alone,
            old,
            echo,
            begun: Instant::now(),
        };
        attacked.old_works();
        attacked.alone.guest.wire.lost = Some(FIRST..=LAST);
        attacked
    }

    /// What stood before carries bytes.
    fn old_works(&mut self) {
        let said = b"still here";
        let heard = self.alone.guest.exchange(self.old, said, said.len());
        assert_eq!(heard, said);
    }

    /// So does what comes after, and the endpoint is no larger than that.
    fn ends_below(mut self, bound: usize) {
        self.old_works();
        let guest = &mut self.alone.guest;
        let new = guest.established(host(self.echo));
        assert_eq!(guest.exchange(new, b"new", 3), b"new");
        let most = self.memory();
        assert!(most < bound, "{} MB", most / MB);
        self.alone.end();
    }

    /// The most memory that the endpoint had so far.
    fn memory(&self) -> usize {
        let status = format!("/proc/{}/status", self.alone.endpoint.id());
        let status = fs::read_to_string(status).unwrap();
        let most = status.lines().find(|line| line.starts_with("VmHWM:"));
        let digits: String = most.unwrap().chars().filter(char::is_ascii_digit).collect();
        digits.parse::<usize>().unwrap() * 1024
    }

    /// Reads records until the refusals by one rule, and what was only
    /// counted, come to so many; at most as many lines as the rate lets by.
    fn refusals_come_to(&mut self, many: u64) {
        let (mut lines, mut summed) = (0, 0);
        while lines + summed < many {
            let line = self.alone.guest.control.line();
            if line["flow"]["verdict"] == "deny" {
                lines += 1;
            }
            summed += line["flood"]["denied"].as_u64().unwrap_or(0);
        }
        assert_eq!(lines + summed, many);
        let seconds = self.begun.elapsed().as_secs() + 2;
        let most = u64::from(limits::RECORD_RATE) * seconds;
        assert!(lines <= most, "{lines} lines in {seconds} s");
        assert!(summed > 0, "{lines} lines and no sum");
    }

    fn send(&mut self, frame: &[u8]) {
        self.alone.guest.wire.send(frame);
    }

    /// Opens so many connections to a port of the host, each of which stands
    /// or is refused; those that stand. They have no room for what is said to
    /// them.
    fn stand(&mut self, port: u16, count: u16) -> Vec<Vec<u8>> {
        let mut standing = Vec::new();
        let ports: Vec<u16> = (FIRST..FIRST + count).collect();
        self.alone.guest.wire.lost = None;
        for some in ports.chunks(256) {
            for from in some {
                self.send(&syn_frame(*from, layout::HOST_V4, port));
            }
            let mut waiting: HashSet<u16> = some.iter().copied().collect();
            let limit = Instant::now() + PATIENCE;
            while !waiting.is_empty() {
                assert!(Instant::now() < limit, "{} not answered", waiting.len());
                let wire = &mut self.alone.guest.wire;
                wire.wait(std::time::Duration::from_millis(20));
                wire.read();
                while let Some(answer) = wire.frames.pop_front() {
                    let Some(to) = answer.get(36..38) else {
                        continue;
                    };
                    let to = u16::from_be_bytes(to.try_into().unwrap());
                    // The second of two is the same again.
                    if !waiting.remove(&to) || answer[47] & RST != 0 {
                        continue;
                    }
                    let mut ack = syn_frame(to, layout::HOST_V4, port);
                    let sequence = u32::from_be_bytes(answer[38..42].try_into().unwrap());
                    ack[38..42].copy_from_slice(&answer[42..46]);
                    ack[42..46].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
                    ack[47] = 0x10;
                    ack[48..50].fill(0);
                    wire.send(&ack);
                    standing.push(ack);
                }
            }
        }
        self.alone.guest.wire.lost = Some(FIRST..=LAST);
        standing
    }

    /// Says a byte on each of them.
    fn speak(&mut self, standing: &mut [Vec<u8>]) {
        for frame in standing {
            let length = frame.len() as u16 - 14;
            let mut said = [frame.as_slice(), b"x"].concat();
            said[16..18].copy_from_slice(&(length + 1).to_be_bytes());
            self.send(&said);
            let sequence = u32::from_be_bytes(frame[38..42].try_into().unwrap());
            frame[38..42].copy_from_slice(&sequence.wrapping_add(1).to_be_bytes());
        }
    }

    /// Ends them, in the order of a program that is killed.
    fn reset(&mut self, standing: Vec<Vec<u8>>) {
        for mut frame in standing {
            frame[47] = RST | 0x10;
            self.send(&frame);
        }
    }
}

#[test]
fn a_flood_of_names_leaves_connections_alone_and_is_counted() {
    let mut attacked = Attacked::start(1);
    let mut number = 0;
    for _ in 0..BURSTS {
        for _ in 0..BURST {
            let name = query(&format!("n{number}.example"), 1);
            let from = FIRST + (number % 20_000) as u16;
            attacked.send(&udp_frame(from, layout::GATEWAY_V4.into(), 53, &name));
            number += 1;
        }
        attacked.old_works();
    }
    // Nothing says which were refused, by the rate or the table of names; the
    // next one is not, once a moment has passed.
    let mut sums = 0;
    while sums == 0 {
        let line = attacked.alone.guest.control.line();
        let rule = line["flow"]["rule"].as_str().unwrap_or("limit:");
        assert!(
            rule.starts_with("limit:") || rule.starts_with("user "),
            "{line}"
        );
        sums += line["flood"]["denied"].as_u64().unwrap_or(0);
    }
    attacked.ends_below(REFUSING);
}

#[test]
fn a_flood_of_half_open_connections_leaves_the_old_ones_alone_and_costs_little() {
    let port = holder(0);
    let mut attacked = Attacked::start(port);
    for burst in 0..BURSTS {
        for number in 0..BURST {
            let from = FIRST + (burst * BURST + number) as u16;
            attacked.send(&syn_frame(from, layout::HOST_V4, port));
        }
        attacked.old_works();
    }
    // The guest's kernel would repeat its SYN until there is room again.
    attacked.ends_below(REFUSING);
}

#[test]
fn a_flood_of_denied_attempts_leaves_connections_alone_and_is_counted() {
    let mut attacked = Attacked::start(1);
    for burst in 0..BURSTS {
        for number in 0..BURST {
            let from = FIRST + (burst * BURST + number) as u16;
            attacked.send(&syn_frame(from, Ipv4Addr::new(10, 0, 0, 1), 22));
        }
        attacked.old_works();
    }
    attacked.refusals_come_to((BURSTS * BURST) as u64);
    attacked.ends_below(REFUSING);
}

#[test]
fn a_guest_whose_frames_come_to_nothing_waits_and_its_connections_do_not() {
    let mut attacked = Attacked::start(1);
    let rate = limits::FRUITLESS_RATE as usize;
    // The first second's worth passes at once, and the link holds some.
    let sent = 4 * rate;
    for burst in 0..sent / BURST {
        for number in 0..BURST {
            let from = FIRST + ((burst * BURST + number) % usize::from(LAST - FIRST)) as u16;
            attacked.send(&syn_frame(from, Ipv4Addr::new(10, 0, 0, 1), 22));
        }
        attacked.old_works();
    }
    let taken = attacked.begun.elapsed().as_secs_f64();
    let least = (sent - rate) as f64 / rate as f64 * 0.9;
    assert!(taken > least, "{sent} frames in {taken} s");
    attacked.ends_below(REFUSING);
}

#[test]
fn a_guest_on_whose_connections_nothing_is_said_waits_and_its_others_do_not() {
    let port = holder(0);
    let mut attacked = Attacked::start(port);
    let count = 1_000;
    let at_once = limits::FRUITLESS_AT_ONCE / limits::FRUITLESS_CONNECTION;
    let waiting = f64::from(u32::from(count) - at_once);
    let least = waiting * limits::FRUITLESS_PAUSE.as_secs_f64() * 0.9;
    let begun = Instant::now();
    for _ in 0..3 {
        let standing = attacked.stand(port, count);
        attacked.reset(standing);
        attacked.old_works();
    }
    let taken = begun.elapsed().as_secs_f64();
    assert!(taken > 3.0 * least, "{count} connections in {taken} s");
    // With a word on each they may all be as fast as the machine is, which may
    // be slow for once.
    let limit = Instant::now() + PATIENCE;
    let mut taken = f64::MAX;
    while taken > least {
        assert!(Instant::now() < limit, "{count} connections in {taken} s");
        let begun = Instant::now();
        let mut standing = attacked.stand(port, count);
        attacked.speak(&mut standing);
        attacked.reset(standing);
        attacked.old_works();
        taken = begun.elapsed().as_secs_f64();
    }
    attacked.ends_below(REFUSING);
}

#[test]
fn a_guest_that_takes_crumbs_waits_and_its_connections_do_not() {
    let port = holder(128 * 1024);
    let mut attacked = Attacked::start(port);
    let mut ack = attacked.stand(port, 1).remove(0);
    let heard = u32::from_be_bytes(ack[42..46].try_into().unwrap());
    // Room for one byte, whichever comes next.
    ack[48..50].copy_from_slice(&1_u16.to_be_bytes());
    let rate = limits::FRUITLESS_RATE as usize;
    let begun = Instant::now();
    let sent = 3 * rate;
    for byte in 1..=sent {
        let next = heard.wrapping_add(byte as u32);
        ack[42..46].copy_from_slice(&next.to_be_bytes());
        attacked.send(&ack);
        if byte % BURST == 0 {
            attacked.old_works();
        }
    }
    let taken = begun.elapsed().as_secs_f64();
    let least = (sent - rate) as f64 / rate as f64 * 0.9;
    assert!(taken > least, "{sent} crumbs in {taken} s");
    attacked.ends_below(REFUSING);
}

#[test]
fn twenty_thousand_attempts_at_an_allowed_port_stand_up_to_the_bound_and_no_further() {
    let port = holder(0);
    let mut attacked = Attacked::start(port);
    let standing = attacked.stand(port, 20_000);
    // The old one has its place too.
    assert_eq!(standing.len(), limits::FLOWS - 1);
    attacked.old_works();
    attacked.refusals_come_to((20_000 - standing.len()) as u64);
    attacked.alone.guest.refused(host(port));
    attacked.reset(standing);
    // Of the 704 MiB that buffers may come to, only what was touched.
    attacked.ends_below(256 * MB);
}

#[test]
fn readers_that_never_read_fill_their_buffers_and_no_more() {
    let port = holder(128 * 1024);
    let mut attacked = Attacked::start(port);
    let standing = attacked.stand(port, limits::FLOWS as u16 - 1);
    assert_eq!(standing.len(), limits::FLOWS - 1);
    let limit = Instant::now() + PATIENCE;
    while attacked.memory() < 256 * MB {
        assert!(Instant::now() < limit, "{} MB", attacked.memory() / MB);
        attacked.old_works();
    }
    attacked.reset(standing);
    let buffers = limits::BUFFERS.map(|(bytes, most)| bytes * most);
    let full = buffers.iter().sum::<usize>();
    attacked.ends_below(full + REFUSING);
}
