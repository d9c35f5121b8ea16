//! Settings of the export, from OpenTelemetry's environment variables.
//!
//! The names and defaults are those of the OTLP exporter and SDK specifications, with these deviations: the queue holds
//! 65,536 spans (not 2,048) and at most 64 MiB, a batch has 2,048 spans (not 512) and leaves after 1 s (not 5 s). One
//! agent speaks for all services of a host, and has to bridge a minute without its collector.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use hyper::{
    Uri,
    header::{HeaderMap, HeaderName, HeaderValue},
    http::uri::Scheme,
};
use percent_encoding::percent_decode_str;
use thiserror::Error;

use super::tls::TlsFiles;

/// Kind of destination, as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// OTLP to a collector, which the environment names.
    Otlp,
    /// One `ExportTraceServiceRequest` a line: to this file, or to stdout.
    OtlpJson(Option<PathBuf>),
}

/// A receiver of OTLP requests.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// OTLP over gRPC.
    Grpc(Box<Endpoint>),
    /// OTLP over HTTP.
    Http(Box<Endpoint>, Encoding),
    /// OTLP as JSON lines: appended to this file, or to stdout.
    JsonLines(Option<PathBuf>),
}

impl Target {
    /// Returns the encoding of requests.
    pub fn encoding(&self) -> Encoding {
        match self {
            Self::Grpc(_) => Encoding::Protobuf,
            Self::Http(_, encoding) => *encoding,
            Self::JsonLines(_) => Encoding::Json,
        }
    }
}

/// A collector.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// The URL: for HTTP with the path to post to, for gRPC of the server.
    pub url: Uri,
    /// Headers that each request has.
    pub headers: HeaderMap,
    /// Certificates for https; `None`: the scheme is http.
    pub tls: Option<TlsFiles>,
    /// Compression of the bodies of requests.
    pub compression: Compression,
}

/// The encoding of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Protobuf, as of `grpc` and `http/protobuf`.
    Protobuf,
    /// JSON, as of `http/json` and JSON lines.
    Json,
}

impl Encoding {
    /// Returns the `content-type` of requests.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }
}

/// The compression of requests, `OTEL_EXPORTER_OTLP_COMPRESSION`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// `none`.
    #[default]
    None,
    /// `gzip`.
    Gzip,
}

/// Settings of the export.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportConfig {
    /// Destination of the requests.
    pub target: Target,
    /// Upper bound on the spans that wait; beyond, the oldest is dropped. `OTEL_BSP_MAX_QUEUE_SIZE`.
    pub max_queue_spans: usize,
    /// Upper bound on the bytes of the spans that wait; beyond, the oldest is dropped.
    pub max_queue_bytes: usize,
    /// Upper bound on the spans in a request. `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
    pub max_batch_spans: usize,
    /// Time that a span waits for others of its request. `OTEL_BSP_SCHEDULE_DELAY`.
    pub schedule_delay: Duration,
    /// Upper bound on the time of a request: the smaller of `OTEL_EXPORTER_OTLP_TIMEOUT` and `OTEL_BSP_EXPORT_TIMEOUT`. A
    /// request that takes longer is sent again; no batch is given up because of it.
    pub timeout: Duration,
}

impl ExportConfig {
    /// Returns the defaults for this target.
    pub fn new(target: Target) -> Self {
        Self {
            target,
            max_queue_spans: 65_536,
            max_queue_bytes: 64 << 20,
            max_batch_spans: 2048,
            schedule_delay: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
        }
    }

