//! Which frame goes where. Counters and tables only; the tasks of
//! [`super::serve`] move the bytes.
//!
//! Owns: the numbers of sessions, and the credit of every channel as the
//! referee. Never: looks into data. Trusts neither side: a guest that breaks
//! a rule loses the link, a client that does loses its connection, and
//! neither can make anything here grow without bound, because every data
//! byte was paid for with credit that its receiver granted.

use std::collections::BTreeMap;
use std::fmt;

use sbx_proto::client::SESSION;
use sbx_proto::flow::{Channel, Credit, FlowError, Sender};
use sbx_proto::frame::{Frame, Kind};
use sbx_proto::message::MessageError;
use tokio::sync::mpsc::UnboundedSender;

/// Most sessions of one sandbox at a time: what the guest takes, each with
/// up to six of its descriptors.
pub(crate) const MAX_SESSIONS: usize = 40;

/// The sessions of one sandbox.
#[derive(Debug, Default)]
pub(crate) struct Router {
    sessions: BTreeMap<u32, Session>,
    last: u32,
}

#[derive(Debug)]
struct Session {
    /// Bounded by credit, see the module's header; gone with the client.
    client: Option<UnboundedSender<Frame>>,
    stdin: Sender,
    stdout: Sender,
    stderr: Sender,
    started: bool,
    /// The client has ended its input, or the program its output.
    ended: [bool; 3],
    /// The program has closed its input.
    deaf: bool,
}

