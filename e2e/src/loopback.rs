//! A listener on the host's loopback that counts who came and greets them.

use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// What a visitor is told.
const GREETING: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\nConnection: close\r\n\r\ncanary-sings\n";

/// A port of loopback that nobody listens on for now.
pub fn free_port() -> u16 {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
    socket.local_addr().expect("it is bound").port()
}

/// A listener that ends with the test.
pub struct Listener {
    port: u16,
    visits: Arc<AtomicUsize>,
}

impl Listener {
    /// Opens it on a free port.
    pub fn open() -> Self {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        let port = socket.local_addr().expect("it is bound").port();
        let visits = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&visits);
        thread::spawn(move || {
            for mut visitor in socket.incoming().flatten() {
                counter.fetch_add(1, Ordering::SeqCst);
                visitor.write_all(GREETING).ok();
                visitor.shutdown(Shutdown::Write).ok();
                std::io::copy(&mut visitor, &mut std::io::sink()).ok();
            }
        });
        Self { port, visits }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many came.
    pub fn visits(&self) -> usize {
        self.visits.load(Ordering::SeqCst)
    }
}
