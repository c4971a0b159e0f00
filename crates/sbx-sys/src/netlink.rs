//! The few rtnetlink(7) requests that set up an interface.
//!
//! A message is a fixed structure and attributes behind it; each request waits
//! for the kernel's answer. Numbers are those of linux/netlink.h,
//! linux/rtnetlink.h, linux/if_addr.h, linux/if_link.h and linux/veth.h.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{Attempt, Error, Result};

const NLMSG_ERROR: u16 = 2;
const REQUEST_ACK: u16 = 0x1 | 0x4;
const CREATE_REPLACE: u16 = 0x400 | 0x100;
const CREATE_NEW: u16 = 0x400 | 0x200;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IN6_ADDR_GEN_MODE_NONE: u8 = 1;
const VETH_INFO_PEER: u16 = 1;
const NESTED: u16 = 0x8000;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_F_NODAD: u8 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const IFF_UP: u32 = 0x1;
const IFF_NOARP: u32 = 0x80;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A socket to the interfaces and routing tables of the network namespace
/// that the thread was in when it opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

impl Netlink {
    /// Opens one, closed on exec.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn open() -> Result<Self> {
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
    ///
    /// # Errors
    /// When there is no such interface, when it cannot have that MTU, or when
    /// the caller may not administer the namespace.
    pub fn up(&mut self, index: u32, mtu: Option<u32>) -> Result<()> {
        let mut body = link(index, IFF_UP);
        if let Some(mtu) = mtu {
            attribute(&mut body, IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.request("bring an interface up", RTM_NEWLINK, 0, &body)
    }

    /// Gives interface `index`, which is down, this link address.
    ///
    /// # Errors
    /// When there is no such interface, or when the caller may not administer
    /// the namespace.
    pub fn link_address(&mut self, index: u32, mac: [u8; 6]) -> Result<()> {
        let mut body = link(index, 0);
        attribute(&mut body, IFLA_ADDRESS, &mac);
        self.request("give an interface a link address", RTM_NEWLINK, 0, &body)
    }

    /// Gives interface `index` an address.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn address(&mut self, index: u32, address: IpAddr, prefix: u8) -> Result<()> {
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
        self.request(
            "give an interface an address",
            RTM_NEWADDR,
            CREATE_REPLACE,
            &body,
        )
    }

    /// Makes `gateway` the default route through interface `index`.
    ///
    /// # Errors
    /// When the kernel refuses, as it does where nothing on that interface
    /// leads to the gateway.
    pub fn default_route(&mut self, index: u32, gateway: IpAddr) -> Result<()> {
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
        self.request("set the default route", RTM_NEWROUTE, CREATE_REPLACE, &body)
    }

    /// Makes a pair of Ethernet interfaces, both down, `far` in the network
    /// namespace `there`, or here.
    pub(crate) fn add_veth(
        &mut self,
        near: &End<'_>,
        far: &End<'_>,
        there: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        let mut peer = link(0, 0);
        far.describe(&mut peer);
        if let Some(there) = there {
            attribute(&mut peer, IFLA_NET_NS_FD, &there.as_raw_fd().to_ne_bytes());
        }
        let mut data = Vec::new();
        attribute(&mut data, NESTED | VETH_INFO_PEER, &peer);
        let mut info = Vec::new();
        attribute(&mut info, IFLA_INFO_KIND, b"veth");
        attribute(&mut info, NESTED | IFLA_INFO_DATA, &data);
        let mut body = link(0, 0);
        near.describe(&mut body);
        attribute(&mut body, NESTED | IFLA_LINKINFO, &info);
        self.request("make a pair of interfaces", RTM_NEWLINK, CREATE_NEW, &body)
    }

    /// Brings interface `index` up for frames alone: the kernel answers no ARP
    /// on it, and gives it no IPv6 address by itself, about which it would
    /// talk.
    pub(crate) fn up_silent(&mut self, index: u32) -> Result<()> {
        let mut inet6 = Vec::new();
        attribute(
            &mut inet6,
            IFLA_INET6_ADDR_GEN_MODE,
            &[IN6_ADDR_GEN_MODE_NONE],
        );
        let mut families = Vec::new();
        attribute(&mut families, NESTED | u16::from(AF_INET6), &inet6);
        let mut body = link(index, 0);
        attribute(&mut body, NESTED | IFLA_AF_SPEC, &families);
        match self.request("silence an interface", RTM_NEWLINK, 0, &body) {
            // A kernel without IPv6 says nothing of itself.
            Err(error) if error.errno() == Some(libc::EAFNOSUPPORT) => {}
            done => done?,
        }
        self.request(
            "silence an interface",
            RTM_NEWLINK,
            0,
            &link(index, IFF_UP | IFF_NOARP),
        )
    }

    /// Removes interface `index`, and of a pair the other one too.
    pub(crate) fn remove(&mut self, index: u32) -> Result<()> {
        self.request("remove an interface", RTM_DELLINK, 0, &link(index, 0))
    }

    /// Makes one request of a `kind`, and hears whether it was done.
    fn request(&mut self, what: &str, kind: u16, flags: u16, body: &[u8]) -> Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(16 + body.len()).map_err(|_| Error::refused(what))?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST_ACK | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        rustix::net::send(&self.socket, &message, SendFlags::empty()).attempt(what)?;
        let mut reply = [0; 4096];
        let receive = || rustix::net::recv(&self.socket, &mut reply[..], RecvFlags::empty());
        let (length, _) = rustix::io::retry_on_intr(receive).attempt(what)?;
        // struct nlmsghdr: length, type, flags, sequence, pid; struct
        // nlmsgerr: the negated errno, 0 for an acknowledgement
        let reply = reply.get(..length).unwrap_or_default();
        let word = |at: usize| {
            let bytes = reply.get(at..at + 4)?.try_into().ok()?;
            Some(i32::from_ne_bytes(bytes))
        };
        let kind = reply.get(4..6).and_then(|bytes| bytes.try_into().ok());
        let ours = word(8).map(i32::cast_unsigned) == Some(self.sequence);
        match (kind.map(u16::from_ne_bytes), word(16)) {
            (Some(NLMSG_ERROR), Some(0)) if ours => Ok(()),
            (Some(NLMSG_ERROR), Some(errno)) if ours => Err(Error::new(
                what,
                std::io::Error::from_raw_os_error(errno.saturating_neg()),
            )),
            _ => Err(Error::refused(format!("{what}: no answer"))),
        }
    }
}

