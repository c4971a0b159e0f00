//! TCP segments: which connection, and whether it is a new one.

use std::net::SocketAddr;

use smoltcp::wire::{IpProtocol, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};

use crate::device::packet::{Outlet, Packet, checksums};

/// The two ends of a connection, or of datagrams, as the guest sees them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Ends {
    /// The guest's end.
    pub(crate) guest: SocketAddr,
    /// The end we play.
    pub(crate) server: SocketAddr,
}

/// A segment that belongs to some connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// Which one.
    pub(crate) ends: Ends,
    /// It asks for a new connection.
    pub(crate) opens: bool,
    /// It ends one.
    pub(crate) resets: bool,
    /// It ends one, or the guest's half of it.
    pub(crate) is_last: bool,
    /// It says more than what was heard and how much room there is.
    pub(crate) carries: bool,
    reset: Reset,
}

/// The numbers a reset must carry to be believed (RFC 9293, 3.10.7.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Reset {
    sequence: TcpSeqNumber,
    acknowledges: Option<TcpSeqNumber>,
}

/// Reads a segment; `None` when it is malformed.
pub(crate) fn parse(packet: &Packet<'_>) -> Option<Segment> {
    let tcp = TcpPacket::new_checked(packet.payload).ok()?;
    let (guest, server) = (tcp.src_port(), tcp.dst_port());
    if guest == 0 {
        return None;
    }
    let reset = if tcp.ack() {
        Reset {
            sequence: tcp.ack_number(),
            acknowledges: None,
        }
    } else {
        let end = tcp.seq_number() + tcp.segment_len();
        Reset {
            sequence: TcpSeqNumber(0),
            acknowledges: Some(end),
        }
    };
    Some(Segment {
        ends: Ends {
            guest: SocketAddr::new(packet.source, guest),
            server: SocketAddr::new(packet.destination, server),
        },
        opens: tcp.syn() && !tcp.ack() && !tcp.rst() && !tcp.fin(),
        resets: tcp.rst(),
        is_last: tcp.rst() || tcp.fin(),
        carries: tcp.segment_len() > 0 || tcp.rst(),
        reset,
    })
}

impl Segment {
    /// What a reset of this segment would say.
    pub(crate) fn reset(&self) -> Reset {
        self.reset
    }
}

/// Refuses: the guest's program sees "connection refused" or "reset" at once.
pub(crate) fn refuse(ends: &Ends, reset: Reset, outlet: &mut Outlet<'_>) {
    send(ends, TcpControl::Rst, reset, outlet);
}

/// Makes the guest say where a connection is that another endpoint served: a
/// segment of no window is answered with the numbers in force (RFC 9293,
/// 3.10.7.4), and that answer is then refused like any unknown segment.
pub(crate) fn ask_where(ends: &Ends, guess: u32, outlet: &mut Outlet<'_>) {
    let number = TcpSeqNumber(guess.cast_signed());
    let nowhere = Reset {
        sequence: number,
        acknowledges: Some(number),
    };
    send(ends, TcpControl::None, nowhere, outlet);
}

fn send(ends: &Ends, control: TcpControl, numbers: Reset, outlet: &mut Outlet<'_>) {
    let answer = TcpRepr {
        src_port: ends.server.port(),
        dst_port: ends.guest.port(),
        control,
        seq_number: numbers.sequence,
        ack_number: numbers.acknowledges,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None, None, None],
        timestamp: None,
        payload: &[],
    };
    let addresses = (ends.server.ip(), ends.guest.ip());
    outlet.send(
        addresses,
        IpProtocol::Tcp,
        answer.buffer_len(),
        |payload, source, destination| {
            answer.emit(
                &mut TcpPacket::new_unchecked(payload),
                source,
                destination,
                &checksums(),
            );
        },
    );
}
