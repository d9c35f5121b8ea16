//! Rules for `http.route` that the user gives: only the user knows the routes of a service that nobody instrumented.

use std::{fmt, str::FromStr};

use thiserror::Error;

use super::serde_as_text;

/// A route template such as `/users/{id}/orders` or `/static/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    template: Box<str>,
    segments: Box<[Segment]>,
}

/// A part of a template between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Stands for this text.
    Literal(Box<str>),
    /// `{name}` or `:name`: stands for any text that is not empty.
    Parameter,
    /// `*` or `{*name}`, as the last segment: stands for the rest of the path, which may be empty.
    Rest,
}

/// A text that is no route template.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RouteError {
    /// The text does not begin with a slash.
    #[error("a route begins with a slash and has no method, as /users/{{id}}/orders")]
    NoSlash,
    /// The text has more than a path.
    #[error("a route is a path without query, fragment or blanks, as /users/{{id}}/orders")]
    NotOnlyAPath,
    /// A segment has braces that make no placeholder.
    #[error("`{0}`: a placeholder has a name and is a whole segment, as /users/{{id}}/orders")]
    Placeholder(Box<str>),
    /// A wildcard stands before the last segment.
    #[error("`*` stands for the rest of a path: only the last segment can be one, as /static/*")]
    RestNotLast,
}

impl Route {
    /// Returns the template as the user wrote it, the value of `http.route`.
    pub fn template(&self) -> &str {
        &self.template
    }

    /// Returns the parts of the template between its slashes.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns the route with another text in place of each literal segment.
    pub(crate) fn map_literals(&self, text: impl Fn(&str) -> String) -> Self {
        let mut template = String::with_capacity(self.template.len());
        let texts = self.template.split('/').skip(1);
        let segments = self.segments.iter().zip(texts).map(|(segment, written)| {
            template.push('/');
            match segment {
                Segment::Literal(literal) => {
                    let literal = text(literal).into_boxed_str();
                    template.push_str(&literal);
                    Segment::Literal(literal)
                }
                other => {
                    template.push_str(written);
                    other.clone()
                }
            }
        });
        let segments = segments.collect();
        Self {
            template: template.into(),
            segments,
        }
    }
}

impl FromStr for Route {
    type Err = RouteError;

    fn from_str(template: &str) -> Result<Self, RouteError> {
        let path = template.strip_prefix('/').ok_or(RouteError::NoSlash)?;
        let belongs_to_no_path = |c: char| c.is_ascii_whitespace() || c.is_control() || c == '?' || c == '#';
        if template.contains(belongs_to_no_path) {
            return Err(RouteError::NotOnlyAPath);
        }
        let segments: Box<[Segment]> = path.split('/').map(str::parse).collect::<Result<_, _>>()?;
        if segments.iter().rev().skip(1).any(|segment| *segment == Segment::Rest) {
            return Err(RouteError::RestNotLast);
        }
        Ok(Self {
            template: template.into(),
            segments,
        })
    }
}

impl FromStr for Segment {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        let name = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        if name == Some("") || name.unwrap_or(text).contains(['{', '}']) {
            return Err(RouteError::Placeholder(text.into()));
        }
        Ok(match name {
            Some(name) if name.starts_with('*') => Self::Rest,
            None if text == "*" => Self::Rest,
            Some(_) => Self::Parameter,
            None if text.len() > 1 && text.starts_with(':') => Self::Parameter,
            None => Self::Literal(text.into()),
        })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.template)
    }
}

serde_as_text!(Route);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_taken_apart() {
        let route: Route = "/users/{id}/:order/{*rest}".parse().unwrap();
        assert_eq!(
            route.segments(),
            [
                Segment::Literal("users".into()),
                Segment::Parameter,
                Segment::Parameter,
                Segment::Rest,
            ]
        );
        assert_eq!(route.to_string(), route.template());
        let other = route.map_literals(str::to_uppercase);
        assert_eq!(other, "/USERS/{id}/:order/{*rest}".parse().unwrap());
        for same in ["/", "/a/", "/:", "/a/*"] {
            let route: Route = same.parse().unwrap();
            assert_eq!(route.map_literals(str::to_owned), route);
        }
    }

    #[test]
    fn errors_say_what_would_be_right() {
        for (template, error) in [
            ("users", RouteError::NoSlash),
            ("GET /users", RouteError::NoSlash),
            ("/a?b", RouteError::NotOnlyAPath),
            ("/a b", RouteError::NotOnlyAPath),
            ("/v{n}/x", RouteError::Placeholder("v{n}".into())),
            ("/{}", RouteError::Placeholder("{}".into())),
            ("/{", RouteError::Placeholder("{".into())),
            ("/*/a", RouteError::RestNotLast),
            ("/{*all}/a", RouteError::RestNotLast),
        ] {
            assert_eq!(template.parse::<Route>(), Err(error), "{template}");
        }
        assert_eq!(
            RouteError::NoSlash.to_string(),
            "a route begins with a slash and has no method, as /users/{id}/orders"
        );
    }
}
