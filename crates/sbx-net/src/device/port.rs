//! What smoltcp sees of the link: one packet in, packets out.

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, EthernetProtocol};

use super::link::Output;
use super::packet::{address_frame, checksums};
use crate::limits;

/// The link, borrowed for the service of one connection.
#[derive(Debug)]
pub(crate) struct Port<'a> {
    packet: Option<&'a [u8]>,
    output: &'a mut Output,
    guest: EthernetAddress,
    /// Something had to stay behind because the link is full.
    pub(crate) refused: bool,
}

impl<'a> Port<'a> {
    pub(crate) fn new(
        packet: Option<&'a [u8]>,
        output: &'a mut Output,
        guest: EthernetAddress,
    ) -> Self {
        Self {
            packet,
            output,
            guest,
            refused: false,
        }
    }
}

/// One packet from the guest.
#[derive(Debug)]
pub(crate) struct Arrival<'a>(&'a [u8]);

/// Room for one packet to the guest.
#[derive(Debug)]
pub(crate) struct Departure<'a> {
    output: &'a mut Output,
    guest: EthernetAddress,
}

impl Device for Port<'_> {
    type RxToken<'a>
        = Arrival<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Departure<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Arrival<'_>, Departure<'_>)> {
        let packet = self.packet.take()?;
        Some((
            Arrival(packet),
            Departure {
                output: self.output,
                guest: self.guest,
            },
        ))
    }

    fn transmit(&mut self, _: Instant) -> Option<Departure<'_>> {
        if !self.output.has_room() {
            self.refused = true;
            return None;
        }
        Some(Departure {
            output: self.output,
            guest: self.guest,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        Capabilities.capabilities()
    }
}

/// The link's properties without the link, for a new interface.
#[derive(Debug)]
pub(crate) struct Capabilities;

impl Device for Capabilities {
    type RxToken<'a> = Arrival<'a>;
    type TxToken<'a> = Departure<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrival<'_>, Departure<'_>)> {
        None
    }

    fn transmit(&mut self, _: Instant) -> Option<Departure<'_>> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = limits::MTU;
        capabilities.checksum = checksums();
        capabilities
    }
}

impl RxToken for Arrival<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

impl TxToken for Departure<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        match self
            .output
            .frame(14 + length)
            .and_then(|frame| frame.split_at_mut_checked(14))
        {
            Some((header, body)) => {
                let filled = fill(body);
                let kind = match body.first() {
                    Some(first) if first >> 4 == 6 => EthernetProtocol::Ipv6,
                    _ => EthernetProtocol::Ipv4,
                };
                address_frame(header, self.guest, kind);
                filled
            }
            // The answer to a single packet found no room: lost, as on any wire.
            None => fill(&mut vec![0; length]),
        }
    }
}