    /// Reads the variables of the environment `env`, for an output that was chosen on the command line. A variable that is
    /// empty counts as absent.
    ///
    /// # Errors
    /// If a variable has a value that cannot be used.
    pub fn from_env<V: Into<OsString>>(choice: Choice, env: impl Fn(&str) -> Option<V>) -> Result<Self, ConfigError> {
        let env = |name: &str| env(name).map(Into::into);
        let env = Env(&env);
        let target = match choice {
            Choice::OtlpJson(path) => Target::JsonLines(path),
            Choice::Otlp => env.collector()?,
        };
        let defaults = Self::new(target);
        let max_queue_spans = env.positive("OTEL_BSP_MAX_QUEUE_SIZE", defaults.max_queue_spans)?;
        let max_batch_spans = env.positive("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", defaults.max_batch_spans)?;
        let request_timeout = env.otlp_timeout(defaults.timeout)?;
        Ok(Self {
            max_queue_spans,
            max_batch_spans: max_batch_spans.min(max_queue_spans),
            schedule_delay: env.millis("OTEL_BSP_SCHEDULE_DELAY", defaults.schedule_delay)?,
            timeout: request_timeout.min(env.positive_millis("OTEL_BSP_EXPORT_TIMEOUT", request_timeout)?),
            ..defaults
        })
    }
}

/// Returns whether the environment names a collector, even one that cannot be used: [`ExportConfig::from_env`] says why.
pub fn names_endpoint<V: Into<OsString>>(env: impl Fn(&str) -> Option<V>) -> bool {
    let env = |name: &str| env(name).map(Into::into);
    !matches!(Env(&env).otlp("ENDPOINT"), Ok(None))
}

/// A variable with a value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The value has bytes that are no text. It is not shown: it may be a secret.
    #[error("{variable}: the value is not UTF-8 text; set it anew")]
    NotText {
        /// The variable.
        variable: String,
    },
    /// The value is no URL, or none of a collector.
    #[error("{variable}={value}: {problem}; write it as http://HOST:PORT or https://HOST:PORT")]
    Url {
        /// The variable.
        variable: String,
        /// Value of the setting.
        value: String,
        /// The fault of the value.
        problem: &'static str,
    },
    /// The value is not one of the words that the variable may have.
    #[error("{variable}={value}: there is no such {what}; use {words}")]
    Word {
        /// The variable.
        variable: String,
        /// Value of the setting.
        value: String,
        /// The kind of thing that the variable names.
        what: &'static str,
        /// The words that the variable may have.
        words: &'static str,
    },
    /// A client certificate is set without its key, or the key without the certificate.
    #[error("{given} is set and {missing} is not; set both: a client certificate needs its key")]
    HalfClient {
        /// The variable that is set.
        given: String,
        /// The variable that is not set.
        missing: &'static str,
    },
    /// A header cannot be read. Its value is not shown: it may be a secret.
    #[error("{variable}, entry {entry}: {problem}; write it as NAME=VALUE,NAME=VALUE with values percent-encoded")]
    Header {
        /// The variable.
        variable: String,
        /// The place of the header in the list, from 1.
        entry: usize,
        /// The fault of the value.
        problem: &'static str,
    },
    /// The value is no number, or out of range.
    #[error("{variable}={value}: give {expected}")]
    Number {
        /// The variable.
        variable: String,
        /// Value of the setting.
        value: String,
        /// A description of right values.
        expected: &'static str,
    },
}

