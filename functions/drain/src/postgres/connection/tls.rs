//! TLS settings of rustls, and the errors of a handshake.
//!
//! The settings correspond to libpq's `sslmode` and `sslrootcert`.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::base::causes::BoxError;
use crate::config::{Database, SslMode};
use crate::ports::SlotError;

/// The certificate authorities of Amazon RDS.
///
/// Each region has its own authorities. `certs/README.md` lists the regions and the first expiry.
const RDS_AUTHORITIES: &[u8] = include_bytes!("../../../certs/rds-global-bundle.pem");

/// The client's TLS settings for the database's `sslmode` and certificates.
///
/// # Errors
/// The root certificates cannot be read, or rustls refuses them.
pub(super) fn client_config(database: &Database) -> Result<ClientConfig, SlotError> {
    let provider = Arc::new(ring::default_provider());
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

/// A TLS handshake that failed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) struct HandshakeError(BoxError);

/// Whether an error of a connection is rustls's own.
///
/// Such an error is an alert of the server after the handshake, for example.
pub(super) fn is_tls_error(cause: &(dyn std::error::Error + 'static)) -> bool {
    let io = cause.downcast_ref::<std::io::Error>();
    let inner = io.and_then(std::io::Error::get_ref);
    inner.is_some_and(|inner| inner.is::<Error>())
}

/// Whether the connection broke during the handshake.
///
/// This happens when the server restarts.
pub(super) fn is_broken_handshake(cause: &(dyn std::error::Error + 'static)) -> bool {
    let inner = cause.downcast_ref::<HandshakeError>().map(|error| &*error.0);
    let io = inner.and_then(|inner| inner.downcast_ref::<std::io::Error>());
    // A host name that no certificate can have is `InvalidInput`.
    io.is_some_and(|io| io.kind() != std::io::ErrorKind::InvalidInput && !is_tls_error(io))
}

/// Connector of rustls with typed errors.
///
/// It also records that a handshake succeeded.
#[derive(Clone)]
pub(super) struct TrackedTls<T = MakeRustlsConnect> {
    inner: T,
    is_established: Arc<AtomicBool>,
}

impl TrackedTls {
    pub(super) fn new(inner: MakeRustlsConnect) -> Self {
        TrackedTls {
            inner,
            is_established: Arc::default(),
        }
    }

    /// Whether a handshake succeeded.
    pub(super) fn is_established(&self) -> bool {
        self.is_established.load(Ordering::Relaxed)
    }
}

impl<S, T> MakeTlsConnect<S> for TrackedTls<T>
where
    T: MakeTlsConnect<S, Error = Infallible>,
    <T::TlsConnect as TlsConnect<S>>::Future: Send + 'static,
{
    type Stream = T::Stream;
    type TlsConnect = TrackedTls<T::TlsConnect>;
    type Error = Infallible;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Self::TlsConnect, Infallible> {
        Ok(TrackedTls {
            inner: self.inner.make_tls_connect(domain)?,
            is_established: Arc::clone(&self.is_established),
        })
    }
}

impl<S, T> TlsConnect<S> for TrackedTls<T>
where
    T: TlsConnect<S>,
    T::Future: Send + 'static,
{
    type Stream = T::Stream;
    type Error = HandshakeError;
    type Future = Pin<Box<dyn Future<Output = Result<T::Stream, HandshakeError>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let TrackedTls {
            inner,
            is_established,
        } = self;
        let handshake = inner.connect(stream);
        Box::pin(async move {
            let stream = handshake.await.map_err(|error| HandshakeError(error.into()))?;
            is_established.store(true, Ordering::Relaxed);
            Ok(stream)
        })
    }
}
