//! The server over real sockets, and its places for connections.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    sync::atomic::{AtomicU8, AtomicUsize},
    time::Instant,
};

use super::*;

fn ask(address: SocketAddr, line: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

fn health(sick: u8) -> Health {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    match sick {
        0 => Health::default(),
        1 => Health {
            problems: vec![],
            limits: words(&["three"]),
        },
        _ => Health {
            problems: words(&["one", "two"]),
            limits: words(&["three"]),
        },
    }
}

#[test]
fn pages() {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let metrics = Arc::new(Metrics::default());
    let sick = Arc::new(AtomicU8::new(0));
    let of_server = sick.clone();
    let server = Server::start(any, metrics.clone(), move || health(of_server.load(Ordering::Relaxed))).unwrap();
    let address = server.address();
    metrics.export.exported.inc_by(42);
    let answer = |line: &str, body: &str| (line.to_owned(), body.to_owned());

    assert_eq!(
        ask(address, "GET /metrics"),
        answer("HTTP/1.1 200 OK", &metrics.render())
    );
    assert_eq!(ask(address, "GET /healthz?x"), answer("HTTP/1.1 200 OK", "ok\n"));
    sick.store(1, Ordering::Relaxed);
    assert_eq!(
        ask(address, "GET /healthz"),
        answer("HTTP/1.1 200 OK", "degraded\nthree\n")
    );
    sick.store(2, Ordering::Relaxed);
    assert_eq!(
        ask(address, "GET /healthz"),
        answer("HTTP/1.1 503 Service Unavailable", "one\ntwo\nthree\n")
    );
    assert_eq!(
        ask(address, "GET /"),
        answer(
            "HTTP/1.1 404 Not Found",
            "not found: the pages are /metrics and /healthz\n"
        )
    );
    assert_eq!(
        ask(address, "POST /metrics"),
        answer("HTTP/1.1 405 Method Not Allowed", "only GET and HEAD\n")
    );
    assert!(matches!(
        Server::start(address, metrics.clone(), Health::default),
        Err(ServeError::Taken(taken)) if taken == address
    ));
    drop(server);
    let begun = Instant::now();
    while StdListener::bind(address).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(5), "the port is not given back");
        thread::sleep(Duration::from_millis(5));
    }
}

fn open(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

#[test]
fn half_heads_that_are_opened_again_keep_nobody_out() {
    const HALF: &[u8] = b"GET /healthz HTTP/1.1\r\nhost: x\r\n";
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server = Server::start(any, Arc::default(), Health::default).unwrap();
    let address = server.address();
    let (ended, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    let mut stream = open(address, HALF);
                    opened.fetch_add(1, Ordering::Relaxed);
                    stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                    // Until it is closed, or it is the test's end.
                    let mut is_open = true;
                    while is_open && !ended.load(Ordering::Relaxed) {
                        is_open =
                            matches!(stream.read(&mut [0; 64]), Err(error) if error.kind() == ErrorKind::WouldBlock);
                    }
                }
            });
        }
        while opened.load(Ordering::Relaxed) < 200 {
            thread::sleep(Duration::from_millis(1));
        }
        let took: Vec<Duration> = (0..5)
            .map(|_| {
                let begun = Instant::now();
                let (line, body) = ask(address, "GET /healthz");
                assert_eq!((line.as_str(), body.as_str()), ("HTTP/1.1 200 OK", "ok\n"));
                begun.elapsed()
            })
            .collect();
        ended.store(true, Ordering::Relaxed);
        assert!(took.iter().all(|took| *took < Duration::from_secs(1)), "{took:?}");
    });
}

/// Adds a connection that never ends by itself.
fn place(connections: &mut Connections, has_head: bool, age: Duration) {
    let task = connections.tasks.spawn(std::future::pending());
    connections.open.push_back(Connection {
        task,
        since: tokio::time::Instant::now() - age,
        has_head: Arc::new(AtomicBool::new(has_head)),
    });
}

/// Returns how many connections have not sent a whole head.
fn waiting(connections: &Connections) -> usize {
    let open = connections.open.iter();
    open.filter(|connection| !connection.has_head.load(Ordering::Relaxed))
        .count()
}

#[tokio::test]
async fn only_a_connection_without_a_whole_head_makes_room() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut connections = Connections::default();
    // From the oldest on: one that is answered, two that wait for their heads, the rest is answered.
    place(&mut connections, true, Duration::from_secs(3));
    place(&mut connections, false, Duration::from_secs(2));
    place(&mut connections, false, Duration::ZERO);
    (3..MAX_CONNECTIONS).for_each(|_| place(&mut connections, true, Duration::ZERO));
    connections.make_room().await;
    assert_eq!(
        (connections.open.len(), waiting(&connections)),
        (MAX_CONNECTIONS - 1, 1)
    );
    let pages = Arc::new(Pages {
        metrics: Arc::default(),
        health: Box::new(Health::default),
    });
    let _client = TcpStream::connect(address).unwrap();
    connections.serve(listener.accept().await.unwrap().0, pages);
    // The older one of the two goes, when its grace is over.
    connections.make_room().await;
    assert_eq!(
        (connections.open.len(), waiting(&connections)),
        (MAX_CONNECTIONS - 1, 1)
    );
    assert_eq!(
        connections
            .open
            .back()
            .map(|newest| newest.has_head.load(Ordering::Relaxed)),
        Some(false)
    );
    // Where all are answered, the new one waits.
    connections
        .open
        .iter()
        .for_each(|connection| connection.has_head.store(true, Ordering::Relaxed));
    place(&mut connections, true, Duration::ZERO);
    let patience = Duration::from_millis(100);
    assert!(timeout(patience, connections.make_room()).await.is_err());
    connections.open[0].task.abort();
    connections.make_room().await;
    assert_eq!(connections.open.len(), MAX_CONNECTIONS - 1);
}
