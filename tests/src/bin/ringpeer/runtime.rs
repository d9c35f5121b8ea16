//! The service on tokio-uring, as an application has it.

use std::net::{self, SocketAddr};

use anyhow::{Context, Result};
use tokio_uring::net::{TcpListener, TcpStream};

use crate::http;

/// Serves requests for good.
pub fn serve(listener: net::TcpListener, upstream: Option<SocketAddr>) -> Result<()> {
    tokio_uring::start(async move {
        let listener = TcpListener::from_std(listener);
        loop {
            let (stream, _) = listener.accept().await?;
            // A client may close its connection at any time.
            tokio_uring::spawn(async move {
                let _ = connection(Peer::new(stream), upstream).await;
            });
        }
    })
}

async fn connection(mut client: Peer, upstream: Option<SocketAddr>) -> Result<()> {
    let mut call = None;
    while let Some(request) = client.receive().await? {
        let response = match (upstream, &mut call) {
            (None, _) => http::answer(&request)?,
            (Some(_), Some(peer)) => ask(peer, request).await?,
            (Some(address), None) => {
                let peer = call.insert(Peer::new(TcpStream::connect(address).await?));
                ask(peer, request).await?
            }
        };
        client.send(response).await?;
    }
    Ok(())
}

async fn ask(peer: &mut Peer, request: Vec<u8>) -> Result<Vec<u8>> {
    peer.send(request).await?;
    peer.receive().await?.context("the upstream closed the connection")
}

/// A socket, and what was received behind the last message.
struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        let input = Vec::new();
        Self { stream, input }
    }

    /// Returns the next message; `None` at the connection's end.
    async fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        const BYTES: usize = 4096;
        let mut buffer = Vec::with_capacity(BYTES);
        loop {
            if let Some(message) = http::take(&mut self.input)? {
                return Ok(Some(message));
            }
            buffer.clear();
            let (result, filled) = self.stream.read(buffer).await;
            if result? == 0 {
                return Ok(None);
            }
            self.input.extend_from_slice(&filled);
            buffer = filled;
        }
    }

    async fn send(&mut self, message: Vec<u8>) -> Result<()> {
        self.stream.write_all(message).await.0?;
        Ok(())
    }
}
