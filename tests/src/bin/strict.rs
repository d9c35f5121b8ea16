//! A strict server, or a strict client, on hyper, for the torture test: its understanding of hostile bytes is the
//! ground truth.
//!
//! `strict server` prints its port, then a line for each request: method, target, bytes of its body. `strict client`
//! reads lines of a method and a URL, and answers each: status and bytes of the body, or `error`.

use std::io::BufRead;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::{Request, Response, body::Incoming, client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

/// Size of the largest head that is accepted: far larger than the agent follows.
const HEAD_BYTES: usize = 4 << 20;
/// Number of header lines that are accepted: far more than the agent follows.
const HEADERS: usize = 20_000;

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    match std::env::args().nth(1).as_deref() {
        Some("server") => runtime.block_on(serve()),
        Some("client") => {
            for line in std::io::stdin().lock().lines() {
                let answer = runtime.block_on(call(&line?));
                println!("{}", answer.unwrap_or_else(|_| "error".to_owned()));
            }
            Ok(())
        }
        _ => bail!("say server or client"),
    }
}

async fn serve() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    loop {
        let (socket, _) = listener.accept().await?;
        tokio::spawn(async {
            // The test ends its half first, and then waits for the answers.
            let connection = server::conn::http1::Builder::new()
                .half_close(true)
                .max_buf_size(HEAD_BYTES)
                .max_headers(HEADERS)
                .serve_connection(TokioIo::new(socket), service_fn(answer));
            // A refused message was answered, or the connection closed.
            let _ = connection.await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (method, target) = (request.method().clone(), request.uri().clone());
    // A cut or malformed body makes the request invalid: it gets no answer.
    let Ok(body) = request.into_body().collect().await else {
        return Err(std::io::Error::other("the body does not end"));
    };
    println!("{method} {target} {}", body.to_bytes().len());
    Ok(Response::new(Full::new(Bytes::from_static(b"ok"))))
}

async fn call(line: &str) -> Result<String> {
    let (method, url) = line.split_once(' ').context("a method and a URL are needed")?;
    let url: hyper::Uri = url.parse()?;
    let authority = url.authority().context("the URL has no host")?.clone();
    let socket = TcpStream::connect(authority.as_str()).await?;
    let (mut sender, connection) = client::conn::http1::Builder::new()
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .handshake(TokioIo::new(socket))
        .await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(url.path_and_query().map_or("/", |path| path.as_str()))
        .header("host", authority.as_str())
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await?.to_bytes().len();
        Ok(format!("{status} {bytes}"))
    };
    let answer = answer.await;
    // Closes the socket before it prints the answer.
    connection.abort();
    let _ = connection.await;
    answer
}
