//! A real OpenTelemetry Collector (`services/collector`) with certificates of its own, and its output.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::Value;
use tempfile::TempDir;

use crate::{net, otlp, process::Process, services::directory};

/// Name of the program, which `cargo xtask setup` builds.
const PROGRAM: &str = "otel-collector";

/// A certificate authority with files for a collector and its callers.
pub struct Authority {
    directory: TempDir,
}

impl Authority {
    /// Creates an authority for collectors at these names and addresses.
    pub fn new(collectors: &[&str]) -> Result<Self> {
        let directory = directory("certificates")?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Spoor's tests");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        fs::write(directory.path().join("ca.pem"), issuer.pem())?;
        for (name, names) in [("collector", collectors), ("agent", &["agent"])] {
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            let key = KeyPair::generate()?;
            let certificate = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
            fs::write(directory.path().join(format!("{name}.pem")), certificate.pem())?;
            fs::write(directory.path().join(format!("{name}.key")), key.serialize_pem())?;
        }
        Ok(Self { directory })
    }

    /// Returns the path of `ca.pem`, or of certificate and key of `collector` and `agent`: `collector.pem`,
    /// `collector.key`.
    pub fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

/// A running Collector that accepts OTLP over TLS: by gRPC from holders of a certificate of the authority, by HTTP from
/// all.
pub struct Collector {
    /// Address of OTLP/gRPC.
    pub grpc: SocketAddr,
    /// Address of OTLP/HTTP.
    pub http: SocketAddr,
    directory: TempDir,
    process: Process,
}

impl Collector {
    /// Starts a Collector at these ports of an address, and waits until it accepts connections.
    pub fn start(address: IpAddr, (grpc, http): (u16, u16), authority: &Authority) -> Result<Self> {
        let [grpc, http] = [grpc, http].map(|port| SocketAddr::new(address, port));
        let directory = directory(PROGRAM)?;
        let config = directory.path().join("config.yaml");
        let tls = format!(
            "cert_file: {}, key_file: {}",
            authority.file("collector.pem"),
            authority.file("collector.key")
        );
        fs::write(
            &config,
            format!(
                "receivers:
  otlp:
    protocols:
      grpc: {{endpoint: \"{grpc}\", tls: {{{tls}, client_ca_file: {ca}}}}}
      http: {{endpoint: \"{http}\", tls: {{{tls}}}}}
exporters: {{lines: {{path: {output}}}}}
service:
  pipelines: {{traces: {{receivers: [otlp], exporters: [lines]}}}}
",
                ca = authority.file("ca.pem"),
                output = written(directory.path()).display(),
            ),
        )?;
        let mut command = Command::new(program());
        command.arg("--config").arg(config);
        let log = directory.path().join("output.log");
        let mut process = Process::start(PROGRAM, command, &log)?;
        for address in [grpc, http] {
            net::wait_accepting(address, &mut process).with_context(|| {
                let said = fs::read_to_string(&log).unwrap_or_default();
                format!("the Collector did not start (`cargo xtask setup` builds it); it said:\n{said}")
            })?;
        }
        Ok(Self {
            grpc,
            http,
            directory,
            process,
        })
    }

    /// Kills the Collector; returns its output file, which exists as long as the directory.
    pub fn kill(self) -> (TempDir, PathBuf) {
        let Self { directory, process, .. } = self;
        drop(process);
        let file = written(directory.path());
        (directory, file)
    }

    /// Returns the number of spans that it has written.
    pub fn spans(&self) -> Result<usize> {
        Ok(otlp::read(&written(self.directory.path()))?.len())
    }

    /// Takes the output that it has written.
    pub fn take_written(&self) -> Result<String> {
        let file = written(self.directory.path());
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        // The Collector appends to the file.
        fs::File::options().write(true).open(&file)?.set_len(0)?;
        Ok(text)
    }
}

/// Returns each span of OTLP JSON lines with its resource and scope, normalised and sorted.
pub fn plain_spans(lines: &str) -> Result<Vec<Value>> {
    let mut spans = Vec::new();
    for line in lines.lines() {
        let request: Value = serde_json::from_str(line).with_context(|| format!("no JSON: {line}"))?;
        for group in each(&request, "resourceSpans")? {
            for scope in each(group, "scopeSpans")? {
                for span in each(scope, "spans")? {
                    spans.push(plain(&serde_json::json!({
                        "resource": group["resource"],
                        "resourceSchema": group["schemaUrl"],
                        "scope": scope["scope"],
                        "scopeSchema": scope["schemaUrl"],
                        "span": span,
                    })));
                }
            }
        }
    }
    spans.sort_by_key(|span| span["span"]["spanId"].to_string());
    Ok(spans)
}

fn each<'a>(value: &'a Value, name: &str) -> Result<&'a [Value]> {
    match &value[name] {
        Value::Array(values) => Ok(values),
        other => bail!("{name} is no list but {other}"),
    }
}

/// Normalises a value: drops fields at their defaults, which protobuf's JSON may leave out, and turns numbers into
/// texts.
fn plain(value: &Value) -> Value {
    let is_default = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty() || text == "0",
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Number(_) => false,
    };
    match value {
        Value::Number(number) => number.to_string().into(),
        Value::Array(values) => values.iter().map(plain).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), plain(value)))
            .filter(|(_, value)| !is_default(value))
            .collect(),
        other => other.clone(),
    }
}

fn written(directory: &Path) -> PathBuf {
    directory.join("spans.json")
}

/// Returns the place where `cargo xtask setup` puts the program, also for tests that are run by hand.
fn program() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../.cache/tools/bin")
        .join(PROGRAM);
    if built.exists() { built } else { PROGRAM.into() }
}
