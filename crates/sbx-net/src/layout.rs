//! The addresses a sandbox sees. They are the same in every sandbox.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use sbx_spec::{GATEWAY_V4, GATEWAY_V6, HOST_V4, HOST_V6, HTTP_PROXY, SOCKS_PROXY};
use smoltcp::wire::EthernetAddress;

/// The guest.
pub const GUEST_V4: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 2);
/// The guest.
pub const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd73, 0x6278, 0x7800, 0, 0, 0, 0, 2);
/// The Ethernet address of everything but the guest.
pub const GATEWAY_MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0x00, 0x73, 0x62, 0x01]);
/// The Ethernet address a guest has until it says otherwise.
pub const GUEST_MAC: EthernetAddress = EthernetAddress([0x52, 0x54, 0x00, 0x73, 0x62, 0x78]);

/// The names of [`HOST_V4`] inside.
pub(crate) const HOST_NAMES: [&str; 2] = ["host.sbx.internal", "host.docker.internal"];

pub(crate) fn is_gateway(address: IpAddr) -> bool {
    address == IpAddr::V4(GATEWAY_V4) || address == IpAddr::V6(GATEWAY_V6)
}

pub(crate) fn is_host(address: IpAddr) -> bool {
    address == IpAddr::V4(HOST_V4) || address == IpAddr::V6(HOST_V6)
}

pub(crate) fn is_guest(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address == GUEST_V4,
        IpAddr::V6(address) => address == GUEST_V6,
    }
}
