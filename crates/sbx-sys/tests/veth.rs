//! The wire between a container and its endpoint, in network namespaces that
//! go with the process that made them.
//!
//! Each case runs in a process of its own (this test program again, with the
//! name of the case among its arguments), twice: with root's privilege, and as
//! an ordinary user who is root only of a user namespace.

#![cfg(test)]
#![expect(unsafe_code, reason = "a thread moves into a namespace of its own")]

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use rustix::thread::UnshareFlags;
use sbx_sys::netlink::{Netlink, index_of};
use sbx_sys::process::Ended;
use sbx_sys::spawn::Spawn;
use sbx_sys::veth::{beside, pair, whole};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const GATEWAY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const FAR: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 2);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 1);
const MTU: u32 = 65_520;
const ARP: [u8; 2] = [8, 6];
const IPV4: [u8; 2] = [8, 0];

#[test]
fn the_far_ends_first_question_arrives_and_own_frames_do_not_come_back() {
    each("question");
}

#[test]
fn frames_of_every_length_arrive_with_their_checksums_complete() {
    each("checksums");
}

#[test]
fn with_its_offloads_on_the_same_end_leaves_checksums_unfinished() {
    each("unfinished");
}

#[test]
fn the_near_end_has_no_address_and_answers_nothing() {
    each("silence");
}

#[test]
fn the_socket_says_so_once_the_far_namespace_is_gone() {
    each("far-gone");
}

#[test]
fn the_far_end_goes_with_the_near_namespace() {
    each("near-gone");
}

#[test]
fn with_both_ends_in_one_namespace_frames_arrive_and_the_near_one_is_silent() {
    each("beside");
}

#[test]
fn a_pair_that_cannot_be_finished_leaves_nothing() {
    each("unfinished-pair");
}

/// Runs a case as everybody who can make namespaces here.
fn each(case: &str) {
    let mut ran = false;
    for (who, prefix) in [("root", vec!["/usr/bin/unshare", "-n"]), ("user", user())] {
        let run = |arguments: &[String]| {
            let (read, write) = rustix::pipe::pipe().unwrap();
            let child = Spawn::path(prefix[0])
                .args(&prefix[1..])
                .arg(std::env::current_exe().unwrap())
                .args(arguments)
                .with_fd(write.try_clone().unwrap(), 1)
                .with_fd(write, 2)
                .spawn()
                .ok()?;
            let mut said = String::new();
            File::from(read).read_to_string(&mut said).unwrap();
            Some((child.wait().unwrap(), said))
        };
        // Also whether that user may run this program at all.
        if !matches!(run(&["--list".to_owned()]), Some((Ended::Exit(0), _))) {
            println!("SKIPPED {case} as {who}: it can make no network namespace here");
            continue;
        }
        let name = "a_case_runs_in_a_process_of_its_own".to_owned();
        let arguments = [name, "--exact".to_owned(), "--nocapture".to_owned()];
        let case = format!("case:{case}");
        let (ended, said) = run(&[&arguments[..], &[case]].concat()).unwrap();
        assert_eq!(ended, Ended::Exit(0), "as {who}: {said}");
        assert!(said.contains("the case held"), "as {who}: {said}");
        ran = true;
    }
    if !ran {
        println!("SKIPPED {case}: nobody can make network namespaces here");
    }
}

/// Becomes an ordinary user, then root of a user namespace.
fn user() -> Vec<&'static str> {
    let unshare = ["/usr/bin/unshare", "-Urn"];
    if !rustix::process::geteuid().is_root() {
        return unshare.to_vec();
    }
    let drop = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    [&["/usr/bin/setpriv"][..], &drop, &unshare].concat()
}

#[test]
fn a_case_runs_in_a_process_of_its_own() {
    let Some(case) = std::env::args().find_map(|a| a.strip_prefix("case:").map(str::to_owned))
    else {
        return;
    };
    match &*case {
        "question" => question(),
        "checksums" => checksums(),
        "unfinished" => unfinished(),
        "silence" => silence(),
        "far-gone" => far_gone(),
        "near-gone" => near_gone(),
        "beside" => both_in_one(),
        "unfinished-pair" => unfinished_pair(),
        other => panic!("no case {other}"),
    }
    println!("the case held");
}

fn question() {
    let (wire, far) = wire();
    far.talk();
    let asked = next(&wire, |frame| frame[12..14] == ARP);
    assert_eq!(asked[..6], [0xff; 6]);
    assert_eq!(asked[6..12], MAC);
    assert_eq!(asked[38..42], GATEWAY.octets());
    // What is said here is not heard here: the next about ARP is its answer.
    send(&wire, &arp(1, [0xff; 6], [0; 6]));
    let answer = next(&wire, |frame| {
        frame[12..14] == ARP && frame[..6] != [0xff; 6]
    });
    assert_eq!(answer[..6], GATEWAY_MAC);
    assert_eq!(answer[20..22], [0, 2]);
}

