//! A wire between two network namespaces, one end of it as a packet socket:
//! the Ethernet frames of a container, for a process outside of it.
//!
//! Needs no device node, and no privilege but that of the user namespace that
//! both namespaces belong to or descend from. Whoever is root in the far
//! namespace can switch its end off, take it away and change what leaves it;
//! the near end is out of its reach.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::sockopt::{
    set_socket_recv_buffer_size, set_socket_recv_buffer_size_force, set_socket_send_buffer_size,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::error::{Attempt, Error, Result};
use crate::interface::request;
use crate::netlink::{End, Netlink, index_of};
use crate::offloads;

/// Room for frames that were not read yet, in bytes of the kernel's memory.
/// What finds none is lost, since a wire makes nobody wait. Without privilege
/// on the host the kernel gives no more than its `net.core.rmem_max`.
pub const UNREAD: usize = 4 << 20;
/// Room for frames on their way to the far end, in bytes; the kernel may give
/// less. The next one waits.
pub const ON_THEIR_WAY: usize = 1 << 20;

/// Makes a pair of Ethernet interfaces in the calling thread's network
/// namespace. `near` stays, is brought up and belongs to the packet socket that
/// comes back: each read is one frame from the far end, each write one to it,
/// closed on exec and never blocking. `far` is made in the network namespace
/// behind `namespace`, where it has the link address `mac` (or a random one) and
/// is down; before it is up it has to be made [`whole`] there. Both have this
/// MTU. The kernel says nothing of itself on `near`.
///
/// The pair is gone when either namespace is, and the socket keeps the near
/// one. Once the far one is gone a read fails with `ENETDOWN`, and writes with
/// the same or with `ENXIO`.
///
/// # Errors
/// When a name is none or taken, or when the caller may not administer both
/// namespaces. No interface is left then.
pub fn pair(
    near: &str,
    far: &str,
    mac: Option<[u8; 6]>,
    mtu: u32,
    namespace: BorrowedFd<'_>,
) -> Result<OwnedFd> {
    made(near, far, mac, mtu, Some(namespace))
}

/// The same with both ends in the calling thread's network namespace, where
/// `far` is down too and [`whole`]: for a namespace in which nobody but the
/// caller may administer anything, and which has no other way out.
///
/// # Errors
/// As [`pair`].
pub fn beside(near: &str, far: &str, mac: [u8; 6], mtu: u32) -> Result<OwnedFd> {
    made(near, far, Some(mac), mtu, None)
}

fn made(
    near: &str,
    far: &str,
    mac: Option<[u8; 6]>,
    mtu: u32,
    namespace: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd> {
    for name in [near, far] {
        request(name)?;
    }
    let mut netlink = Netlink::open()?;
    let [here, there] = [(near, None), (far, mac)].map(|(name, mac)| End { name, mac, mtu });
    // Made where it belongs: the kernel takes milliseconds to move one.
    netlink.add_veth(&here, &there, namespace)?;
    let index = index_of(near)?;
    let finish = |netlink: &mut Netlink| {
        if namespace.is_none() {
            whole(far)?;
        }
        netlink.up_silent(index)?;
        // Not before it is up: the socket would begin with an error.
        frames_of(index)
    };
    finish(&mut netlink).inspect_err(|_| {
        // What failed is the better thing to tell.
        let _left = netlink.remove(index);
    })
}

/// Has nothing leave interface `name` of the calling thread's network namespace
/// but what goes over a wire: frames with their checksums, no longer than they
/// may be.
///
/// # Errors
/// When there is no such interface, or when the caller may not administer the
/// namespace.
pub fn whole(name: &str) -> Result<()> {
    offloads::switch_off(name)
}

/// A socket for the frames that interface `index` receives.
fn frames_of(index: u32) -> Result<OwnedFd> {
    // Of no protocol: until it is bound it would hear all interfaces.
    let socket = rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )
    .attempt("open a packet socket")?;
    set(&socket, libc::PACKET_IGNORE_OUTGOING)?;
    // Past the queue, which drops what comes before the kernel has noticed,
    // some time later, that the far end is up.
    set(&socket, libc::PACKET_QDISC_BYPASS)?;
    // Less room is slower, and nothing else.
    if set_socket_recv_buffer_size_force(&socket, UNREAD).is_err() {
        let _smaller = set_socket_recv_buffer_size(&socket, UNREAD);
    }
    let _smaller = set_socket_send_buffer_size(&socket, ON_THEIR_WAY);
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as libc::c_ushort,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the kernel reads one `sockaddr_ll`, which `address` is and which
    // outlives the call.
    let status = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    };
    if status != 0 {
        return Err(last("bind a packet socket"));
    }
    Ok(socket)
}

/// Switches an option of a packet socket on.
fn set(socket: &OwnedFd, option: libc::c_int) -> Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads one integer, which `on` is and which outlives
    // the call.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if status != 0 {
        return Err(last("prepare a packet socket"));
    }
    Ok(())
}

fn last(attempt: &str) -> Error {
    Error::new(attempt, std::io::Error::last_os_error())
}
