//! TLS: who is trusted, and which files can be used.

use std::path::PathBuf;

use super::{super::certificates::Ca, *};

#[test]
fn by_each_protocol_with_tls_and_gzip() {
    let (servers, clients) = (Ca::new("servers"), Ca::new("clients"));
    for protocol in PROTOCOLS {
        for mutual in [false, true] {
            let tls = servers.server(&["localhost", "127.0.0.1"], mutual.then_some(&clients));
            let script = [Step::Take, Step::TakePart(3)];
            let collector = Collector::start(protocol, true, Some(tls), 0, &script);
            let files = TlsFiles {
                trusted: Some(servers.file()),
                client: mutual.then(|| clients.client_files()),
            };
            // By its name, of which only the second address (or the first) is its own.
            let url = format!("https://localhost:{}", collector.address.port());
            let mut agent = Agent::start(protocol, &url, Some(files), Compression::Gzip, 10_000);
            for _ in 0..3 {
                agent.push(1000);
                agent.settle();
            }
            let expected = [
                came(1..=1000, Step::Take),
                came(1001..=2000, Step::TakePart(3)),
                came(2001..=3000, Step::Take),
            ];
            assert_eq!(collector.came(), expected, "{protocol:?}");
            assert_eq!(collector.connections(), 1, "{protocol:?}");
            let counts = Counts {
                exported: 2997,
                partial: 3,
                ..Counts::default()
            };
            assert_eq!(agent.finish(), counts, "{protocol:?}");
        }
    }
}

#[test]
fn who_is_not_trusted_gets_nothing() {
    let (right, wrong) = (Ca::new("right"), Ca::new("wrong"));
    let trust = |ca: &Ca| TlsFiles {
        trusted: Some(ca.file()),
        client: None,
    };
    let outcome = |protocol, tls, files, scheme: &str| {
        let collector = Collector::start(protocol, false, tls, 0, &[]);
        let endpoint = Endpoint {
            url: format!("{scheme}://{}/", collector.address).parse().unwrap(),
            headers: Default::default(),
            tls: Some(files),
            compression: Compression::None,
        };
        let target = match protocol {
            Protocol::Grpc => Target::Grpc(Box::new(endpoint)),
            _ => Target::Http(Box::new(endpoint), Encoding::Protobuf),
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let outcome = runtime.block_on(async {
            let (mut transport, _) = AnyTransport::new(target, Unread::Log).unwrap();
            transport.send(Payload::default()).await
        });
        assert_eq!(collector.came(), []);
        match outcome {
            Outcome::Again { after: None, reason } => reason,
            other => panic!("{other:?}"),
        }
    };
    for protocol in [Protocol::Grpc, Protocol::HttpProtobuf] {
        let server = |ca: &Ca, name, clients| Some(ca.server(&[name], clients));
        for (tls, files, says) in [
            (
                server(&right, "127.0.0.1", None),
                trust(&wrong),
                "(is its CA's certificate the one in OTEL_EXPORTER_OTLP_CERTIFICATE",
            ),
            (
                server(&right, "other.example", None),
                trust(&right),
                "(is the endpoint's host one that the collector's certificate names?)",
            ),
            (
                server(&right, "127.0.0.1", Some(&right)),
                trust(&right),
                "no answer (does the collector want OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and _CLIENT_KEY?)",
            ),
            (None, trust(&right), "(does the collector speak TLS on this port?"),
        ] {
            let reason = outcome(protocol, tls, files, "https");
            assert!(reason.contains(says), "{protocol:?}: {reason}");
        }
    }
}

#[test]
fn certificates_that_are_replaced_are_used_from_the_next_connection_on() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let first = Collector::start(Protocol::Grpc, false, Some(old.server(&["127.0.0.1"], None)), 0, &[]);
    let address = first.address;
    let files = TlsFiles {
        trusted: Some(old.file()),
        client: None,
    };
    let mut agent = Agent::start(
        Protocol::Grpc,
        &format!("https://{address}"),
        Some(files),
        Compression::None,
        10_000,
    );
    agent.push(5);
    agent.settle();
    drop(first);
    let second = Collector::start(
        Protocol::Grpc,
        false,
        Some(new.server(&["127.0.0.1"], None)),
        address.port(),
        &[],
    );
    agent.push(5);
    wait_for("it to see that it does not trust", || agent.counts().retries >= 1);
    assert_eq!(second.came(), []);
    fs::copy(new.file(), old.file()).unwrap();
    agent.settle();
    assert_eq!(second.came(), [came(6..=10, Step::Take)]);
    assert_eq!(agent.finish().exported, 10);
}

#[test]
fn files_that_cannot_be_used_are_said_at_the_start() {
    let ca = Ca::new("a CA");
    let (certificate, key) = ca.client_files();
    let another = Ca::new("another");
    let (_, other_key) = another.client_files();
    let empty = ca.file().with_file_name("empty.pem");
    fs::write(&empty, "").unwrap();
    let start = |trusted: &PathBuf, client: Option<(&PathBuf, &PathBuf)>| {
        let endpoint = Endpoint {
            url: "https://127.0.0.1:1/".parse().unwrap(),
            headers: Default::default(),
            tls: Some(TlsFiles {
                trusted: Some(trusted.clone()),
                client: client.map(|(certificate, key)| (certificate.clone(), key.clone())),
            }),
            compression: Compression::None,
        };
        let config = ExportConfig::new(Target::Grpc(Box::new(endpoint)));
        Exporter::start(config, Unread::Log, Arc::default())
            .unwrap_err()
            .to_string()
    };
    let good = ca.file();
    for (error, says) in [
        (
            start(&"/nowhere/ca.pem".into(), None),
            "cannot read trusted certificates in /nowhere/ca.pem",
        ),
        (
            start(&empty, None),
            "name an existing PEM file in OTEL_EXPORTER_OTLP_CERTIFICATE",
        ),
        (start(&key, None), "cannot read trusted certificates in"),
        (
            start(&good, Some((&certificate, &certificate))),
            "cannot read the client key in",
        ),
        (
            start(&good, Some((&key, &key))),
            "cannot read the client certificate in",
        ),
        (
            start(&good, Some((&certificate, &other_key))),
            "do OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and",
        ),
    ] {
        assert!(error.contains(says), "{error}");
    }
}
