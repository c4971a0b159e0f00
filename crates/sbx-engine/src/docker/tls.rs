//! TLS with an engine that is elsewhere: it is always verified, by the
//! authority that the caller's own client believes.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::endpoint::Tls;
use crate::command::{Code, Error};

/// Largest file with keys or certificates that is read, in bytes.
const MAX_PEM: usize = 1 << 20;

/// How TLS is spoken with one engine.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Connector {
    /// Reads what `tls` names.
    ///
    /// # Errors
    /// If a file is not there or has nothing of its kind in it, or the key is
    /// not that of the certificate.
    pub(super) fn new(tls: &Tls) -> Result<Self, Error> {
        let failed = |source: rustls::Error| {
            let what = format!("cannot speak TLS with the engine at tcp://{}", tls.host);
            Error::new(Code::HostUnfit, what).because(source)
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_root_certificates(roots(tls)?);
        let config = match &tls.own {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let key_of = PrivateKeyDer::from_pem_slice(&read(key)?);
                let key_of = key_of.map_err(|source| unreadable(key).because(source))?;
                let config = config.with_client_auth_cert(chain, key_of);
                config.map_err(failed)?
            }
        };
        let (host, _) = tls.host.rsplit_once(':').unwrap_or((&tls.host, ""));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned()).map_err(|source| {
            let what = format!("`{}` is no name that a certificate could have", tls.host);
            Error::new(Code::HostUnfit, what).because(source)
        })?;
        Ok(Self {
            config: Arc::new(config),
            name,
        })
    }

    /// Speaks it over `stream`.
    pub(super) async fn over(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(Arc::clone(&self.config));
        connector.connect(self.name.clone(), stream).await
    }
}

fn roots(tls: &Tls) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    let Some(ca) = &tls.ca else {
        // A store of a distribution may hold one that nobody can read.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(roots);
    };
    for authority in certificates(ca)? {
        roots
            .add(authority)
            .map_err(|source| unreadable(ca).because(source))?;
    }
    Ok(roots)
}

/// The certificates in a file, of which there is one at least.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let found = found.map_err(|source| unreadable(path).because(source))?;
    match found.is_empty() {
        true => Err(unreadable(path).because(io::Error::other("there is no certificate in it"))),
        false => Ok(found),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    sbx_sys::file::read_bounded(path, MAX_PEM).map_err(|source| unreadable(path).because(source))
}

fn unreadable(path: &Path) -> Error {
    let what = format!(
        "cannot read `{}`, which TLS with the engine needs",
        path.display()
    );
    Error::new(Code::HostUnfit, what)
        .hint("put ca.pem, cert.pem and key.pem where DOCKER_CERT_PATH says")
}