fn checksums() {
    let (wire, far) = wire();
    far.talk();
    answer_arp(&wire);
    // The longest: what is left of the MTU behind both headers.
    for length in [1, 1_400, 9_000, MTU as usize - 28] {
        far.within(move || {
            let socket = UdpSocket::bind((FAR, 0)).unwrap();
            socket.send_to(&vec![7; length], (GATEWAY, 9)).unwrap();
        });
        let frame = next(&wire, |frame| {
            is_of(frame, 17) && frame.len() >= 42 + length
        });
        assert_eq!(frame.len(), 42 + length);
        assert!(is_complete(&frame), "{length}");
    }
    // In one system call several, which hardware would cut.
    far.within(|| {
        let socket = UdpSocket::bind((FAR, 0)).unwrap();
        segment(&socket, 1_000);
        socket.send_to(&[9; 5_000], (GATEWAY, 9)).unwrap();
    });
    for _ in 0..5 {
        let frame = next(&wire, |frame| is_of(frame, 17) && frame[42] == 9);
        assert_eq!(frame.len(), 1_042);
        assert!(is_complete(&frame));
    }
    far.dial();
    let frame = next(&wire, |frame| is_of(frame, 6));
    assert!(is_complete(&frame));
}

fn unfinished() {
    let (wire, far) = wire();
    far.within(|| ethtool(0x17, 1));
    far.talk();
    answer_arp(&wire);
    far.dial();
    let frame = next(&wire, |frame| is_of(frame, 6));
    assert!(!is_complete(&frame));
}

fn silence() {
    let (wire, far) = wire();
    let addresses = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
    assert!(!addresses.contains("near"), "{addresses}");
    // An address of this side that a kernel would answer for.
    let index = index_of("near").unwrap();
    let mut netlink = Netlink::open().unwrap();
    netlink.address(index, GATEWAY.into(), 24).unwrap();
    far.talk();
    let asked = next(&wire, |frame| frame[12..14] == ARP);
    assert_eq!(asked[38..42], GATEWAY.octets());
    // It would have been answered while it was asked: by one thread, at once.
    let known = far.within(|| std::fs::read_to_string("/proc/thread-self/net/arp").unwrap());
    assert!(known.contains("00:00:00:00:00:00"), "{known}");
}

fn far_gone() {
    let (wire, far) = wire();
    far.talk();
    next(&wire, |frame| frame[12..14] == ARP);
    drop(far);
    let gone = loop {
        wait(&wire);
        match rustix::net::recv(&wire, &mut [0; 64][..], RecvFlags::empty()) {
            Ok(_) | Err(Errno::AGAIN) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(gone, Errno::NETDOWN);
    let unsent = rustix::net::send(&wire, &[0; 60], SendFlags::empty()).unwrap_err();
    assert!(matches!(unsent, Errno::NETDOWN | Errno::NXIO), "{unsent}");
    // It is down before it is gone, of which only its end is seen.
    while index_of("near").is_ok() {
        std::thread::yield_now();
    }
}

fn near_gone() {
    let far = Space::new();
    let namespace = far.namespace();
    let near = Space::new();
    let wire =
        near.within(move || pair("near", "eth0", Some(MAC), MTU, namespace.as_fd()).unwrap());
    far.talk();
    next(&wire, |frame| frame[12..14] == ARP);
    // A namespace lasts for as long as a socket of it.
    drop(near);
    assert!(far.within(|| index_of("eth0").is_ok()));
    drop(wire);
    // The kernel ends it in a worker of its own.
    while far.within(|| index_of("eth0").is_ok()) {
        std::thread::yield_now();
    }
}

fn both_in_one() {
    let space = Space::new();
    let wire = space.within(|| beside("near", "eth0", MAC, MTU).unwrap());
    let addresses =
        space.within(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap());
    assert!(!addresses.contains("near"), "{addresses}");
    space.talk();
    let asked = next(&wire, |frame| frame[12..14] == ARP);
    assert_eq!(asked[6..12], MAC);
    let known = space.within(|| std::fs::read_to_string("/proc/thread-self/net/arp").unwrap());
    assert!(known.contains("00:00:00:00:00:00"), "{known}");
    answer_arp(&wire);
    space.within(|| {
        let socket = UdpSocket::bind((FAR, 0)).unwrap();
        socket.send_to(&[7; 1_400], (GATEWAY, 9)).unwrap();
    });
    let frame = next(&wire, |frame| is_of(frame, 17) && frame.len() == 1_442);
    assert!(is_complete(&frame));
    space.dial();
    assert!(is_complete(&next(&wire, |frame| is_of(frame, 6))));
}

fn unfinished_pair() {
    let file = File::open("/dev/null").unwrap();
    let refused = pair("near", "eth0", None, MTU, file.as_fd()).unwrap_err();
    assert!(refused.errno().is_some(), "{refused}");
    for name in ["near", "eth0"] {
        assert!(index_of(name).is_err(), "{name}");
    }
    let far = Space::new();
    let refused = pair(
        "sixteen-letters-",
        "eth0",
        None,
        MTU,
        far.namespace().as_fd(),
    );
    assert_eq!(refused.unwrap_err().errno(), None);
}

/// A thread in a network namespace of its own.
struct Space {
    acts: Sender<Box<dyn FnOnce() + Send>>,
}

impl Space {
    fn new() -> Self {
        let (acts, taken) = channel::<Box<dyn FnOnce() + Send>>();
        std::thread::spawn(move || {
            // SAFETY: only the network namespace of this thread changes, and
            // no descriptor.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
            taken.iter().for_each(|act| act());
        });
        Self { acts }
    }

    /// Does it in there.
    fn within<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result): (_, Receiver<T>) = channel();
        let act = move || done.send(act()).unwrap();
        self.acts.send(Box::new(act)).unwrap();
        result.recv().unwrap()
    }

    fn namespace(&self) -> OwnedFd {
        self.within(|| File::open("/proc/thread-self/ns/net").unwrap().into())
    }

    /// Sets the interface up as a guest does, and says something.
    fn talk(&self) {
        self.within(|| {
            let index = index_of("eth0").unwrap();
            let mut netlink = Netlink::open().unwrap();
            netlink.up(index, None).unwrap();
            netlink.address(index, IpAddr::V4(FAR), 24).unwrap();
            netlink.default_route(index, IpAddr::V4(GATEWAY)).unwrap();
            let socket = UdpSocket::bind((FAR, 0)).unwrap();
            socket.send_to(b"x", (GATEWAY, 9)).unwrap();
        });
    }

    /// Starts a connection that nobody answers.
    fn dial(&self) {
        self.within(|| {
            let to = SocketAddr::from((GATEWAY, 9));
            assert!(TcpStream::connect_timeout(&to, Duration::from_millis(1)).is_err());
        });
    }
}

