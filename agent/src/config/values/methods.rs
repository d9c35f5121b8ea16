//! The request methods that are known.

use std::{convert::Infallible, fmt, str::FromStr};

use super::serde_as_text;

/// `OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS`: a comma-separated list of request methods, in place of the conventions' own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownMethods {
    list: Box<str>,
    methods: Vec<String>,
}

impl KnownMethods {
    /// Returns the methods; `None` if the list names none, which leaves the conventions' own in place.
    pub fn methods(&self) -> Option<&[String]> {
        (!self.methods.is_empty()).then_some(&self.methods)
    }
}

impl FromStr for KnownMethods {
    type Err = Infallible;

    fn from_str(list: &str) -> Result<Self, Infallible> {
        Ok(Self {
            list: list.into(),
            methods: super::comma_separated(list).map(str::to_owned).collect(),
        })
    }
}

impl fmt::Display for KnownMethods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.list)
    }
}

serde_as_text!(KnownMethods);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_methods_or_leaves_the_conventions_own() {
        let known = |list: &str| {
            let Ok(known) = list.parse::<KnownMethods>();
            assert_eq!(known.to_string(), list);
            known.methods().map(<[String]>::to_vec)
        };
        assert_eq!(
            known("GET, PROPFIND,"),
            Some(vec!["GET".to_owned(), "PROPFIND".to_owned()])
        );
        assert_eq!(known(" "), None);
        assert_eq!(known(" ,"), None);
    }
}
