//! A host whose network is behind a proxy; a stand-in for a company's.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use e2e::{Home, Isolation, in_each_isolation};

in_each_isolation![what_is_allowed_goes_by_the_hosts_proxy_and_its_password_stays_outside,];

/// A proxy that is every server behind it too; its port and what it is asked.
fn proxy() -> (u16, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, heard) = channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let asked = asked.clone();
            thread::spawn(move || {
                let connect = head(&mut stream)?;
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").ok()?;
                let request = head(&mut stream)?;
                asked.send(format!("{connect}{request}")).ok()?;
                let body = "behind the proxy";
                let length = body.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}");
                stream.write_all(answer.as_bytes()).ok()
            });
        }
    });
    (port, heard)
}

fn head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

fn what_is_allowed_goes_by_the_hosts_proxy_and_its_password_stays_outside(isolation: Isolation) {
    let home = Home::of(isolation);
    let (port, heard) = proxy();
    let behind = format!("http://me:canary-password@127.0.0.1:{port}");
    home.sbx(["run", "-d", "--name", "behind", "--no-workspace"])
        .args(["--memory", "768m", "--allow-network", "server.example:8080"])
        .arg("shell")
        .env("HTTPS_PROXY", &behind)
        .succeeds();
    let inside = |script: &str| {
        let call = home.sbx(["exec", "behind", "bash", "-c", script]);
        call.within(Duration::from_secs(200)).output()
    };
    let said = inside("curl -sS --max-time 60 http://server.example:8080/x").with_code(0);
    assert_eq!(said.text(), "behind the proxy");
    let asked = heard.recv().unwrap();
    assert!(
        asked.starts_with("CONNECT server.example:8080 HTTP/1.1\r\n")
            && asked.contains("Proxy-Authorization: Basic ")
            && asked.contains("\r\n\r\nGET /x HTTP/1.1\r\n"),
        "{asked}"
    );
    // What is denied does not get as far, and nobody inside finds the word.
    inside("curl -sS --max-time 60 http://other.example:8080/x").with_code(7);
    assert!(heard.try_recv().is_err());
    let found =
        inside("sudo grep -rsl canary-password /proc/[0-9]*/environ /etc /run /root || true");
    assert_eq!(found.with_code(0).text(), "");
    let told = home.sbx(["inspect", "behind", "--json"]).succeeds().text();
    assert!(!told.contains("canary-password"));
    let refused = home
        .sbx(["run", "-d", "--name", "unspoken", "--no-workspace", "shell"])
        .env("HTTPS_PROXY", "https://me:canary-password@127.0.0.1:1")
        .output();
    let said = refused.with_code(125).errors();
    assert!(
        said.contains("proxy") && !said.contains("canary-password"),
        "{said}"
    );
}
