//! Which paths a rule for `http.route` matches.

pub use crate::config::Route;
use crate::config::RouteSegment as Segment;

impl Route {
    /// Returns whether the path is one of this route's. A slash at the end counts.
    pub fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else {
            return false;
        };
        let mut parts = path.split('/');
        for segment in self.segments() {
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
}
