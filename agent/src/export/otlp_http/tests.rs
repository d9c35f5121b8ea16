//! Against a collector in the same process, over real sockets.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

use http_body_util::BodyExt;
use hyper::{HeaderMap, Response, Uri, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};
use prost::Message;
use tokio::net::TcpListener;

use super::*;
use crate::export::answer::RpcStatus;

type Seen = Arc<Mutex<Vec<(Uri, HeaderMap, Bytes)>>>;
type Script = VecDeque<Response<Full<Bytes>>>;

/// Answers by the script, then ends.
async fn collector(listener: TcpListener, script: Script, seen: Seen) {
    let script = Arc::new(Mutex::new(script));
    while !script.lock().unwrap().is_empty() {
        let (stream, _) = listener.accept().await.unwrap();
        let answer = service_fn(|request: Request<Incoming>| {
            let (script, seen) = (script.clone(), seen.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await?.to_bytes();
                seen.lock().unwrap().push((head.uri, head.headers, body));
                Ok::<_, hyper::Error>(script.lock().unwrap().pop_front().unwrap())
            }
        });
        http1::Builder::new()
            .serve_connection(TokioIo::new(stream), answer)
            .await
            .unwrap();
    }
}

fn response(status: u16, headers: &[(&'static str, &'static str)], body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        response.headers_mut().insert(*name, HeaderValue::from_static(value));
    }
    response
}

fn transport(address: SocketAddr) -> HttpTransport {
    let endpoint = Endpoint {
        url: format!("http://{address}/v1/traces").parse().unwrap(),
        headers: [("x-tenant".parse().unwrap(), HeaderValue::from_static("t"))]
            .into_iter()
            .collect(),
        tls: None,
        compression: Compression::None,
    };
    HttpTransport::new(endpoint, Encoding::Protobuf).unwrap()
}

async fn listen(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).await.unwrap()
}

fn any() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn partial() -> ExportTraceServiceResponse {
    ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 3,
            error_message: "too old".to_owned(),
        }),
    }
}

#[tokio::test]
async fn requests_and_answers() {
    let listener = listen(any()).await;
    let address = listener.local_addr().unwrap();
    let status = RpcStatus {
        message: "no such tenant".to_owned(),
        details: vec![],
    };
    let script = [
        response(200, &[], Bytes::new()),
        response(200, &[], partial().encode_to_vec()),
        response(503, &[("retry-after", "7")], Bytes::new()),
        response(429, &[], Bytes::new()),
        response(400, &[], status.encode_to_vec()),
        response(302, &[("location", "/x")], Bytes::new()),
        response(200, &[("connection", "close")], "not protobuf"),
    ];
    let seen = Seen::default();
    let served = tokio::spawn(collector(listener, script.into(), seen.clone()));
    let mut transport = transport(address);
    let mut outcomes = Vec::new();
    for number in 0..7u8 {
        outcomes.push(transport.send(Bytes::from(vec![number; 100_000]).into()).await);
    }
    served.await.unwrap();

    let taken = |rejected, message: &str| Outcome::Taken {
        rejected,
        message: message.to_owned(),
    };
    let again = |seconds: Option<u64>, reason: &str| Outcome::Again {
        after: seconds.map(Duration::from_secs),
        reason: reason.to_owned(),
    };
    let refused = |reason: &str| Outcome::Refused {
        reason: reason.to_owned(),
    };
    assert_eq!(
        outcomes,
        [
            taken(0, ""),
            taken(3, "too old"),
            again(Some(7), "HTTP status 503 Service Unavailable"),
            again(None, "HTTP status 429 Too Many Requests"),
            refused("HTTP status 400 Bad Request: \"no such tenant\""),
            refused("HTTP status 302 Found"),
            taken(0, ""),
        ]
    );
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 7);
    for (number, (uri, headers, body)) in seen.iter().enumerate() {
        assert_eq!(uri, "/v1/traces");
        assert_eq!(headers["content-type"], "application/x-protobuf");
        assert_eq!(headers["user-agent"], USER_AGENT_NAME);
        assert_eq!(headers["x-tenant"], "t");
        assert_eq!(*body, vec![number as u8; 100_000]);
    }
}

#[tokio::test]
async fn a_collector_that_is_away_and_comes_back() {
    let listener = listen(any()).await;
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut transport = transport(address);
    let Outcome::Again { after: None, reason } = transport.send(Bytes::from("x").into()).await else {
        panic!("it should be sent again");
    };
    assert!(reason.ends_with("Connection refused (os error 111)"), "{reason}");

    for _ in 0..2 {
        let script = [response(200, &[], Bytes::new())];
        let served = tokio::spawn(collector(listen(address).await, script.into(), Seen::default()));
        let mut outcome = transport.send(Bytes::from("x").into()).await;
        if let Outcome::Again { .. } = outcome {
            // The end of the old connection may be seen only now.
            outcome = transport.send(Bytes::from("x").into()).await;
        }
        let taken = Outcome::Taken {
            rejected: 0,
            message: String::new(),
        };
        assert_eq!(outcome, taken);
        // The collector goes, with its connections.
        served.abort();
        drop(served.await);
        tokio::task::yield_now().await;
    }
}
