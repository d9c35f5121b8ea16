//! Values of options: text in, something valid out, or an error that says what would be right.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use agent_ebpf::abi::PID_LIMIT;
use bytesize::ByteSize;
use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

use crate::{
    control,
    engine::trace::{conventions::http::ignore::Ignore, route::Route},
    serve::DEFAULT_ADDRESS,
};

/// Where spans go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Trees for people: on stdout, or on stderr beside a launched command.
    Console,
    /// To a collector.
    Otlp,
    /// OTLP as JSON, a request a line: to a file, or to stdout.
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

/// How spans are named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum SpanNames {
    /// `GET /users/{id}`: the method and the path with ids, numbers and hashes replaced.
    #[default]
    Template,
    /// `GET`: the method alone where no `--route` fits, which is the letter of the semantic conventions.
    Method,
}

/// What to log, by OpenTelemetry's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed.
    Error,
    /// And what may go wrong.
    Warn,
    /// And what happens.
    #[default]
    Info,
    /// And how.
    Debug,
    /// And all else.
    Trace,
}

impl LogLevel {
    /// The levels, for people.
    pub const NAMES: &str = "off, error, warn, info, debug, trace";

    /// The name, also as a filter of `tracing-subscriber`.
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

/// A pattern that names programs by their executable's path, or by its last part if the pattern has no slash.
#[derive(Clone, Debug)]
pub struct ExeGlob {
    text: String,
    matcher: GlobMatcher,
}

impl ExeGlob {
    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern names the program with this executable, an absolute path.
    pub fn matches(&self, exe: &std::path::Path) -> bool {
        if self.text.contains('/') {
            return self.matcher.is_match(exe);
        }
        exe.file_name().is_some_and(|name| self.matcher.is_match(name))
    }
}

impl PartialEq for ExeGlob {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl FromStr for ExeGlob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the pattern is empty; for example nginx or /usr/bin/python3*".to_owned());
        }
        if text.contains('/') && !text.starts_with(['/', '*']) {
            return Err(format!(
                "a pattern with a slash is compared with whole paths, so begin it with / or **/, as **/{text}"
            ));
        }
        let glob = GlobBuilder::new(text).literal_separator(true).build();
        let matcher = glob.map_err(|error| {
            let hint = "write [*] for a literal star, [[] for a bracket";
            format!("{}; {hint}", error.kind())
        })?;
        Ok(Self {
            text: text.to_owned(),
            matcher: matcher.compile_matcher(),
        })
    }
}

/// A pattern that names control groups by their path below the root of the hierarchy; those below them count, too.
#[derive(Clone, Debug)]
pub struct CgroupGlob {
    text: String,
    matcher: GlobMatcher,
}

impl CgroupGlob {
    /// The pattern as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the pattern names the group with this path, or one above it.
    pub fn matches(&self, path: &str) -> bool {
        let groups = std::path::Path::new(path).ancestors();
        groups
            .take_while(|group| group.parent().is_some())
            .any(|group| self.matcher.is_match(group))
    }
}

impl PartialEq for CgroupGlob {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl FromStr for CgroupGlob {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let example =
            "as /system.slice/nginx.service or '/kubepods.slice/**'; /proc/PID/cgroup shows that of a process";
        let path = text.strip_prefix("/sys/fs/cgroup").unwrap_or(text);
        let path = path.strip_suffix('/').unwrap_or(path);
        if !path.starts_with(['/', '*']) {
            return Err(format!(
                "a control group is named by its path below /sys/fs/cgroup, {example}"
            ));
        }
        let glob = GlobBuilder::new(path).literal_separator(true).build();
        let matcher = glob.map_err(|error| format!("{}; {example}", error.kind()))?;
        Ok(Self {
            text: text.to_owned(),
            matcher: matcher.compile_matcher(),
        })
    }
}

/// Fewest digits of a container's id.
pub const CONTAINER_ID_DIGITS: usize = 4;

/// A container's name, or the beginning of its id.
pub(super) fn container(text: &str) -> Result<String, String> {
    // What the runtimes allow in names (and `/` of none).
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if text.is_empty() || !text.chars().all(fits) {
        return Err(format!(
            "give a container's name, or at least {CONTAINER_ID_DIGITS} digits of its id, as `docker ps` or `crictl ps` shows them"
        ));
    }
    Ok(text.to_owned())
}

/// `--control`
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ControlSocket(pub Option<PathBuf>);

