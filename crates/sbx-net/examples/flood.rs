//! A guest that does nothing but harm, on the link of descriptor 0, where its
//! endpoint is at the other end; and what stands beside it. For tests and
//! benches, bounded by its time.
//!
//! ```text
//! flood names|half|denied|attempts|slow SECONDS PORT
//!                         says `up`, and at its end how many frames went and
//!                         how many came; PORT is one of the host's
//! flood mirror            an endpoint that judges nothing and has no
//!                         connections: the same exchange without the work
//! flood serve quiet|loud ADDRESS
//!                         takes connections and says nothing, or all it can;
//!                         says `up`
//! ```
//!
//! `names` asks for ever new names, `half` opens connections and never answers,
//! `denied` asks for an address that no rule allows, `attempts` makes 20,000
//! connections that stand as far as they can, lets go and begins anew, and
//! `slow` has 5,000 and reads them byte by byte.

#![allow(clippy::print_stdout, reason = "says what it did")]

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustix::process::{Resource, getrlimit, setrlimit};
use sbx_net::{layout, limits};

type Failed = Box<dyn std::error::Error>;

/// Frames before what came is looked at.
const BURST: u32 = 32;
/// Connection attempts without an answer at once: fewer than an endpoint
/// lets be on their way.
const UNANSWERED: u32 = 512;
/// After such a silence answers are given up: a full link drops them.
const SILENCE: Duration = Duration::from_millis(50);
const ATTEMPTS: u32 = 20_000;
const READERS: u32 = 5_000;
/// The first port that a connection comes from.
const FIRST: u32 = 1_024;
const DENIED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Headers of Ethernet and IPv4.
const HEAD: usize = 34;

fn main() -> Result<(), Failed> {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files)?;
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match *words {
        ["serve", how, address] => serve(address, how == "loud"),
        ["mirror"] => mirror(&mut Link::new()?),
        [flood, seconds, port] => {
            let mut link = Link::new()?;
            let until = Instant::now() + Duration::from_secs(seconds.parse()?);
            let port = port.parse()?;
            println!("up");
            match flood {
                "names" => names(&mut link, until)?,
                "half" => syns(&mut link, until, (layout::HOST_V4, port))?,
                "denied" => syns(&mut link, until, (DENIED, 22))?,
                "attempts" => stand(&mut link, until, port, ATTEMPTS, u16::MAX)?,
                "slow" => stand(&mut link, until, port, READERS, 1)?,
                _ => return Err("there is no such flood".into()),
            }
            println!("{} {}", link.sent, link.came);
            Ok(())
        }
        _ => Err("see the head of this program's source".into()),
    }
}

/// Our end of the link.
struct Link {
    fd: OwnedFd,
    room: Vec<u8>,
    sent: u64,
    came: u64,
}

impl Link {
    fn new() -> Result<Self, Failed> {
        Ok(Self {
            fd: io::stdin().as_fd().try_clone_to_owned()?,
            room: vec![0; limits::FRAME],
            sent: 0,
            came: 0,
        })
    }

