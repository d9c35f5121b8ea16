//! Text from outside that gets into spans or settings: targets, headers, trace context, environment variables, options.
#![no_main]

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
};

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use spoor::{
    config::{Command, IgnoreRule, Invocation, KnownMethods, Selection},
    engine::{
        context::traceparent,
        exchange::Failure,
        proto::http1::{Header, Headers, RequestHead, ResponseHead},
        trace::{
            Attribute, SpanKind, Value,
            conventions::{
                Finished, connect,
                http::{HttpConfig, HttpExchange, SpanNameStyle, describe},
            },
            redact,
            span_name::SpanNames,
        },
    },
    export::config::{Choice, ExportConfig, Target, names_endpoint},
    record::Endpoint,
};
use spoor_fuzz::{byte, number, short, text};

/// Length at which values are cut, in bytes.
const VALUE_BYTES: usize = 4096;

const HEADERS: [Header; 10] = [
    Header::Host,
    Header::UserAgent,
    Header::Traceparent,
    Header::Tracestate,
    Header::Forwarded,
    Header::XForwardedFor,
    Header::XForwardedProto,
    Header::XForwardedHost,
    Header::Captured(0),
    Header::Captured(9),
];

/// Variables that the exporter reads.
const VARIABLES: [&str; 21] = [
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_BSP_MAX_QUEUE_SIZE",
    "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
    "OTEL_BSP_SCHEDULE_DELAY",
    "OTEL_BSP_EXPORT_TIMEOUT",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_INSECURE",
    "OTEL_LOG_LEVEL",
    "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
];

/// Upper bound of the span names from paths (`MAX_TEMPLATES`), and one more for the method alone.
const MOST_NAMES: usize = 201;

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    match byte(&mut input) {
        250.. => names(&mut input),
        kind => match kind % 4 {
            0 => span(&mut input),
            1 => trace_context(&mut input),
            2 => environment(&mut input),
            _ => arguments(&mut input),
        },
    }
});

fn span(input: &mut Unstructured<'_>) {
    let flags = byte(input);
    let (method, target) = (text(input), text(input));
    let mut headers = Vec::new();
    let status = short(input);
    let route = String::from_utf8_lossy(text(input)).into_owned();
    let sizes = [number(input), number(input)];
    while !input.is_empty() && headers.len() < 40 {
        let header = HEADERS[usize::from(byte(input)) % HEADERS.len()];
        headers.push((header, text(input)));
    }
    let mut request = RequestHead::new(method, target, headers.iter().copied());
    request.minor_version = flags & 1;
    let response = ResponseHead {
        status,
        minor_version: 1,
        content_length: None,
        headers: headers.into_iter().collect(),
    };
    if let Ok(rule) = route.parse::<IgnoreRule>() {
        assert_eq!(rule.matches(&request), rule.matches(&request.clone()));
    }
    let Ok(known_methods) = route.parse::<KnownMethods>();
    let config = HttpConfig {
        capture_request: vec!["x-a".to_owned()],
        capture_response: vec!["x-b".to_owned()],
        span_names: if flags & 2 == 0 {
            SpanNameStyle::Template
        } else {
            SpanNameStyle::Method
        },
        routes: route.parse().into_iter().collect(),
        body_sizes: flags & 4 == 0,
        secrets: Default::default(),
        known_methods: known_methods
            .methods()
            .filter(|_| flags & 4 != 0)
            .map(<[String]>::to_vec),
    };
    let end = |which: bool| match which {
        true => Endpoint::Ip(
            u128::from(sizes[0]).rotate_left(u32::from(flags)).to_be_bytes().into(),
            status,
        ),
        false if flags & 8 == 0 => Endpoint::Unix(None),
        false => Endpoint::Unix(Some(route.as_str().into())),
    };
    let (local, remote) = (end(flags & 16 == 0), end(flags & 32 == 0));
    let failure = (flags & 64 != 0).then(|| Failure::from_errno(i32::from(status)));
    let mut names = SpanNames::default();
    for kind in [SpanKind::Server, SpanKind::Client] {
        let end = Finished {
            kind,
            call: None,
            reply: None,
            request_body_bytes: Some(sizes[0]),
            response_body_bytes: Some(sizes[1]),
            failure,
            local: &local,
            remote: &remote,
        };
        let exchange = HttpExchange {
            request: &request,
            response: (flags & 128 == 0).then_some(&response),
            end: &end,
        };
        let span = describe(&exchange, &config, &mut names);
        bounded(&span.attributes);
        assert!(!span.name.is_empty());
        assert_eq!(describe(&exchange, &config, &mut names).attributes, span.attributes);
    }
    bounded(&connect(&remote, Failure::Other).attributes);
    let query = String::from_utf8_lossy(target);
    let redacted = config.secrets.query(&query);
    assert_eq!(
        config.secrets.query(&redacted),
        redacted,
        "redaction leaves nothing to redact"
    );
    assert!(!redact::authority(&query).contains(':') || query.contains(':') || query.contains('@'));
}

