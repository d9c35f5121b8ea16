//! TLS to collectors: what is trusted, and who we are.
//!
//! Trusted is the CA of `OTEL_EXPORTER_OTLP_CERTIFICATE` alone; without one, what the system trusts. No list of CAs is
//! built in: nobody could take one off it. All files are read anew for each connection, so certificates that are
//! replaced while the agent runs are used from the next connection on.

use std::{io, path::PathBuf, sync::Arc};

use thiserror::Error;
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};

/// The files that say whom to trust and who we are, all PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates that are trusted in place of the system's.
    pub trusted: Option<PathBuf>,
    /// Our own certificate, with those that lead from it to its CA, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Why no TLS connection can be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file that cannot be read.
    #[error("cannot read {what} in {}: {source}; name a PEM file that is there in {variable}", path.display())]
    File {
        /// What should be in it.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The variable that names it.
        variable: &'static str,
        /// Why not.
        source: pem::Error,
    },
    /// A certificate that is no CA's.
    #[error("a certificate in {} cannot be trusted: {source}; put the CA's certificate there", path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
    /// The system trusts nobody.
    #[error(
        "this system has no trusted certificates{problem}; install ca-certificates, or name your CA's certificate in \
         OTEL_EXPORTER_OTLP_CERTIFICATE"
    )]
    NoneTrusted {
        /// Why, if that is known.
        problem: String,
    },
    /// Certificate and key are not of each other, or of a kind that is not supported.
    #[error(
        "cannot use the client certificate with its key: {0}; are OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and \
         OTEL_EXPORTER_OTLP_CLIENT_KEY of each other?"
    )]
    Client(#[source] rustls::Error),
}

impl TlsFiles {
    /// Reads the files. `protocol` is what will be spoken, by its ALPN name.
    ///
    /// # Errors
    /// If a file cannot be read or used.
    pub fn load(&self, protocol: &[u8]) -> Result<Arc<ClientConfig>, TlsError> {
        let trusted = self.trusted()?;
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Client)?
            .with_root_certificates(trusted);
        let mut config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(
                    certificate,
                    "the client certificate",
                    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
                )?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::File {
                    what: "the client key",
                    path: key.clone(),
                    variable: "OTEL_EXPORTER_OTLP_CLIENT_KEY",
                    source,
                })?;
                builder.with_client_auth_cert(chain, key).map_err(TlsError::Client)?
            }
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    }

    fn trusted(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        match &self.trusted {
            Some(path) => {
                for certificate in certificates(path, "trusted certificates", "OTEL_EXPORTER_OTLP_CERTIFICATE")? {
                    store.add(certificate).map_err(|source| TlsError::Trust {
                        path: path.clone(),
                        source,
                    })?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                // Some that cannot be read among many are no reason to trust the others less.
                store.add_parsable_certificates(found.certs);
                if store.is_empty() {
                    let problem = found
                        .errors
                        .first()
                        .map_or_else(String::new, |error| format!(" ({error})"));
                    return Err(TlsError::NoneTrusted { problem });
                }
            }
        }
        Ok(store)
    }
}

fn certificates(
    path: &PathBuf,
    what: &'static str,
    variable: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |source| TlsError::File {
        what,
        path: path.clone(),
        variable,
        source,
    };
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(wrong)?;
    if certificates.is_empty() {
        return Err(wrong(pem::Error::NoItemsFound));
    }
    Ok(certificates)
}

/// What the user can do about a handshake that failed.
pub fn hint(error: &io::Error) -> &'static str {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match error {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "is its CA's certificate the one in OTEL_EXPORTER_OTLP_CERTIFICATE, or among the system's?"
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "is the endpoint's host one that the collector's certificate names?",
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(_))) => {
            "is the collector's certificate its own, signed by its CA's, and not the CA's itself?"
        }
        Some(rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure,
        )) => "does the collector want OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY?",
        Some(rustls::Error::InvalidMessage(_)) => "does the collector speak TLS on this port? If not, write http://",
        _ => "see the collector's log",
    }
}
