//! The host's end of a link, for tests: blocking, one reader.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]
#![allow(dead_code, reason = "not every test uses all of it")]

use std::collections::HashMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::Shutdown as Direction;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use sbx_proto::flow::{Channel, Credit, Receiver, Sender};
use sbx_proto::link::{AgentUser, Disks, Hello, Ready, Setup, SetupFailed};
use sbx_proto::session::{Exec, Exit, Refused, Started, Tty, User};
use sbx_proto::{Decoder, Frame, Kind, LINK, Message, Side, encode};

/// How long a single answer may take: far more than it does.
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Host {
    socket: UnixStream,
    decoder: Decoder,
    sessions: HashMap<u32, Session>,
    next: u32,
    pub(crate) links: Vec<Frame>,
}

/// What is known of a session.
#[derive(Default)]
pub(crate) struct Session {
    pub(crate) started: bool,
    pub(crate) refused: Option<Refused>,
    pub(crate) exit: Option<Exit>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) ends: Vec<Channel>,
    /// Output is kept without credit given back.
    pub(crate) stalled: bool,
    pub(crate) stdin: Sender,
    flow: [Receiver; 2],
}

impl Session {
    pub(crate) fn is_over(&self) -> bool {
        self.exit.is_some() || self.refused.is_some()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn code(&self) -> u8 {
        match (&self.exit, &self.refused) {
            (Some(exit), _) => exit.shell_code(),
            (None, Some(refused)) => refused.code,
            (None, None) => panic!("the session is not over"),
        }
    }
}

pub(crate) fn setup() -> Setup {
    Setup {
        generation: sbx_proto::GENERATION,
        hostname: "box".into(),
        clock_ns: 0,
        timezone: None,
        agent: AgentUser {
            uid: 1000,
            gid: 1000,
            groups: vec![],
        },
        disks: Disks {
            base: "base".into(),
            scratch: Some("scratch".into()),
        },
        kits: vec![],
        shares: vec![],
        volumes: vec![],
        tmpfs: vec![],
        network: None,
        trust_pem: Vec::new().into(),
        pids_limit: None,
        memory_limit: None,
        env: vec![],
        workdir: None,
        git_config: None,
    }
}

pub(crate) fn exec(argv: &[&str]) -> Exec {
    Exec {
        argv: argv
            .iter()
            .map(|word| word.as_bytes().to_vec().into())
            .collect(),
        env: vec![],
        cwd: Some(b"/".to_vec().into()),
        user: User::Agent,
        tty: None,
        files: vec![],
        clock_ns: 0,
        login: false,
    }
}

pub(crate) fn sh(script: &str) -> Exec {
    exec(&["sh", "-c", script])
}

pub(crate) fn on_terminal(mut exec: Exec) -> Exec {
    exec.tty = Some(Tty {
        rows: 24,
        cols: 80,
        term: "xterm".into(),
    });
    exec
}

impl Host {
    /// Greets the guest and sets it up.
    pub(crate) fn connect(socket: UnixStream, setup: &Setup) -> (Self, Result<Ready, SetupFailed>) {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut host = Self {
            socket,
            decoder: Decoder::new(Side::Guest),
            sessions: HashMap::new(),
            next: 1,
            links: Vec::new(),
        };
        let hello = Hello::from_frame(&host.read_frame().unwrap()).unwrap();
        assert_eq!(hello.generation, sbx_proto::GENERATION);
        host.send(&setup.to_frame(LINK).unwrap());
        let frame = host.read_frame().unwrap();
        let result = match frame.kind {
            Kind::SetupFailed => Err(SetupFailed::from_frame(&frame).unwrap()),
            _ => Ok(Ready::from_frame(&frame).unwrap()),
        };
        (host, result)
    }

    pub(crate) fn send(&mut self, frame: &Frame) {
        let mut wire = Vec::new();
        encode(frame, &mut wire).unwrap();
        self.socket.write_all(&wire).unwrap();
    }

