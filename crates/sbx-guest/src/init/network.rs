//! The sandbox's interfaces.

use std::net::IpAddr;

use sbx_proto::link::NetSetup;
use sbx_sys::netlink::{Netlink, index_of};

use crate::error::Result;

const INTERFACE: &str = "eth0";

/// Loopback, in every sandbox.
pub(super) fn bring_up_loopback() -> Result<()> {
    Ok(Netlink::open()?.up(index_of("lo")?, None)?)
}

/// The one way out.
pub(super) fn bring_up(net: &NetSetup) -> Result<()> {
    // Nobody else is on this wire: no address is in doubt, no router to hear.
    for (name, value) in [
        ("accept_dad", "0"),
        ("accept_ra", "0"),
        ("dad_transmits", "0"),
    ] {
        let path = format!("/proc/sys/net/ipv6/conf/{INTERFACE}/{name}");
        let _ = std::fs::write(path, value);
    }
    let index = index_of(INTERFACE)?;
    let mut netlink = Netlink::open()?;
    netlink.up(index, Some(net.mtu))?;
    netlink.address(index, IpAddr::V4(net.v4), net.v4_prefix)?;
    netlink.address(index, IpAddr::V6(net.v6), net.v6_prefix)?;
    netlink.default_route(index, IpAddr::V4(net.v4_gateway))?;
    netlink.default_route(index, IpAddr::V6(net.v6_gateway))?;
    Ok(())
}