/// One interface of a pair.
pub(crate) struct End<'a> {
    pub(crate) name: &'a str,
    /// Its link address; the kernel takes a random one otherwise.
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: u32,
}

impl End<'_> {
    fn describe(&self, body: &mut Vec<u8>) {
        attribute(body, IFLA_IFNAME, &terminated(self.name));
        attribute(body, IFLA_MTU, &self.mtu.to_ne_bytes());
        // What a wire has in the end, whatever is asked for: one that is made
        // with a queue for each processor takes the kernel milliseconds more.
        for queues in [IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES] {
            attribute(body, queues, &1u32.to_ne_bytes());
        }
        if let Some(mac) = self.mac {
            attribute(body, IFLA_ADDRESS, &mac);
        }
    }
}

/// `struct ifinfomsg`: family, pad, type, index, flags, and which of them
/// change; these flags are set and no others touched.
fn link(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), &[0]].concat()
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

/// The kernel's number of an interface of this thread's network namespace.
///
/// # Errors
/// When there is none of that name: the error number is `ENODEV`.
pub fn index_of(name: &str) -> Result<u32> {
    let what = || format!("find the interface `{name}`");
    // Any socket does, and this one needs no privilege and no file.
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .attempt_with(what)?;
    rustix::net::netdevice::name_to_index(&socket, name).attempt_with(what)
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

    #[test]
    fn loopback_is_found_and_what_is_not_there_is_not() {
        assert_eq!(index_of("lo").unwrap(), 1);
        let missing = index_of("no-such").unwrap_err();
        assert_eq!(missing.errno(), Some(libc::ENODEV));
    }

    #[test]
    fn what_the_kernel_refuses_is_an_error_with_its_number() {
        let refused = Netlink::open().unwrap().up(u32::MAX >> 1, None);
        let errno = refused.unwrap_err().errno();
        // Of an ordinary user it is not even looked for.
        assert!(matches!(errno, Some(libc::ENODEV | libc::EPERM)));
    }
}
