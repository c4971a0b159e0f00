//! ICMP and ICMPv6: echo, and the messages that refuse a packet at once.

use std::net::IpAddr;

use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv6DstUnreachable,
    Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv4Packet, Ipv4Repr, Ipv6Packet,
    Ipv6Repr,
};

use crate::device::packet::{Outlet, Packet, checksums};

/// Why a packet is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// No one listens there: clients of QUIC fall back to TCP.
    Port,
    /// A protocol that nobody speaks.
    Protocol,
    /// By policy.
    Prohibited,
}

/// Whether a packet asks for an echo.
pub(crate) fn is_echo_request(packet: &Packet<'_>) -> bool {
    match packet.protocol {
        IpProtocol::Icmp => Icmpv4Packet::new_checked(packet.payload)
            .is_ok_and(|icmp| icmp.msg_type() == Icmpv4Message::EchoRequest),
        IpProtocol::Icmpv6 => Icmpv6Packet::new_checked(packet.payload)
            .is_ok_and(|icmp| icmp.msg_type() == Icmpv6Message::EchoRequest),
        _ => false,
    }
}

/// Answers an echo request with its own data.
pub(crate) fn answer_echo(packet: &Packet<'_>, outlet: &mut Outlet<'_>) {
    let addresses = (packet.destination, packet.source);
    match addresses {
        (IpAddr::V4(_), IpAddr::V4(_)) => {
            let Ok(icmp) = Icmpv4Packet::new_checked(packet.payload) else {
                return;
            };
            let Ok(Icmpv4Repr::EchoRequest {
                ident,
                seq_no,
                data,
            }) = Icmpv4Repr::parse(&icmp, &checksums())
            else {
                return;
            };
            let reply = Icmpv4Repr::EchoReply {
                ident,
                seq_no,
                data,
            };
            outlet.send(
                addresses,
                IpProtocol::Icmp,
                reply.buffer_len(),
                |payload, _, _| {
                    reply.emit(&mut Icmpv4Packet::new_unchecked(payload), &checksums());
                },
            );
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let Ok(icmp) = Icmpv6Packet::new_checked(packet.payload) else {
                return;
            };
            let Ok(Icmpv6Repr::EchoRequest {
                ident,
                seq_no,
                data,
            }) = Icmpv6Repr::parse(&to, &from, &icmp, &checksums())
            else {
                return;
            };
            let reply = Icmpv6Repr::EchoReply {
                ident,
                seq_no,
                data,
            };
            outlet.send(
                addresses,
                IpProtocol::Icmpv6,
                reply.buffer_len(),
                |payload, _, _| {
                    reply.emit(
                        &from,
                        &to,
                        &mut Icmpv6Packet::new_unchecked(payload),
                        &checksums(),
                    );
                },
            );
        }
        _ => {}
    }
}

/// Tells the guest that a packet goes nowhere, quoting its beginning. An
/// ICMP error is never answered with another.
pub(crate) fn refuse(packet: &Packet<'_>, refusal: Refusal, outlet: &mut Outlet<'_>) {
    match (packet.source, packet.destination) {
        (IpAddr::V4(_), IpAddr::V4(_)) => refuse_v4(packet, refusal, outlet),
        (IpAddr::V6(_), IpAddr::V6(_)) => refuse_v6(packet, refusal, outlet),
        _ => {}
    }
}

fn refuse_v4(packet: &Packet<'_>, refusal: Refusal, outlet: &mut Outlet<'_>) {
    let Ok(header) = Ipv4Packet::new_checked(packet.bytes) else {
        return;
    };
    let reason = match refusal {
        Refusal::Port => Icmpv4DstUnreachable::PortUnreachable,
        Refusal::Protocol => Icmpv4DstUnreachable::ProtoUnreachable,
        Refusal::Prohibited => Icmpv4DstUnreachable::CommProhibited,
    };
    let quoted = packet
        .payload
        .get(..packet.payload.len().min(548))
        .unwrap_or_default();
    let reply = Icmpv4Repr::DstUnreachable {
        reason,
        header: Ipv4Repr {
            src_addr: header.src_addr(),
            dst_addr: header.dst_addr(),
            next_header: header.next_header(),
            payload_len: packet.payload.len(),
            hop_limit: header.hop_limit(),
        },
        data: quoted,
    };
    let addresses = (packet.destination, packet.source);
    outlet.send(
        addresses,
        IpProtocol::Icmp,
        reply.buffer_len(),
        |payload, _, _| {
            reply.emit(&mut Icmpv4Packet::new_unchecked(payload), &checksums());
        },
    );
}

fn refuse_v6(packet: &Packet<'_>, refusal: Refusal, outlet: &mut Outlet<'_>) {
    let Ok(header) = Ipv6Packet::new_checked(packet.bytes) else {
        return;
    };
    let (from, to) = (header.dst_addr(), header.src_addr());
    let reason = match refusal {
        Refusal::Port => Icmpv6DstUnreachable::PortUnreachable,
        Refusal::Protocol | Refusal::Prohibited => Icmpv6DstUnreachable::AdminProhibit,
    };
    let quoted = packet
        .payload
        .get(..packet.payload.len().min(1024))
        .unwrap_or_default();
    let reply = Icmpv6Repr::DstUnreachable {
        reason,
        header: Ipv6Repr {
            src_addr: header.src_addr(),
            dst_addr: header.dst_addr(),
            next_header: header.next_header(),
            payload_len: packet.payload.len(),
            hop_limit: header.hop_limit(),
        },
        data: quoted,
    };
    let addresses = (packet.destination, packet.source);
    outlet.send(
        addresses,
        IpProtocol::Icmpv6,
        reply.buffer_len(),
        |payload, _, _| {
            reply.emit(
                &from,
                &to,
                &mut Icmpv6Packet::new_unchecked(payload),
                &checksums(),
            );
        },
    );
}
