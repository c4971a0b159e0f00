//! Certificates of an authority of the test's own, for both ends of TLS.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};

/// An authority.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, whom nobody knows.
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap().pem();
        Self {
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    /// Writes `ca.pem`, and `cert.pem` and `key.pem` of a server or client at
    /// `name`, into the new directory `at`.
    pub fn vouch(&self, at: &Path, name: &str) {
        self.known(at);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(at.join("cert.pem"), certificate.pem()).unwrap();
        fs::write(at.join("key.pem"), key.serialize_pem()).unwrap();
    }

    /// Writes `ca.pem` alone into the new directory `at`.
    pub fn known(&self, at: &Path) {
        fs::create_dir_all(at).unwrap();
        fs::write(at.join("ca.pem"), &self.certificate).unwrap();
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}
