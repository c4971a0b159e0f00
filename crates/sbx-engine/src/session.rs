//! One attached session: the caller's streams on one side, a program inside
//! on the other.
//!
//! The caller's descriptors may block and may be shared with other programs,
//! so each is read or written by a thread of its own; everything else is one
//! task. What the program prints is granted credit for only once it has been
//! written out: a caller that does not read stops the program, nobody else.

mod overlay;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::Duration;

use sbx_proto::client::{Reply, Request, SESSION};
use sbx_proto::flow::{Channel, Credit, Receiver, Sender};
use sbx_proto::frame::{Frame, Kind};
use sbx_proto::message::Message;
use sbx_proto::session::{Exec, Exit, Refused, Resize, Signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub(crate) use overlay::Asking;
use overlay::{Drawing, Overlay};

use crate::client::{Client, PATIENCE, refused};
use crate::command::{Code, Ended, Error, OutputFilter, Terminal, TerminalEvent, TtySize};

/// Bytes read from standard input at once.
const CHUNK: usize = 32 * 1024;
/// How long a sandbox may take to start a program: moments, and seconds
/// emulated on a busy host. One that is paused, or whose workspace answers
/// nobody, never does.
const OPENING: Duration = Duration::from_secs(60);
/// How long a program may take to see one size before it is told another.
const RESIZED: Duration = Duration::from_millis(100);

/// What one session needs.
pub(crate) struct Opening {
    /// The program, as the guest is told.
    pub(crate) exec: Exec,
    /// Whether standard input is passed on.
    pub(crate) stdin: bool,
    /// How the sandbox's questions are answered during it, if they are.
    pub(crate) asking: Option<Asking>,
}

/// Asks for a session; returns when the sandbox is ready for it.
///
/// # Errors
/// If the sandbox does not come up or answer, or takes no more sessions.
pub(crate) async fn request(client: &mut Client) -> Result<(), Error> {
    let asked = async {
        client.send(&Request::Attach).await?;
        client.answer().await
    };
    match in_time(PATIENCE, "the sandbox's supervisor does not answer", asked).await? {
        Reply::Attached => Ok(()),
        _ => Err(Error::new(
            Code::Link,
            "the supervisor answered something else",
        )),
    }
}

/// Starts a program that nobody attends.
///
/// # Errors
/// If it cannot be started, or the sandbox does not answer.
pub(crate) async fn detach(mut client: Client, exec: &Exec) -> Result<(), Error> {
    let open = open_frame(exec)?;
    let json = br#""detach""#.to_vec().into();
    let asked = async {
        client.send(&Request::Call { json }).await?;
        client.send_frame(&open).await?;
        client.answer().await
    };
    in_time(OPENING, SILENT, asked).await.map(drop)
}

const SILENT: &str = "the sandbox does not answer";

async fn in_time<T>(
    limit: Duration,
    silent: &str,
    asked: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, asked)
        .await
        .unwrap_or_else(|_| {
            Err(Error::new(
                Code::Timeout,
                format!("{silent}, {} s long", limit.as_secs()),
            )
            .hint("stop it with `sbx stop`, or look at it with `sbx logs`"))
        })
}

fn open_frame(exec: &Exec) -> Result<Frame, Error> {
    exec.to_frame(SESSION).map_err(|source| {
        Error::new(Code::Usage, "cannot pass so many arguments and variables").because(source)
    })
}

