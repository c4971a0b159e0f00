//! The certificate authority of one sandbox: who the endpoint is to the guest
//! where it ends TLS itself.
//!
//! Its key exists in memory only, of the supervisor that made it and of the
//! endpoint; it is new at each start of the sandbox and trusted by nobody but
//! its guest.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::limits;

/// How far the guest's clock may be behind.
const SKEW: time::Duration = time::Duration::days(1);
/// How long the authority is valid: longer than a sandbox runs without a stop.
const LIFE: time::Duration = time::Duration::days(3_650);
/// How long a server's certificate is valid; a new one is made long before.
const LEAF_LIFE: time::Duration = time::Duration::days(30);
/// How long one is used.
const LEAF_USED: Duration = Duration::from_secs(7 * 24 * 3600);

/// An authority as it goes from its maker to an endpoint. Whoever has it can
/// be any server to its guest.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// The sandbox that it is for.
    sandbox: String,
    /// Its certificate, PEM: for the guest's trust stores.
    pub certificate: String,
    /// Its key, PKCS #8 in PEM.
    key: String,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// An authority could not be made or used.
#[derive(Debug)]
pub struct AuthorityError(Box<dyn std::error::Error + Send + Sync>);

impl std::fmt::Display for AuthorityError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("cannot make the certificate authority of a sandbox")
    }
}

impl std::error::Error for AuthorityError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.0)
    }
}

fn failed(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AuthorityError {
    AuthorityError(error.into())
}

impl Authority {
    /// A new one, for the sandbox of this name.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn new(sandbox: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(failed)?;
        let params = params(sandbox);
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(Self {
            sandbox: sandbox.to_owned(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }
}

/// What is in the certificate of an authority.
fn params(sandbox: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("sbx sandbox {sandbox}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SKEW;
    params.not_after = now + LIFE;
    params
}

fn common_name(text: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, text);
    name
}

/// Makes the certificates of servers, and remembers them.
pub(super) struct Leaves {
    issuer: Issuer<'static, KeyPair>,
    chain: CertificateDer<'static>,
    /// One key for all servers: it never leaves this process.
    key: KeyPair,
    provider: Arc<CryptoProvider>,
    made: HashMap<(String, Offer), (Arc<ServerConfig>, Instant)>,
}

/// The protocol that a server offers the guest inside TLS.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Offer {
    /// Says nothing about it.
    Nothing,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Offer {
    /// As it is written in a hello.
    pub(super) fn wire(self) -> Option<&'static [u8]> {
        match self {
            Self::Nothing => None,
            Self::Http1 => Some(b"http/1.1"),
            Self::Http2 => Some(b"h2"),
        }
    }
}

impl Leaves {
    /// # Errors
    /// If the authority is none.
    pub(super) fn of(
        authority: &Authority,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(&authority.key).map_err(failed)?;
        let chain = certificate(&authority.certificate)?;
        let issuer = Issuer::new(params(&authority.sandbox), key);
        Ok(Self {
            issuer,
            chain,
            key: KeyPair::generate().map_err(failed)?,
            provider,
            made: HashMap::new(),
        })
    }

    /// What the endpoint is to a guest that wants to speak with `server`, a
    /// name or an address.
    ///
    /// # Errors
    /// If no certificate can be made for it.
    pub(super) fn server(
        &mut self,
        server: &str,
        offer: Offer,
        now: Instant,
    ) -> Result<Arc<ServerConfig>, AuthorityError> {
        let key = (server.to_owned(), offer);
        if let Some((config, at)) = self.made.get(&key)
            && now.saturating_duration_since(*at) < LEAF_USED
        {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(self.make(server, offer)?);
        if self.made.len() >= limits::CERTIFICATES {
            self.made.clear();
        }
        self.made.insert(key, (Arc::clone(&config), now));
        Ok(config)
    }

    /// A number for a certificate: 20 bytes at most, and positive (RFC 5280,
    /// 4.1.2.2).
    fn serial(&self) -> Result<SerialNumber, AuthorityError> {
        let mut number = [0; 16];
        (self.provider.secure_random)
            .fill(&mut number)
            .map_err(|_| failed("the system has no randomness"))?;
        if let Some(first) = number.first_mut() {
            *first = *first & 0x7f | 0x40;
        }
        Ok(SerialNumber::from_slice(&number))
    }

    /// What is in the certificate of a server.
    fn params(&self, server: &str) -> Result<CertificateParams, AuthorityError> {
        let mut params = CertificateParams::default();
        // A common name holds 64 characters; clients look at the other field.
        let short: String = server.chars().take(64).collect();
        params.distinguished_name = common_name(&short);
        params.subject_alt_names = vec![match server.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(server.try_into().map_err(failed)?),
        }];
        params.use_authority_key_identifier_extension = true;
        // All leaves have one key, from which their number would be derived:
        // browsers refuse two certificates of one issuer and number.
        params.serial_number = Some(self.serial()?);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let now = OffsetDateTime::now_utc();
        params.not_before = now - SKEW;
        params.not_after = now + LEAF_LIFE;
        Ok(params)
    }

    fn make(&self, server: &str, offer: Offer) -> Result<ServerConfig, AuthorityError> {
        let params = self.params(server)?;
        let leaf = params.signed_by(&self.key, &self.issuer).map_err(failed)?;
        let chain = vec![leaf.der().clone(), self.chain.clone()];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let key = CertifiedKey::from_der(chain, key, &self.provider).map_err(failed)?;
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)));
        // The way to the guest does not leave this machine: of two suites that
        // are as good as each other, the quicker one.
        config.ignore_client_order = true;
        // Each server has a configuration of its own; a store of sessions in
        // each would be memory that a guest can fill.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = offer.wire().map(<[u8]>::to_vec).into_iter().collect();
        Ok(config)
    }
}

