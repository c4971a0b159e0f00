//! The few rtnetlink(7) requests that set up an interface.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{Attempt as _, Error, Result};

// linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h, linux/if_link.h
const NLMSG_ERROR: u16 = 2;
const REQUEST_ACK: u16 = 0x1 | 0x4;
const CREATE_REPLACE: u16 = 0x400 | 0x100;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A socket to the kernel's routing tables.
pub(super) struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE is protocol 0.
            None,
        )
        .attempt("open a netlink socket")?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Brings interface `index` up, with another MTU if one is given.
    pub(super) fn up(&mut self, index: u32, mtu: Option<u32>) -> Result<()> {
        // struct ifinfomsg: family, pad, type, index, flags, change
        let mut body = vec![0; 4];
        body.extend(index.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        body.extend(IFF_UP.to_ne_bytes());
        if let Some(mtu) = mtu {
            attribute(&mut body, IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.request(RTM_NEWLINK, 0, &body)
    }

    /// Gives interface `index` an address.
    pub(super) fn address(&mut self, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
        // struct ifaddrmsg: family, prefixlen, flags, scope, index
        let (family, flags) = match address {
            IpAddr::V4(_) => (AF_INET, 0),
            IpAddr::V6(_) => (AF_INET6, IFA_F_NODAD),
        };
        let mut body = vec![family, prefix, flags, 0];
        body.extend(index.to_ne_bytes());
        let bytes = octets(address);
        attribute(&mut body, IFA_LOCAL, &bytes);
        attribute(&mut body, IFA_ADDRESS, &bytes);
        self.request(RTM_NEWADDR, CREATE_REPLACE, &body)
    }

    /// Makes `gateway` the default route through interface `index`.
    pub(super) fn default_route(&mut self, index: u32, gateway: IpAddr) -> Result<()> {
        let family = match gateway {
            IpAddr::V4(_) => AF_INET,
            IpAddr::V6(_) => AF_INET6,
        };
        // struct rtmsg: family, dst_len, src_len, tos, table, protocol,
        // scope, type, flags
        let mut body = vec![family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST];
        body.extend([0; 4]);
        attribute(&mut body, RTA_GATEWAY, &octets(gateway));
        attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
        self.request(RTM_NEWROUTE, CREATE_REPLACE, &body)
    }

    fn request(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<()> {
        let what = || format!("ask the kernel for netlink request {kind}");
        self.sequence += 1;
        let length = u32::try_from(16 + body.len()).map_err(|_| Error::new(what()))?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST_ACK | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        rustix::net::send(&self.socket, &message, SendFlags::empty()).attempt(what())?;
        let mut reply = [0; 4096];
        let (length, _) =
            rustix::net::recv(&self.socket, &mut reply[..], RecvFlags::empty()).attempt(what())?;
        // struct nlmsghdr: length, type, flags, sequence, pid; struct
        // nlmsgerr: the negated errno, 0 for an acknowledgement
        let reply = reply.get(..length).unwrap_or_default();
        let kind = reply.get(4..6).and_then(|bytes| bytes.try_into().ok());
        let error = reply.get(16..20).and_then(|bytes| bytes.try_into().ok());
        match (kind.map(u16::from_ne_bytes), error.map(i32::from_ne_bytes)) {
            (Some(NLMSG_ERROR), Some(0)) => Ok(()),
            (Some(NLMSG_ERROR), Some(errno)) => {
                Err(std::io::Error::from_raw_os_error(errno.saturating_neg())).attempt(what())
            }
            _ => Err(Error::new(format!("{}: no answer", what()))),
        }
    }
}

/// Appends one attribute, padded to four bytes.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The kernel's number of an interface.
pub(super) fn index_of(name: &str) -> Result<u32> {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex"))
        .attempt(format!("find the interface `{name}`"))?;
    text.trim()
        .parse()
        .map_err(|_| Error::new(format!("find the interface `{name}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_to_four_bytes() {
        let mut body = Vec::new();
        attribute(&mut body, 7, &[1, 2, 3, 4, 5]);
        assert_eq!(body.len(), 12);
        assert_eq!(u16::from_ne_bytes([body[0], body[1]]), 9);
    }
}
