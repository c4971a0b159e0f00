//! Unix sockets: pairs, descriptors in messages, and names of any length.
//!
//! A socket's path may be 107 bytes long, a state directory's may be longer;
//! so sockets are named relative to a directory descriptor, through
//! `/proc/self/fd`.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::fs::Mode;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::error::{Attempt, Error, Result};
use crate::file::plain;

/// The most descriptors that one message may carry.
pub const MAX_FDS: usize = 32;

/// Who is at the other end of a socket, as of the time it connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Peer {
    /// Its process number, or 0 when it is in a namespace we do not see.
    pub pid: u32,
    /// Its effective user id.
    pub uid: u32,
    /// Its effective group id.
    pub gid: u32,
}

/// A connected pair of stream sockets, closed on exec.
///
/// # Errors
/// When the kernel refuses.
pub fn stream_pair() -> Result<(UnixStream, UnixStream)> {
    UnixStream::pair().attempt("make a pair of sockets")
}

/// A connected pair of sockets that keep message boundaries, closed on exec.
///
/// # Errors
/// When the kernel refuses.
pub fn message_pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .attempt("make a pair of sockets")
}

/// Listens on a new socket `name` in `dir`, mode 0600. The caller removes a
/// stale one first, under its own lock.
///
/// # Errors
/// When the name is taken ([`std::io::ErrorKind::AddrInUse`]) or the kernel
/// refuses.
pub fn listen_at(dir: impl AsFd, name: &str) -> Result<UnixListener> {
    let (socket, address) = prepare(dir.as_fd(), name)?;
    // The file that bind makes takes the mode of the socket.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)
        .attempt_with(|| format!("set the mode of socket `{name}`"))?;
    rustix::net::bind(&socket, &address).attempt_with(|| format!("bind socket `{name}`"))?;
    rustix::net::listen(&socket, 64).attempt_with(|| format!("listen on socket `{name}`"))?;
    Ok(socket.into())
}

/// Connects to the socket `name` in `dir`. Blocks while its queue is full.
///
/// # Errors
/// When there is none ([`std::io::ErrorKind::NotFound`]) or nobody listens
/// ([`std::io::ErrorKind::ConnectionRefused`]).
pub fn connect_at(dir: impl AsFd, name: &str) -> Result<UnixStream> {
    let (socket, address) = prepare(dir.as_fd(), name)?;
    rustix::net::connect(&socket, &address)
        .attempt_with(|| format!("connect to socket `{name}`"))?;
    Ok(socket.into())
}

fn prepare(dir: BorrowedFd<'_>, name: &str) -> Result<(OwnedFd, SocketAddrUnix)> {
    plain(name)?;
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    let address =
        SocketAddrUnix::new(path.as_str()).attempt_with(|| format!("name socket `{name}`"))?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .attempt("make a socket")?;
    Ok((socket, address))
}

/// Who connected this socket (or, on the connecting side, who listens).
///
/// # Errors
/// When it is not a connected Unix socket.
pub fn peer(socket: impl AsFd) -> Result<Peer> {
    // Not through rustix: it panics on the process number 0 of a peer in
    // another process namespace.
    let mut credentials = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes into `credentials`,
    // which is exactly that large and outlives the call.
    let status = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut length,
        )
    };
    if status != 0 {
        return Err(Error::new(
            "read a peer's credentials",
            std::io::Error::last_os_error(),
        ));
    }
    Ok(Peer {
        pid: u32::try_from(credentials.pid).unwrap_or(0),
        uid: credentials.uid,
        gid: credentials.gid,
    })
}

/// Sends `bytes` (at least one) with up to [`MAX_FDS`] descriptors, in one
/// message; says how many bytes were taken. The descriptors go with the
/// first byte.
///
/// # Errors
/// When there are too many descriptors or the other end is gone.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize> {
    if fds.len() > MAX_FDS || (bytes.is_empty() && !fds.is_empty()) {
        return Err(Error::refused(format!(
            "send {} descriptors with {} bytes",
            fds.len(),
            bytes.len()
        )));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Error::refused(format!("send {} descriptors", fds.len())));
    }
    loop {
        let sent = rustix::net::sendmsg(
            socket.as_fd(),
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::NOSIGNAL,
        );
        match sent {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.attempt("send a message"),
        }
    }
}

