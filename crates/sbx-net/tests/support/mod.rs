//! A guest made of smoltcp, for tests that share their process with the
//! endpoint.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses its own part"
)]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

pub mod bed;
pub mod program;
pub mod web;

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{RecvFlags, SendFlags};
use sbx_net::process::Links;
use sbx_net::{Error, KnownName, Proxies, layout};
use sbx_spec::{Action, NetworkPreset, Origin, Rule, preset_rules};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{IpCidr, IpEndpoint};

/// Longest time anything may take that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running endpoint and the guest on its link.
pub struct Guest {
    pub wire: Wire,
    pub interface: Interface,
    pub sockets: SocketSet<'static>,
    pub control: Control,
    pub endpoint: Option<JoinHandle<Result<(), Error>>>,
    start: Instant,
    next_port: u16,
}

/// The supervisor's end.
pub struct Control {
    lines: Option<BufReader<UnixStream>>,
    doors: OwnedFd,
}

/// The VMM's end of the link.
pub struct Wire {
    pub link: OwnedFd,
    pub frames: VecDeque<Vec<u8>>,
    /// Frames to these ports of the guest are lost.
    pub lost: Option<RangeInclusive<u16>>,
}

/// An endpoint in a jailed process of its own, and its guest in this one.
pub struct Alone {
    pub guest: Guest,
    pub endpoint: Child,
}

/// Starts an endpoint whose guest may reach these ports of the host.
pub fn start(localhost_ports: &[u16]) -> Guest {
    start_with(&rules(localhost_ports))
}

/// `open`, and these ports of the host.
pub fn rules(localhost_ports: &[u16]) -> Vec<Rule> {
    let ports = localhost_ports
        .iter()
        .map(|port| allow(&format!("localhost:{port}")));
    preset_rules(NetworkPreset::Open).chain(ports).collect()
}

/// A rule of the user that allows something.
pub fn allow(resource: &str) -> Rule {
    Rule::new(Action::Allow, resource.parse().unwrap(), Origin::User).unwrap()
}

pub fn start_with(rules: &[Rule]) -> Guest {
    start_kept(rules).0
}

/// What outlives an endpoint.
pub struct Kept {
    pub link: OwnedFd,
    pub ledger: OwnedFd,
    pub names: Vec<KnownName>,
    pub proxies: Proxies,
}

fn serve(rules: &[Rule], kept: &Kept) -> (Control, JoinHandle<Result<(), Error>>) {
    let (control, supervisor) = UnixStream::pair().unwrap();
    let (published, doors) = sbx_sys::unix::message_pair().unwrap();
    let links = Links {
        link: kept.link.try_clone().unwrap(),
        control: control.into(),
        ledger: kept.ledger.try_clone().unwrap(),
        names: sbx_net::names_file(&kept.names).unwrap(),
        published,
        trust: Vec::new(),
        proxies: kept.proxies.clone(),
    };
    let endpoint = std::thread::spawn(move || sbx_net::process::serve(links));
    (ready(supervisor, doors, rules), endpoint)
}

/// The supervisor's end of an endpoint that has its rules.
fn ready(supervisor: UnixStream, doors: OwnedFd, rules: &[Rule]) -> Control {
    supervisor.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut control = Control {
        lines: Some(BufReader::new(supervisor)),
        doors,
    };
    let ready = control.line();
    assert!(ready.get("ready").is_some(), "{ready}");
    control.order_rules(0, rules);
    control.next("policy");
    control
}

/// Starts an endpoint as a process of its own.
pub fn start_alone(rules: &[Rule]) -> Alone {
    let (link, wire) = sbx_sys::unix::message_pair().unwrap();
    let (control, supervisor) = UnixStream::pair().unwrap();
    let endpoint = program::program(program::example("endpoint"))
        .stdin(link)
        .stdout(OwnedFd::from(control))
        .spawn()
        .unwrap();
    // Nobody publishes anything.
    let (_published, doors) = sbx_sys::unix::message_pair().unwrap();
    let control = ready(supervisor, doors, rules);
    Alone {
        guest: guest(wire, control, None),
        endpoint,
    }
}

/// Starts an endpoint that another one can follow.
pub fn start_kept(rules: &[Rule]) -> (Guest, Kept) {
    start_behind(rules, Proxies::default())
}

