//! Handshakes with clients of rustls.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use tempfile::TempDir;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key in PEM.
fn issued(authority: &Authority, name: &str, mail: Option<&str>) -> (String, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let mail = mail.map(|mail| SanType::Rfc822Name(mail.try_into().unwrap()));
    params.subject_alt_names.extend(mail);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    (certificate.pem(), key.serialize_pem())
}

fn server(directory: &TempDir, authority: &Authority) -> Certificates {
    let (certificate, key) = issued(authority, "gw.example", None);
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (certificate, key) = (write("gw.pem", &certificate), write("gw.key", &key));
    let ca = write("ca.pem", &authority.pem());
    Certificates::load(&certificate, &key, &ca).unwrap()
}

/// Believes any server: these tests are about clients.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

fn client(identity: Option<(String, String)>) -> ClientConnection {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Trusting));
    let config = match identity {
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    ClientConnection::new(Arc::new(config), ServerName::try_from("gw.example").unwrap()).unwrap()
}

/// Lets a client and a server talk, so many octets at a time.
fn talk(
    certificates: &Certificates,
    client: &mut ClientConnection,
    step: usize,
) -> Result<TlsPeer, HandshakeFailed> {
    let mut exchange = certificates.accept().unwrap();
    let mut peer = None;
    for _ in 0..10 {
        let (mut sent, mut answer) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut sent).unwrap();
        }
        for part in sent.chunks(step) {
            if let Handshake::Done(found) = exchange.take(part, &mut answer)? {
                peer = Some(found);
            }
        }
        let mut answer = &answer[..];
        while !answer.is_empty() {
            client.read_tls(&mut answer).unwrap();
            client.process_new_packets().unwrap();
        }
        if peer.is_some() && !client.is_handshaking() {
            break;
        }
    }
    Ok(peer.expect("the handshake does not end"))
}

#[test]
fn a_right_certificate_tells_names_and_leaves_keys() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority();
    let certificates = server(&directory, &authority);
    for step in [1, 7, 100_000] {
        let mut client = client(Some(issued(&authority, "alice", Some("alice@example.net"))));
        let peer = talk(&certificates, &mut client, step).unwrap();
        assert_eq!(peer.names, ["alice", "alice@example.net"]);
        let theirs = client.export_keying_material([0u8; 128], LABEL, None).unwrap();
        assert_eq!(peer.keys.receive.expose(), &theirs[..32]);
        assert_eq!(peer.keys.send.expose(), &theirs[32..64]);
        assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_2));
    }
}

#[test]
fn no_certificate_another_authority_and_noise_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let ours = authority();
    let certificates = server(&directory, &ours);
    let stranger = issued(&authority(), "alice", None);
    for identity in [None, Some(stranger)] {
        let mut client = client(identity);
        assert!(talk(&certificates, &mut client, 100_000).is_err());
    }
    for noise in [
        &[0x16, 3, 1, 0, 2, 1, 0][..],
        &[0; 600],
        b"GET / HTTP/1.0\r\n\r\n",
    ] {
        let mut exchange = certificates.accept().unwrap();
        let mut out = Vec::new();
        let result = exchange.take(noise, &mut out);
        assert!(!matches!(result, Ok(Handshake::Done(_))));
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let authority = authority();
    server(&directory, &authority);
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("empty"), "").unwrap();
    let (certificate, key, ca) = (at("gw.pem"), at("gw.key"), at("ca.pem"));
    for (files, name) in [
        ([&at("empty"), &key, &ca], "empty"),
        ([&certificate, &at("none"), &ca], "none"),
        ([&certificate, &key, &key], "gw.key"),
    ] {
        let [certificate, key, ca] = files;
        let error = Certificates::load(certificate, key, ca).err().unwrap();
        assert!(error.to_string().contains(name), "{error}");
    }
}
