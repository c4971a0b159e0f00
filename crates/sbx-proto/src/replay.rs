//! One hostile input through everything that decodes it, for fuzz targets and
//! the tests that replay their corpora. Not part of the wire.

use crate::client::{Progress, Reply, Request};
use crate::flow::{Channel, Credit};
use crate::frame::{Decoder, Side};
use crate::link::{Clock, Event, Hello, Ready, Setup, SetupFailed, Shutdown, StatusReply};
use crate::message::Message as _;
use crate::session::{Exec, Exit, Refused, Resize, Signal, Started};

/// Takes the first byte as the size of the pieces in which the rest arrives
/// at a decoder of each side. Returns how many frames came out.
pub fn frames(bytes: &[u8]) -> usize {
    let Some((&piece, wire)) = bytes.split_first() else {
        return 0;
    };
    let mut count = 0;
    for side in [Side::Guest, Side::Host, Side::Client, Side::Supervisor] {
        let mut decoder = Decoder::new(side);
        'wire: for piece in wire.chunks(usize::from(piece.max(1))) {
            decoder.push(piece);
            loop {
                match decoder.next() {
                    Ok(Some(_)) => count += 1,
                    Ok(None) => break,
                    Err(_) => break 'wire,
                }
            }
        }
    }
    count
}

/// Decodes the bytes as every message. Returns how many they could be.
pub fn messages(bytes: &[u8]) -> usize {
    [
        Hello::from_payload(bytes).is_ok(),
        Setup::from_payload(bytes).is_ok(),
        Ready::from_payload(bytes).is_ok(),
        SetupFailed::from_payload(bytes).is_ok(),
        Clock::from_payload(bytes).is_ok(),
        Shutdown::from_payload(bytes).is_ok(),
        Event::from_payload(bytes).is_ok(),
        StatusReply::from_payload(bytes).is_ok(),
        Exec::from_payload(bytes).is_ok(),
        Started::from_payload(bytes).is_ok(),
        Refused::from_payload(bytes).is_ok(),
        Exit::from_payload(bytes).is_ok(),
        Resize::from_payload(bytes).is_ok(),
        Signal::from_payload(bytes).is_ok(),
        Request::from_payload(bytes).is_ok(),
        Reply::from_payload(bytes).is_ok(),
        Progress::from_payload(bytes).is_ok(),
        Credit::from_payload(bytes).is_ok(),
        Channel::from_eof(bytes).is_ok(),
    ]
    .into_iter()
    .filter(|decodes| *decodes)
    .count()
}