/// Checks that the number of names stays bounded for many paths.
fn names(input: &mut Unstructured<'_>) {
    let socket = Endpoint::Unix(None);
    let mut names = SpanNames::default();
    let mut given = BTreeSet::new();
    let mut overflowed = 0;
    while !input.is_empty() && given.len() <= MOST_NAMES {
        let status = if byte(input) & 1 == 0 { 200 } else { 404 };
        let target = [b"/", text(input)].concat();
        let request = RequestHead::new(b"GET", &target, [].into_iter());
        let response = ResponseHead {
            status,
            minor_version: 1,
            content_length: None,
            headers: Headers::default(),
        };
        let end = Finished {
            kind: SpanKind::Server,
            call: None,
            reply: None,
            request_body_bytes: None,
            response_body_bytes: None,
            failure: None,
            local: &socket,
            remote: &socket,
        };
        let exchange = HttpExchange {
            request: &request,
            response: Some(&response),
            end: &end,
        };
        let name = describe(&exchange, &HttpConfig::default(), &mut names).name;
        if names.overflowed() > overflowed {
            overflowed += 1;
            assert_eq!(name, "GET", "what has no room is named by its method");
        }
        given.insert(name);
        assert!(given.len() <= MOST_NAMES, "{given:?}");
    }
}

/// Checks that no value is longer than promised, and that no key occurs twice.
fn bounded(attributes: &[Attribute]) {
    for (index, attribute) in attributes.iter().enumerate() {
        match &attribute.value {
            Value::Str(text) => assert!(text.len() <= VALUE_BYTES, "{}: {} bytes", attribute.key, text.len()),
            Value::Strs(texts) => assert!(texts.iter().all(|text| text.len() <= VALUE_BYTES), "{}", attribute.key),
            Value::Int(_) | Value::Bool(_) => {}
        }
        let twice = attributes[..index].iter().any(|other| other.key == attribute.key);
        assert!(!twice, "{} twice", attribute.key);
    }
}

fn trace_context(input: &mut Unstructured<'_>) {
    let (mut parents, mut states) = (Vec::new(), Vec::new());
    while !input.is_empty() && parents.len() + states.len() < 40 {
        let of = if byte(input) & 1 == 0 {
            &mut parents
        } else {
            &mut states
        };
        of.push(text(input));
    }
    if let Ok(Some(context)) = traceparent::trace_context(parents.into_iter()) {
        let again = format!("00-{}-{}-{:02x}", context.trace_id, context.parent_id, context.flags);
        assert_eq!(traceparent::parse(again.as_bytes()), Ok(context));
        assert_eq!(
            context.is_sampled(),
            again.ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f'])
        );
    }
    if let Ok(Some(state)) = traceparent::tracestate(states.into_iter()) {
        assert!(
            !state.is_empty() && state.len() <= 512 && state.split(',').count() <= 32,
            "{state}"
        );
        let again = std::iter::once(state.as_bytes());
        assert_eq!(traceparent::tracestate(again), Ok(Some(state.clone())));
    }
}

fn environment(input: &mut Unstructured<'_>) {
    let choice = match byte(input) % 4 {
        0 => Choice::OtlpJson(None),
        _ => Choice::Otlp,
    };
    let mut variables = BTreeMap::new();
    while !input.is_empty() && variables.len() < VARIABLES.len() {
        let name = VARIABLES[usize::from(byte(input)) % VARIABLES.len()];
        variables.insert(name, String::from_utf8_lossy(text(input)).into_owned());
    }
    let env = |name: &str| variables.get(name).cloned();
    let _ = names_endpoint(env);
    match ExportConfig::from_env(choice, env) {
        Ok(config) => {
            assert!(config.max_batch_spans >= 1 && config.max_batch_spans <= config.max_queue_spans);
            assert!(!config.timeout.is_zero());
            if let Target::Http(_, encoding) = config.target {
                assert!(encoding.content_type().starts_with("application/"));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn arguments(input: &mut Unstructured<'_>) {
    let mut arguments = vec![OsString::from("spoor")];
    let mut environment = None;
    while !input.is_empty() && arguments.len() < 20 {
        match text(input) {
            // No argument has a NUL byte, so this input is the value of all variables.
            [0, value @ ..] => environment = Some(OsString::from_vec(value.to_vec())),
            argument => arguments.push(OsString::from_vec(argument.to_vec())),
        }
    }
    let invocation = |arguments: &[OsString]| Invocation::new(arguments.to_vec(), |_| environment.clone());
    let (first, again) = match (invocation(&arguments), invocation(&arguments)) {
        (Ok(first), Ok(again)) => (first, again),
        (first, again) => {
            let [first, again] = [first, again].map(|result| result.err().map(|error| error.to_string()));
            assert_eq!(first, again, "twice the same");
            return;
        }
    };
    assert!(!first.log_level.name().is_empty());
    let path = Path::new(arguments.last().unwrap_or(&arguments[0]));
    match (&first.command, &again.command) {
        (Command::Run(run), Command::Run(again)) => {
            assert_eq!(run, again, "twice the same");
            selection(&run.trace.selection, path);
        }
        (Command::Record(record), _) => selection(&record.trace.selection, path),
        (Command::Ps(ps), _) => selection(&ps.selection, path),
        _ => {}
    }
}

/// Formats rules, and matches them with any path.
fn selection(selection: &Selection, path: &Path) {
    assert_eq!(selection.rules().is_empty(), selection.is_empty());
    for glob in &selection.exes {
        let (whole, name) = (glob.matches(path), path.file_name());
        let by_name = name.is_some_and(|name| glob.matches(Path::new(name)));
        assert!(glob.as_str().contains('/') || whole == by_name, "{}", glob.as_str());
    }
    let group = String::from_utf8_lossy(path.as_os_str().as_bytes());
    for glob in &selection.cgroups {
        let below = format!("{}/below", group.trim_end_matches('/'));
        assert!(
            !glob.matches(&group) || glob.matches(&below),
            "{} {group}",
            glob.as_str()
        );
    }
}
