//! Facts of a process, as Core and the exporters need them.

use std::sync::Arc;

use opentelemetry_semantic_conventions::attribute;
use serde::{Deserialize, Serialize};

use crate::{engine::trace::Resource, runtimes::Runtime};

/// Facts of a process, read when it was first seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessFacts {
    /// Process id in the initial namespace.
    pub tgid: u32,
    /// Runtime of the program.
    pub runtime: Runtime,
    /// Resource of its spans.
    pub resource: Arc<Resource>,
}

impl ProcessFacts {
    /// Returns true if the process is in a container of which only the id is known.
    pub fn is_in_unnamed_container(&self) -> bool {
        let has = |key| self.resource.attributes.iter().any(|attribute| attribute.key == key);
        has(attribute::CONTAINER_ID) && !has(attribute::CONTAINER_NAME)
    }
}