fn certificate(pem: &str) -> Result<CertificateDer<'static>, AuthorityError> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(pem.as_bytes()).map_err(failed)
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

    use super::*;

    fn provider() -> Arc<CryptoProvider> {
        Arc::new(rustls::crypto::ring::default_provider())
    }

    /// Shakes hands in memory: what the client thinks of it.
    fn shake(
        trusted: &Authority,
        server: Arc<ServerConfig>,
        name: &'static str,
    ) -> Result<(), rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots
            .add(certificate(&trusted.certificate).unwrap())
            .unwrap();
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(name).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut server = ServerConnection::new(server).unwrap();
        while client.is_handshaking() || server.is_handshaking() {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                server.read_tls(&mut rest).unwrap();
                server.process_new_packets()?;
            }
            let mut bytes = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                client.read_tls(&mut rest).unwrap();
                client.process_new_packets()?;
            }
        }
        Ok(())
    }

    #[test]
    fn a_guest_believes_its_authority_for_the_name_asked_and_for_no_other() {
        let authority = Authority::new("box").unwrap();
        let mut leaves = Leaves::of(&authority, provider()).unwrap();
        let now = Instant::now();
        for name in ["a.example", "192.0.2.1", "2001:db8::1"] {
            let server = leaves.server(name, Offer::Http1, now).unwrap();
            shake(&authority, server, name).unwrap();
        }
        let server = leaves.server("a.example", Offer::Http1, now).unwrap();
        assert!(shake(&authority, Arc::clone(&server), "b.example").is_err());
        let stranger = Authority::new("box").unwrap();
        assert!(shake(&stranger, server, "a.example").is_err());
    }

    #[test]
    fn every_certificate_has_a_number_of_its_own_and_suits_a_slow_clock() {
        let authority = Authority::new("box").unwrap();
        let leaves = Leaves::of(&authority, provider()).unwrap();
        let params = |name| leaves.params(name).unwrap();
        let (first, second) = (params("a.example"), params("b.example"));
        assert_ne!(first.serial_number, second.serial_number);
        let number = first.serial_number.clone().unwrap();
        assert!(number.len() <= 20 && number.as_ref()[0] < 0x80);
        let now = OffsetDateTime::now_utc();
        let (slow, fast) = (
            now - time::Duration::hours(23),
            now + time::Duration::days(29),
        );
        for params in [&first, &super::params("box")] {
            assert!(params.not_before < slow && fast < params.not_after);
        }
    }

    #[test]
    fn certificates_are_remembered_and_their_number_is_bounded() {
        let authority = Authority::new("box").unwrap();
        let mut leaves = Leaves::of(&authority, provider()).unwrap();
        let now = Instant::now();
        let first = leaves.server("a.example", Offer::Http2, now).unwrap();
        let again = leaves.server("a.example", Offer::Http2, now).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let later = leaves
            .server("a.example", Offer::Http2, now + LEAF_USED)
            .unwrap();
        assert!(!Arc::ptr_eq(&first, &later));
        for number in 0..limits::CERTIFICATES + 1 {
            leaves
                .server(&format!("{number}.example"), Offer::Nothing, now)
                .unwrap();
        }
        assert!(leaves.made.len() <= limits::CERTIFICATES);
    }

    #[test]
    fn the_key_is_not_shown_by_accident() {
        let authority = Authority::new("box").unwrap();
        assert!(!format!("{authority:?}").contains("PRIVATE"));
    }
}
