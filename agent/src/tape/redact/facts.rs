//! What a tape says of processes and of the settings.

use std::{borrow::Cow, sync::Arc};

use super::standin::{Key, Shape};
use crate::{
    config::Route,
    engine::trace::{Attribute, Resource, Value},
    process::ProcessFacts,
};

/// Attributes that stay: names of programs and services, numbers, and what everybody has.
const KEPT: [&str; 12] = [
    "service.name",
    "process.pid",
    "process.parent_pid",
    "process.executable.name",
    "process.runtime.name",
    "process.runtime.version",
    "telemetry.sdk.name",
    "telemetry.sdk.version",
    "telemetry.sdk.language",
    "os.type",
    "host.arch",
    "container.runtime.name",
];
/// Attributes whose names the agent gives; others come from the process's own environment.
const AGENTS: [&str; 14] = [
    "service.instance.id",
    "service.namespace",
    "service.version",
    "process.command",
    "process.executable.path",
    "process.owner",
    "host.name",
    "host.id",
    "container.id",
    "container.name",
    "container.image.name",
    "k8s.pod.uid",
    "k8s.pod.name",
    "k8s.namespace.name",
];
/// What is kept of an environment.
const SERVICE_NAME: &[u8] = b"OTEL_SERVICE_NAME=";
/// What arguments and environments are filled with.
const FILL: u8 = b'x';

/// A process, of which name and runtime stay.
pub fn process(facts: &ProcessFacts, key: &Key) -> ProcessFacts {
    let text = |text: &str| standin(text, key);
    let attribute = |attribute: &Attribute| {
        if KEPT.contains(&&*attribute.key) {
            return attribute.clone();
        }
        let name = if AGENTS.contains(&&*attribute.key) {
            attribute.key.clone()
        } else {
            Cow::Owned(text(&attribute.key))
        };
        let value = match &attribute.value {
            Value::Str(value) => Value::Str(Cow::Owned(text(value))),
            Value::Strs(values) => Value::Strs(values.iter().map(|value| text(value)).collect()),
            Value::Int(_) => Value::Int(0),
            Value::Bool(_) => Value::Bool(false),
        };
        Attribute { key: name, value }
    };
    ProcessFacts {
        tgid: facts.tgid,
        runtime: facts.runtime,
        resource: Arc::new(Resource {
            service_name: facts.resource.service_name.clone(),
            attributes: facts.resource.attributes.iter().map(attribute).collect(),
        }),
    }
}

/// Letters and digits become others; UTF-8 stays UTF-8.
fn standin(text: &str, key: &Key) -> String {
    String::from_utf8_lossy(&key.whole(text.as_bytes(), Shape::Path)).into_owned()
}

/// Returns a route that matches the stand-ins of the paths that `route` matches.
pub fn route(route: &Route, key: &Key) -> Route {
    route.map_literals(|literal| super::head::path_segment(literal, key))
}

/// The address of a Unix socket: a path, or NUL and a name.
pub fn unix_address(path: &[u8], key: &Key) -> Vec<u8> {
    let is_separator = |byte: &u8| matches!(byte, 0 | b'/');
    path.chunk_by(|one, other| is_separator(one) == is_separator(other))
        .flat_map(|part| match part.first() {
            Some(first) if is_separator(first) => part.to_vec(),
            _ => key.whole(part, Shape::Path),
        })
        .collect()
}

/// Command line and environment of an exec: the program's base name and the service's name stay.
pub fn strings(strings: &[u8], cmdline_bytes: usize) -> Vec<u8> {
    let (cmdline, environ) = strings.split_at(cmdline_bytes.min(strings.len()));
    let mut out: Vec<u8> = strings.iter().map(|&byte| if byte == 0 { 0 } else { FILL }).collect();
    let program = cmdline.split(|&byte| byte == 0).next().unwrap_or_default();
    let base = program
        .iter()
        .rposition(|&byte| byte == b'/')
        .map_or(0, |slash| slash + 1);
    // A title (`nginx: worker process`) or a command with a space in its name is no base name.
    if !program.contains(&b' ') {
        copy(&mut out, strings, base..program.len());
    }
    let mut at = cmdline.len();
    for variable in environ.split(|&byte| byte == 0) {
        if variable.starts_with(SERVICE_NAME) {
            copy(&mut out, strings, at..at + variable.len());
        }
        at += variable.len() + 1;
    }
    out
}

fn copy(to: &mut [u8], from: &[u8], range: std::ops::Range<usize>) {
    if let (Some(to), Some(from)) = (to.get_mut(range.clone()), from.get(range)) {
        to.copy_from_slice(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_exec_the_programs_name_and_the_services_stay() {
        let text = b"/opt/secret/bin/shop\0--password=hunter2\0HOME=/home/ann\0OTEL_SERVICE_NAME=shop\0A=b\0";
        let cmdline = text.iter().position(|&byte| byte == b'H').unwrap();
        let expected = b"xxxxxxxxxxxxxxxxshop\0xxxxxxxxxxxxxxxxxx\0xxxxxxxxxxxxxx\0OTEL_SERVICE_NAME=shop\0xxx\0";
        assert_eq!(
            String::from_utf8_lossy(&strings(text, cmdline)),
            String::from_utf8_lossy(expected)
        );
        assert_eq!(strings(b"nginx: worker /x\0", 17), b"xxxxxxxxxxxxxxxx\0");
    }

    #[test]
    fn a_route_still_fits() {
        let key = Key::default();
        let routed = route(&"/users/{id}/orders/*".parse().unwrap(), &key).to_string();
        let path = super::super::head::path_segment("users", &key);
        assert!(
            routed.starts_with(&format!("/{path}/{{id}}/")) && routed.ends_with("/*"),
            "{routed}"
        );
        assert!(!routed.contains("users"));
    }

    #[test]
    fn a_stand_in_of_a_route_is_a_route() {
        for _ in 0..1000 {
            let routed = route(&"/日本/한/:/{id}/:name/{*rest}".parse().unwrap(), &Key::default());
            assert_eq!(routed.to_string().parse(), Ok(routed));
        }
    }
}
