//! The sink's protobuf over HTTP/1.1.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Empty};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::Received;

/// Serves a connection. An agent that is killed may close it at any point.
pub async fn connection(socket: TcpStream, received: Arc<Received>) {
    let service = service_fn(|request| answer(request, &received));
    if let Err(error) = http1::Builder::new()
        .serve_connection(TokioIo::new(socket), service)
        .await
        && !error.is_incomplete_message()
    {
        eprintln!("the sink's connection failed: {error}");
    }
}

/// Takes the spans. An empty response means that all were accepted.
async fn answer(request: Request<Incoming>, received: &Received) -> Result<Response<Empty<Bytes>>> {
    let body = request.into_body().collect().await.context("no whole request")?;
    received.take(&body.to_bytes())?;
    let response = Response::builder().header(CONTENT_TYPE, "application/x-protobuf");
    Ok(response.body(Empty::new())?)
}