/// Runs a session to its end.
///
/// # Errors
/// If the program cannot be started, or the sandbox goes down first.
pub(crate) async fn attach(
    mut client: Client,
    opening: Opening,
    mut terminal: Terminal,
) -> Result<Ended, Error> {
    let Opening {
        exec,
        stdin,
        asking,
    } = opening;
    let raw = exec.tty.is_some();
    let open = open_frame(&exec)?;
    let asked = async {
        client.send_frame(&open).await?;
        client.next().await
    };
    started(&in_time(OPENING, SILENT, asked).await?)?;
    if raw {
        terminal
            .mode
            .raw()
            .map_err(|source| Error::new(Code::Io, "cannot switch the terminal").because(source))?;
    }
    let (to_input, input) = mpsc::channel(2);
    if stdin {
        let source = File::from(terminal.stdin);
        std::thread::spawn(move || read_input(source, &to_input));
    } else {
        drop(to_input);
    }
    let (done, consumed) = mpsc::unbounded_channel();
    let stdout = Output::start(
        Channel::Stdout,
        terminal.stdout,
        terminal.stdout_filter,
        &done,
    );
    let stderr = Output::start(
        Channel::Stderr,
        terminal.stderr,
        terminal.stderr_filter,
        &done,
    );
    drop(done);
    let mut session = Session {
        client,
        input,
        pending: Vec::new(),
        input_ended: false,
        stdin: Sender::new(),
        stdout,
        stderr,
        consumed,
        overlay: Overlay::new(asking),
        size: terminal.size,
        redraw: None,
    };
    let outcome = session.run(&mut terminal.events).await;
    let last = session.overlay.end();
    session.draw(last);
    session.drain().await;
    let restored = terminal.mode.restore();
    let ended = outcome?;
    restored.map_err(|source| {
        Error::new(Code::Io, "cannot give the terminal back as it was").because(source)
    })?;
    Ok(ended)
}

fn started(first: &Frame) -> Result<(), Error> {
    let broken = |source| Error::new(Code::Link, "cannot read the guest's answer").because(source);
    match first.kind {
        Kind::Started => Ok(()),
        Kind::Refused => {
            let refused = Refused::from_frame(first).map_err(broken)?;
            let code = match refused.code {
                126 => Code::CannotExecute,
                127 => Code::ProgramNotFound,
                _ => Code::Boot,
            };
            Err(Error::new(code, refused.message.escape_debug().to_string()))
        }
        Kind::Reply => {
            let reply = Reply::from_frame(first).map_err(broken)?;
            refused(reply)?;
            Err(Error::new(
                Code::Link,
                "the supervisor answered something else",
            ))
        }
        kind => Err(Error::new(
            Code::Link,
            format!("a {kind:?} frame before the session's start"),
        )),
    }
}

struct Session {
    client: Client,
    input: mpsc::Receiver<Vec<u8>>,
    /// Input that waits for credit.
    pending: Vec<u8>,
    input_ended: bool,
    stdin: Sender,
    stdout: Output,
    stderr: Output,
    consumed: mpsc::UnboundedReceiver<(Channel, Written)>,
    overlay: Overlay,
    size: Option<TtySize>,
    /// When the program is told the true size again.
    redraw: Option<Instant>,
}

impl Session {
    async fn run(
        &mut self,
        events: &mut mpsc::UnboundedReceiver<TerminalEvent>,
    ) -> Result<Ended, Error> {
        loop {
            self.send_input().await;
            let covered = self.overlay.is_shown();
            let screen = self.size.unwrap_or(NO_SIZE);
            let redraw = self.redraw;
            tokio::select! {
                frame = self.client.next() => {
                    if let Some(ended) = self.take(frame?)? {
                        return Ok(ended);
                    }
                }
                drawing = self.overlay.stirs(screen) => self.draw(drawing),
                () = until(redraw) => {
                    self.redraw = None;
                    self.resize(screen).await;
                }
                bytes = self.input.recv(),
                    if !self.input_ended && (covered || self.pending.is_empty()) =>
                {
                    match bytes {
                        Some(keys) if covered => {
                            let drawing = self.overlay.typed(&keys, screen);
                            self.draw(drawing);
                        }
                        Some(bytes) => self.pending = bytes,
                        None => {
                            self.input_ended = true;
                            self.tell(&Channel::Stdin.eof(SESSION)).await;
                        }
                    }
                }
                Some((channel, written)) = self.consumed.recv() => {
                    if self.acknowledge(channel, written).await? {
                        // Nobody reads any more: the program inside would be
                        // told by SIGPIPE, and so is whoever waits for us.
                        return Ok(Ended::Signal(13));
                    }
                }
                Some(event) = events.recv() => match event {
                    TerminalEvent::Resized(now) => {
                        self.size = Some(now);
                        self.resize(now).await;
                        let drawing = self.overlay.screen(now);
                        self.draw(drawing);
                    }
                    TerminalEvent::Signal(number) => {
                        let number = u8::try_from(number).unwrap_or(15);
                        self.send(&Signal { number }).await;
                    }
                    TerminalEvent::Continued => {
                        if let Some(size) = self.size {
                            self.resize(size).await;
                        }
                    }
                },
            }
        }
    }

