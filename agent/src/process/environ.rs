//! Environments of processes, and their declarations about the service.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Environment of a process, as it was given at exec.
#[derive(Debug, Default)]
pub(super) struct Environ {
    /// Only what has the shape `KEY=VALUE`.
    variables: Vec<(String, String)>,
    /// A process title was written over its beginning (nginx, PostgreSQL, setproctitle), or all of it.
    pub(super) is_overwritten: bool,
}

impl Environ {
    /// Parses `/proc/PID/environ`. Variables behind an overwritten beginning are intact; a cut variable is noticed only
    /// at its own end.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut variables = Vec::new();
        let mut is_overwritten = bytes.first() == Some(&0);
        for (index, entry) in bytes.split(|&byte| byte == 0).enumerate() {
            match variable(entry) {
                Some(variable) => variables.push(variable),
                None => is_overwritten |= index == 0 && !entry.is_empty(),
            }
        }
        Self {
            variables,
            is_overwritten,
        }
    }

    pub(super) fn value(&self, key: &str) -> Option<&str> {
        let (_, value) = self.variables.iter().find(|(name, _)| name == key)?;
        (!value.is_empty()).then_some(value)
    }

    /// Returns `service.name` by OTEL_SERVICE_NAME, else by OTEL_RESOURCE_ATTRIBUTES.
    pub(super) fn service_name(&self) -> Option<String> {
        let named = self
            .value("OTEL_SERVICE_NAME")
            .map(str::trim)
            .filter(|name| !name.is_empty());
        named.map(str::to_owned).or_else(|| {
            let mut attributes = self.resource_attributes().into_iter();
            attributes.find_map(|(key, value)| (key == "service.name" && !value.is_empty()).then_some(value))
        })
    }

    /// Parses OTEL_RESOURCE_ATTRIBUTES (OpenTelemetry specification, "Specifying resource information via an
    /// environment variable"): `key=value,key=value`, percent-encoded. Entries that cannot be decoded are left out, the
    /// rest counts.
    pub(super) fn resource_attributes(&self) -> Vec<(String, String)> {
        let list = self.value("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        let decoded = |text: &str| percent_decode_str(text.trim()).decode_utf8().ok().map(Cow::into_owned);
        list.split(',')
            .filter_map(|pair| {
                let (key, value) = pair.split_once('=')?;
                let key = decoded(key).filter(|key| !key.is_empty())?;
                Some((key, decoded(value)?))
            })
            .collect()
    }
}

fn variable(entry: &[u8]) -> Option<(String, String)> {
    let (key, value) = std::str::from_utf8(entry).ok()?.split_once('=')?;
    let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
    is_key.then(|| (key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(list: &str) -> Vec<(String, String)> {
        Environ::parse(format!("OTEL_RESOURCE_ATTRIBUTES={list}\0").as_bytes()).resource_attributes()
    }

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    #[test]
    fn attributes_are_decoded() {
        assert_eq!(
            attributes("a=1, b = two%20words ,bad,=x,c=a%2Cb%3Dc=d,broken=%FF,empty="),
            [
                pair("a", "1"),
                pair("b", "two words"),
                pair("c", "a,b=c=d"),
                pair("empty", "")
            ]
        );
    }

    #[test]
    fn the_variable_of_its_own_goes_first() {
        let both = b"OTEL_RESOURCE_ATTRIBUTES=service.name=low\0OTEL_SERVICE_NAME=high\0";
        assert_eq!(Environ::parse(both).service_name().as_deref(), Some("high"));
        let empty = b"OTEL_SERVICE_NAME=\0OTEL_RESOURCE_ATTRIBUTES=x=y,service.name=low\0";
        assert_eq!(Environ::parse(empty).service_name().as_deref(), Some("low"));
        assert_eq!(Environ::parse(b"A=b\0").service_name(), None);
    }

    #[test]
    fn an_overwritten_environment_is_seen() {
        assert!(!Environ::parse(b"").is_overwritten);
        assert!(!Environ::parse(b"A=b\0C=\0").is_overwritten);
        assert!(Environ::parse(b"\0\0\0\0").is_overwritten);
        assert!(Environ::parse(b"ker process\0\0\0").is_overwritten);
        let rest = Environ::parse(b"ker [app]\0TH=/bin\0OTEL_SERVICE_NAME=kept\0");
        assert!(rest.is_overwritten);
        assert_eq!(rest.service_name().as_deref(), Some("kept"));
        assert_eq!(
            Environ::parse(b"worker process OTEL_SERVICE_NAME=x\0").service_name(),
            None
        );
    }
}
