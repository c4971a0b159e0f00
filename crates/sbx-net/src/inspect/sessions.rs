//! Sessions with servers, so that the next connection to one need not verify
//! it anew.
//!
//! Owns: how many there are and for how long they count. A session stands for
//! a server whose certificate this endpoint verified for this very name;
//! rustls asks for one by that name and by no other. Never: shared with
//! another sandbox, written down.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use rustls::client::{ClientSessionMemoryCache, Resumption};

use crate::limits;

/// Sessions that are all forgotten together.
#[derive(Debug)]
pub(super) struct Sessions(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    cache: Arc<ClientSessionMemoryCache>,
    until: Instant,
}

impl Sessions {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(Kept::new(now)))
    }

    /// Those that a connection made now may go on with, and that it adds to.
    /// What it adds later goes where nobody looks by then: a server could
    /// otherwise go on for as long as it likes without a certificate.
    pub(super) fn at(&self, now: Instant) -> Resumption {
        let mut kept = self.0.lock();
        if now >= kept.until {
            *kept = Kept::new(now);
        }
        Resumption::store(Arc::clone(&kept.cache) as _)
    }
}

impl Kept {
    fn new(now: Instant) -> Self {
        Self {
            cache: Arc::new(ClientSessionMemoryCache::new(limits::SESSIONS)),
            until: now + limits::SESSIONS_FOR,
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
    use rustls::{
        ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConfig,
        ServerConnection,
    };

    use super::*;

    /// An authority, and whoever believes it.
    struct World {
        issuer: Issuer<'static, KeyPair>,
        client: ClientConfig,
        sessions: Sessions,
        begun: Instant,
    }

    fn issuer() -> (Issuer<'static, KeyPair>, RootCertStore) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone()).unwrap();
        (Issuer::new(params, key), roots)
    }

    fn world() -> World {
        let (issuer, roots) = issuer();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let begun = Instant::now();
        World {
            issuer,
            client,
            sessions: Sessions::new(begun),
            begun,
        }
    }

    /// A server of both names, which remembers sessions.
    fn server(issuer: &Issuer<'static, KeyPair>) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let names = ["a.example", "b.example"].map(str::to_owned);
        let leaf = CertificateParams::new(names).unwrap();
        let leaf = leaf.signed_by(&key, issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key)
            .unwrap();
        Arc::new(config)
    }

    impl World {
        /// Shakes hands in memory, with what counts after so long.
        fn shake(
            &self,
            server: &Arc<ServerConfig>,
            name: &'static str,
            passed: std::time::Duration,
        ) -> Result<HandshakeKind, rustls::Error> {
            let mut config = self.client.clone();
            config.resumption = self.sessions.at(self.begun + passed);
            let name = ServerName::try_from(name).unwrap();
            let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
            let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
            loop {
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
                if bytes.is_empty() {
                    return Ok(client.handshake_kind().unwrap());
                }
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    client.read_tls(&mut rest).unwrap();
                    client.process_new_packets()?;
                }
            }
        }
    }

    const SOON: std::time::Duration = std::time::Duration::from_secs(1);

    #[test]
    fn a_session_goes_on_with_its_own_name_and_with_no_other() {
        let world = world();
        let server = server(&world.issuer);
        let shake = |name| world.shake(&server, name, SOON).unwrap();
        assert_eq!(shake("a.example"), HandshakeKind::Full);
        assert_eq!(shake("a.example"), HandshakeKind::Resumed);
        assert_eq!(shake("b.example"), HandshakeKind::Full);
    }

    #[test]
    fn a_session_lets_nobody_in_who_is_not_verified() {
        let world = world();
        let server_of_theirs = server(&world.issuer);
        world.shake(&server_of_theirs, "a.example", SOON).unwrap();
        let (stranger, _) = issuer();
        let impostor = server(&stranger);
        let shaken = world.shake(&impostor, "a.example", SOON);
        assert!(
            matches!(shaken, Err(rustls::Error::InvalidCertificate(_))),
            "{shaken:?}"
        );
    }

    #[test]
    fn a_certificate_is_looked_at_again_however_often_its_server_came_back() {
        let world = world();
        let server = server(&world.issuer);
        let shake = |passed| world.shake(&server, "a.example", passed).unwrap();
        assert_eq!(shake(SOON), HandshakeKind::Full);
        let last = limits::SESSIONS_FOR - SOON;
        assert_eq!(shake(last), HandshakeKind::Resumed);
        assert_eq!(shake(limits::SESSIONS_FOR), HandshakeKind::Full);
    }
}
