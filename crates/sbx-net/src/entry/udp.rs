//! UDP datagrams.

use smoltcp::wire::{IpProtocol, UdpPacket, UdpRepr};

use super::tcp::Ends;
use crate::device::packet::{Outlet, Packet, checksums};

/// A datagram whose lengths are consistent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram<'a> {
    /// The guest's port.
    pub(crate) source: u16,
    /// The port it is bound for.
    pub(crate) destination: u16,
    /// What it says.
    pub(crate) payload: &'a [u8],
}

/// Reads a datagram; `None` when it is malformed.
pub(crate) fn parse<'a>(packet: &Packet<'a>) -> Option<Datagram<'a>> {
    let udp = UdpPacket::new_checked(packet.payload).ok()?;
    Some(Datagram {
        source: udp.src_port(),
        destination: udp.dst_port(),
        payload: packet.payload.get(8..usize::from(udp.len()))?,
    })
}

/// Answers a datagram from the address it was sent to.
pub(crate) fn answer(
    packet: &Packet<'_>,
    datagram: &Datagram<'_>,
    message: &[u8],
    outlet: &mut Outlet<'_>,
) {
    let ends = Ends {
        guest: (packet.source, datagram.source).into(),
        server: (packet.destination, datagram.destination).into(),
    };
    send(&ends, message, outlet);
}

/// Sends a datagram to the guest's end.
pub(crate) fn send(ends: &Ends, message: &[u8], outlet: &mut Outlet<'_>) {
    let udp = UdpRepr {
        src_port: ends.server.port(),
        dst_port: ends.guest.port(),
    };
    let addresses = (ends.server.ip(), ends.guest.ip());
    let length = udp.header_len() + message.len();
    outlet.send(
        addresses,
        IpProtocol::Udp,
        length,
        |payload, source, destination| {
            udp.emit(
                &mut UdpPacket::new_unchecked(payload),
                source,
                destination,
                message.len(),
                |body| body.copy_from_slice(message),
                &checksums(),
            );
        },
    );
}
