//! The sink's gRPC: one method, on HTTP/2 connections of any number of streams.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;

use super::Received;

/// Serves a connection. An agent that is killed may close it at any point.
pub async fn connection(socket: TcpStream, received: Arc<Received>) {
    if let Err(error) = streams(socket, received).await
        && !error.is_io()
    {
        eprintln!("the sink's connection failed: {error}");
    }
}

async fn streams(socket: TcpStream, received: Arc<Received>) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new()
        .initial_window_size(16 << 20)
        .initial_connection_window_size(64 << 20)
        .handshake::<_, Bytes>(socket)
        .await?;
    while let Some(stream) = connection.accept().await {
        let (request, respond) = stream?;
        let received = Arc::clone(&received);
        tokio::spawn(async move {
            if let Err(error) = answer(request, respond, &received).await {
                eprintln!("the sink could not take a request: {error:#}");
            }
        });
    }
    Ok(())
}

async fn answer(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, received: &Received) -> Result<()> {
    let mut body = request.into_body();
    let mut bytes = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        bytes.extend_from_slice(&chunk);
    }
    received.take(unframed(&bytes)?)?;
    let response = Response::builder()
        .header("content-type", "application/grpc")
        .body(())?;
    let mut stream = respond.send_response(response, false)?;
    // An empty message: all spans were accepted.
    stream.send_data(Bytes::from_static(&[0; 5]), false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)?;
    Ok(())
}

/// Returns the request in a gRPC message: a byte for compression, four for the length, then the request.
fn unframed(message: &[u8]) -> Result<&[u8]> {
    let (prefix, request) = message.split_at_checked(5).context("no gRPC message")?;
    ensure!(prefix[0] == 0, "the message is compressed, which was not asked for");
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    ensure!(
        length == request.len(),
        "a gRPC message of {length} bytes in {} bytes",
        request.len()
    );
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_the_length_that_it_says() {
        let message = [0, 0, 0, 0, 2, 8, 1];
        assert_eq!(unframed(&message).unwrap(), [8, 1]);
        assert!(unframed(&message[..6]).is_err());
        assert!(unframed(&[1, 0, 0, 0, 0]).is_err());
        assert!(unframed(&[0, 0]).is_err());
    }
}
