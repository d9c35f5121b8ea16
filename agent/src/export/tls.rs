//! TLS to collectors: the certificates that we trust, and our own.
//!
//! Trust comes from the CA of `OTEL_EXPORTER_OTLP_CERTIFICATE` alone or, without one, from the system's CAs. No list of
//! CAs is built in, because no user could remove one from it. All files are read anew for each connection: certificates
//! that are replaced while the agent runs are used from the next connection on.

use std::{
    env,
    fs::OpenOptions,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
};

/// Upper bound on the bytes of a file. The list of CAs of a distribution has a quarter of that.
const MOST_BYTES: u64 = 1 << 20;
/// The variable that names the system's certificates (OpenSSL, `SSL_CTX_load_verify_locations(3)`).
const SYSTEM_VARIABLE: &str = "SSL_CERT_FILE";

/// Files with the certificates that we trust, and our own. All are PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates that are trusted in place of the system's.
    pub trusted: Option<PathBuf>,
    /// Our own certificate, with the chain to its CA, and the key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Reason why no TLS connection can be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// The file cannot be read.
    #[error("cannot read {what} in {}: {source}; name an existing PEM file in {variable}", path.display())]
    File {
        /// The expected content.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The variable that names it.
        variable: &'static str,
        /// The cause.
        source: pem::Error,
    },
    /// The file is a device, a pipe or a directory.
    #[error("cannot read {what} in {}: it is no regular file; name a PEM file in {variable}", path.display())]
    NotRegular {
        /// The expected content.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The variable that names it.
        variable: &'static str,
    },
    /// The file is larger than 1 MiB.
    #[error(
        "cannot read {what} in {}: it is larger than {} MiB; name a PEM file with only what is needed in {variable}",
        path.display(), MOST_BYTES >> 20
    )]
    TooLarge {
        /// The expected content.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The variable that names it.
        variable: &'static str,
    },
    /// The certificate is no CA's.
    #[error("a certificate in {} cannot be trusted: {source}; put the CA's certificate there", path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: rustls::Error,
    },
    /// The system has no trusted CA.
    #[error(
        "this system has no trusted certificates{problem}; install ca-certificates, or name your CA's certificate in \
         OTEL_EXPORTER_OTLP_CERTIFICATE"
    )]
    NoneTrusted {
        /// The cause, if it is known.
        problem: String,
    },
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error(
        "cannot use the client certificate with its key: {0}; do OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and \
         OTEL_EXPORTER_OTLP_CLIENT_KEY belong together?"
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
                let file = PemFile {
                    what: "the client certificate",
                    path: certificate,
                    variable: "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
                };
                let chain = file.certificates()?;
                let file = PemFile {
                    what: "the client key",
                    path: key,
                    variable: "OTEL_EXPORTER_OTLP_CLIENT_KEY",
                };
                let key = PrivateKeyDer::from_pem_slice(&file.read()?).map_err(|source| file.unreadable(source))?;
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
                let file = PemFile {
                    what: "trusted certificates",
                    path,
                    variable: "OTEL_EXPORTER_OTLP_CERTIFICATE",
                };
                for certificate in file.certificates()? {
                    store.add(certificate).map_err(|source| TlsError::Trust {
                        path: path.clone(),
                        source,
                    })?;
                }
            }
            None => {
                if let Some(path) = env::var_os(SYSTEM_VARIABLE) {
                    bounded_system_file(Path::new(&path))?;
                }
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

/// A PEM file that a variable names.
#[derive(Clone, Copy)]
struct PemFile<'a> {
    what: &'static str,
    path: &'a Path,
    variable: &'static str,
}

impl PemFile<'_> {
    /// Reads at least one certificate.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let bytes = self.read()?;
        let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
        match certificates {
            Ok(certificates) if certificates.is_empty() => Err(self.unreadable(pem::Error::NoItemsFound)),
            certificates => certificates.map_err(|source| self.unreadable(source)),
        }
    }

    /// Reads the file, if it is a regular file of at most [`MOST_BYTES`]. Never waits for a pipe's writer.
    fn read(&self) -> Result<Vec<u8>, TlsError> {
        let Self { what, path, variable } = *self;
        let failed = |source| self.unreadable(pem::Error::Io(source));
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(failed)?;
        let path = path.to_owned();
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(TlsError::NotRegular { what, path, variable });
        }
        let mut bytes = Vec::new();
        file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > MOST_BYTES {
            return Err(TlsError::TooLarge { what, path, variable });
        }
        Ok(bytes)
    }

    fn unreadable(&self, source: pem::Error) -> TlsError {
        let Self { what, path, variable } = *self;
        TlsError::File {
            what,
            path: path.to_owned(),
            variable,
            source,
        }
    }
}

/// Refuses a file of the system's certificates that rustls-native-certs would read without a bound. One that is not there
/// is no error: `SSL_CERT_DIR` may name others.
fn bounded_system_file(path: &Path) -> Result<(), TlsError> {
    let file = PemFile {
        what: "trusted certificates",
        path,
        variable: SYSTEM_VARIABLE,
    };
    match file.read() {
        Ok(_) | Err(TlsError::File { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Returns a question that leads to the mistake behind a failed handshake.
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
            "does the collector use its CA's certificate as its own? It needs one that the CA has signed"
        }
        Some(rustls::Error::AlertReceived(
            AlertDescription::CertificateRequired | AlertDescription::HandshakeFailure,
        )) => "does the collector want OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY?",
        Some(rustls::Error::InvalidMessage(_)) => "does the collector speak TLS on this port? If not, write http://",
        _ => "see the collector's log",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_regular_files_of_at_most_a_mebibyte_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let (fits, too_large) = (directory.path().join("fits.pem"), directory.path().join("large.pem"));
        fs::write(&fits, vec![b'\n'; 1 << 20]).unwrap();
        fs::write(&too_large, vec![b'\n'; (1 << 20) + 1]).unwrap();
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());

        let text = |path: &Path, what: &str| format!("cannot read {what} in {}: ", path.display());
        let not_regular = "it is no regular file; name a PEM file in ";
        let large = "it is larger than 1 MiB; name a PEM file with only what is needed in ";
        let cases = [
            (Path::new("/dev/zero"), not_regular),
            (directory.path(), not_regular),
            (&pipe, not_regular),
            (&too_large, large),
            (&fits, "no items found"),
        ];
        for (path, wrong) in cases {
            let trusted = TlsFiles {
                trusted: Some(path.to_owned()),
                client: None,
            };
            let error = trusted.load(b"h2").unwrap_err().to_string();
            let begins = text(path, "trusted certificates") + wrong;
            assert!(error.starts_with(&begins), "{error}");
            assert!(error.ends_with(" in OTEL_EXPORTER_OTLP_CERTIFICATE"), "{error}");
            let file = PemFile {
                what: "the client key",
                path,
                variable: "OTEL_EXPORTER_OTLP_CLIENT_KEY",
            };
            match file.read() {
                Ok(bytes) => assert_eq!((path, bytes.len()), (fits.as_path(), 1 << 20)),
                Err(error) => {
                    let expected = text(path, "the client key") + wrong + "OTEL_EXPORTER_OTLP_CLIENT_KEY";
                    assert_eq!(error.to_string(), expected);
                }
            }
            let of_system = bounded_system_file(path).map_err(|error| error.to_string());
            let expected = text(path, "trusted certificates") + wrong + "SSL_CERT_FILE";
            assert_eq!(of_system, if path == fits { Ok(()) } else { Err(expected) });
        }
        assert!(bounded_system_file(Path::new("/nowhere/ca.pem")).is_ok());
    }
}