/// A pair, its near end here.
fn wire() -> (OwnedFd, Space) {
    let far = Space::new();
    let wire = pair("near", "eth0", Some(MAC), MTU, far.namespace().as_fd()).unwrap();
    far.within(|| whole("eth0").unwrap());
    (wire, far)
}

fn wait(wire: &OwnedFd) {
    poll(&mut [PollFd::new(wire, PollFlags::IN)], None).unwrap();
}

/// The next frame that `is` it; others are lost.
fn next(wire: &OwnedFd, is: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut room = vec![0; 1 << 17];
    loop {
        match rustix::net::recv(wire, &mut *room, RecvFlags::empty()) {
            Ok((_, length)) if is(&room[..length]) => return room[..length].to_vec(),
            Ok(_) => {}
            Err(Errno::AGAIN) => wait(wire),
            Err(error) => panic!("{error}"),
        }
    }
}

fn send(wire: &OwnedFd, frame: &[u8]) {
    let sent = rustix::net::send(wire, frame, SendFlags::empty()).unwrap();
    assert_eq!(sent, frame.len());
}

/// An ARP message of the gateway's about itself and the far end.
fn arp(operation: u8, to: [u8; 6], target: [u8; 6]) -> Vec<u8> {
    let mut frame = [to, GATEWAY_MAC].concat();
    frame.extend(ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    frame.extend(GATEWAY_MAC);
    frame.extend(GATEWAY.octets());
    frame.extend(target);
    frame.extend(FAR.octets());
    frame
}

fn answer_arp(wire: &OwnedFd) {
    next(wire, |frame| frame[12..14] == ARP);
    send(wire, &arp(2, MAC, MAC));
    next(wire, |frame| is_of(frame, 17));
}

fn is_of(frame: &[u8], protocol: u8) -> bool {
    frame[12..14] == IPV4 && frame[23] == protocol
}

/// Whether the checksum of a frame's datagram or segment is right.
fn is_complete(frame: &[u8]) -> bool {
    let payload = &frame[34..];
    let mut sum = u32::from(frame[23]) + payload.len() as u32;
    for word in frame[26..34].chunks(2).chain(payload.chunks(2)) {
        sum += u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum == 0xffff
}

/// Has a socket cut what it is given into datagrams.
fn segment(socket: &UdpSocket, length: libc::c_int) {
    // SAFETY: the kernel reads one integer, which `length` is.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            libc::UDP_SEGMENT,
            (&raw const length).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    assert_eq!(status, 0);
}

/// Sets a value of `eth0` the way a root inside would.
fn ethtool(command: u32, value: u32) {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let mut value = [command, value];
    let mut name = [0; libc::IFNAMSIZ];
    for (to, from) in name.iter_mut().zip(*b"eth0") {
        *to = from.cast_signed();
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru {
            ifru_data: value.as_mut_ptr().cast(),
        },
    };
    // SAFETY: the kernel reads and writes both, and they outlive the call.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), 0x8946, &raw mut request) };
    assert_eq!(status, 0);
}
