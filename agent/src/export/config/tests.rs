use super::*;

fn parse(choice: Choice, env: &[(&str, &str)]) -> Result<ExportConfig, ConfigError> {
    ExportConfig::from_env(choice, |name| {
        env.iter()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| (*value).to_owned())
    })
}

fn otlp(env: &[(&str, &str)]) -> Result<Target, String> {
    let config = parse(Choice::Otlp, env).map_err(|error| error.to_string())?;
    Ok(config.target)
}

fn endpoint(url: &str) -> Box<Endpoint> {
    Box::new(Endpoint {
        url: url.parse().unwrap(),
        headers: HeaderMap::new(),
        tls: url.starts_with("https").then(TlsFiles::default),
        compression: Compression::None,
    })
}

fn http(url: &str) -> Result<Target, String> {
    Ok(Target::Http(endpoint(url), Encoding::Protobuf))
}

fn grpc(url: &str) -> Result<Target, String> {
    Ok(Target::Grpc(endpoint(url)))
}

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const TRACES_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
const PROTOCOL: &str = "OTEL_EXPORTER_OTLP_PROTOCOL";

#[test]
fn endpoints() {
    assert_eq!(otlp(&[]), http("http://localhost:4318/v1/traces"));
    assert_eq!(otlp(&[(PROTOCOL, "grpc")]), grpc("http://localhost:4317/"));
    assert_eq!(otlp(&[(ENDPOINT, "http://c:1")]), http("http://c:1/v1/traces"));
    assert_eq!(otlp(&[(ENDPOINT, " http://c/base/ ")]), http("http://c/base/v1/traces"));
    assert_eq!(otlp(&[(TRACES_ENDPOINT, "http://c:1")]), http("http://c:1/"));
    assert_eq!(
        otlp(&[(TRACES_ENDPOINT, "http://c:1/in?k=v")]),
        http("http://c:1/in?k=v")
    );
    assert_eq!(
        otlp(&[(ENDPOINT, "http://c:1"), (TRACES_ENDPOINT, "http://t:2/x")]),
        http("http://t:2/x")
    );
    assert_eq!(
        otlp(&[(ENDPOINT, "http://c:1"), (TRACES_ENDPOINT, "")]),
        http("http://c:1/v1/traces")
    );
    assert_eq!(otlp(&[(ENDPOINT, "http://[::1]:1")]), http("http://[::1]:1/v1/traces"));
    assert_eq!(
        otlp(&[(PROTOCOL, "grpc"), (ENDPOINT, "http://c:1/x")]),
        grpc("http://c:1/")
    );
    assert_eq!(
        otlp(&[
            (PROTOCOL, "grpc"),
            ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
        ]),
        http("http://localhost:4318/v1/traces")
    );
    assert_eq!(otlp(&[(ENDPOINT, "https://c")]), http("https://c/v1/traces"));
    let json = Target::Http(endpoint("http://localhost:4318/v1/traces"), Encoding::Json);
    assert_eq!(otlp(&[(PROTOCOL, "HTTP/JSON")]), Ok(json));
    assert!(!names_endpoint(|_| None::<String>));
    assert!(names_endpoint(|name| (name == TRACES_ENDPOINT).then(|| "x".to_owned())));
}

