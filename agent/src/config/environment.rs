//! OpenTelemetry's variables of the environment that stand beside the command line.

use std::ffi::OsString;

use clap::{CommandFactory, error::ErrorKind};

use super::{
    args::Cli,
    values::{KnownMethods, LogLevel, Sampler, SecretNames},
};

/// The list that replaces the default one, as other instrumentations of OpenTelemetry read it.
const SENSITIVE_PARAMETERS: &str = "OTEL_INSTRUMENTATION_SANITIZATION_URL_EXPERIMENTAL_SENSITIVE_QUERY_PARAMETERS";

/// The list of request methods that are known, as other instrumentations of OpenTelemetry read it.
const KNOWN_METHODS: &str = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS";

/// The environment. A variable that is empty counts as not set, as OpenTelemetry asks.
pub(super) struct Environment<F>(pub F);

/// Settings about spans.
#[derive(Debug)]
pub(super) struct SpanSettings {
    pub sampler: Sampler,
    pub secrets: SecretNames,
    pub known_methods: Option<KnownMethods>,
}

impl<F: Fn(&str) -> Option<OsString>> Environment<F> {
    /// Returns a variable's value. Bytes that are not UTF-8 become U+FFFD, which is in no valid value.
    fn text(&self, name: &str) -> Option<String> {
        let value = (self.0)(name).filter(|value| !value.is_empty())?;
        Some(value.to_string_lossy().into_owned())
    }

    /// Returns whether a collector is named.
    pub fn names_collector(&self) -> bool {
        let endpoints = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
        endpoints.into_iter().any(|name| self.text(name).is_some())
    }

    /// Returns the level of `OTEL_LOG_LEVEL`. OpenTelemetry asks for a warning if the value has no meaning, and for the
    /// default.
    pub fn log_level(&self, warnings: &mut Vec<String>) -> LogLevel {
        let Some(value) = self.text("OTEL_LOG_LEVEL") else {
            return LogLevel::default();
        };
        value.parse().unwrap_or_else(|_| {
            warnings.push(format!(
                "OTEL_LOG_LEVEL={value} is not a log level and is ignored; set one of {}",
                LogLevel::NAMES
            ));
            LogLevel::default()
        })
    }

    /// Returns the settings about spans.
    ///
    /// # Errors If the sampler is not one of Spoor's, or its argument cannot be used.
    pub fn spans(&self, warnings: &mut Vec<String>) -> Result<SpanSettings, clap::Error> {
        let secrets = self.text(SENSITIVE_PARAMETERS).map(|list| SecretNames::only(&list));
        let known_methods = self.text(KNOWN_METHODS).map(|list| {
            let Ok(methods) = list.parse();
            methods
        });
        Ok(SpanSettings {
            sampler: self.sampler(warnings)?,
            secrets: secrets.unwrap_or_default(),
            known_methods,
        })
    }

    /// Returns the sampler of `OTEL_TRACES_SAMPLER` with `OTEL_TRACES_SAMPLER_ARG`.
    ///
    /// A value that cannot be used is an error. To ignore it, as OpenTelemetry asks SDKs to, would send all traces
    /// where the user asked for a hundredth of them.
    fn sampler(&self, warnings: &mut Vec<String>) -> Result<Sampler, clap::Error> {
        let name = self.text("OTEL_TRACES_SAMPLER");
        let ratio = self.text("OTEL_TRACES_SAMPLER_ARG");
        let (sampler, takes_ratio) = match &name {
            Some(name) => Sampler::new(name, ratio.as_deref())
                .map_err(|error| Cli::command().error(ErrorKind::InvalidValue, error))?,
            None => (Sampler::default(), false),
        };
        if let Some(ratio) = ratio.filter(|_| !takes_ratio) {
            let sampler = name.as_deref().unwrap_or("parentbased_always_on");
            warnings.push(format!(
                "OTEL_TRACES_SAMPLER_ARG={ratio} has no effect on the sampler {sampler}; \
                 OTEL_TRACES_SAMPLER=parentbased_traceidratio takes a ratio"
            ));
        }
        Ok(sampler)
    }
}
