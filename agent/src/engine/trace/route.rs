//! Rules for `http.route` that the user gives: only the user knows the routes of a service that nobody instrumented.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::indexing_slicing))]

use std::str::FromStr;

use thiserror::Error;

/// A route template such as `/users/{id}/orders` or `/static/*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    template: Box<str>,
    segments: Box<[Segment]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// This text.
    Literal(Box<str>),
    /// `{name}` or `:name`: any text but none.
    Parameter,
    /// `*` or `{*name}`, the last one: all that follows, nothing too.
    Rest,
}

/// A rule that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RouteError {
    /// A path begins with a slash.
    #[error("route {0:?} does not begin with \"/\": write it as in \"/users/{{id}}\"")]
    NotAPath(String),
    /// A wildcard before the end.
    #[error("route {0:?} has a \"*\" before its end: only the last segment can stand for all that follows")]
    RestNotLast(String),
}

impl FromStr for Route {
    type Err = RouteError;

    fn from_str(template: &str) -> Result<Self, RouteError> {
        let path = template
            .strip_prefix('/')
            .ok_or_else(|| RouteError::NotAPath(template.into()))?;
        let segments: Box<[_]> = path.split('/').map(Segment::parse).collect();
        if segments.iter().rev().skip(1).any(|segment| *segment == Segment::Rest) {
            return Err(RouteError::RestNotLast(template.into()));
        }
        Ok(Self {
            template: template.into(),
            segments,
        })
    }
}

impl Route {
    /// The template as the user wrote it: the value of `http.route`.
    pub fn template(&self) -> &str {
        &self.template
    }

    /// True if the path is one of this route's. A slash at the end counts.
    pub fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else {
            return false;
        };
        let mut parts = path.split('/');
        for segment in &self.segments {
            match (segment, parts.next()) {
                (Segment::Rest, _) => return true,
                (Segment::Parameter, Some(part)) if !part.is_empty() => {}
                (Segment::Literal(text), Some(part)) if **text == *part => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }
}

impl Segment {
    fn parse(text: &str) -> Self {
        if text == "*" || text.starts_with("{*") && text.ends_with('}') {
            Self::Rest
        } else if text.starts_with('{') && text.ends_with('}') || text.len() > 1 && text.starts_with(':') {
            Self::Parameter
        } else {
            Self::Literal(text.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_match_whole_paths() {
        for (route, path, expected) in [
            ("/", "/", true),
            ("/", "/a", false),
            ("/users", "/users", true),
            ("/users", "/users/", false),
            ("/users", "/Users", false),
            ("/users/{id}", "/users/7", true),
            ("/users/:id", "/users/7", true),
            ("/users/{id}", "/users/", false),
            ("/users/{id}", "/users", false),
            ("/users/{id}", "/users/7/orders", false),
            ("/users/{id}/orders", "/users/7/orders", true),
            ("/static/*", "/static/css/a.css", true),
            ("/static/{*path}", "/static/", true),
            ("/static/*", "/static", true),
            ("/static/*", "/other/a", false),
            ("/users", "users", false),
            ("/users", "*", false),
        ] {
            let rule: Route = route.parse().unwrap();
            assert_eq!(rule.matches(path), expected, "{route} {path}");
            assert_eq!(rule.template(), route);
        }
    }

    #[test]
    fn bad_rules_are_refused() {
        assert_eq!("users".parse::<Route>(), Err(RouteError::NotAPath("users".into())));
        assert_eq!("/*/a".parse::<Route>(), Err(RouteError::RestNotLast("/*/a".into())));
        assert_eq!(
            RouteError::NotAPath("users".into()).to_string(),
            "route \"users\" does not begin with \"/\": write it as in \"/users/{id}\""
        );
    }
}