impl Default for ControlSocket {
    fn default() -> Self {
        Self(Some(PathBuf::from(control::DEFAULT_PATH)))
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

/// `--metrics-listen`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listen(pub Option<SocketAddr>);

impl Default for Listen {
    fn default() -> Self {
        Self(Some(DEFAULT_ADDRESS))
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

/// A process id.
pub(super) fn pid(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(pid) if (1..=PID_LIMIT).contains(&pid) => Ok(pid),
        _ => Err(format!(
            "a process id is a number from 1 to {PID_LIMIT}; `pgrep NAME` finds them"
        )),
    }
}

/// A header's name, in lower case.
pub(super) fn header(text: &str) -> Result<String, String> {
    // RFC 9110, section 5.6.2: token.
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if text.is_empty() || !text.bytes().all(is_token) {
        return Err("a header name has letters, digits and -, without a colon or blanks, as x-request-id".to_owned());
    }
    Ok(text.to_ascii_lowercase())
}

/// A rule of requests that are not traced.
pub(super) fn ignore(text: &str) -> Result<String, String> {
    text.parse::<Ignore>().map(|_| text.to_owned())
}

/// A path template.
pub(super) fn route(text: &str) -> Result<String, String> {
    let example = "as /users/{id}/orders";
    let Some(path) = text.strip_prefix('/') else {
        return Err(format!("a route begins with a slash and has no method, {example}"));
    };
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '?' || c == '#') {
        return Err(format!(
            "a route is a path without query, fragment or blanks, {example}"
        ));
    }
    for segment in path.split('/') {
        let name = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        if name.unwrap_or(segment).contains(['{', '}']) || name == Some("") {
            return Err(format!(
                "`{segment}`: a placeholder has a name and is a whole segment, {example}"
            ));
        }
    }
    match text.parse::<Route>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Smallest ring buffer: seven of the largest records, and a multiple of every architecture's page size.
const RING_LEAST: u64 = 64 * 1024;
/// Largest ring buffer.
const RING_MOST: u64 = 1024 * 1024 * 1024;

/// The ring buffer's size.
pub(super) fn ring_bytes(text: &str) -> Result<u32, String> {
    let bytes = bytes(text)?;
    if !bytes.is_power_of_two() || !(RING_LEAST..=RING_MOST).contains(&bytes) {
        return Err("the kernel wants a power of two, here from 64KiB to 1GiB, as 8MiB or 16MiB".to_owned());
    }
    Ok(bytes as u32)
}

/// Most connections that the kernel's table can be made for.
const MOST_CONNECTIONS: u32 = 4_194_304;
/// Longest time that a span may wait, in seconds.
const HOLD_SECONDS_MOST: u64 = 3600;

/// How long a span may wait for its parent.
pub(super) fn hold_seconds(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(seconds) if seconds <= HOLD_SECONDS_MOST => Ok(seconds),
        _ => Err(format!(
            "give whole seconds from 0 to {HOLD_SECONDS_MOST}, without a unit, as 10"
        )),
    }
}

/// How many connections may be followed.
pub(super) fn max_connections(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(most) if (1..=MOST_CONNECTIONS).contains(&most) => Ok(most),
        _ => Err(format!("give a number from 1 to {MOST_CONNECTIONS}, as 65536")),
    }
}

/// A TCP port.
pub(super) fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("a port is a number from 1 to {}", u16::MAX)),
    }
}

/// A number of bytes.
pub(super) fn bytes(text: &str) -> Result<u64, String> {
    let size: ByteSize = text
        .parse()
        .map_err(|_| "give a number of bytes, with or without a unit, as 8388608, 8MiB or 64KiB".to_owned())?;
    Ok(size.as_u64())
}

/// Smallest queue for export: some hundred spans.
const QUEUE_LEAST: u64 = 64 * 1024;

/// The size of the queue for export.
pub(super) fn queue_bytes(text: &str) -> Result<usize, String> {
    let bytes = bytes(text)?;
    usize::try_from(bytes)
        .ok()
        .filter(|_| bytes >= QUEUE_LEAST)
        .ok_or_else(|| "give at least 64KiB, as 64MiB".to_owned())
}

/// How long a connection may be idle.
pub(super) fn idle_timeout(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= Duration::from_secs(1) => Ok(time),
        _ => Err("give a time of at least 1s with its unit, as 90s, 15m or 2h".to_owned()),
    }
}
