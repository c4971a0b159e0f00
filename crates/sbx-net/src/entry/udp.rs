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

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};

    use proptest::prelude::*;

    use super::*;
    use crate::device::link::Output;
    use crate::device::packet::{self, Carried};
    use crate::layout;

    fn any_server() -> impl Strategy<Value = SocketAddr> {
        let v4 = any::<[u8; 4]>().prop_map(IpAddr::from);
        let v6 = any::<[u8; 16]>().prop_map(IpAddr::from);
        (prop_oneof![v4, v6], 1_u16..).prop_map(SocketAddr::from)
    }

    proptest! {
        #[test]
        fn what_is_sent_is_read_back(
            server in any_server(),
            port in 1_u16..,
            message in prop::collection::vec(any::<u8>(), 0..2_000),
        ) {
            let guest: IpAddr = match server {
                SocketAddr::V4(_) => layout::GUEST_V4.into(),
                SocketAddr::V6(_) => layout::GUEST_V6.into(),
            };
            let ends = Ends { guest: (guest, port).into(), server };
            let mut output = Output::new();
            let mut outlet = Outlet { output: &mut output, guest: layout::GUEST_MAC };
            send(&ends, &message, &mut outlet);
            let frames = output.drain();
            prop_assert_eq!(frames.len(), 1);
            let Some((_, Carried::Ip(packet))) = packet::parse(&frames[0]) else {
                return Err(TestCaseError::fail("no packet"));
            };
            prop_assert_eq!((packet.source, packet.destination), (server.ip(), guest));
            let datagram = parse(&packet).unwrap();
            prop_assert_eq!((datagram.source, datagram.destination), (server.port(), port));
            prop_assert_eq!(datagram.payload, &message[..]);
        }
    }
}
