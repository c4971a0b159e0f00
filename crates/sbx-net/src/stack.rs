//! One TCP connection with the guest: a smoltcp interface of its own with one
//! socket. smoltcp looks at every socket of an interface for each packet, so
//! connections never share one.

use std::net::SocketAddr;

use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet,
};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};

use crate::device::link::Output;
use crate::device::port::{Capabilities, Port};
use crate::entry::tcp::Ends;
use crate::limits;

/// A socket that owns its buffers.
pub(crate) type Socket = tcp::Socket<'static>;

/// A new one with buffers of so many bytes.
pub(crate) fn socket(buffer: usize) -> Socket {
    let mut socket = Socket::new(
        tcp::SocketBuffer::new(vec![0; buffer]),
        tcp::SocketBuffer::new(vec![0; buffer]),
    );
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket.set_keep_alive(Some(smoltcp::time::Duration::from(limits::KEEP_ALIVE)));
    socket
}

/// The guest's end of a connection.
pub(crate) struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack").finish_non_exhaustive()
    }
}

impl Stack {
    /// Has a socket wait for the guest's SYN to `server`, which is a unicast
    /// address and a port other than 0; otherwise there is none.
    pub(crate) fn listen(
        server: SocketAddr,
        socket: Socket,
        seed: u64,
        now: Instant,
    ) -> Option<Self> {
        let mut stack = Self::new(server, socket, seed, now)?;
        stack.socket().listen((server.ip(), server.port())).ok()?;
        Some(stack)
    }

    /// Connects a socket to the guest's end.
    pub(crate) fn connect(ends: &Ends, socket: Socket, seed: u64, now: Instant) -> Option<Self> {
        let mut stack = Self::new(ends.server, socket, seed, now)?;
        let Self {
            interface,
            sockets,
            handle,
        } = &mut stack;
        let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
        socket
            .connect(interface.context(), ends.guest, ends.server.port())
            .ok()?;
        Some(stack)
    }

    fn new(server: SocketAddr, socket: Socket, seed: u64, now: Instant) -> Option<Self> {
        let address = server.ip();
        let unicast = match address {
            std::net::IpAddr::V4(v4) => !v4.is_broadcast() && !v4.is_multicast(),
            std::net::IpAddr::V6(v6) => !v6.is_multicast(),
        };
        if !unicast || address.is_unspecified() {
            return None;
        }
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut Capabilities, now);
        // The network of length 0: the guest is a neighbour, whatever its address.
        interface.update_ip_addrs(|addresses| {
            let _full = addresses.push(IpCidr::new(address.into(), 0));
        });
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Some(Self {
            interface,
            sockets,
            handle,
        })
    }

    pub(crate) fn socket(&mut self) -> &mut Socket {
        self.sockets.get_mut(self.handle)
    }

    /// The socket for another connection, where this one came to its end.
    pub(crate) fn into_socket(mut self) -> Option<Socket> {
        match self.sockets.remove(self.handle) {
            smoltcp::socket::Socket::Tcp(socket) if !socket.is_open() => Some(socket),
            smoltcp::socket::Socket::Tcp(_) => None,
        }
    }

    /// Takes one IP packet of this connection.
    pub(crate) fn receive(
        &mut self,
        packet: &[u8],
        output: &mut Output,
        guest: EthernetAddress,
        now: Instant,
    ) {
        let mut port = Port::new(Some(packet), output, guest);
        let _: PollIngressSingleResult =
            self.interface
                .poll_ingress_single(now, &mut port, &mut self.sockets);
    }

    /// Sends what may be sent. False when the link was full before the end.
    pub(crate) fn send(
        &mut self,
        output: &mut Output,
        guest: EthernetAddress,
        now: Instant,
    ) -> bool {
        let mut port = Port::new(None, output, guest);
        while self
            .interface
            .poll_egress(now, &mut port, &mut self.sockets)
            == PollResult::SocketStateChanged
        {}
        !port.refused
    }

    /// When [`Self::send`] has to be called even if nothing happens.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Instant> {
        self.interface.poll_at(now, &self.sockets)
    }
}