/// A peer broke the rules of the link.
#[derive(Debug)]
pub(crate) enum Violation {
    /// A frame for a session that is not open.
    Stream(u32),
    /// A frame that cannot come now.
    Order(Kind),
    /// More data or credit than was granted.
    Flow(FlowError),
    /// A payload that is not what its kind says.
    Message(MessageError),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(stream) => write!(f, "a frame for session {stream}, which is not open"),
            Self::Order(kind) => write!(f, "a {kind:?} frame out of turn"),
            Self::Flow(error) => error.fmt(f),
            Self::Message(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Violation {}

impl From<FlowError> for Violation {
    fn from(error: FlowError) -> Self {
        Self::Flow(error)
    }
}

impl From<MessageError> for Violation {
    fn from(error: MessageError) -> Self {
        Self::Message(error)
    }
}

impl Router {
    /// Open sessions, those without a client included.
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Opens a session for a client; `None` if there are too many.
    pub(crate) fn open(&mut self, client: UnboundedSender<Frame>) -> Option<u32> {
        if self.sessions.len() >= MAX_SESSIONS {
            return None;
        }
        // A number is not used again in a sandbox's life, so that a late
        // frame can never reach another session.
        self.last = self.last.checked_add(1)?;
        let session = Session {
            client: Some(client),
            stdin: Sender::new(),
            stdout: Sender::new(),
            stderr: Sender::new(),
            started: false,
            ended: [false; 3],
            deaf: false,
        };
        self.sessions.insert(self.last, session);
        Some(self.last)
    }

    /// Checks a frame of the guest and hands it to its client.
    ///
    /// # Errors
    /// A violation: the guest's word is worth nothing from here on.
    pub(crate) fn guest_sent(&mut self, mut frame: Frame) -> Result<(), Violation> {
        let stream = frame.stream;
        let session = self
            .sessions
            .get_mut(&stream)
            .ok_or(Violation::Stream(stream))?;
        let ends = match frame.kind {
            Kind::Started if session.started => return Err(Violation::Order(frame.kind)),
            Kind::Refused if session.started => return Err(Violation::Order(frame.kind)),
            Kind::Started => {
                session.started = true;
                false
            }
            Kind::Stdout | Kind::Stderr => {
                let channel = Channel::of_kind(frame.kind).unwrap_or(Channel::Stdout);
                if !session.started || session.has_ended(channel) {
                    return Err(Violation::Order(frame.kind));
                }
                session.sender(channel).spend(frame.payload.len())?;
                false
            }
            Kind::Eof => {
                let channel = Channel::from_eof(&frame.payload)?;
                let again = match channel {
                    Channel::Stdin => std::mem::replace(&mut session.deaf, true),
                    Channel::Stdout | Channel::Stderr => session.end(channel),
                };
                if again {
                    return Err(Violation::Order(frame.kind));
                }
                false
            }
            Kind::Credit => {
                let credit = Credit::from_payload(&frame.payload)?;
                if credit.channel != Channel::Stdin {
                    return Err(Violation::Order(frame.kind));
                }
                session.stdin.grant(credit.bytes)?;
                false
            }
            Kind::Refused | Kind::Exit => true,
            kind => return Err(Violation::Order(kind)),
        };
        frame.stream = SESSION;
        if let Some(client) = &session.client {
            // A client that has gone is noticed by its own task.
            let _ = client.send(frame);
        }
        if ends {
            self.sessions.remove(&stream);
        }
        Ok(())
    }

    /// Checks a frame of the client of session `stream` and returns it as
    /// the guest is to see it; `None` if the session has ended meanwhile.
    ///
    /// # Errors
    /// A violation: the connection is to be closed.
    pub(crate) fn client_sent(
        &mut self,
        stream: u32,
        mut frame: Frame,
    ) -> Result<Option<Frame>, Violation> {
        if frame.stream != SESSION {
            return Err(Violation::Stream(frame.stream));
        }
        let Some(session) = self.sessions.get_mut(&stream) else {
            return Ok(None);
        };
        match frame.kind {
            Kind::Stdin => {
                if session.has_ended(Channel::Stdin) {
                    return Err(Violation::Order(frame.kind));
                }
                session.stdin.spend(frame.payload.len())?;
            }
            Kind::Eof => {
                let channel = Channel::from_eof(&frame.payload)?;
                if channel != Channel::Stdin || session.end(channel) {
                    return Err(Violation::Order(frame.kind));
                }
            }
            Kind::Credit => {
                let credit = Credit::from_payload(&frame.payload)?;
                if credit.channel == Channel::Stdin {
                    return Err(Violation::Order(frame.kind));
                }
                session.sender(credit.channel).grant(credit.bytes)?;
            }
            Kind::Resize | Kind::Signal | Kind::Close => {}
            kind => return Err(Violation::Order(kind)),
        }
        frame.stream = stream;
        Ok(Some(frame))
    }

    /// The client of session `stream` is gone. Returns what the guest is to
    /// be told; `None` if the session had ended.
    pub(crate) fn client_gone(&mut self, stream: u32) -> Option<Frame> {
        let session = self.sessions.get_mut(&stream)?;
        session.client = None;
        Some(Frame::new(stream, Kind::Close, []))
    }

    /// The client of session `stream` leaves it to itself: nothing is told.
    pub(crate) fn leave(&mut self, stream: u32) {
        if let Some(session) = self.sessions.get_mut(&stream) {
            session.client = None;
        }
    }

    /// Forgets a session that never reached the guest.
    pub(crate) fn forget(&mut self, stream: u32) {
        self.sessions.remove(&stream);
    }

    /// Ends every session: the link is gone. Clients see their channel close.
    pub(crate) fn close(&mut self) {
        self.sessions.clear();
    }
}

impl Session {
    fn sender(&mut self, channel: Channel) -> &mut Sender {
        match channel {
            Channel::Stdin => &mut self.stdin,
            Channel::Stdout => &mut self.stdout,
            Channel::Stderr => &mut self.stderr,
        }
    }

    fn ended(&mut self, channel: Channel) -> &mut bool {
        let [stdin, stdout, stderr] = &mut self.ended;
        match channel {
            Channel::Stdin => stdin,
            Channel::Stdout => stdout,
            Channel::Stderr => stderr,
        }
    }

    fn has_ended(&mut self, channel: Channel) -> bool {
        *self.ended(channel)
    }

    /// Marks a channel as ended; true if it was so before.
    fn end(&mut self, channel: Channel) -> bool {
        std::mem::replace(self.ended(channel), true)
    }
}

#[cfg(test)]
mod tests {
    use sbx_proto::flow::WINDOW;
    use sbx_proto::message::Message;
    use sbx_proto::session::{Exit, Started};
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;

    fn opened(router: &mut Router) -> (u32, UnboundedReceiver<Frame>) {
        let (to_client, at_client) = unbounded_channel();
        (router.open(to_client).unwrap(), at_client)
    }

    fn started(router: &mut Router) -> (u32, UnboundedReceiver<Frame>) {
        let (stream, mut at_client) = opened(router);
        router
            .guest_sent(Started { pid: 7 }.to_frame(stream).unwrap())
            .unwrap();
        assert_eq!(at_client.try_recv().unwrap().kind, Kind::Started);
        (stream, at_client)
    }

    #[test]
    fn each_session_gets_its_own_frames() {
        let mut router = Router::default();
        let (one, mut at_one) = started(&mut router);
        let (two, mut at_two) = started(&mut router);
        router
            .guest_sent(Frame::new(two, Kind::Stdout, *b"two"))
            .unwrap();
        router
            .guest_sent(Frame::new(one, Kind::Stderr, *b"one"))
            .unwrap();
        assert_eq!(
            at_two.try_recv().unwrap(),
            Frame::new(SESSION, Kind::Stdout, *b"two")
        );
        assert_eq!(
            at_one.try_recv().unwrap(),
            Frame::new(SESSION, Kind::Stderr, *b"one")
        );
        let sent = router
            .client_sent(one, Frame::new(SESSION, Kind::Stdin, *b"x"))
            .unwrap();
        assert_eq!(sent.unwrap().stream, one);
    }

    #[test]
    fn a_guest_cannot_send_more_than_the_client_granted() {
        let mut router = Router::default();
        let (stream, mut at_client) = started(&mut router);
        let chunk = vec![0; 64 * 1024];
        for _ in 0..WINDOW as usize / chunk.len() {
            router
                .guest_sent(Frame::new(stream, Kind::Stdout, chunk.clone()))
                .unwrap();
        }
        let more = router.guest_sent(Frame::new(stream, Kind::Stdout, *b"x"));
        assert!(matches!(more, Err(Violation::Flow(FlowError::Exceeded))));
        let grant = Credit {
            channel: Channel::Stdout,
            bytes: 1,
        }
        .to_frame(SESSION);
        router.client_sent(stream, grant).unwrap();
        router
            .guest_sent(Frame::new(stream, Kind::Stdout, *b"x"))
            .unwrap();
        while at_client.try_recv().is_ok() {}
    }

    #[test]
    fn a_guest_cannot_speak_for_a_session_that_is_not_open() {
        let mut router = Router::default();
        let (stream, _at_client) = started(&mut router);
        let exit = Exit {
            code: Some(3),
            signal: None,
        };
        router.guest_sent(exit.to_frame(stream).unwrap()).unwrap();
        let late = router.guest_sent(Frame::new(stream, Kind::Stdout, *b"x"));
        assert!(matches!(late, Err(Violation::Stream(_))));
        assert_eq!(router.len(), 0);
    }

    #[test]
    fn a_guest_cannot_start_twice_or_speak_before() {
        let mut router = Router::default();
        let (stream, _at_client) = opened(&mut router);
        let early = router.guest_sent(Frame::new(stream, Kind::Stdout, *b"x"));
        assert!(matches!(early, Err(Violation::Order(Kind::Stdout))));
        let start = Started { pid: 7 }.to_frame(stream).unwrap();
        router.guest_sent(start.clone()).unwrap();
        assert!(matches!(
            router.guest_sent(start),
            Err(Violation::Order(Kind::Started))
        ));
    }

    #[test]
    fn a_client_cannot_open_within_its_session() {
        let mut router = Router::default();
        let (stream, _at_client) = started(&mut router);
        let open = router.client_sent(stream, Frame::new(SESSION, Kind::Open, []));
        assert!(matches!(open, Err(Violation::Order(Kind::Open))));
        let other = router.client_sent(stream, Frame::new(9, Kind::Stdin, []));
        assert!(matches!(other, Err(Violation::Stream(9))));
    }

    #[test]
    fn sessions_are_counted() {
        let mut router = Router::default();
        let held: Vec<_> = (0..MAX_SESSIONS).map(|_| opened(&mut router)).collect();
        assert!(router.open(unbounded_channel().0).is_none());
        router.forget(held[0].0);
        assert!(router.open(unbounded_channel().0).is_some());
    }

    #[test]
    fn a_client_that_leaves_has_its_session_hung_up() {
        let mut router = Router::default();
        let (stream, at_client) = started(&mut router);
        drop(at_client);
        let told = router.client_gone(stream).unwrap();
        assert_eq!((told.stream, told.kind), (stream, Kind::Close));
        let exit = Exit {
            code: None,
            signal: Some(1),
        };
        router.guest_sent(exit.to_frame(stream).unwrap()).unwrap();
        assert_eq!(router.len(), 0);
        assert!(router.client_gone(stream).is_none());
    }
}