    /// Covers the program's screen, or gives it back with what the program
    /// printed meanwhile.
    fn draw(&mut self, drawing: Drawing) {
        match drawing {
            Drawing::Nothing => {}
            Drawing::Cover(screen) => self.stdout.put(Piece::Cover(screen)),
            Drawing::Uncover => {
                self.stdout.put(Piece::Uncover);
                for (channel, bytes) in std::mem::take(&mut self.overlay.held) {
                    self.output(channel).put(Piece::Program(bytes));
                }
            }
        }
    }

    fn output(&mut self, channel: Channel) -> &mut Output {
        match channel {
            Channel::Stderr => &mut self.stderr,
            _ => &mut self.stdout,
        }
    }

    /// Takes what the program prints.
    fn print(&mut self, channel: Channel, bytes: Vec<u8>) -> Result<(), Error> {
        let output = self.output(channel);
        output.receiver.receive(bytes.len()).map_err(flow)?;
        if self.overlay.is_shown() {
            self.overlay.held.push((channel, bytes));
        } else {
            self.output(channel).put(Piece::Program(bytes));
        }
        Ok(())
    }

    async fn resize(&mut self, size: TtySize) {
        self.send(&Resize {
            rows: size.rows,
            cols: size.cols,
        })
        .await;
    }

    async fn send(&mut self, message: &impl Message) {
        if let Ok(frame) = message.to_frame(SESSION) {
            self.tell(&frame).await;
        }
    }

    /// Sends a frame to a session that may have ended: how it did waits to be
    /// read then, so that a closed door is no error here.
    async fn tell(&mut self, frame: &Frame) {
        if self.client.send_frame(frame).await.is_err() {
            self.stop_input();
        }
    }

    async fn send_input(&mut self) {
        let count = self.pending.len().min(self.stdin.available());
        if count == 0 {
            return;
        }
        let rest = self.pending.split_off(count);
        let bytes = std::mem::replace(&mut self.pending, rest);
        if self.stdin.spend(bytes.len()).is_ok() {
            self.tell(&Frame::new(SESSION, Kind::Stdin, bytes)).await;
        }
    }

    /// Nobody reads what is still typed.
    fn stop_input(&mut self) {
        self.input_ended = true;
        self.pending.clear();
        self.input.close();
    }

    /// Takes a frame of the session; returns how it ended if it did.
    fn take(&mut self, frame: Frame) -> Result<Option<Ended>, Error> {
        let broken =
            |source| Error::new(Code::Link, "cannot read the guest's message").because(source);
        match frame.kind {
            Kind::Stdout => self.print(Channel::Stdout, frame.payload)?,
            Kind::Stderr => self.print(Channel::Stderr, frame.payload)?,
            Kind::Eof => match Channel::from_eof(&frame.payload).map_err(broken)? {
                Channel::Stdin => self.stop_input(),
                // What is held back is still to be printed.
                Channel::Stdout | Channel::Stderr if self.overlay.is_shown() => {}
                Channel::Stdout => self.stdout.end(),
                Channel::Stderr => self.stderr.end(),
            },
            Kind::Credit => {
                let credit = Credit::from_payload(&frame.payload).map_err(broken)?;
                self.stdin.grant(credit.bytes).map_err(flow)?;
            }
            Kind::Exit => {
                let exit = Exit::from_frame(&frame).map_err(broken)?;
                return Ok(Some(match (exit.code, exit.signal) {
                    (Some(code), _) => Ended::Code(code),
                    (None, signal) => Ended::Signal(signal.unwrap_or(9)),
                }));
            }
            Kind::Reply => {
                refused(Reply::from_frame(&frame).map_err(broken)?)?;
            }
            kind => {
                return Err(Error::new(
                    Code::Link,
                    format!("a {kind:?} frame within a session"),
                ));
            }
        }
        Ok(None)
    }

