//! Values of options: text in, something valid out, or an error that says what would be right.
//!
//! The values are parsed here, once. What they mean for a request is decided in [`crate::engine::trace`].

mod header;
mod hooks;
mod ignore;
pub(super) mod limits;
mod methods;
mod output;
mod route;
mod sampler;
mod secrets;
pub(super) mod selection;

pub use header::HeaderName;
pub use hooks::Hooks;
pub use ignore::IgnoreRule;
pub(crate) use ignore::IgnoredRequests;
pub use methods::KnownMethods;
pub use output::{CONTROL_SOCKET, LogLevel, METRICS_ADDRESS, Output, SpanNames};
pub(super) use output::{ControlSocket, Listen};
pub(crate) use route::Segment as RouteSegment;
pub use route::{Route, RouteError};
pub use sampler::{Sampler, SamplerError};
pub use secrets::{SecretName, SecretNames};
pub use selection::{CONTAINER_ID_DIGITS, CgroupGlob, ExeGlob};

/// Stores a value as its text, on a tape for instance, and parses that text when it is read.
macro_rules! serde_as_text {
    ($value:ty) => {
        impl serde::Serialize for $value {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $value {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse()
                    .map_err(|error| serde::de::Error::custom(format_args!("{text:?}: {error}")))
            }
        }
    };
}
use serde_as_text;

/// Returns the entries of a list, without blanks around them.
fn comma_separated(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

/// Says what is wrong with a glob, and how its special characters are written.
fn with_glob_hint(error: &globset::Error) -> String {
    format!("{}; write [*] for a literal star, [[] for a bracket", error.kind())
}
