//! Connections to a collector. Its name is looked up for each connection, so a collector that moved is found.

use std::{error::Error, io, net::SocketAddr};

use hyper::{Uri, http::uri::Scheme};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::pki_types::{InvalidDnsNameError, ServerName},
};

use super::{
    CONNECT_TIMEOUT,
    config::Endpoint,
    tls::{self, TlsError, TlsFiles},
};

/// A connection, with or without TLS.
pub type Stream = Box<dyn Io>;

/// Operations of a connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Makes connections to one collector.
#[derive(Debug)]
pub struct Connector {
    host: String,
    port: u16,
    tls: Option<Tls>,
}

#[derive(Debug)]
struct Tls {
    files: TlsFiles,
    name: ServerName<'static>,
    protocol: &'static [u8],
}

/// Reason why there is no connection.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name is unknown, or no name server answered in time.
    #[error("cannot look up {host}")]
    Lookup {
        /// The name.
        host: String,
        /// The cause.
        source: io::Error,
    },
    /// None of the collector's addresses takes connections.
    #[error("cannot connect to {address}")]
    Connect {
        /// The last address that was tried.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// A file of certificates or keys cannot be used any more.
    #[error(transparent)]
    Files(#[from] TlsError),
    /// The peer does not speak TLS, has no certificate that we trust, or does not trust ours.
    #[error("no TLS with {host} ({hint})")]
    Handshake {
        /// The name.
        host: String,
        /// A question that leads to the mistake.
        hint: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The peer closed the connection before its first answer.
    ///
    /// With TLS 1.3, a collector asks for a client certificate only after the handshake, and then closes the
    /// connection: that close may be all that is seen.
    #[error("no answer (does the collector want OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY?)")]
    Unanswered(#[source] hyper::Error),
}

/// Reason why connections cannot even be tried.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConnectorError {
    /// A file of certificates or keys cannot be used.
    #[error(transparent)]
    Files(#[from] TlsError),
    /// No certificate can have this name.
    #[error("no certificate can be for the host {host}: {source}; use the collector's DNS name or IP address")]
    Name {
        /// The host.
        host: String,
        /// The cause.
        source: InvalidDnsNameError,
    },
}

impl Connector {
    /// Prepares connections to an endpoint. `protocol` is spoken there, by its ALPN name.
    ///
    /// # Errors
    /// If TLS is asked for and a file of it cannot be used.
    pub fn new(endpoint: &Endpoint, protocol: &'static [u8]) -> Result<Self, ConnectorError> {
        let host = endpoint
            .url
            .host()
            .unwrap_or_default()
            .trim_matches(['[', ']'])
            .to_owned();
        let tls = match &endpoint.tls {
            None => None,
            Some(files) => {
                files.load(protocol)?;
                let name = ServerName::try_from(host.clone()).map_err(|source| ConnectorError::Name {
                    host: host.clone(),
                    source,
                })?;
                Some(Tls {
                    files: files.clone(),
                    name,
                    protocol,
                })
            }
        };
        Ok(Self {
            host,
            port: port(&endpoint.url),
            tls,
        })
    }

    /// Makes a new connection.
    ///
    /// # Errors
    /// If the collector is away, or not to be trusted.
    pub async fn connect(&self) -> Result<Stream, ConnectError> {
        let stream = self.tcp().await?;
        let Some(Tls { files, name, protocol }) = &self.tls else {
            return Ok(Box::new(stream));
        };
        let handshake = TlsConnector::from(files.load(protocol)?).connect(name.clone(), stream);
        match in_time(handshake).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(source) => Err(ConnectError::Handshake {
                host: self.host.clone(),
                hint: tls::hint(&source),
                source,
            }),
        }
    }

    /// Returns the error of the first request on a connection, with what may have caused it.
    pub fn explain(&self, error: hyper::Error) -> Box<dyn Error + Send + Sync> {
        match &self.tls {
            Some(Tls { files, .. }) if files.client.is_none() => ConnectError::Unanswered(error).into(),
            _ => error.into(),
        }
    }

    async fn tcp(&self) -> Result<TcpStream, ConnectError> {
        let lookup_failed = |source| ConnectError::Lookup {
            host: self.host.clone(),
            source,
        };
        let addresses = in_time(lookup_host((self.host.as_str(), self.port)))
            .await
            .map_err(lookup_failed)?;
        let addresses: Vec<SocketAddr> = addresses.collect();
        // One that swallows packets leaves time for the next.
        let share = CONNECT_TIMEOUT / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
        let mut failed = lookup_failed(io::ErrorKind::NotFound.into());
        for address in addresses {
            let connect = async {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(stream)
            };
            match timeout(share, connect).await.unwrap_or_else(too_late) {
                Ok(stream) => return Ok(stream),
                Err(source) => failed = ConnectError::Connect { address, source },
            }
        }
        Err(failed)
    }
}

/// Returns the URL's port, or else the scheme's.
fn port(url: &Uri) -> u16 {
    let default = if url.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    url.port_u16().unwrap_or(default)
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(CONNECT_TIMEOUT, work).await.unwrap_or_else(too_late)
}

fn too_late<T>(_: tokio::time::error::Elapsed) -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        format!("not within {} s", CONNECT_TIMEOUT.as_secs()),
    ))
}