    /// Grants credit for what was written out. True if it could not be,
    /// because whoever read our output has gone.
    async fn acknowledge(&mut self, channel: Channel, written: Written) -> Result<bool, Error> {
        let count = match written {
            Written::Bytes(count) => count,
            Written::Broken => return Ok(true),
            Written::Uncovered => {
                // Programs draw anew at another size, and only then.
                let screen = self.size.unwrap_or(NO_SIZE);
                let rows = screen.rows.saturating_sub(1).max(1);
                self.resize(TtySize { rows, ..screen }).await;
                self.redraw = Some(Instant::now() + RESIZED);
                return Ok(false);
            }
        };
        if let Some(bytes) = self.output(channel).receiver.consume(count) {
            // A session that has ended takes no credit any more.
            let _ = self
                .client
                .send_frame(&Credit { channel, bytes }.to_frame(SESSION))
                .await;
        }
        Ok(false)
    }

    /// Waits until everything that was printed has been written out.
    async fn drain(&mut self) {
        self.stdout.end();
        self.stderr.end();
        while self.consumed.recv().await.is_some() {}
    }
}

fn flow(source: sbx_proto::flow::FlowError) -> Error {
    Error::new(Code::Link, "the flow of the session is broken").because(source)
}

/// The size of a terminal that has none.
pub(crate) const NO_SIZE: TtySize = TtySize { rows: 24, cols: 80 };

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What a writing thread is given.
enum Piece {
    /// What the program printed.
    Program(Vec<u8>),
    /// Ours, over its screen.
    Cover(Vec<u8>),
    /// Its screen comes back.
    Uncover,
}

/// What a writing thread tells.
enum Written {
    /// So many bytes of the program's are out.
    Bytes(usize),
    /// The program has to draw its screen anew.
    Uncovered,
    /// Nobody reads them.
    Broken,
}

/// One of the caller's output streams.
struct Output {
    pieces: Option<std::sync::mpsc::Sender<Piece>>,
    receiver: Receiver,
}

impl Output {
    fn start(
        channel: Channel,
        fd: OwnedFd,
        mut filter: Box<dyn OutputFilter>,
        done: &mpsc::UnboundedSender<(Channel, Written)>,
    ) -> Self {
        let (pieces, queue) = std::sync::mpsc::channel::<Piece>();
        let done = done.clone();
        std::thread::spawn(move || {
            let mut file = File::from(fd);
            let mut shown = Vec::new();
            for piece in queue {
                shown.clear();
                let written = match piece {
                    Piece::Program(bytes) => {
                        filter.filter(&bytes, &mut shown);
                        Some(Written::Bytes(bytes.len()))
                    }
                    Piece::Cover(screen) => {
                        filter.cover(&screen, &mut shown);
                        None
                    }
                    Piece::Uncover => filter.uncover(&mut shown).then_some(Written::Uncovered),
                };
                let out = file.write_all(&shown).and_then(|()| file.flush());
                let broken = out.is_err();
                let told = if broken {
                    Some(Written::Broken)
                } else {
                    written
                };
                if told.is_some_and(|told| done.send((channel, told)).is_err()) || broken {
                    return;
                }
            }
            shown.clear();
            filter.finish(&mut shown);
            let _ = file.write_all(&shown);
        });
        Self {
            pieces: Some(pieces),
            receiver: Receiver::new(),
        }
    }

    fn put(&mut self, piece: Piece) {
        if let Some(queue) = &self.pieces {
            // A thread that has ended has told why.
            let _ = queue.send(piece);
        }
    }

    fn end(&mut self) {
        self.pieces = None;
    }
}

fn read_input(mut source: File, to: &mpsc::Sender<Vec<u8>>) {
    loop {
        let mut chunk = vec![0; CHUNK];
        match source.read(&mut chunk) {
            Ok(0) => return,
            Ok(count) => {
                chunk.truncate(count);
                if to.blocking_send(chunk).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
