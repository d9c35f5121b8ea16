//! What is known of a process, as Core and the exporters need it.

use std::sync::Arc;

use opentelemetry_semantic_conventions::attribute;
use serde::{Deserialize, Serialize};

use crate::{engine::trace::Resource, runtimes::Runtime};

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