/// The same on a host whose network is behind proxies.
pub fn start_behind(rules: &[Rule], proxies: Proxies) -> (Guest, Kept) {
    let (link, wire) = sbx_sys::unix::message_pair().unwrap();
    let kept = Kept {
        link,
        ledger: sbx_sys::memfd::fixed("ledger", sbx_net::limits::LEDGER).unwrap(),
        names: Vec::new(),
        proxies,
    };
    let (control, endpoint) = serve(rules, &kept);
    (guest(wire, control, Some(endpoint)), kept)
}

fn guest(
    wire: OwnedFd,
    control: Control,
    endpoint: Option<JoinHandle<Result<(), Error>>>,
) -> Guest {
    let mut wire = Wire::new(wire);
    let mut interface_config = Config::new(layout::GUEST_MAC.into());
    interface_config.random_seed = 7;
    let mut interface = Interface::new(interface_config, &mut wire, smoltcp::time::Instant::ZERO);
    interface.update_ip_addrs(|addresses| {
        addresses
            .push(IpCidr::new(layout::GUEST_V4.into(), 24))
            .unwrap();
        addresses
            .push(IpCidr::new(layout::GUEST_V6.into(), 64))
            .unwrap();
    });
    interface
        .routes_mut()
        .add_default_ipv4_route(layout::GATEWAY_V4)
        .unwrap();
    interface
        .routes_mut()
        .add_default_ipv6_route(layout::GATEWAY_V6)
        .unwrap();
    Guest {
        wire,
        interface,
        sockets: SocketSet::new(Vec::new()),
        control,
        endpoint,
        start: Instant::now(),
        next_port: 40_000,
    }
}

impl Alone {
    /// Closes the link, and sees the endpoint end well.
    pub fn end(mut self) {
        rustix::net::shutdown(&self.guest.wire.link, rustix::net::Shutdown::Both).unwrap();
        assert!(self.endpoint.wait().unwrap().success());
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let _gone = self.endpoint.kill();
        let _gone = self.endpoint.wait();
    }
}

impl Guest {
    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(self.start.elapsed().as_micros() as i64)
    }

    /// A connection on its way.
    pub fn connect(&mut self, to: impl Into<SocketAddr>) -> SocketHandle {
        let to: SocketAddr = to.into();
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; 1 << 20]),
            tcp::SocketBuffer::new(vec![0; 1 << 20]),
        );
        self.next_port += 1;
        socket
            .connect(
                self.interface.context(),
                IpEndpoint::from(to),
                self.next_port,
            )
            .unwrap();
        self.sockets.add(socket)
    }

    /// A socket of the guest's that waits for a connection to `port`.
    pub fn listening(&mut self, port: u16) -> SocketHandle {
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; 1 << 20]),
            tcp::SocketBuffer::new(vec![0; 1 << 20]),
        );
        socket.listen(port).unwrap();
        self.sockets.add(socket)
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// A connection that stands.
    pub fn established(&mut self, to: impl Into<SocketAddr>) -> SocketHandle {
        let handle = self.connect(to);
        self.until("a connection", |guest| {
            guest.tcp(handle).state() != tcp::State::SynSent
        });
        assert_eq!(self.tcp(handle).state(), tcp::State::Established);
        handle
    }

    /// A connection that is refused; fails the test when it is not, or late.
    pub fn refused(&mut self, to: impl Into<SocketAddr>) {
        let to = to.into();
        let begun = Instant::now();
        let handle = self.connect(to);
        self.until("a refusal", |guest| {
            guest.tcp(handle).state() != tcp::State::SynSent
        });
        assert_eq!(self.tcp(handle).state(), tcp::State::Closed, "{to}");
        // A second may go by before this guest repeats a neighbour question.
        assert!(
            begun.elapsed() < Duration::from_millis(2_500),
            "{to} refused late"
        );
        self.sockets.remove(handle);
    }

    /// Runs the guest until something is so.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let limit = Instant::now() + PATIENCE;
        loop {
            self.turn();
            if done(self) {
                // What was asked for last is still to be sent.
                self.turn();
                return;
            }
            assert!(Instant::now() < limit, "{what} did not come");
            self.wire.wait(Duration::from_millis(20));
        }
    }

    /// Runs the guest once.
    pub fn turn(&mut self) {
        self.wire.read();
        let now = self.now();
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }

    /// Sends everything, and then reads until `count` bytes have come.
    pub fn exchange(&mut self, handle: SocketHandle, mut send: &[u8], count: usize) -> Vec<u8> {
        let mut got = Vec::new();
        self.until("an exchange", |guest| {
            let socket = guest.tcp(handle);
            if socket.can_send() && !send.is_empty() {
                let sent = socket.send_slice(send).unwrap();
                send = &send[sent..];
            }
            while socket.can_recv() {
                socket
                    .recv(|bytes| {
                        got.extend_from_slice(bytes);
                        (bytes.len(), ())
                    })
                    .unwrap();
            }
            send.is_empty() && got.len() >= count
        });
        got
    }

    /// Waits for a frame that `is` it; others are lost.
    pub fn until_raw(&mut self, what: &str, mut is: impl FnMut(&[u8]) -> bool) {
        let limit = Instant::now() + PATIENCE;
        loop {
            self.wire.read();
            while let Some(frame) = self.wire.frames.pop_front() {
                if is(&frame) {
                    return;
                }
            }
            assert!(Instant::now() < limit, "{what} did not come");
            self.wire.wait(Duration::from_millis(20));
        }
    }

    /// One question over UDP, one answer.
    pub fn ask(&mut self, query: &[u8]) -> Vec<u8> {
        self.next_port += 1;
        let frame = udp_frame(self.next_port, layout::GATEWAY_V4.into(), 53, query);
        self.wire.send(&frame);
        let limit = Instant::now() + PATIENCE;
        loop {
            self.wire.read();
            while let Some(frame) = self.wire.frames.pop_front() {
                if frame.get(23) == Some(&17)
                    && frame.get(36..38) == Some(&self.next_port.to_be_bytes())
                {
                    return frame[42..].to_vec();
                }
            }
            assert!(Instant::now() < limit, "no answer from the name server");
            self.wire.wait(Duration::from_millis(20));
        }
    }

    /// Ends the endpoint as its death would, its connections left as they are,
    /// and puts another one in its place.
    pub fn followed(&mut self, rules: &[Rule], kept: &Kept) {
        self.control.close();
        self.endpoint.take().unwrap().join().unwrap().unwrap();
        let next = serve(rules, kept);
        self.control = next.0;
        self.endpoint = Some(next.1);
    }

    /// Closes the link and returns how the endpoint ended.
    pub fn end(self) -> Result<(), Error> {
        rustix::net::shutdown(&self.wire.link, rustix::net::Shutdown::Both).unwrap();
        self.joined()
    }

    /// Waits until the endpoint has ended by itself.
    pub fn joined(mut self) -> Result<(), Error> {
        self.endpoint.take().unwrap().join().unwrap()
    }
}

