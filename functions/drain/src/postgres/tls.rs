//! TLS settings of rustls for libpq's `sslmode` and `sslrootcert`.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::config::{Database, SslMode};
use crate::ports::{BoxError, SlotError};

/// The certificate authorities of Amazon RDS.
///
/// Each region has its own. `certs/README.md` lists the regions and the last days.
const RDS_AUTHORITIES: &[u8] = include_bytes!("../../certs/rds-global-bundle.pem");

/// The client's TLS settings for the database's `sslmode` and certificates.
///
/// # Errors
/// The root certificates cannot be read, or rustls refuses them.
pub(super) fn client_config(database: &Database) -> Result<ClientConfig, SlotError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| tls_error(database, Box::new(error)))?;
    if matches!(database.tls, SslMode::Disable | SslMode::Require) {
        let verifier = Arc::new(LenientVerifier {
            chain: None,
            algorithms: provider.signature_verification_algorithms,
        });
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth());
    }
    let roots = root_store(database)?;
    if database.tls == SslMode::VerifyFull {
        return Ok(builder.with_root_certificates(roots).with_no_client_auth());
    }
    let chain = chain_verifier(roots, &provider).map_err(|error| tls_error(database, error))?;
    let verifier = Arc::new(LenientVerifier {
        chain: Some(chain),
        algorithms: provider.signature_verification_algorithms,
    });
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth())
}

fn chain_verifier(
    roots: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, BoxError> {
    Ok(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build()?)
}

fn tls_error(database: &Database, source: BoxError) -> SlotError {
    SlotError::Tls {
        host: database.host.clone(),
        source,
    }
}

fn root_store(database: &Database) -> Result<RootCertStore, SlotError> {
    let path = database.root_certificates.as_ref();
    let failed = |source: BoxError| SlotError::RootCertificates {
        path: path.map(|path| path.display().to_string()).unwrap_or_default(),
        source,
    };
    let configured = path
        .map(std::fs::read)
        .transpose()
        .map_err(|error| failed(Box::new(error)))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(configured.as_deref().unwrap_or(RDS_AUTHORITIES)) {
        let certificate = certificate.map_err(|error| failed(Box::new(error)))?;
        roots.add(certificate).map_err(|error| failed(Box::new(error)))?;
    }
    if roots.is_empty() {
        return Err(failed("the file contains no certificate".into()));
    }
    Ok(roots)
}

/// Certificate verifier of the modes `require` and `verify-ca`.
///
/// `require` accepts any certificate. `verify-ca` accepts a certificate of a trusted authority for any host
/// name. Both check that the server has the certificate's private key.
#[derive(Debug)]
struct LenientVerifier {
    /// Verifies the chain; `None` accepts any certificate.
    chain: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for LenientVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // rustls checks the name last, so the chain is valid here.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
