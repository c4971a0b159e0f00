//! Whom the endpoint believes when it speaks TLS itself: the servers that the
//! host's own programs would.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{CipherSuite, ClientConfig, RootCertStore};

/// How TLS is spoken with servers and guests. Of the suites of TLS 1.3 the
/// one that browsers like best comes first: it derives its keys with SHA-256,
/// and a handshake derives many.
pub(super) fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    let first = CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != first);
    provider
}

/// The host's trust store. Read before the walls are up: it is in files.
#[derive(Debug)]
pub(crate) struct Roots(Vec<CertificateDer<'static>>);

impl Roots {
    /// What the caller named instead, PEM, or the host's own store where that
    /// is empty. A store that cannot be read is an empty one: then no server
    /// is believed.
    pub(crate) fn of_host(named: &[u8]) -> Self {
        if named.is_empty() {
            return Self(rustls_native_certs::load_native_certs().certs);
        }
        Self(CertificateDer::pem_slice_iter(named).flatten().collect())
    }

    /// How to speak with servers, before it is said which protocols and with
    /// which sessions.
    pub(super) fn client(
        self,
        provider: Arc<CryptoProvider>,
    ) -> Result<ClientConfig, rustls::Error> {
        let mut store = RootCertStore::empty();
        // A store of a distribution may hold one that nobody can read.
        let (_good, _bad) = store.add_parsable_certificates(self.0);
        #[cfg(feature = "unguarded")]
        if sbx_spec::guard::out(sbx_spec::guard::Guard::KnownServer) {
            return super::credulous::client(provider);
        }
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(store)
            .with_no_client_auth();
        client.resumption = Resumption::disabled();
        Ok(client)
    }
}
