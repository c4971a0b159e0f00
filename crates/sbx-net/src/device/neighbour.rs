//! Address resolution: everything but the guest lives at the gateway's
//! Ethernet address, so that even a nonsense address is refused at once.

use std::net::IpAddr;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetProtocol, Icmpv6Message, Icmpv6Packet, Icmpv6Repr,
    IpProtocol, NdiscNeighborFlags, NdiscRepr,
};

use super::packet::{Outlet, Packet, address_frame, checksums};
use crate::layout;

/// Answers an ARP request.
pub(crate) fn answer_arp(body: &[u8], outlet: &mut Outlet<'_>) {
    let request = ArpPacket::new_checked(body)
        .ok()
        .and_then(|arp| ArpRepr::parse(&arp).ok());
    let Some(ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr,
        source_protocol_addr,
        target_protocol_addr,
        ..
    }) = request
    else {
        return;
    };
    // A guest that asks for its own address looks for a clash: silence is "free".
    if target_protocol_addr == layout::GUEST_V4 || target_protocol_addr == source_protocol_addr {
        return;
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: layout::GATEWAY_MAC,
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let Some(frame) = outlet.output.frame(14 + reply.buffer_len()) else {
        return;
    };
    address_frame(frame, outlet.guest, EthernetProtocol::Arp);
    if let Some(body) = frame.get_mut(14..) {
        reply.emit(&mut ArpPacket::new_unchecked(body));
    }
}

/// Answers a neighbour solicitation; whether the packet was one.
pub(crate) fn answer_ndp(packet: &Packet<'_>, outlet: &mut Outlet<'_>) -> bool {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (packet.source, packet.destination) else {
        return false;
    };
    let Ok(icmp) = Icmpv6Packet::new_checked(packet.payload) else {
        return false;
    };
    if icmp.msg_type() != Icmpv6Message::NeighborSolicit {
        return false;
    }
    let parsed = Icmpv6Repr::parse(&source, &destination, &icmp, &checksums());
    let Ok(Icmpv6Repr::Ndisc(NdiscRepr::NeighborSolicit { target_addr, .. })) = parsed else {
        return true;
    };
    // An unspecified source looks for a clash: only what is ours is taken.
    let ours = target_addr == layout::GATEWAY_V6 || target_addr == layout::HOST_V6;
    let other = target_addr != layout::GUEST_V6 && target_addr != source;
    let on_link = target_addr.segments().get(..4) == layout::GATEWAY_V6.segments().get(..4);
    if !(ours || (other && on_link && !source.is_unspecified())) {
        return true;
    }
    let reply = Icmpv6Repr::Ndisc(NdiscRepr::NeighborAdvert {
        flags: NdiscNeighborFlags::SOLICITED
            | NdiscNeighborFlags::OVERRIDE
            | NdiscNeighborFlags::ROUTER,
        target_addr,
        lladdr: Some(layout::GATEWAY_MAC.into()),
    });
    let to = if source.is_unspecified() {
        std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)
    } else {
        source
    };
    let length = reply.buffer_len();
    outlet.send_with_hop_limit(
        255,
        (target_addr.into(), to.into()),
        IpProtocol::Icmpv6,
        length,
        |payload, _, _| {
            reply.emit(
                &target_addr,
                &to,
                &mut Icmpv6Packet::new_unchecked(payload),
                &checksums(),
            );
        },
    );
    true
}
