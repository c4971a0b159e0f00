//! The store of root certificates that Java programs read: version 2 of the
//! JKS format, with trusted certificates only.
//!
//! The format is described in the source of OpenJDK
//! (`sun.security.provider.JavaKeyStore`): a head, one record for each
//! certificate, and a SHA-1 digest over a password and all of that. The
//! password is a constant of every Java distribution and hides nothing.
//!
//! A program's own store is read as a whole, and one record that is no
//! certificate makes Java believe nobody. So what does not look like one is
//! left out.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha1::{Digest as _, Sha1};

const MAGIC: u32 = 0xFEED_FEED;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;
/// What `keytool` and Debian's hook open the system's store with.
const PASSWORD: &str = "changeit";
const SALT: &[u8] = b"Mighty Aphrodite";
/// First word of our aliases. Debian's hook removes and replaces only those
/// that begin with `debian:`.
const OURS: &str = "sbx:";

/// A store of the certificates of a bundle in PEM, each of them once.
pub(super) fn store(bundle: &[u8]) -> Vec<u8> {
    let certificates: BTreeMap<String, CertificateDer<'_>> = CertificateDer::pem_slice_iter(bundle)
        .flatten()
        .filter(|der| looks_like_a_certificate(der))
        .map(|der| (alias(&der), der))
        .collect();
    let mut bytes = Vec::with_capacity(bundle.len());
    let count = u32::try_from(certificates.len()).unwrap_or(u32::MAX);
    for word in [MAGIC, VERSION, count] {
        bytes.extend(word.to_be_bytes());
    }
    for (alias, der) in certificates {
        bytes.extend(TRUSTED_CERTIFICATE.to_be_bytes());
        put_text(&mut bytes, &alias);
        // When it was put in, which nobody asks: the same store each time.
        bytes.extend(0_u64.to_be_bytes());
        put_text(&mut bytes, "X.509");
        // A certificate has a length of 24 bits at most, see below.
        bytes.extend(u32::try_from(der.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(&der);
    }
    let mut digest = Sha1::new();
    for unit in PASSWORD.encode_utf16() {
        digest.update(unit.to_be_bytes());
    }
    digest.update(SALT);
    digest.update(&bytes);
    bytes.extend(digest.finalize());
    bytes
}

/// A name that is the same wherever the certificate is, and that `keytool`
/// and `openssl x509 -fingerprint` can tell too.
fn alias(der: &[u8]) -> String {
    let mut alias = OURS.to_owned();
    for byte in Sha1::digest(der) {
        let _ = write!(alias, "{byte:02x}");
    }
    alias
}

/// Text as `java.io.DataOutput.writeUTF` has it; ours is short and ASCII.
fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(u16::try_from(text.len()).unwrap_or(u16::MAX).to_be_bytes());
    bytes.extend(text.as_bytes());
}

/// Whether these bytes have the outline of RFC 5280, 4.1: a sequence of what
/// is signed, how, and the signature, and nothing behind it.
fn looks_like_a_certificate(der: &[u8]) -> bool {
    let outline = || {
        let inner = alone(element(der, SEQUENCE)?)?;
        let (_signed, rest) = element(inner, SEQUENCE)?;
        let (_algorithm, rest) = element(rest, SEQUENCE)?;
        alone(element(rest, BIT_STRING)?)
    };
    outline().is_some()
}

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;

/// The content of the first element, which has to be of this kind, and what
/// is behind it. Lengths have three bytes at most.
fn element(bytes: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = bytes.split_first()?;
    let (&short, rest) = rest.split_first()?;
    let (length, rest) = match short {
        0..=0x7f => (usize::from(short), rest),
        0x81..=0x83 => {
            let (long, rest) = rest.split_at_checked(usize::from(short & 0x7f))?;
            let length = long
                .iter()
                .fold(0, |length, &byte| (length << 8) | usize::from(byte));
            (length, rest)
        }
        _ => return None,
    };
    (first == kind).then_some(())?;
    rest.split_at_checked(length)
}

fn alone<'a>((content, rest): (&'a [u8], &[u8])) -> Option<&'a [u8]> {
    rest.is_empty().then_some(content)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::{Command, Output};

    use super::*;

    /// The outline of a certificate, in PEM; `body` is a byte of it.
    fn outline(body: u8) -> Vec<u8> {
        // 30 09 (30 01 body) (30 00) (03 00)
        pem(&[0x30, 7, 0x30, 1, body, 0x30, 0, 3, 0])
    }

    fn pem(der: &[u8]) -> Vec<u8> {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = b"-----BEGIN CERTIFICATE-----\n".to_vec();
        for three in der.chunks(3) {
            let bits = three
                .iter()
                .chain([0; 2].iter())
                .take(3)
                .fold(0, |bits, &byte| (bits << 8) | usize::from(byte));
            for place in 0..4 {
                text.push(match place <= three.len() {
                    true => LETTERS[(bits >> (18 - 6 * place)) & 63],
                    false => b'=',
                });
            }
        }
        text.extend(b"\n-----END CERTIFICATE-----\n");
        text
    }

    fn count(store: &[u8]) -> u32 {
        u32::from_be_bytes(store[8..12].try_into().unwrap())
    }

    #[test]
    fn a_store_has_these_bytes() {
        let empty = store(b"");
        assert_eq!(
            empty[..12],
            [0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 0]
        );
        assert_eq!(empty.len(), 12 + 20);
        let one = store(&outline(7));
        assert_eq!(count(&one), 1);
        assert_eq!(one[12..18], [0, 0, 0, 2, 0, 44]);
        assert!(one[18..].starts_with(b"sbx:"));
        assert_eq!(one[62..70], [0; 8]);
        assert_eq!(one[70..77], *b"\x00\x05X.509");
        assert_eq!(one[77..81], [0, 0, 0, 9]);
        assert_eq!(one.len(), 81 + 9 + 20);
    }

    #[test]
    fn a_certificate_is_in_it_once_and_what_is_none_is_not() {
        let twice = [outline(1), outline(2), outline(1)].concat();
        assert_eq!(count(&store(&twice)), 2);
        for (bytes, why) in [
            (&[][..], "nothing"),
            (&[0x30], "no length"),
            (&[0x30, 7, 0x30, 1, 0, 0x30, 0, 3], "cut"),
            (
                &[0x30, 7, 0x30, 1, 0, 0x30, 0, 3, 0, 0],
                "something behind it",
            ),
            (&[0x30, 8, 0x30, 1, 0, 0x30, 0, 3, 0, 0], "something in it"),
            (&[0x31, 7, 0x30, 1, 0, 0x30, 0, 3, 0], "a set"),
            (&[0x30, 0x80, 0x30, 1, 0, 0x30, 0, 3, 0], "no end"),
            (
                &[0x30, 0x84, 0, 0, 0, 7, 0x30, 1, 0, 0x30, 0, 3, 0],
                "too long",
            ),
            (&[0x30, 0x83, 0xff, 0xff], "a length that is cut"),
        ] {
            let mixed = [outline(1), pem(bytes), outline(2)].concat();
            assert_eq!(count(&store(&mixed)), 2, "{why}");
        }
        let garbage = b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        let mixed = [&outline(1), &garbage[..], &outline(2)].concat();
        assert_eq!(count(&store(&mixed)), 2);
        assert_eq!(
            count(&store(&pem(&[0x30, 0x81, 7, 0x30, 1, 0, 0x30, 0, 3, 0]))),
            1
        );
    }

    const KEYTOOL: &str = "/usr/bin/keytool";
    const HOOK: &str = "/var/lib/dpkg/info/ca-certificates-java.postinst";

    /// Tells of a program that is not here; a test has no other way to say
    /// that it was skipped.
    fn missing(test: &str, path: &str) -> bool {
        let absent = !Path::new(path).exists();
        if absent {
            println!("SKIPPED {test}: no {path}");
        }
        absent
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "Java's own tools are the witness"
    )]
    fn run(directory: &Path, script: &str) -> Output {
        Command::new("/bin/bash")
            .args(["-euc", script])
            .current_dir(directory)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .unwrap()
    }

    fn printed(directory: &Path, script: &str) -> String {
        let output = run(directory, script);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, said) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{out}{said}");
        out
    }

    /// Two roots as Java makes them, in PEM.
    const ROOTS: &str = "for name in one two; do
        keytool -genkeypair -keyalg EC -dname CN=$name -alias $name -keystore made -storepass secret
        keytool -exportcert -rfc -alias $name -keystore made -storepass secret
    done 2>/dev/null";

    /// The certificates that a listing shows, each once and sorted.
    fn certificates(listing: &str) -> Vec<Vec<u8>> {
        let all = CertificateDer::pem_slice_iter(listing.as_bytes());
        let mut all: Vec<_> = all.map(|der| der.unwrap().to_vec()).collect();
        all.sort();
        all.dedup();
        all
    }

    #[test]
    fn keytool_lists_every_certificate_and_finds_the_digest_right() {
        let name = "keytool_lists_every_certificate_and_finds_the_digest_right";
        if missing(name, KEYTOOL) {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut roots = printed(dir.path(), ROOTS);
        // And those that people meet, where this host has them.
        roots += &std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
        let store = store(roots.as_bytes());
        std::fs::write(dir.path().join("store"), &store).unwrap();
        let list = "keytool -list -rfc -storetype JKS -keystore store -storepass changeit";
        let listed = printed(dir.path(), list);
        assert_eq!(certificates(&listed), certificates(&roots));
        let entries = certificates(&roots).len();
        assert_eq!(listed.matches("Alias name: sbx:").count(), entries);
        // Its twin: one bit of the digest is another.
        let mut changed = store;
        *changed.last_mut().unwrap() ^= 1;
        std::fs::write(dir.path().join("store"), &changed).unwrap();
        assert!(!run(dir.path(), list).status.success());
    }

    /// Debian's hook, as the package runs it when it is installed into a
    /// sandbox that runs, and when all certificates are gathered again.
    #[test]
    fn the_hook_of_debian_keeps_what_is_in_it() {
        let name = "the_hook_of_debian_keeps_what_is_in_it";
        if missing(name, KEYTOOL) || missing(name, HOOK) || missing(name, "/usr/bin/unshare") {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let roots = printed(dir.path(), ROOTS);
        std::fs::create_dir(dir.path().join("java")).unwrap();
        std::fs::create_dir(dir.path().join("state")).unwrap();
        let path = dir.path().join("java/cacerts");
        std::fs::write(path, store(roots.as_bytes())).unwrap();
        let hook = format!(
            "unshare --map-root-user --mount bash -euc '
                mount --bind java /etc/ssl/certs/java
                mount --bind state /var/lib/ca-certificates-java
                sh {HOOK} configure
                sh {HOOK} triggered update-ca-certificates-java-fresh' >&2
            keytool -list -rfc -storetype JKS -keystore java/cacerts -storepass changeit"
        );
        let listed = printed(dir.path(), &hook);
        let after = certificates(&listed);
        assert!(certificates(&roots).iter().all(|root| after.contains(root)));
        assert_eq!(listed.matches("Alias name: sbx:").count(), 2);
        assert!(listed.matches("Alias name: debian:").count() > 0);
    }
}
