//! Against a gRPC server in the same process, over real sockets: HTTP/2 by hyper, gRPC's framing by hand.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use http_body_util::{BodyExt, Full, combinators::WithTrailers};
use hyper::{
    HeaderMap, Response,
    body::Incoming,
    header::{HeaderName, HeaderValue},
    server::conn::http2,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTracePartialSuccess, ExportTraceServiceResponse};
use tokio::net::TcpListener;

use super::*;
use crate::export::answer::{RetryInfo, RpcDetail, RpcDuration};

type Seen = Arc<Mutex<Vec<(String, HeaderMap, Bytes)>>>;

/// A message (if any) and the trailers.
#[derive(Clone)]
struct Answer(Option<Vec<u8>>, Vec<(&'static str, String)>);

type Answered = WithTrailers<Full<Bytes>, std::future::Ready<Option<Result<HeaderMap, std::convert::Infallible>>>>;

impl Answer {
    fn response(self) -> Response<Answered> {
        let mut body = Vec::new();
        if let Some(message) = self.0 {
            body.push(0);
            body.extend((message.len() as u32).to_be_bytes());
            body.extend(message);
        }
        let trailers = self
            .1
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap()));
        let trailers = std::future::ready(Some(Ok(trailers.collect())));
        let mut response = Response::new(Full::new(body.into()).with_trailers(trailers));
        response
            .headers_mut()
            .insert("content-type", HeaderValue::from_static("application/grpc"));
        response
    }
}

/// Answers on each of so many connections one script, and then closes it.
async fn collector(listener: TcpListener, script: VecDeque<Answer>, seen: Seen) {
    let script = Arc::new(Mutex::new(script));
    let (stream, _) = listener.accept().await.unwrap();
    let answer = service_fn(|request: hyper::Request<Incoming>| {
        let (script, seen) = (script.clone(), seen.clone());
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            seen.lock()
                .unwrap()
                .push((head.uri.path().to_owned(), head.headers, body));
            Ok::<_, hyper::Error>(script.lock().unwrap().pop_front().unwrap().response())
        }
    });
    drop(
        http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), answer)
            .await,
    );
}

fn transport(address: SocketAddr) -> GrpcTransport {
    GrpcTransport::new(Endpoint {
        url: format!("http://{address}/").parse().unwrap(),
        headers: [("x-tenant".parse().unwrap(), HeaderValue::from_static("t"))]
            .into_iter()
            .collect(),
        tls: None,
        compression: Compression::None,
    })
    .unwrap()
}

fn any() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn failure(code: u8, details: Option<&RpcStatus>) -> Answer {
    let mut trailers = vec![
        ("grpc-status", code.to_string()),
        ("grpc-message", "so%20it is".to_owned()),
    ];
    if let Some(details) = details {
        let encoded = STANDARD_NO_PAD.encode(details.encode_to_vec());
        trailers.push(("grpc-status-details-bin", encoded));
    }
    Answer(None, trailers)
}

fn success(message: &ExportTraceServiceResponse) -> Answer {
    Answer(Some(message.encode_to_vec()), vec![("grpc-status", "0".to_owned())])
}

fn taken(rejected: u64, message: &str) -> Outcome {
    Outcome::Taken {
        rejected,
        message: message.to_owned(),
    }
}

fn partial() -> ExportTraceServiceResponse {
    ExportTraceServiceResponse {
        partial_success: Some(ExportTracePartialSuccess {
            rejected_spans: 3,
            error_message: "too old".to_owned(),
        }),
    }
}

/// Asks for a pause of 7.5 s.
fn slow_down() -> RpcStatus {
    let delay = RpcDuration {
        seconds: 7,
        nanos: 500_000_000,
    };
    let retry_info = RetryInfo {
        retry_delay: Some(delay),
    };
    RpcStatus {
        message: "slow down".to_owned(),
        details: vec![RpcDetail {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: retry_info.encode_to_vec(),
        }],
    }
}

#[tokio::test]
async fn requests_and_answers() {
    let listener = TcpListener::bind(any()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let slow_down = slow_down();
    let script = [
        success(&ExportTraceServiceResponse::default()),
        success(&partial()),
        failure(14, None),
        failure(14, Some(&slow_down)),
        failure(8, None),
        failure(8, Some(&slow_down)),
        failure(3, None),
    ];
    let seen = Seen::default();
    let served = tokio::spawn(collector(listener, script.into(), seen.clone()));
    let mut transport = transport(address);
    let mut outcomes = Vec::new();
    for number in 0..7u8 {
        outcomes.push(transport.send(Bytes::from(vec![number; 100_000]).into()).await);
    }
    served.abort();

    let again = |ms: Option<u64>, code: &str| Outcome::Again {
        after: ms.map(Duration::from_millis),
        reason: format!("gRPC status {code}: \"so it is\""),
    };
    let refused = |code: &str| Outcome::Refused {
        reason: format!("gRPC status {code}: \"so it is\""),
    };
    assert_eq!(
        outcomes,
        [
            taken(0, ""),
            taken(3, "too old"),
            again(None, "UNAVAILABLE"),
            again(Some(7500), "UNAVAILABLE"),
            Outcome::TooLarge {
                reason: "gRPC status RESOURCE_EXHAUSTED: \"so it is\"".to_owned(),
            },
            again(Some(7500), "RESOURCE_EXHAUSTED"),
            refused("INVALID_ARGUMENT"),
        ]
    );
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 7);
    for (number, (path, headers, body)) in seen.iter().enumerate() {
        assert_eq!(path, EXPORT);
        assert_eq!(headers["content-type"], "application/grpc");
        assert_eq!(headers["te"], "trailers");
        assert_eq!(headers["x-tenant"], "t");
        assert!(headers["user-agent"].to_str().unwrap().starts_with(USER_AGENT_NAME));
        let mut expected = vec![0];
        expected.extend(100_000u32.to_be_bytes());
        expected.extend([number as u8; 100_000]);
        assert_eq!(*body, expected);
    }
}

#[tokio::test]
async fn a_collector_that_is_away_comes_back_and_goes_in_the_middle() {
    let listener = TcpListener::bind(any()).await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut transport = transport(address);
    let Outcome::Again { after: None, reason } = transport.send(Bytes::from("x").into()).await else {
        panic!("it should be sent again");
    };
    assert!(reason.contains("Connection refused (os error 111)"), "{reason}");

    let success = success(&ExportTraceServiceResponse::default());
    let served = tokio::spawn(collector(
        TcpListener::bind(address).await.unwrap(),
        [success.clone()].into(),
        Seen::default(),
    ));
    assert_eq!(transport.send(Bytes::from("x").into()).await, taken(0, ""));
    served.abort();
    drop(served.await);

    // Takes the connection, and closes it when the request is there.
    let listener = TcpListener::bind(address).await.unwrap();
    let cut = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        stream.readable().await.unwrap();
    });
    let outcome = transport.send(Bytes::from("x").into()).await;
    assert!(matches!(outcome, Outcome::Again { after: None, .. }), "{outcome:?}");
    cut.abort();
    drop(cut.await);

    let listener = TcpListener::bind(address).await.unwrap();
    let served = tokio::spawn(collector(listener, [success].into(), Seen::default()));
    let mut outcome = transport.send(Bytes::from("x").into()).await;
    if let Outcome::Again { .. } = outcome {
        // The end of the old connection may be seen only now.
        outcome = transport.send(Bytes::from("x").into()).await;
    }
    assert_eq!(outcome, taken(0, ""));
    served.abort();
}
