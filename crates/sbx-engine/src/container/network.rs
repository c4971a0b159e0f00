//! The inner end of a container's wire.

use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use sbx_net::layout::{GATEWAY_V4, GATEWAY_V6, GUEST_MAC, GUEST_V4, GUEST_V6};
use sbx_net::limits::MTU;
use sbx_sys::Result;
use sbx_sys::netlink::{Netlink, index_of};
use sbx_sys::userns::Range;

use super::refused;

/// The interface inside, and the one outside.
const INSIDE: &str = "eth0";
const OUTSIDE: &str = "host0";

/// Makes the wire from the network namespace of this process into the one
/// behind `namespace`; returns the socket for its frames.
pub(super) fn wire(namespace: BorrowedFd<'_>) -> Result<OwnedFd> {
    sbx_sys::veth::pair(OUTSIDE, INSIDE, Some(GUEST_MAC.0), mtu(), namespace)
}

/// Brings up what this process's namespace has: loopback, and the wire if
/// there is one. `proc` is a `/proc` that can be written to, `groups` are those
/// of the container.
pub(super) fn bring_up(proc: BorrowedFd<'_>, groups: &[Range], wired: bool) -> Result<()> {
    let mut netlink = Netlink::open()?;
    netlink.up(index_of("lo")?, None)?;
    // ping without privileges: nothing in here is setuid.
    set(proc, "ipv4/ping_group_range", &all_of(groups))?;
    set(proc, "ipv4/ip_unprivileged_port_start", "0")?;
    if !wired {
        return Ok(());
    }
    sbx_sys::veth::whole(INSIDE)?;
    // Nobody else is on this wire: no address is in doubt, no router to hear.
    for name in ["accept_dad", "accept_ra", "dad_transmits"] {
        // A kernel without IPv6 has none of them.
        let _ = set(proc, &format!("ipv6/conf/{INSIDE}/{name}"), "0");
    }
    let index = index_of(INSIDE)?;
    netlink.up(index, Some(mtu()))?;
    netlink.address(index, IpAddr::V4(GUEST_V4), 24)?;
    netlink.address(index, IpAddr::V6(GUEST_V6), 64)?;
    netlink.default_route(index, IpAddr::V4(GATEWAY_V4))?;
    netlink.default_route(index, IpAddr::V6(GATEWAY_V6))
}

/// The first and the last of `groups` as the kernel compares them, which is by
/// their numbers outside.
fn all_of(groups: &[Range]) -> String {
    let first = groups.iter().min_by_key(|range| range.outside);
    let last = (groups.iter()).max_by_key(|range| range.outside.saturating_add(range.count));
    let first = first.map_or(0, |range| range.inside);
    let last = last.map_or(0, |range| {
        range.inside.saturating_add(range.count).saturating_sub(1)
    });
    format!("{first} {last}")
}

fn set(proc: BorrowedFd<'_>, name: &str, value: &str) -> Result<()> {
    let what = || format!("set `net/{name}`");
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let path = format!("sys/net/{name}");
    let file = rustix::fs::openat(proc, path, flags, Mode::empty()).map_err(refused(what()))?;
    rustix::io::write(file, value.as_bytes())
        .map(drop)
        .map_err(refused(what()))
}

fn mtu() -> u32 {
    u32::try_from(MTU).unwrap_or(1500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_inside_may_ping_whatever_it_is_outside() {
        let range = |inside, outside, count| Range {
            inside,
            outside,
            count,
        };
        assert_eq!(all_of(&[range(0, 1_962_934_272, 65_536)]), "0 65535");
        let of_user = [
            range(0, 100_000, 1000),
            range(1000, 1000, 1),
            range(1001, 101_000, 64_535),
        ];
        assert_eq!(all_of(&of_user), "1000 65535");
    }
}
