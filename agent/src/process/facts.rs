//! What is known of a process, as Core and the exporters need it.

use std::sync::Arc;

use opentelemetry_semantic_conventions::attribute;
use serde::{Deserialize, Serialize};

use crate::engine::trace::Resource;

/// What kind of program a process runs, as far as it matters to causality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Runtime {
    /// Nothing special is known: the thread rule may be tried, behind its gate.
    Unknown,
    /// nginx: one loop a process, proved to send the call in the turn that read the request.
    Nginx,
    /// Go: goroutines move between threads, the thread says nothing.
    Go,
    /// Node.js, Deno, Bun: one loop for all requests.
    Node,
    /// CPython.
    Python,
    /// A Java virtual machine.
    Jvm,
    /// Ruby.
    Ruby,
    /// Puma, Ruby's server: its reactor may read a request's head, and one worker thread then works for that request
    /// alone until it has written the response.
    Puma,
    /// PHP.
    Php,
    /// Erlang: schedulers multiplex processes.
    Beam,
    /// .NET.
    Dotnet,
    /// A program whose binary holds an event loop that is known to multiplex (HAProxy, Envoy, a tokio program), or whose
    /// binary may not be read.
    Loop,
}

impl Runtime {
    /// Its name, for people; nothing of one of which nothing special is known.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "",
            Self::Nginx => "nginx",
            Self::Go => "Go",
            Self::Node => "Node.js",
            Self::Python => "Python",
            Self::Jvm => "JVM",
            Self::Ruby => "Ruby",
            Self::Puma => "Puma",
            Self::Php => "PHP",
            Self::Beam => "BEAM",
            Self::Dotnet => ".NET",
            Self::Loop => "event loop",
        }
    }
}

/// What was read of a process when it was first seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Process id in the initial namespace.
    pub tgid: u32,
    /// The program's kind.
    pub runtime: Runtime,
    /// What its spans say about it.
    pub resource: Arc<Resource>,
}

impl ProcessFacts {
    /// Whether it is in a container of which only the id is known.
    pub fn is_in_unnamed_container(&self) -> bool {
        let has = |key| self.resource.attributes.iter().any(|attribute| attribute.key == key);
        has(attribute::CONTAINER_ID) && !has(attribute::CONTAINER_NAME)
    }
}