#[test]
fn what_is_wrong_is_said() {
    let url = |value: &str, problem: &str| {
        Err(format!(
            "{ENDPOINT}={value}: {problem}; write it as http://HOST:PORT or https://HOST:PORT"
        ))
    };
    let given = |value: &str| otlp(&[(ENDPOINT, value)]);
    assert_eq!(given("c:1"), url("c:1", "the scheme must be http or https"));
    assert_eq!(given("/x"), url("/x", "a URL with scheme and host is needed"));
    assert_eq!(given("http://"), url("http://", "this is not a URL"));
    assert_eq!(given("ftp://c"), url("ftp://c", "the scheme must be http or https"));
    assert_eq!(
        given("http://c:99999"),
        url("http://c:99999", "the port must be from 1 to 65535")
    );
    assert_eq!(
        given("http://u:secret@c"),
        url("http://***@c", "credentials belong into OTEL_EXPORTER_OTLP_HEADERS")
    );
    let words = |variable: &str, value: &str| otlp(&[(variable, value)]).unwrap_err();
    assert_eq!(
        words(PROTOCOL, "http"),
        "OTEL_EXPORTER_OTLP_PROTOCOL=http: there is no such protocol; use grpc, http/protobuf or http/json"
    );
    assert_eq!(
        words("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "zstd"),
        "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION=zstd: there is no such compression; use gzip or none"
    );
    assert_eq!(
        words("OTEL_EXPORTER_OTLP_CLIENT_KEY", "k"),
        "OTEL_EXPORTER_OTLP_CLIENT_KEY is set and OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE is not; \
         set both: a client certificate needs its key"
    );
    assert_eq!(
        otlp(&[("OTEL_EXPORTER_OTLP_HEADERS", "a=b,secret")]),
        Err("OTEL_EXPORTER_OTLP_HEADERS, entry 2: there is no =; \
             write it as NAME=VALUE,NAME=VALUE with values percent-encoded"
            .to_owned())
    );
    assert_eq!(
        otlp(&[("OTEL_EXPORTER_OTLP_TIMEOUT", "0")]),
        Err("OTEL_EXPORTER_OTLP_TIMEOUT=0: give a number of milliseconds, at least 1".to_owned())
    );
    assert_eq!(
        otlp(&[("OTEL_BSP_MAX_QUEUE_SIZE", "many")]),
        Err("OTEL_BSP_MAX_QUEUE_SIZE=many: give a number of spans, at least 1".to_owned())
    );
}

#[test]
fn insecure_is_for_grpc_without_a_scheme() {
    let grpc_to = |url, insecure| {
        otlp(&[
            (PROTOCOL, "grpc"),
            (ENDPOINT, url),
            ("OTEL_EXPORTER_OTLP_INSECURE", insecure),
        ])
    };
    for (url, insecure, expected) in [
        ("c:4317", "", "https://c:4317/"),
        ("c:4317", "TRUE", "http://c:4317/"),
        ("c", "1", "https://c/"),
        ("[::1]:4317", "true", "http://[::1]:4317/"),
        ("http://c:4317", "false", "http://c:4317/"),
        ("https://c:4317", "true", "https://c:4317/"),
    ] {
        assert_eq!(grpc_to(url, insecure), grpc(expected), "{url} {insecure}");
    }
    let both = [
        (PROTOCOL, "grpc"),
        (ENDPOINT, "c:1"),
        ("OTEL_EXPORTER_OTLP_TRACES_INSECURE", "true"),
        ("OTEL_EXPORTER_OTLP_INSECURE", "false"),
    ];
    assert_eq!(otlp(&both), grpc("http://c:1/"));
}

#[test]
fn tls_and_compression() {
    let general = [
        (ENDPOINT, "https://c:4318"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "ca.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "me.pem"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "me.key"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "GZIP"),
    ];
    let expected = |trusted: &str, certificate: &str, key: &str, compression| {
        let tls = Some(TlsFiles {
            trusted: Some(trusted.into()),
            client: Some((certificate.into(), key.into())),
        });
        let endpoint = Endpoint {
            tls,
            compression,
            ..*endpoint("https://c:4318/v1/traces")
        };
        Ok(Target::Http(Box::new(endpoint), Encoding::Protobuf))
    };
    assert_eq!(
        otlp(&general),
        expected("ca.pem", "me.pem", "me.key", Compression::Gzip)
    );
    let mut traces = general.to_vec();
    traces.extend([
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "t-ca.pem"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "t.pem"),
        ("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "t.key"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
    ]);
    assert_eq!(otlp(&traces), expected("t-ca.pem", "t.pem", "t.key", Compression::None));
    // Without TLS they have no effect.
    let mut plain = general.to_vec();
    plain[0].1 = "http://c:4318";
    let plain = otlp(&plain).unwrap();
    assert!(
        matches!(&plain, Target::Http(endpoint, _) if endpoint.tls.is_none()),
        "{plain:?}"
    );
}

#[test]
fn headers_are_decoded() {
    let Ok(Target::Http(endpoint, _)) = otlp(&[
        ("OTEL_EXPORTER_OTLP_HEADERS", "ignored=1"),
        (
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
            "Authorization=Bearer%20a%3Db, x-tenant = t=1 ,,",
        ),
    ]) else {
        panic!("not HTTP");
    };
    let headers: Vec<(&str, &str)> = endpoint
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    assert_eq!(headers, [("authorization", "Bearer a=b"), ("x-tenant", "t=1")]);
}

#[test]
fn sizes_and_times() {
    let json = || Choice::OtlpJson(None);
    assert_eq!(parse(json(), &[]), Ok(ExportConfig::new(Target::JsonLines(None))));
    let env = [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "100"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "200"),
        ("OTEL_BSP_SCHEDULE_DELAY", "0"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "5000"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "7000"),
    ];
    let expected = ExportConfig {
        max_queue_spans: 100,
        max_batch_spans: 100,
        schedule_delay: Duration::ZERO,
        timeout: Duration::from_secs(5),
        ..ExportConfig::new(Target::JsonLines(None))
    };
    assert_eq!(parse(json(), &env), Ok(expected));
}

#[test]
fn a_value_that_is_no_text_is_an_error_and_not_shown() {
    use std::os::unix::ffi::OsStringExt;

    let env = |name: &str| (name == "OTEL_EXPORTER_OTLP_CERTIFICATE").then(|| OsString::from_vec(b"/ca\xff".to_vec()));
    let error = ExportConfig::from_env(Choice::Otlp, env).unwrap_err();
    assert_eq!(
        error.to_string(),
        "OTEL_EXPORTER_OTLP_CERTIFICATE: the value is not UTF-8 text; set it anew"
    );
    assert!(!names_endpoint(env));
}
