//! A service on hyper, and with arguments a client (see services/README.md): tasks on several threads, with kept
//! connections.

use std::{
    collections::HashMap,
    fs::File,
    io::Write as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use tokio::net::TcpListener;

struct Route {
    status: StatusCode,
    delay: Duration,
    urls: Vec<String>,
}

struct Peer {
    name: String,
    log: Mutex<File>,
    client: Client<HttpConnector, Empty<Bytes>>,
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let log = File::options()
        .append(true)
        .create(true)
        .open(std::env::var("TRUTH_LOG")?)?;
    let peer = Arc::new(Peer {
        name: std::env::var("SERVICE")?,
        log: Mutex::new(log),
        client: Client::builder(TokioExecutor::new()).build_http(),
    });
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [url, count, in_flight, prefix] => load(&peer, url, count.parse()?, in_flight.parse()?, prefix).await,
        _ => serve(peer).await,
    }
}

async fn serve(peer: Arc<Peer>) -> Result<()> {
    let routes = std::env::var("ROUTES")?;
    let routes: HashMap<String, Route> = routes.split(';').map(parse_route).collect::<Result<_>>()?;
    let routes = Arc::new(routes);
    let port: u16 = std::env::var("PORT")?.parse()?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (peer, routes) = (Arc::clone(&peer), Arc::clone(&routes));
        tokio::spawn(async move {
            let service = service_fn(|request| {
                let (peer, routes) = (Arc::clone(&peer), Arc::clone(&routes));
                async move { peer.answer(&routes, &request).await }
            });
            // A client may close its connection at any time.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn load(peer: &Arc<Peer>, url: &str, count: usize, in_flight: usize, prefix: &str) -> Result<()> {
    let next = Arc::new(AtomicUsize::new(0));
    let stop = std::env::var("STOP")?;
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..in_flight {
        let (peer, next) = (Arc::clone(peer), Arc::clone(&next));
        let (url, prefix, stop) = (url.to_owned(), prefix.to_owned(), stop.clone());
        workers.spawn(async move {
            while !Path::new(&stop).exists() {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    break;
                }
                let id = format!("{prefix}-{number}");
                let began = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
                let answer = peer.call(&url, &id).await;
                peer.log(&format!("C {} {id} {answer} {began}", peer.name))?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    Ok(())
}

impl Peer {
    async fn answer(
        &self,
        routes: &HashMap<String, Route>,
        request: &Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>> {
        let id = request.headers().get("x-request-id").context("no id")?.to_str()?;
        let segment = request.uri().path().split('/').nth(1).unwrap_or_default();
        let mut status = StatusCode::NOT_FOUND;
        if let Some(route) = routes.get(&format!("/{segment}")) {
            status = route.status;
            tokio::time::sleep(route.delay).await;
            for (index, url) in route.urls.iter().enumerate() {
                let call = format!("{id}.{}", index + 1);
                let answer = self.call(url, &call).await;
                self.log(&format!("C {} {call} {answer}", self.name))?;
                if !answer.parse().is_ok_and(|status: u16| status < 500) {
                    status = StatusCode::BAD_GATEWAY;
                }
            }
        }
        self.log(&format!("S {} {id} {}", self.name, status.as_u16()))?;
        let body = Full::new(Bytes::from(format!("{} {id}\n", self.name)));
        Ok(Response::builder().status(status).body(body)?)
    }

    /// Returns the status, or the reason why there is none.
    async fn call(&self, url: &str, id: &str) -> String {
        let request = Request::get(url).header("x-request-id", id).body(Empty::new());
        let Ok(request) = request else { return "-".to_owned() };
        match self.client.request(request).await {
            Ok(response) => {
                let status = response.status().as_u16();
                let body = response.into_body().collect().await;
                body.map_or_else(|_| "-".to_owned(), |_| status.to_string())
            }
            Err(error) if error.is_connect() => "connect".to_owned(),
            Err(_) => "-".to_owned(),
        }
    }

    fn log(&self, line: &str) -> Result<()> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.write_all(format!("{line}\n").as_bytes())
            .context("cannot write the log")
    }
}

fn parse_route(text: &str) -> Result<(String, Route)> {
    let mut words = text.split_ascii_whitespace();
    let mut word = || words.next().context("a route is too short");
    let (segment, status, delay) = (word()?.to_owned(), word()?.parse()?, word()?.parse()?);
    let route = Route {
        status,
        delay: Duration::from_millis(delay),
        urls: words.map(str::to_owned).collect(),
    };
    Ok((segment, route))
}
