//! Connections of the host into published ports of the guest.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

use sbx_net::limits;
use smoltcp::socket::tcp::State;
use support::{PATIENCE, start};

/// A client, and the socket that was accepted for it.
fn connected(address: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    (client, listener.accept().unwrap().0)
}

#[test]
fn bytes_of_the_host_reach_a_listener_in_the_guest_and_its_answer_comes_back() {
    let mut guest = start(&[]);
    for address in ["127.0.0.1", "::1"] {
        let server = guest.listening(8080);
        let (mut client, accepted) = connected(address);
        guest.control.publish(&accepted, 8080);
        drop(accepted);
        let flow = guest.control.next("flow");
        assert_eq!(
            (
                &flow["verdict"],
                &flow["rule"],
                &flow["addr"],
                &flow["port"]
            ),
            (
                &"allow".into(),
                &"published".into(),
                &address.into(),
                &8080.into()
            )
        );
        guest.until("a connection", |guest| {
            guest.tcp(server).state() == State::Established
        });
        // Much in both directions, and each side ends by itself.
        let body = vec![7_u8; 3_000_000];
        let expected = body.clone();
        let host = thread::spawn(move || {
            client.write_all(&body).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).unwrap();
            answer
        });
        let mut heard = Vec::new();
        guest.until("all of the host's bytes", |guest| {
            let socket = guest.tcp(server);
            while socket.can_recv() {
                let _all = socket.recv(|bytes| {
                    heard.extend_from_slice(bytes);
                    (bytes.len(), ())
                });
            }
            socket.state() == State::CloseWait && socket.recv_queue() == 0
        });
        assert!(heard == expected);
        guest.exchange(server, b"answer", 0);
        guest.tcp(server).close();
        guest.until("the end", |guest| {
            guest.tcp(server).state() == State::Closed
        });
        assert_eq!(host.join().unwrap(), b"answer");
        let end = guest.control.next("end");
        assert_eq!(
            (&end["sent"], &end["received"]),
            (&6.into(), &3_000_000.into())
        );
        guest.sockets.remove(server);
    }
    guest.end().unwrap();
}

#[test]
fn a_port_where_nobody_listens_resets_the_client() {
    let mut guest = start(&[]);
    let (mut client, accepted) = connected("127.0.0.1");
    guest.control.publish(&accepted, 81);
    drop(accepted);
    let host = thread::spawn(move || client.read(&mut [0]).unwrap_err().kind());
    guest.until("the reset", |_| host.is_finished());
    assert_eq!(host.join().unwrap(), ErrorKind::ConnectionReset);
    assert_eq!(guest.control.next("end")["how"], "reset");
    guest.end().unwrap();
}

#[test]
fn a_client_that_breaks_off_breaks_the_guests_connection() {
    let mut guest = start(&[]);
    let server = guest.listening(8080);
    let (client, accepted) = connected("127.0.0.1");
    guest.control.publish(&accepted, 8080);
    drop(accepted);
    guest.until("a connection", |guest| {
        guest.tcp(server).state() == State::Established
    });
    rustix::net::sockopt::set_socket_linger(&client, Some(std::time::Duration::ZERO)).unwrap();
    drop(client);
    guest.until("the reset", |guest| {
        guest.tcp(server).state() == State::Closed
    });
    guest.end().unwrap();
}

#[test]
fn what_is_no_connection_of_the_internets_is_closed_and_the_next_one_counts() {
    let mut guest = start(&[]);
    let (mut near, far) = UnixStream::pair().unwrap();
    guest.control.publish(&far, 8080);
    drop(far);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    guest.control.publish(&listener, 8080);
    assert_eq!(near.read(&mut [0]).unwrap(), 0);
    let server = guest.listening(8080);
    let (_client, accepted) = connected("127.0.0.1");
    guest.control.publish(&accepted, 8080);
    guest.until("a connection", |guest| {
        guest.tcp(server).state() == State::Established
    });
    guest.end().unwrap();
}

#[test]
fn only_so_many_are_carried_and_the_next_is_reset() {
    let mut guest = start(&[]);
    let mut clients = Vec::new();
    for _ in 0..limits::PUBLISHED {
        let (client, accepted) = connected("127.0.0.1");
        // A guest that never answers: nothing of it runs meanwhile.
        guest.control.publish(&accepted, 8080);
        clients.push(client);
    }
    let (mut client, accepted) = connected("127.0.0.1");
    guest.control.publish(&accepted, 8080);
    drop(accepted);
    assert_eq!(
        client.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    drop(clients);
    guest.turn();
    guest.end().unwrap();
}