/// Closes `fd` without waiting for what its last close waits for: of a packet
/// socket that is all processors, 4 to 20 ms.
///
/// It lies in the queue of a socket that lies there itself. The kernel finds
/// that nobody can receive either, and a thread of its own closes both (older
/// ones than 6.9 do it here, and this waits).
pub fn let_go(fd: OwnedFd) {
    // What cannot be sent is closed by the end of this.
    if let Ok((queue, far)) = message_pair() {
        let _ = send(&far, b"let go", &[queue.as_fd(), fd.as_fd()]);
        drop((fd, queue));
        // Its close is what the kernel looks for such sockets at.
        drop(far);
    }
}

/// Receives up to `buffer.len()` bytes and at most `max_fds` (up to
/// [`MAX_FDS`]) descriptors, closed on exec. No bytes means that the other
/// end has closed.
///
/// # Errors
/// When more descriptors came than asked for: all of them are closed then.
pub fn receive(
    socket: impl AsFd,
    buffer: &mut [u8],
    max_fds: usize,
) -> Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = loop {
        let received = rustix::net::recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(buffer)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        );
        match received {
            Err(rustix::io::Errno::INTR) => {}
            other => break other.attempt("receive a message")?,
        }
    };
    let mut fds = Vec::new();
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = item {
            fds.extend(rights);
        }
    }
    if fds.len() > max_fds || message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(Error::refused(format!(
            "receive {} descriptors (at most {max_fds})",
            fds.len()
        )));
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::open_dir;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn descriptors_travel_with_bytes() {
        let (near, far) = stream_pair().unwrap();
        let fd = crate::memfd::sealed("test", b"inside").unwrap();
        assert_eq!(send(&near, b"hi", &[fd.as_fd()]).unwrap(), 2);
        let mut buffer = [0; 8];
        let (count, mut fds) = receive(&far, &mut buffer, 1).unwrap();
        assert_eq!(&buffer[..count], b"hi");
        let bytes = crate::memfd::read_sealed(fds.pop().unwrap(), 16).unwrap();
        assert_eq!(bytes, b"inside");
    }

    #[test]
    fn what_is_let_go_is_closed() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let_go(writer.into());
        let mut said = Vec::new();
        // Ends with the last descriptor that could be written to.
        reader.read_to_end(&mut said).unwrap();
        assert!(said.is_empty());
    }

    #[test]
    fn unasked_descriptors_are_refused() {
        let (near, far) = stream_pair().unwrap();
        send(&near, b"hi", &[near.as_fd()]).unwrap();
        assert!(receive(&far, &mut [0; 8], 0).is_err());
    }

    #[test]
    fn too_many_descriptors_are_not_sent() {
        let (near, _far) = stream_pair().unwrap();
        let many = vec![near.as_fd(); MAX_FDS + 1];
        assert!(send(&near, b"hi", &many).is_err());
    }

    #[test]
    fn a_closed_end_reads_as_no_bytes() {
        let (near, far) = stream_pair().unwrap();
        drop(near);
        assert_eq!(receive(&far, &mut [0; 8], 0).unwrap().0, 0);
    }

    #[test]
    fn sockets_below_long_paths_work_and_are_private() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let dir = open_dir(&deep).unwrap();
        let listener = listen_at(&dir, "control").unwrap();
        let mode = std::fs::metadata(deep.join("control"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut near = connect_at(&dir, "control").unwrap();
        let (mut far, _) = listener.accept().unwrap();
        near.write_all(b"x").unwrap();
        far.read_exact(&mut [0]).unwrap();
        let seen = peer(&far).unwrap();
        assert_eq!(seen.pid, std::process::id());
        assert_eq!(seen.uid, rustix::process::geteuid().as_raw());
    }

    #[test]
    fn a_taken_or_missing_name_says_so() {
        let home = tempfile::tempdir().unwrap();
        let dir = open_dir(home.path()).unwrap();
        let missing = connect_at(&dir, "control").unwrap_err();
        assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
        drop(listen_at(&dir, "control").unwrap());
        let taken = listen_at(&dir, "control").unwrap_err();
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
        let nobody = connect_at(&dir, "control").unwrap_err();
        assert_eq!(nobody.kind(), std::io::ErrorKind::ConnectionRefused);
    }
}