    /// Sends a frame as soon as there is room, and reads meanwhile, as both
    /// sides of a link have to.
    fn send(&mut self, frame: &[u8], mut came: impl FnMut(&[u8])) -> Result<(), Failed> {
        loop {
            match send(&self.fd, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => break,
                Err(Errno::AGAIN) => {
                    self.wait(PollFlags::IN | PollFlags::OUT, Duration::from_secs(1))?;
                    self.read(&mut came)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.sent += 1;
        Ok(())
    }

    /// Takes what has come; false at the end of the link.
    fn read(&mut self, mut came: impl FnMut(&[u8])) -> Result<bool, Failed> {
        loop {
            match recv(&self.fd, &mut *self.room, RecvFlags::DONTWAIT) {
                Ok((_, 0)) | Err(Errno::CONNRESET) => return Ok(false),
                Ok((_, length)) => {
                    self.came += 1;
                    came(self.room.get(..length).unwrap_or_default());
                }
                Err(Errno::AGAIN) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self, what: PollFlags, time: Duration) -> Result<(), Failed> {
        let time = Timespec::try_from(time)?;
        poll(&mut [PollFd::new(&self.fd, what)], Some(&time))?;
        Ok(())
    }
}

fn names(link: &mut Link, until: Instant) -> Result<(), Failed> {
    for number in 0_u32.. {
        let label = format!("n{number:08}");
        let mut query = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in [label.as_str(), "flood", "example"] {
            query.push(label.len() as u8);
            query.extend_from_slice(label.as_bytes());
        }
        query.extend_from_slice(&[0, 0, 1, 0, 1]);
        let from = FIRST + number % 60_000;
        link.send(&datagram(from as u16, &query), |_| ())?;
        if number % BURST == 0 {
            link.read(|_| ())?;
            if Instant::now() > until {
                break;
            }
        }
    }
    Ok(())
}

/// Connections that are asked for and never answered.
fn syns(link: &mut Link, until: Instant, to: (Ipv4Addr, u16)) -> Result<(), Failed> {
    for number in 0_u32.. {
        let from = (FIRST + number % 60_000) as u16;
        let syn = Segment {
            from,
            to,
            flags: SYN,
            ..Segment::default()
        };
        link.send(&syn.frame(), |_| ())?;
        if number % BURST == 0 {
            link.read(|_| ())?;
            if Instant::now() > until {
                break;
            }
        }
    }
    Ok(())
}

/// Connections that stand as far as they can: `count` of them, and then their
/// end and others, unless they are read.
fn stand(
    link: &mut Link,
    until: Instant,
    port: u16,
    count: u32,
    window: u16,
) -> Result<(), Failed> {
    let to = (layout::HOST_V4, port);
    let reads = window < u16::MAX;
    let mut answers = Answers {
        window,
        unanswered: 0,
        replies: Vec::new(),
        heard: Instant::now(),
        ends: HashMap::new(),
    };
    let mut opened = 0;
    while Instant::now() < until {
        for _ in 0..BURST {
            if opened == count || answers.unanswered >= UNANSWERED {
                break;
            }
            let syn = Segment {
                from: (FIRST + opened) as u16,
                to,
                flags: SYN,
                window,
                sequence: 1,
                ..Segment::default()
            };
            opened += 1;
            answers.unanswered += 1;
            link.send(&syn.frame(), |frame| answers.take(frame))?;
        }
        link.read(|frame| answers.take(frame))?;
        for reply in std::mem::take(&mut answers.replies) {
            link.send(&reply.frame(), |frame| answers.take(frame))?;
        }
        if answers.heard.elapsed() > SILENCE {
            answers.unanswered = 0;
            answers.heard = Instant::now();
        }
        if opened == count && !reads && answers.unanswered == 0 {
            answers.let_go(link)?;
            opened = 0;
        } else if answers.replies.is_empty()
            && (opened == count || answers.unanswered >= UNANSWERED)
        {
            link.wait(PollFlags::IN, SILENCE)?;
        }
    }
    answers.let_go(link)
}

/// What such connections say to what comes.
struct Answers {
    window: u16,
    unanswered: u32,
    replies: Vec<Segment>,
    heard: Instant,
    /// How to end those that stand.
    ends: HashMap<u16, Segment>,
}

impl Answers {
    fn take(&mut self, frame: &[u8]) {
        let Some(segment) = Segment::read(frame) else {
            return;
        };
        self.heard = Instant::now();
        if segment.flags & RST != 0 {
            self.unanswered = self.unanswered.saturating_sub(1);
            self.ends.remove(&segment.to.1);
            return;
        }
        let opens = segment.flags & SYN != 0;
        if opens {
            self.unanswered = self.unanswered.saturating_sub(1);
        } else if segment.payload == 0 {
            return;
        }
        let reply = Segment {
            from: segment.to.1,
            to: (segment.source, segment.from),
            flags: ACK,
            window: self.window,
            sequence: segment.acknowledged,
            acknowledged: segment
                .sequence
                .wrapping_add(segment.payload + u32::from(opens)),
            ..Segment::default()
        };
        let end = Segment {
            flags: RST | ACK,
            ..reply
        };
        self.ends.insert(reply.from, end);
        self.replies.push(reply);
    }

    /// Ends all that stand.
    fn let_go(&mut self, link: &mut Link) -> Result<(), Failed> {
        for (_, end) in self.ends.drain() {
            link.send(&end.frame(), |_| ())?;
        }
        self.replies.clear();
        Ok(())
    }
}

/// Answers each frame as an endpoint would that allows everything.
fn mirror(link: &mut Link) -> Result<(), Failed> {
    println!("up");
    loop {
        link.wait(PollFlags::IN, Duration::from_secs(1))?;
        let mut answers = Vec::new();
        let goes_on = link.read(|frame| {
            if let Some(answer) = mirrored(frame) {
                answers.push(answer);
            }
        })?;
        if !goes_on {
            return Ok(());
        }
        for answer in answers {
            // One that finds no room is lost, as with an endpoint.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            if let Err(Errno::PIPE) = send(&link.fd, &answer, flags) {
                return Ok(());
            }
        }
    }
}

fn mirrored(frame: &[u8]) -> Option<Vec<u8>> {
    if frame.get(23) == Some(&UDP) {
        return Some(frame.to_vec());
    }
    let segment = Segment::read(frame)?;
    let data = segment.window == 1 && segment.flags & SYN == 0;
    let flags = match segment.flags {
        SYN => SYN | ACK,
        ACK if data => ACK,
        _ => return None,
    };
    let answer = Segment {
        from: segment.to.1,
        to: (segment.source, segment.from),
        source: segment.to.0,
        flags,
        window: u16::MAX,
        sequence: segment.acknowledged,
        acknowledged: segment.sequence.wrapping_add(u32::from(flags & SYN != 0)),
        payload: u32::from(data),
    };
    Some(answer.frame())
}

/// A TCP segment over IPv4, as far as it matters here.
#[derive(Clone, Copy)]
struct Segment {
    source: Ipv4Addr,
    from: u16,
    to: (Ipv4Addr, u16),
    flags: u8,
    window: u16,
    sequence: u32,
    acknowledged: u32,
    /// How many bytes of data.
    payload: u32,
}

impl Default for Segment {
    fn default() -> Self {
        Self {
            source: layout::GUEST_V4,
            from: 0,
            to: (layout::HOST_V4, 0),
            flags: 0,
            window: u16::MAX,
            sequence: 1,
            acknowledged: 0,
            payload: 0,
        }
    }
}

impl Segment {
    fn frame(&self) -> Vec<u8> {
        let payload = self.payload as usize;
        let mut frame = head(TCP, self.source, self.to.0, 20 + payload);
        frame.extend_from_slice(&self.from.to_be_bytes());
        frame.extend_from_slice(&self.to.1.to_be_bytes());
        frame.extend_from_slice(&self.sequence.to_be_bytes());
        frame.extend_from_slice(&self.acknowledged.to_be_bytes());
        frame.extend_from_slice(&[0x50, self.flags]);
        frame.extend_from_slice(&self.window.to_be_bytes());
        // No checksum: the link loses nothing.
        frame.extend_from_slice(&[0; 4]);
        frame.resize(frame.len() + payload, 0);
        frame
    }

    fn read(frame: &[u8]) -> Option<Self> {
        if frame.get(12..15)? != [8, 0, 0x45] || *frame.get(23)? != TCP {
            return None;
        }
        let short = |at: usize| {
            let bytes = frame.get(at..at + 2)?.try_into().ok()?;
            Some(u16::from_be_bytes(bytes))
        };
        let long = |at: usize| {
            let bytes = frame.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_be_bytes(bytes))
        };
        let head = 20 + u32::from(frame.get(46)? >> 4) * 4;
        Some(Self {
            source: Ipv4Addr::from_bits(long(26)?),
            from: short(HEAD)?,
            to: (Ipv4Addr::from_bits(long(30)?), short(36)?),
            flags: *frame.get(47)? & (SYN | RST | ACK),
            window: short(48)?,
            sequence: long(38)?,
            acknowledged: long(42)?,
            payload: u32::from(short(16)?).checked_sub(head)?,
        })
    }
}

/// A question to the name server.
fn datagram(from: u16, query: &[u8]) -> Vec<u8> {
    let mut frame = head(UDP, layout::GUEST_V4, layout::GATEWAY_V4, 8 + query.len());
    frame.extend_from_slice(&from.to_be_bytes());
    frame.extend_from_slice(&53_u16.to_be_bytes());
    frame.extend_from_slice(&(8 + query.len() as u16).to_be_bytes());
    frame.extend_from_slice(&[0, 0]);
    frame.extend_from_slice(query);
    frame
}

fn head(protocol: u8, source: Ipv4Addr, to: Ipv4Addr, payload: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD + payload);
    frame.extend_from_slice(layout::GATEWAY_MAC.as_bytes());
    frame.extend_from_slice(layout::GUEST_MAC.as_bytes());
    frame.extend_from_slice(&[8, 0, 0x45, 0]);
    frame.extend_from_slice(&(20 + payload as u16).to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, protocol, 0, 0]);
    frame.extend_from_slice(&source.octets());
    frame.extend_from_slice(&to.octets());
    frame
}

/// The server of all these connections, in one thread.
fn serve(address: &str, loud: bool) -> Result<(), Failed> {
    let listener = TcpListener::bind(address)?;
    // The longest queue: nothing waits for a second try.
    rustix::net::listen(&listener, 4_096)?;
    listener.set_nonblocking(true)?;
    println!("up");
    let waits = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let accepts = epoll::EventData::new_u64(u64::MAX);
    epoll::add(&waits, &listener, accepts, epoll::EventFlags::IN)?;
    let mut streams: HashMap<u64, TcpStream> = HashMap::new();
    let mut next = 0;
    let mut events = Vec::with_capacity(512);
    let block = vec![0; 1 << 16];
    let wanted = epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
    loop {
        events.clear();
        match epoll::wait(&waits, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let (number, flags) = (event.data.u64(), event.flags);
            if number == u64::MAX {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    // What waits in the kernel is not what is measured.
                    rustix::net::sockopt::set_socket_send_buffer_size(&stream, block.len())?;
                    epoll::add(&waits, &stream, epoll::EventData::new_u64(next), wanted)?;
                    streams.insert(next, stream);
                    next += 1;
                }
                continue;
            }
            let over = epoll::EventFlags::RDHUP | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
            let stream = streams.get_mut(&number);
            let goes_on = stream.is_some_and(|stream| !loud || say(stream, &block));
            if !goes_on || flags.intersects(over) {
                streams.remove(&number);
            }
        }
    }
}

/// Says what the kernel takes for now; whether the connection goes on.
fn say(stream: &mut TcpStream, words: &[u8]) -> bool {
    loop {
        match stream.write(words) {
            Ok(0) => return false,
            Ok(1..) => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}