    /// The next frame; `None` when the guest is gone.
    pub(crate) fn read_frame(&mut self) -> Option<Frame> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            if let Some(frame) = self.decoder.next().unwrap() {
                return Some(frame);
            }
            match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(read) => self.decoder.push(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("read the link: {error}"),
            }
        }
    }

    pub(crate) fn open(&mut self, exec: &Exec) -> u32 {
        let stream = self.next;
        self.next += 1;
        self.sessions.insert(stream, Session::default());
        self.send(&exec.to_frame(stream).unwrap());
        stream
    }

    pub(crate) fn session(&mut self, stream: u32) -> &mut Session {
        self.sessions.get_mut(&stream).unwrap()
    }

    /// Takes one frame in.
    pub(crate) fn step(&mut self) {
        let frame = self.read_frame().expect("the guest is gone");
        if frame.stream == LINK {
            self.links.push(frame);
            return;
        }
        let stream = frame.stream;
        let session = self.sessions.get_mut(&stream).unwrap();
        assert!(!session.is_over(), "{:?} after the end", frame.kind);
        match frame.kind {
            Kind::Started => {
                Started::from_frame(&frame).unwrap();
                session.started = true;
            }
            Kind::Refused => session.refused = Some(Refused::from_frame(&frame).unwrap()),
            Kind::Exit => session.exit = Some(Exit::from_frame(&frame).unwrap()),
            Kind::Eof => session
                .ends
                .push(Channel::from_eof(&frame.payload).unwrap()),
            Kind::Credit => {
                let credit = Credit::from_payload(&frame.payload).unwrap();
                assert_eq!(credit.channel, Channel::Stdin);
                session.stdin.grant(credit.bytes).unwrap();
            }
            Kind::Stdout | Kind::Stderr => {
                let channel = Channel::of_kind(frame.kind).unwrap();
                let length = frame.payload.len();
                let flow = &mut session.flow[channel as usize - 1];
                flow.receive(length).expect("the guest keeps to its credit");
                match channel {
                    Channel::Stdout => session.stdout.extend(frame.payload),
                    _ => session.stderr.extend(frame.payload),
                }
                if !session.stalled
                    && let Some(bytes) = flow.consume(length)
                {
                    let credit = Credit { channel, bytes };
                    self.send(&credit.to_frame(stream));
                }
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    /// Steps until `done` says so of the session.
    pub(crate) fn until(&mut self, stream: u32, done: impl Fn(&Session) -> bool) -> &mut Session {
        while !done(&self.sessions[&stream]) {
            self.step();
        }
        self.session(stream)
    }

    pub(crate) fn finish(&mut self, stream: u32) -> &mut Session {
        self.until(stream, Session::is_over)
    }

    /// Runs to the end with nothing on standard input.
    pub(crate) fn run(&mut self, exec: &Exec) -> &mut Session {
        let stream = self.open(exec);
        self.end(stream);
        self.finish(stream)
    }

    /// Sends data as credit allows.
    pub(crate) fn write(&mut self, stream: u32, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = self.sessions[&stream].stdin.available().min(32 * 1024);
            if room == 0 {
                self.step();
                continue;
            }
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.session(stream).stdin.spend(now.len()).unwrap();
            self.send(&Frame::new(stream, Kind::Stdin, now));
            bytes = rest;
        }
    }

    pub(crate) fn end(&mut self, stream: u32) {
        self.send(&Channel::Stdin.eof(stream));
    }

    /// Waits for a link-level frame of this kind.
    pub(crate) fn link_frame(&mut self, kind: Kind) -> Frame {
        loop {
            if let Some(at) = self.links.iter().position(|frame| frame.kind == kind) {
                return self.links.swap_remove(at);
            }
            self.step();
        }
    }

    /// Goes away without a word.
    pub(crate) fn vanish(self) {
        self.socket.shutdown(Direction::Both).unwrap();
    }

    /// Takes in frames until the guest closes the link.
    pub(crate) fn drain(mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.read_frame()).collect()
    }
}
