//! Bytes between a session's descriptors and its stream, under credit: a
//! slow reader stops its own program and nothing else.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use sbx_proto::Frame;
use sbx_proto::flow::{Channel, Credit, FlowError, Receiver, Sender};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

use super::link::{read_some, readiness, write_all};

/// Bytes of one data frame: what a virtio port takes in one write.
const CHUNK: usize = 32 * 1024;
/// Bytes that are still sent after the program has ended: more than a pipe
/// can hold, so that all of its own are, and not all of what a process that
/// it left behind goes on to write.
const DRAIN: usize = 1024 * 1024 + CHUNK;
/// How long output is waited for after the program has ended, if somebody
/// else still holds the pipe.
const LINGER: Duration = Duration::from_millis(100);
/// What a terminal takes for the end of input.
const END_OF_INPUT: u8 = 4;

/// How far a session is.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Phase {
    /// The program has ended.
    pub(crate) ended: bool,
    /// The client is gone; output is thrown away.
    pub(crate) abandoned: bool,
}

/// Where a session's frames go.
#[derive(Clone)]
pub(crate) struct Outlet {
    pub(crate) stream: u32,
    pub(crate) queue: mpsc::Sender<Frame>,
}

impl Outlet {
    pub(crate) async fn send(&self, frame: Frame) {
        // It fails only once the link is gone, which ends everything.
        let _ = self.queue.send(frame).await;
    }
}

/// Credit of one output channel.
#[derive(Default)]
pub(crate) struct Lane {
    sender: RefCell<Sender>,
    granted: Notify,
}

impl Lane {
    pub(crate) fn grant(&self, bytes: u32) -> Result<(), FlowError> {
        self.sender.borrow_mut().grant(bytes)?;
        self.granted.notify_one();
        Ok(())
    }

    /// Waits for credit, or for nobody to need it any more.
    async fn room(&self, phase: &mut watch::Receiver<Phase>) -> usize {
        loop {
            let available = self.sender.borrow().available();
            if available > 0 || phase.borrow().abandoned {
                return available.max(1);
            }
            tokio::select! {
                () = self.granted.notified() => {}
                changed = phase.changed() => if changed.is_err() { return 1 },
            }
        }
    }
}

/// Sends what the program writes until its end.
pub(crate) async fn output(
    fd: OwnedFd,
    channel: Channel,
    lane: &Lane,
    outlet: &Outlet,
    mut phase: watch::Receiver<Phase>,
) {
    let Ok(fd) = readiness(fd) else { return };
    let (mut deadline, mut left) = (None, DRAIN);
    loop {
        let room = lane.room(&mut phase).await;
        let now = *phase.borrow_and_update();
        let mut buffer = vec![
            0;
            if now.abandoned {
                CHUNK
            } else {
                room.min(CHUNK)
            }
        ];
        let read = if now.ended {
            if now.abandoned || left == 0 {
                break;
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + LINGER);
            match tokio::time::timeout_at(deadline, read_some(&fd, &mut buffer)).await {
                Ok(read) => read,
                Err(_) => break,
            }
        } else {
            tokio::select! {
                read = read_some(&fd, &mut buffer) => read,
                changed = phase.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => break,
                },
            }
        };
        // A terminal whose other end is closed reads as an error.
        let Ok(read @ 1..) = read else { break };
        if now.ended {
            left = left.saturating_sub(read);
        }
        if !phase.borrow().abandoned {
            buffer.truncate(read);
            if lane.sender.borrow_mut().spend(read).is_err() {
                break;
            }
            outlet
                .send(Frame::new(outlet.stream, channel.kind(), buffer))
                .await;
        }
    }
    if !phase.borrow().abandoned {
        outlet.send(channel.eof(outlet.stream)).await;
    }
}

/// What a client sends for the program to read.
pub(crate) enum Piece {
    Data(Vec<u8>),
    End,
}

/// Writes what the client sends until it ends or cannot be written any more.
/// Then the rest is thrown away, so that the client does not wait for credit.
pub(crate) async fn input(
    fd: OwnedFd,
    is_terminal: bool,
    mut pieces: mpsc::UnboundedReceiver<Piece>,
    outlet: &Outlet,
) {
    let mut fd = readiness(fd).ok();
    let mut flow = Receiver::new();
    while let Some(piece) = pieces.recv().await {
        let result = match (&piece, &fd) {
            (Piece::Data(bytes), Some(fd)) => write_all(fd, bytes).await,
            (Piece::End, Some(fd)) if is_terminal => write_all(fd, &[END_OF_INPUT]).await,
            (Piece::End, _) => Err(io::ErrorKind::UnexpectedEof.into()),
            (Piece::Data(_), None) => Ok(()),
        };
        if result.is_err() {
            fd = None;
        }
        if let Piece::Data(bytes) = piece {
            // More than the credit cannot hurt here: the supervisor is the
            // referee, and the queue is its own.
            let _ = flow.receive(bytes.len());
            if let Some(bytes) = flow.consume(bytes.len()) {
                let credit = Credit {
                    channel: Channel::Stdin,
                    bytes,
                };
                outlet.send(credit.to_frame(outlet.stream)).await;
            }
        }
    }
}