impl Control {
    /// The next line.
    pub fn line(&mut self) -> serde_json::Value {
        self.line_or_end().unwrap()
    }

    /// The next line; `None` where the endpoint has ended.
    pub fn line_or_end(&mut self) -> Option<serde_json::Value> {
        let mut line = String::new();
        let count = self.lines.as_mut().unwrap().read_line(&mut line).unwrap();
        let read =
            || serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        (count > 0).then(read)
    }

    /// Whether there is a line, or its beginning.
    pub fn is_readable(&self) -> bool {
        let lines = self.lines.as_ref().unwrap();
        let now = rustix::event::Timespec::default();
        let mut fds = [PollFd::new(lines.get_ref(), PollFlags::IN)];
        !lines.buffer().is_empty() || poll(&mut fds, Some(&now)).unwrap() > 0
    }

    /// Writes a line to the endpoint.
    pub fn order(&mut self, line: &str) {
        let lines = self.lines.as_mut().unwrap();
        lines.get_mut().write_all(line.as_bytes()).unwrap();
    }

    /// Hands a connection over to a published port of the guest's.
    pub fn publish(&self, stream: impl AsFd, port: u16) {
        let said = format!("{{\"port\":{port}}}");
        let fds = [stream.as_fd()];
        sbx_sys::unix::send(&self.doors, said.as_bytes(), &fds).unwrap();
    }

    /// Says that the socket of datagrams with this end is published no more.
    pub fn shut(&self, at: SocketAddr) {
        let said = serde_json::json!({ "shut": at }).to_string();
        sbx_sys::unix::send(&self.doors, said.as_bytes(), &[]).unwrap();
    }

    /// Orders `open` and these ports of the host.
    pub fn order_policy(&mut self, revision: u64, localhost_ports: &[u16]) {
        self.order_rules(revision, &rules(localhost_ports));
    }

    /// Orders these rules.
    pub fn order_rules(&mut self, revision: u64, rules: &[Rule]) {
        let order = serde_json::json!({"policy": {"revision": revision, "rules": rules}});
        self.order(&format!("{order}\n"));
    }

