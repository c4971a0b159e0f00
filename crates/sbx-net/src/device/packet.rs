//! Frames and packets from the guest as values, and headers of our answers.

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress, IpProtocol, IpRepr, Ipv4Packet,
    Ipv6Packet,
};

use super::link::Output;
use crate::layout;

const ETHERNET: usize = 14;
const HOP_LIMIT: u8 = 64;

/// What a frame carries.
#[derive(Debug)]
pub(crate) enum Carried<'a> {
    /// An ARP packet, unread.
    Arp(&'a [u8]),
    /// An IP packet.
    Ip(Packet<'a>),
}

/// An IP packet whose lengths are consistent. It is not a fragment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    /// The packet from its first header byte to its last payload byte.
    pub(crate) bytes: &'a [u8],
    /// Where it says it comes from.
    pub(crate) source: IpAddr,
    /// Where it is bound for.
    pub(crate) destination: IpAddr,
    /// What the payload is.
    pub(crate) protocol: IpProtocol,
    /// What follows the IP header.
    pub(crate) payload: &'a [u8],
}

/// A frame of the guest: who sent it and what it carries. `None` for anything
/// malformed, fragmented or of a protocol that we do not speak.
pub(crate) fn parse(frame: &[u8]) -> Option<(EthernetAddress, Carried<'_>)> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let (sender, kind) = (ethernet.src_addr(), ethernet.ethertype());
    let body = frame.get(ETHERNET..)?;
    let carried = match kind {
        EthernetProtocol::Arp => Carried::Arp(body),
        EthernetProtocol::Ipv4 => Carried::Ip(parse_v4(body)?),
        EthernetProtocol::Ipv6 => Carried::Ip(parse_v6(body)?),
        EthernetProtocol::Unknown(_) => return None,
    };
    Some((sender, carried))
}

/// A packet without its frame.
pub(crate) fn parse_ip(bytes: &[u8]) -> Option<Packet<'_>> {
    match bytes.first()? >> 4 {
        4 => parse_v4(bytes),
        6 => parse_v6(bytes),
        _ => None,
    }
}

fn parse_v4(body: &[u8]) -> Option<Packet<'_>> {
    let packet = Ipv4Packet::new_checked(body).ok()?;
    if packet.version() != 4 || packet.more_frags() || packet.frag_offset() != 0 {
        return None;
    }
    let header = usize::from(packet.header_len());
    let bytes = body.get(..usize::from(packet.total_len()))?;
    Some(Packet {
        bytes,
        source: packet.src_addr().into(),
        destination: packet.dst_addr().into(),
        protocol: packet.next_header(),
        payload: bytes.get(header..)?,
    })
}

fn parse_v6(body: &[u8]) -> Option<Packet<'_>> {
    let packet = Ipv6Packet::new_checked(body).ok()?;
    if packet.version() != 6 {
        return None;
    }
    let bytes = body.get(..packet.total_len())?;
    Some(Packet {
        bytes,
        source: packet.src_addr().into(),
        destination: packet.dst_addr().into(),
        protocol: packet.next_header(),
        payload: bytes.get(packet.header_len()..)?,
    })
}

/// Checksums are made for the guest and not checked from it: the link loses
/// and flips nothing, and a guest that lies harms its own connection only.
pub(crate) fn checksums() -> ChecksumCapabilities {
    use smoltcp::phy::Checksum;
    let mut checksums = ChecksumCapabilities::default();
    checksums.ipv4 = Checksum::Tx;
    checksums.tcp = Checksum::Tx;
    checksums.udp = Checksum::Tx;
    checksums.icmpv4 = Checksum::Tx;
    checksums.icmpv6 = Checksum::Tx;
    checksums
}

/// Writes the Ethernet header of a frame to the guest.
pub(crate) fn address_frame(frame: &mut [u8], guest: EthernetAddress, kind: EthernetProtocol) {
    if frame.len() >= ETHERNET {
        let mut ethernet = EthernetFrame::new_unchecked(frame);
        ethernet.set_dst_addr(guest);
        ethernet.set_src_addr(layout::GATEWAY_MAC);
        ethernet.set_ethertype(kind);
    }
}

/// Where answers go: the link and the guest's Ethernet address.
#[derive(Debug)]
pub(crate) struct Outlet<'a> {
    /// Frames for the VMM.
    pub(crate) output: &'a mut Output,
    /// Who gets them.
    pub(crate) guest: EthernetAddress,
}

impl Outlet<'_> {
    /// Sends an IP packet with the usual hop limit; see [`Self::send_with_hop_limit`].
    pub(crate) fn send(
        &mut self,
        addresses: (IpAddr, IpAddr),
        protocol: IpProtocol,
        length: usize,
        fill: impl FnOnce(&mut [u8], &IpAddress, &IpAddress),
    ) {
        self.send_with_hop_limit(HOP_LIMIT, addresses, protocol, length, fill);
    }

    /// Sends an IP packet with `length` bytes of payload that `fill` writes.
    /// Both addresses are of the same family, else nothing is sent.
    pub(crate) fn send_with_hop_limit(
        &mut self,
        hop_limit: u8,
        (source, destination): (IpAddr, IpAddr),
        protocol: IpProtocol,
        length: usize,
        fill: impl FnOnce(&mut [u8], &IpAddress, &IpAddress),
    ) {
        if source.is_ipv4() != destination.is_ipv4() {
            return;
        }
        let (source, destination) = (IpAddress::from(source), IpAddress::from(destination));
        let ip = IpRepr::new(source, destination, protocol, length, hop_limit);
        let kind = match ip {
            IpRepr::Ipv4(_) => EthernetProtocol::Ipv4,
            IpRepr::Ipv6(_) => EthernetProtocol::Ipv6,
        };
        let Some(frame) = self.output.frame(ETHERNET + ip.buffer_len()) else {
            return;
        };
        address_frame(frame, self.guest, kind);
        let Some(body) = frame.get_mut(ETHERNET..) else {
            return;
        };
        ip.emit(&mut *body, &checksums());
        if let Some(payload) = body.get_mut(ip.header_len()..) {
            fill(payload, &source, &destination);
        }
    }
}
