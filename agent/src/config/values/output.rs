//! Destinations of spans, logs and answers, and the style of span names.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use serde::{Deserialize, Serialize};

/// Default path of the control socket.
pub const CONTROL_SOCKET: &str = "/run/spoor/control.sock";

/// Default address of the metrics server. Not port 9464, OpenTelemetry's default for Prometheus, which belongs to the services
/// that we trace.
pub const METRICS_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9469);

/// Destination of spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Trees for people: on stdout, or on stderr beside a launched command.
    Console,
    /// OTLP to a collector.
    Otlp,
    /// OTLP as JSON, one request a line: to this file, or to stdout.
    OtlpJson(Option<PathBuf>),
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "console" => Ok(Self::Console),
            None if text == "otlp" => Ok(Self::Otlp),
            None if text == "otlp-json" => Ok(Self::OtlpJson(None)),
            Some(("otlp-json", "")) => Err("the file's name is missing: otlp-json=FILE".to_owned()),
            Some(("otlp-json", file)) => Ok(Self::OtlpJson(Some(PathBuf::from(file)))),
            _ => Err("there are console, otlp, otlp-json and otlp-json=FILE".to_owned()),
        }
    }
}

/// Style of span names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum SpanNames {
    /// `GET /users/{id}`: the method and the path with ids, numbers and hashes replaced.
    #[default]
    Template,
    /// `GET`: the method alone where no `--route` fits, which is the letter of the semantic conventions.
    Method,
}

/// The least severe level that is logged, by OpenTelemetry's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// Failures.
    Error,
    /// Failures, and what may lead to one.
    Warn,
    /// Also what Spoor does.
    #[default]
    Info,
    /// Also how Spoor does it.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// The names of all levels, for error texts.
    pub const NAMES: &str = "off, error, warn, info, debug, trace";

    /// Returns the name, which is also a filter of `tracing-subscriber`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text.to_ascii_lowercase().as_str() {
            "off" | "none" => Self::Off,
            "error" | "fatal" => Self::Error,
            "warn" | "warning" => Self::Warn,
            "info" => Self::Info,
            "debug" => Self::Debug,
            "trace" | "verbose" | "all" => Self::Trace,
            _ => return Err(format!("there are {}", Self::NAMES)),
        })
    }
}

/// The value of `--control`: the path of the control socket; `None`: there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSocket(pub Option<PathBuf>);

impl Default for ControlSocket {
    fn default() -> Self {
        Self(Some(PathBuf::from(CONTROL_SOCKET)))
    }
}

impl fmt::Display for ControlSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => path.display().fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl FromStr for ControlSocket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(Self(None)),
            "" => Err("give the path of a Unix socket, or off".to_owned()),
            path => Ok(Self(Some(PathBuf::from(path)))),
        }
    }
}

/// The value of `--metrics-listen`: the address of the metrics server; `None`: there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen(pub Option<SocketAddr>);

impl Default for Listen {
    fn default() -> Self {
        Self(Some(METRICS_ADDRESS))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(address) => address.fmt(f),
            None => f.write_str("off"),
        }
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        let hint = "give an IP address with a port, as 127.0.0.1:9469 or [::]:9469, or off";
        text.parse()
            .map(|address| Self(Some(address)))
            .map_err(|_| hint.to_owned())
    }
}