/// The environment, with the rules of the OTLP exporter's variables.
struct Env<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Env<'_> {
    /// Returns the variable's value without blanks around it; `None` if nothing is left.
    fn var(&self, name: &str) -> Result<Option<String>, ConfigError> {
        let Some(value) = (self.0)(name) else {
            return Ok(None);
        };
        match value.to_str().map(str::trim) {
            None => Err(ConfigError::NotText {
                variable: name.to_owned(),
            }),
            Some("") => Ok(None),
            Some(value) => Ok(Some(value.to_owned())),
        }
    }

    /// Returns name and value of the variable for traces, or else of the one for all signals.
    fn otlp(&self, name: &str) -> Result<Option<(String, String)>, ConfigError> {
        for prefix in ["OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"] {
            let variable = format!("{prefix}{name}");
            if let Some(value) = self.var(&variable)? {
                return Ok(Some((variable, value)));
            }
        }
        Ok(None)
    }

    fn collector(&self) -> Result<Target, ConfigError> {
        let protocols = [
            ("grpc", None),
            ("http/protobuf", Some(Encoding::Protobuf)),
            ("http/json", Some(Encoding::Json)),
        ];
        let protocol = self.word("PROTOCOL", "protocol", "grpc, http/protobuf or http/json", &protocols)?;
        Ok(match protocol.unwrap_or(Some(Encoding::Protobuf)) {
            None => Target::Grpc(self.endpoint("http://localhost:4317", false)?),
            Some(encoding) => Target::Http(self.endpoint("http://localhost:4318", true)?, encoding),
        })
    }

    fn endpoint(&self, default: &str, http: bool) -> Result<Box<Endpoint>, ConfigError> {
        let url = self.url(default, http)?;
        let files = self.tls_files()?;
        let secure = url.scheme() == Some(&Scheme::HTTPS);
        if !secure && files != TlsFiles::default() {
            tracing::warn!("certificates are set for the export, but {url} is without TLS: write https:// to use them");
        }
        let compressions = [("none", Compression::None), ("gzip", Compression::Gzip)];
        let compression = self.word("COMPRESSION", "compression", "gzip or none", &compressions)?;
        Ok(Box::new(Endpoint {
            url,
            headers: self.headers()?,
            tls: secure.then_some(files),
            compression: compression.unwrap_or_default(),
        }))
    }

    /// Returns the meaning of the variable's word, by the table `values`.
    fn word<T: Copy>(
        &self,
        name: &str,
        what: &'static str,
        words: &'static str,
        values: &[(&str, T)],
    ) -> Result<Option<T>, ConfigError> {
        let Some((variable, value)) = self.otlp(name)? else {
            return Ok(None);
        };
        match values.iter().find(|(word, _)| value.eq_ignore_ascii_case(word)) {
            Some(&(_, meant)) => Ok(Some(meant)),
            None => Err(ConfigError::Word {
                variable,
                value,
                what,
                words,
            }),
        }
    }

    fn tls_files(&self) -> Result<TlsFiles, ConfigError> {
        let client = match (self.otlp("CLIENT_CERTIFICATE")?, self.otlp("CLIENT_KEY")?) {
            (Some((_, certificate)), Some((_, key))) => Some((certificate.into(), key.into())),
            (None, None) => None,
            (Some((given, _)), None) => {
                let missing = "OTEL_EXPORTER_OTLP_CLIENT_KEY";
                return Err(ConfigError::HalfClient { given, missing });
            }
            (None, Some((given, _))) => {
                let missing = "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE";
                return Err(ConfigError::HalfClient { given, missing });
            }
        };
        let trusted = self.otlp("CERTIFICATE")?.map(|(_, file)| file.into());
        Ok(TlsFiles { trusted, client })
    }

    /// Returns whether a gRPC endpoint without a scheme is one without TLS. Like every boolean of OpenTelemetry, it is true
    /// if the value is `true`, and else false (section "Boolean" of its environment variables).
    fn insecure(&self) -> Result<bool, ConfigError> {
        let Some((variable, value)) = self.otlp("INSECURE")? else {
            return Ok(false);
        };
        let insecure = value.eq_ignore_ascii_case("true");
        if !insecure && !value.eq_ignore_ascii_case("false") {
            tracing::warn!("{variable}={value} is neither true nor false, and counts as false");
        }
        Ok(insecure)
    }

    /// Returns the collector's URL. For HTTP, `v1/traces` is appended to the one for all signals, and the one for traces is
    /// taken as it is (OTLP exporter specification, "Endpoint URLs for OTLP/HTTP").
    fn url(&self, default: &str, http: bool) -> Result<Uri, ConfigError> {
        let (variable, mut value) = self
            .otlp("ENDPOINT")?
            .unwrap_or_else(|| ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), default.to_owned()));
        let shown = without_credentials(&value);
        let wrong = |problem| ConfigError::Url {
            variable: variable.clone(),
            value: shown.clone(),
            problem,
        };
        // gRPC's own libraries take HOST:PORT, too.
        if !http && !value.contains("://") && !value.starts_with('/') {
            let scheme = if self.insecure()? { "http" } else { "https" };
            value = format!("{scheme}://{value}");
        }
        let url: Uri = value.parse().map_err(|_| wrong("this is not a URL"))?;
        let authority = url
            .authority()
            .ok_or_else(|| wrong("a URL with scheme and host is needed"))?;
        let scheme = url
            .scheme()
            .filter(|&scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)
            .ok_or_else(|| wrong("the scheme must be http or https"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("credentials belong into OTEL_EXPORTER_OTLP_HEADERS"));
        }
        if authority.host().is_empty() {
            return Err(wrong("there is no host"));
        }
        if authority.as_str().len() > authority.host().len() && authority.port_u16().is_none_or(|port| port == 0) {
            return Err(wrong("the port must be from 1 to 65535"));
        }
        let path = match (http, variable.contains("TRACES")) {
            (true, true) => url.path_and_query().map_or("/", |path| path.as_str()).to_owned(),
            (true, false) => format!("{}/v1/traces", url.path().trim_end_matches('/')),
            (false, _) => "/".to_owned(),
        };
        Uri::builder()
            .scheme(scheme.clone())
            .authority(authority.clone())
            .path_and_query(path)
            .build()
            .map_err(|_| wrong("this is not a URL"))
    }

    fn headers(&self) -> Result<HeaderMap, ConfigError> {
        let mut headers = HeaderMap::new();
        let Some((variable, value)) = self.otlp("HEADERS")? else {
            return Ok(headers);
        };
        for (index, entry) in value
            .split(',')
            .enumerate()
            .filter(|(_, entry)| !entry.trim().is_empty())
        {
            let wrong = |problem| ConfigError::Header {
                variable: variable.clone(),
                entry: index + 1,
                problem,
            };
            let (name, value) = entry.split_once('=').ok_or_else(|| wrong("there is no ="))?;
            let name =
                HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| wrong("this is not a header name"))?;
            let value: Vec<u8> = percent_decode_str(value.trim()).collect();
            let mut value = HeaderValue::from_bytes(&value).map_err(|_| wrong("this is not a header value"))?;
            value.set_sensitive(true);
            headers.append(name, value);
        }
        Ok(headers)
    }

    fn otlp_timeout(&self, default: Duration) -> Result<Duration, ConfigError> {
        match self.otlp("TIMEOUT")? {
            Some((variable, _)) => self.positive_millis(&variable, default),
            None => Ok(default),
        }
    }

    fn number(&self, variable: &str, min: u32, expected: &'static str) -> Result<Option<u32>, ConfigError> {
        /// As milliseconds 24 days; as spans more than fit into any memory.
        const MAX: u32 = i32::MAX.cast_unsigned();
        let Some(value) = self.var(variable)? else {
            return Ok(None);
        };
        match value.parse() {
            Ok(number) if (min..=MAX).contains(&number) => Ok(Some(number)),
            _ => Err(ConfigError::Number {
                variable: variable.to_owned(),
                value,
                expected,
            }),
        }
    }

    fn positive(&self, variable: &str, default: usize) -> Result<usize, ConfigError> {
        let number = self.number(variable, 1, "a number of spans, at least 1")?;
        Ok(number.map_or(default, |number| usize::try_from(number).unwrap_or(usize::MAX)))
    }

    fn positive_millis(&self, variable: &str, default: Duration) -> Result<Duration, ConfigError> {
        let number = self.number(variable, 1, "a number of milliseconds, at least 1")?;
        Ok(number.map_or(default, |millis| Duration::from_millis(millis.into())))
    }

    fn millis(&self, variable: &str, default: Duration) -> Result<Duration, ConfigError> {
        let number = self.number(variable, 0, "a number of milliseconds")?;
        Ok(number.map_or(default, |millis| Duration::from_millis(millis.into())))
    }
}

/// Returns the URL with stars in place of user and password, to be shown in an error.
fn without_credentials(url: &str) -> String {
    let hidden = || {
        let (scheme, rest) = url.split_once("://")?;
        let (_, host) = rest.rsplit_once('@')?;
        Some(format!("{scheme}://***@{host}"))
    };
    hidden().unwrap_or_else(|| url.to_owned())
}

#[cfg(test)]
mod tests;
