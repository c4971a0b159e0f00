//! A bed with web servers in it, and clients that ask them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use sbx_spec::{Action, Origin, Rule};

use super::bed::{Bed, bed_with, python};
use super::program::example;

/// Says what it is given, as it is, and prints what comes back; `tls` is the
/// server name, or nothing.
const RAW: &str = "
import socket, ssl, sys
host, port, tls, trusted = sys.argv[1:5]
stream = socket.create_connection((host, int(port)), 30)
if tls:
    context = ssl.create_default_context(cafile=trusted)
    context.set_alpn_protocols(['http/1.1'])
    stream = context.wrap_socket(stream, server_hostname=tls)
stream.sendall(sys.stdin.buffer.read())
while True:
    try:
        heard = stream.recv(65536)
    except ConnectionResetError:
        print('RESET')
        break
    if not heard:
        break
    sys.stdout.buffer.write(heard)
    sys.stdout.buffer.flush()
";

/// A bed with two servers at one public address, in TLS and in clear, which
/// `www.example` and `other.example` resolve to.
pub struct World {
    pub bed: Bed,
    pub tls: BufReader<UnixStream>,
    pub clear: BufReader<UnixStream>,
    pub directory: PathBuf,
}

pub fn rule(action: Action, written: &str) -> Rule {
    Rule::read(action, written, Origin::User).unwrap()
}

pub fn allowed(written: &[&str]) -> Vec<Rule> {
    written.iter().map(|one| rule(Action::Allow, one)).collect()
}

pub fn certificates(directory: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(DnType::CommonName, "root of a test");
    let root = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let names = ["www.example", "other.example"].map(str::to_owned);
    let own = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(names).unwrap();
    let leaf = leaf.signed_by(&own, &issuer).unwrap();
    fs::write(directory.join("root.pem"), root.pem()).unwrap();
    fs::write(directory.join("leaf.pem"), leaf.pem()).unwrap();
    fs::write(directory.join("key.pem"), own.serialize_pem()).unwrap();
}

pub fn world(test: &str, rules: &[Rule]) -> Option<World> {
    world_of(test, rules, true)
}

/// The same, with servers that the host knows or does not.
pub fn world_of(test: &str, rules: &[Rule], is_known: bool) -> Option<World> {
    let directory = std::env::temp_dir().join(format!("sbx-{}-{test}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    certificates(&directory);
    let root = directory.join("root.pem");
    let Some(mut bed) = bed_with(test, rules, Some(&root)) else {
        fs::remove_dir_all(&directory).unwrap();
        return None;
    };
    if !is_known {
        // The endpoint has read those before.
        certificates(&directory);
    }
    let web = example("web");
    let web = web.to_str().unwrap();
    let (leaf, key) = (directory.join("leaf.pem"), directory.join("key.pem"));
    let (leaf, key) = (leaf.to_str().unwrap(), key.to_str().unwrap());
    let tls = bed.server("public", &[web, "192.0.2.80", "443", leaf, key]);
    let clear = bed.server("public", &[web, "192.0.2.80", "8000"]);
    Some(World {
        bed,
        tls,
        clear,
        directory,
    })
}

impl Drop for World {
    fn drop(&mut self) {
        let _gone = fs::remove_dir_all(&self.directory);
    }
}

impl World {
    /// What curl prints, with the status after it.
    pub fn curl(&self, arguments: &[&str]) -> String {
        let trusted = self.bed.trusted();
        let mut argv = vec![
            "/usr/bin/curl",
            "-sS",
            "-m",
            "30",
            "-w",
            "%{http_code} %{http_version}",
            "--cacert",
            trusted.to_str().unwrap(),
        ];
        argv.extend(arguments);
        let output = self.bed.run(&argv);
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8(said).unwrap()
    }

    /// What comes back for these bytes on one connection.
    pub fn raw(&self, port: &str, tls: &str, bytes: &[u8]) -> String {
        let python = python().unwrap();
        let trusted = self.bed.trusted();
        let argv = [
            python.to_str().unwrap(),
            "-c",
            RAW,
            "www.example",
            port,
            tls,
            trusted.to_str().unwrap(),
        ];
        let mut client = self.bed.start(&argv);
        client.stdin.take().unwrap().write_all(bytes).unwrap();
        let output = client.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn record(&mut self, member: &str) -> serde_json::Value {
        loop {
            if let Some(found) = self.bed.line().get(member) {
                return found.clone();
            }
        }
    }
}

pub fn line(said: &mut BufReader<UnixStream>) -> String {
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}
