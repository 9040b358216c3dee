//! Users that prove themselves by certificate: TLS handshakes by rustls, over octets that a protocol carries.

use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sluice_auth::tls::{Handshake, HandshakeFailed, TlsAcceptor, TlsExchange, TlsPeer};
use sluice_auth::{Secret, SessionKeys};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use zeroize::Zeroizing;

/// Label of the keys that EAP-TLS leaves (RFC 5216, 2.3).
const LABEL: &[u8] = b"client EAP encryption";
/// Length of Key_Material (RFC 5216, 2.3). The first half of its first half is for what the client sends, the second for
/// what we send.
const KEY_MATERIAL: usize = 128;
const MPPE_KEY: usize = 32;
/// Most names taken from one certificate.
const MAX_NAMES: usize = 16;

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {what}", path.display())]
pub struct CertificateError {
    path: PathBuf,
    what: String,
}

impl CertificateError {
    fn new(path: &Path, what: impl ToString) -> Self {
        Self {
            path: path.to_owned(),
            what: what.to_string(),
        }
    }
}

/// The gateway's certificate, and the authorities that users' certificates are issued by.
pub struct Certificates(Arc<ServerConfig>);

impl Certificates {
    /// Reads PEM files: the gateway's certificate with its chain, its key, and the authorities of users. Blocks on the
    /// files.
    pub fn load(certificate: &Path, key: &Path, client_ca: &Path) -> Result<Self, CertificateError> {
        let chain = read_certificates(certificate)?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|error| CertificateError::new(key, error))?;
        let mut roots = RootCertStore::empty();
        for authority in read_certificates(client_ca)? {
            roots
                .add(authority)
                .map_err(|error| CertificateError::new(client_ca, error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| CertificateError::new(client_ca, error))?;
        // EAP-TLS over TLS 1.3 is another protocol (RFC 9190), which clients of PPP do not speak.
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS12])
            .map_err(|error| CertificateError::new(certificate, error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, private)
            .map_err(|error| CertificateError::new(certificate, error))?;
        // Each login shows its certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Self(Arc::new(config)))
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
        .map_err(|error| CertificateError::new(path, error))?
        .collect();
    let certificates = certificates.map_err(|error| CertificateError::new(path, error))?;
    if certificates.is_empty() {
        return Err(CertificateError::new(path, "there is no certificate in it"));
    }
    Ok(certificates)
}

impl TlsAcceptor for Certificates {
    fn accept(&self) -> Option<Box<dyn TlsExchange>> {
        let connection = ServerConnection::new(Arc::clone(&self.0)).ok()?;
        Some(Box::new(Exchange(connection)))
    }
}

struct Exchange(ServerConnection);

impl Exchange {
    fn read(&mut self, mut octets: &[u8]) -> Result<(), HandshakeFailed> {
        let failed = |error: &dyn std::fmt::Display| HandshakeFailed(error.to_string());
        while !octets.is_empty() {
            // A slice is read without waiting; where nothing is taken of it any more, there is no end to this.
            if self.0.read_tls(&mut octets).map_err(|error| failed(&error))? == 0 {
                return Err(HandshakeFailed("more than the handshake takes".to_owned()));
            }
            self.0.process_new_packets().map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    fn peer(&self) -> Option<TlsPeer> {
        let certificate = self.0.peer_certificates()?.first()?;
        let material = Zeroizing::new([0; KEY_MATERIAL]);
        let material = self.0.export_keying_material(material, LABEL, None).ok()?;
        let (receive, rest) = material.split_at_checked(MPPE_KEY)?;
        let keys = SessionKeys {
            send: Secret::new(rest.get(..MPPE_KEY)?),
            receive: Secret::new(receive),
        };
        let names = names(certificate)?;
        Some(TlsPeer { names, keys })
    }
}

impl TlsExchange for Exchange {
    fn take(&mut self, octets: &[u8], out: &mut Vec<u8>) -> Result<Handshake, HandshakeFailed> {
        let read = self.read(octets);
        while self.0.wants_write() {
            // A vector takes everything.
            if self.0.write_tls(out).is_err() {
                break;
            }
        }
        read?;
        if self.0.is_handshaking() {
            return Ok(Handshake::Going);
        }
        let peer = self.peer();
        let unread = || HandshakeFailed("the client's certificate cannot be read".to_owned());
        peer.map(Handshake::Done).ok_or_else(unread)
    }
}

/// Common name, DNS names and mail addresses of a certificate.
fn names(certificate: &CertificateDer<'_>) -> Option<Vec<String>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let common = certificate.subject().iter_common_name();
    let common = common.filter_map(|name| name.as_str().ok());
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let alternative = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names);
    let others = alternative.filter_map(|name| match name {
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) => Some(*name),
        _ => None,
    });
    Some(common.chain(others).take(MAX_NAMES).map(str::to_owned).collect())
}

#[cfg(test)]
#[path = "certificates_tests.rs"]
mod tests;