    /// The next line that has this member.
    pub fn next(&mut self, member: &str) -> serde_json::Value {
        loop {
            if let Some(found) = self.line().get(member) {
                return found.clone();
            }
        }
    }

    pub fn close(&mut self) {
        self.lines = None;
    }
}

impl Wire {
    pub fn new(link: OwnedFd) -> Self {
        Self {
            link,
            frames: VecDeque::new(),
            lost: None,
        }
    }

    pub fn wait(&self, time: Duration) {
        let time = rustix::event::Timespec::try_from(time).unwrap();
        let mut fds = [PollFd::from_borrowed_fd(self.link.as_fd(), PollFlags::IN)];
        poll(&mut fds, Some(&time)).unwrap();
    }

    pub fn read(&mut self) {
        let mut room = vec![0; sbx_net::limits::FRAME];
        while let Ok((_, count @ 1..)) =
            rustix::net::recv(&self.link, &mut *room, RecvFlags::DONTWAIT)
        {
            let frame = &room[..count];
            let to = frame
                .get(36..38)
                .map(|to| u16::from_be_bytes([to[0], to[1]]));
            if !to.is_some_and(|to| self.lost.as_ref().is_some_and(|lost| lost.contains(&to))) {
                self.frames.push_back(frame.to_vec());
            }
        }
    }

    /// Sends a frame, waiting for room as a VMM would.
    pub fn send(&mut self, frame: &[u8]) {
        let limit = Instant::now() + PATIENCE;
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        while let Err(error) = rustix::net::send(&self.link, frame, flags) {
            assert_eq!(error, rustix::io::Errno::AGAIN);
            assert!(Instant::now() < limit, "the endpoint does not read");
            // It may be waiting for us to read.
            self.read();
            std::thread::yield_now();
        }
    }
}

pub struct Frame(Vec<u8>);
pub struct Room<'a>(&'a mut Wire);

impl Device for Wire {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Frame, Room<'_>)> {
        let frame = self.frames.pop_front()?;
        Some((Frame(frame), Room(self)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Room<'_>> {
        Some(Room(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = sbx_net::limits::FRAME;
        capabilities
    }
}

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut frame = vec![0; length];
        let result = fill(&mut frame);
        self.0.send(&frame);
        result
    }
}

fn ipv4_frame(protocol: u8, to: std::net::Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(layout::GATEWAY_MAC.as_bytes());
    frame.extend_from_slice(layout::GUEST_MAC.as_bytes());
    frame.extend_from_slice(&[8, 0, 0x45, 0]);
    frame.extend_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend_from_slice(&layout::GUEST_V4.octets());
    frame.extend_from_slice(&to.octets());
    frame.extend_from_slice(payload);
    frame
}

/// A frame with a datagram; checksums are left out, as the endpoint allows.
pub fn udp_frame(from: u16, to: IpAddr, port: u16, payload: &[u8]) -> Vec<u8> {
    let IpAddr::V4(to) = to else {
        panic!("IPv4 only")
    };
    let mut udp = Vec::new();
    udp.extend_from_slice(&from.to_be_bytes());
    udp.extend_from_slice(&port.to_be_bytes());
    udp.extend_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    udp.extend_from_slice(&[0, 0]);
    udp.extend_from_slice(payload);
    ipv4_frame(17, to, &udp)
}

/// A frame that asks for an echo.
pub fn echo_frame(to: std::net::Ipv4Addr) -> Vec<u8> {
    // The sum of the other words, inverted.
    ipv4_frame(1, to, &[8, 0, 0xf7, 0xfe, 0, 0, 0, 1])
}

/// A frame with a SYN.
pub fn syn_frame(from: u16, to: std::net::Ipv4Addr, port: u16) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend_from_slice(&from.to_be_bytes());
    tcp.extend_from_slice(&port.to_be_bytes());
    tcp.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    ipv4_frame(6, to, &tcp)
}

/// A question for one name and type.
pub fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(label.len() as u8);
        message.extend_from_slice(label.as_bytes());
    }
    message.push(0);
    message.extend_from_slice(&kind.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message
}

/// The address at the end of an answer to an A question.
pub fn address_in(answer: &[u8]) -> std::net::Ipv4Addr {
    assert_eq!(answer[3] & 15, 0, "rcode");
    assert_eq!(answer[6..8], [0, 1], "one record");
    let octets: [u8; 4] = answer[answer.len() - 4..].try_into().unwrap();
    octets.into()
}
