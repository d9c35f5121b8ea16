//! Span names of low cardinality: `{method} {template}`, where what varies in a path became a placeholder.
//!
//! The conventions put a route into the name, which only the service knows. Their fallback, the method alone, makes all
//! operations of a service look alike. So the target in the name is made from the path, by the form of its segments:
//!
//! | placeholder | stands for | example |
//! |---|---|---|
//! | `{id}` | a number, also with the punctuation of numbers, addresses and lists; three digits or more inside a word | `42`, `1,2,3`, `10.0.0.1`, `order-1234` → `order-{id}` |
//! | `{uuid}` | a UUID | `550e8400-e29b-41d4-a716-446655440000` |
//! | `{hash}` | 8 or more hexadecimal digits with a decimal one among them, or 16 or more of any | `9fceb02`… |
//! | `{date}` | a date, with or without a time | `2026-11-21`, `2026-11-21T10:00:00Z` |
//! | `{email}` | an e-mail address | `ann@example.com` |
//! | `{token}` | letters and digits mixed as nobody writes them, JSON Web Tokens, words of more than 40 letters | `dQw4w9WgXcQ` |
//! | `{slug}` | six or more words in one segment | `how-to-brew-tea-at-home` |
//! | `{text}` | text that had to be percent-encoded, or is not ASCII | `caf%C3%A9` |

use std::{collections::HashSet, hash::BuildHasher};

use foldhash::fast::FixedState;
use memchr::arch::all::is_equal;
use smol_str::SmolStrBuilder;

use super::{Text, recent::Texts};

/// Upper bound on the templates of a service: its other paths are named by the method alone.
const MAX_TEMPLATES: usize = 200;

/// Upper bound on the templates when a path is not found (status 404): scanners try thousands of paths.
const MAX_TEMPLATES_NOT_FOUND: usize = MAX_TEMPLATES / 2;

/// Upper bound on a template in bytes: longer ones are keys or texts, not operations.
const MAX_TEMPLATE_BYTES: usize = 160;

/// Number of paths whose templates are remembered. Making a template costs as much as parsing a head, and most services
/// serve few paths again and again.
const REMEMBERED: usize = 16;

/// Upper bound on a path that is remembered, in bytes.
const REMEMBERED_BYTES: usize = 128;

/// Names of the spans of one process so far. Holds at most 200 templates of 160 bytes.
#[derive(Debug, Default)]
pub struct SpanNames {
    templates: HashSet<Box<str>>,
    /// Paths that were named lately, each at the place that its hash names. Empty until the first path comes.
    remembered: Vec<Remembered>,
    /// Buffer in which templates are made, so that looking for one costs no allocation.
    scratch: String,
    overflowed: u64,
    /// Other texts of the last span.
    pub(super) texts: Texts,
}

/// A path, its template, and the last name that was made of it.
#[derive(Debug, Default)]
struct Remembered {
    path: Box<str>,
    template: Box<str>,
    method: Text,
    name: Text,
}

impl SpanNames {
    /// Returns the number of spans that were named by the method alone: there were too many templates, or theirs was too
    /// long.
    pub fn overflowed(&self) -> u64 {
        self.overflowed
    }

    /// Returns `{method} {template}`, or `{method}` if there is no room for one more template.
    pub(super) fn name(&mut self, method: Text, path: &str, not_found: bool) -> Text {
        if path.is_empty() {
            return method;
        }
        let place = FixedState::default().hash_one(path) as usize % REMEMBERED;
        if let Some(known) = self.remembered.get_mut(place)
            && is_equal(known.path.as_bytes(), path.as_bytes())
        {
            if known.method != method {
                known.name = named(&method, &known.template);
                known.method = method;
            }
            return known.name.clone();
        }
        self.scratch.clear();
        if !push_template(path, &mut self.scratch) {
            self.scratch = String::new();
            self.overflowed += 1;
            return method;
        }
        let template = self.scratch.as_str();
        if !self.templates.contains(template) {
            let room = if not_found {
                MAX_TEMPLATES_NOT_FOUND
            } else {
                MAX_TEMPLATES
            };
            if self.templates.len() >= room {
                self.overflowed += 1;
                return method;
            }
            self.templates.insert(template.into());
        }
        let name = named(&method, template);
        if path.len() <= REMEMBERED_BYTES {
            self.remembered.resize_with(REMEMBERED, Remembered::default);
            if let Some(place) = self.remembered.get_mut(place) {
                *place = Remembered {
                    path: path.into(),
                    template: template.into(),
                    method,
                    name: name.clone(),
                };
            }
        }
        name
    }
}

/// Returns `{method} {target}`.
pub(super) fn named(method: &str, target: &str) -> Text {
    let mut name = SmolStrBuilder::with_capacity(method.len() + 1 + target.len());
    name.push_str(method);
    name.push_str(" ");
    name.push_str(target);
    name.finish()
}

/// Appends the path's template. Returns false if it is too long.
fn push_template(path: &str, template: &mut String) -> bool {
    for (index, segment) in path.split('/').enumerate() {
        if index > 0 {
            template.push('/');
        }
        // Parameters follow a semicolon, session ids above all: they vary.
        let parameters = segment.bytes().position(|byte| byte == b';');
        let segment = parameters.and_then(|at| segment.get(..at)).unwrap_or(segment);
        push_segment(segment, template);
        if template.len() > MAX_TEMPLATE_BYTES {
            return false;
        }
    }
    true
}

fn push_segment(segment: &str, template: &mut String) {
    // Most segments are short words or numbers.
    let is_word = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    if segment.len() < 16 && segment.bytes().all(is_word) {
        template.push_str(segment);
    } else if segment.bytes().all(|byte| byte.is_ascii_digit()) {
        template.push_str("{id}");
    } else if let Some(placeholder) = whole(segment) {
        template.push_str(placeholder);
    } else if is_version(segment) {
        template.push_str(segment);
    } else {
        push_parts(segment, template);
    }
}

/// Returns the placeholder of a segment that varies as a whole.
fn whole(segment: &str) -> Option<&'static str> {
    let mut digits = 0;
    let mut lower = 0;
    let mut upper = 0;
    let mut others = 0;
    for byte in segment.bytes() {
        match byte {
            b'0'..=b'9' => digits += 1,
            b'a'..=b'z' => lower += 1,
            b'A'..=b'Z' => upper += 1,
            b'-' | b'_' | b'.' | b',' | b':' | b'+' => {}
            b'%' | 0x80.. => return Some(if is_email(segment) { "{email}" } else { "{text}" }),
            _ => others += 1,
        }
    }
    let letters = lower + upper;
    // A JSON Web Token begins with `{"` in Base64. Other Base64 of that length has small and capital letters and digits.
    let is_token = || {
        segment.len() > 20 && segment.starts_with("eyJ")
            || segment.len() >= 20 && digits > 0 && lower > 0 && upper > 0 && others == 0 && !segment.contains('.')
    };
    if is_email(segment) {
        Some("{email}")
    } else if is_uuid(segment) {
        Some("{uuid}")
    } else if is_date(segment) {
        Some("{date}")
    } else if digits > 0 && letters == 0 && others == 0 {
        Some("{id}")
    } else if is_token() {
        Some("{token}")
    } else if words(segment) >= 6 {
        Some("{slug}")
    } else {
        None
    }
}

/// Appends a segment with placeholders for the words that vary.
fn push_parts(segment: &str, template: &mut String) {
    let mut rest = segment;
    while !rest.is_empty() {
        if let Some((uuid, behind)) = rest.split_at_checked(36)
            && is_uuid(uuid)
            && !behind.starts_with(|next: char| next.is_ascii_alphanumeric())
        {
            template.push_str("{uuid}");
            rest = behind;
            continue;
        }
        let end = rest
            .find(|byte: char| !byte.is_ascii_alphanumeric())
            .unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        push_word(word, template);
        let separators = behind
            .find(|byte: char| byte.is_ascii_alphanumeric())
            .unwrap_or(behind.len());
        let (separators, behind) = behind.split_at(separators);
        template.push_str(separators);
        rest = behind;
    }
}

/// Appends a run of letters and digits, or its placeholder.
fn push_word(word: &str, template: &mut String) {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let is_hex = word.bytes().all(|byte| byte.is_ascii_hexdigit());
    if digits == word.len() && digits > 0 {
        template.push_str("{id}");
    } else if is_hex && (word.len() >= 16 || word.len() >= 8 && digits > 0) {
        template.push_str("{hash}");
    } else if word.len() > 40 || digits > 0 && (word.len() >= 16 || word.len() >= 8 && alternations(word) >= 3) {
        template.push_str("{token}");
    } else if digits >= 3 {
        push_numbers(word, template);
    } else {
        template.push_str(word);
    }
}

/// Appends a word with placeholders for runs of three digits or more: shorter ones are part of names (`oauth2`, `base64`).
fn push_numbers(word: &str, template: &mut String) {
    let mut rest = word;
    while !rest.is_empty() {
        let (letters, behind) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
        let (number, behind) = behind.split_at(behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len()));
        template.push_str(letters);
        template.push_str(if number.len() >= 3 { "{id}" } else { number });
        rest = behind;
    }
}

/// Counts the changes between letters and digits in a word.
fn alternations(word: &str) -> usize {
    let kinds = word.bytes().map(|byte| byte.is_ascii_digit());
    kinds
        .clone()
        .zip(kinds.skip(1))
        .filter(|(this, next)| this != next)
        .count()
}

/// Counts the parts of a segment that are words, not numbers or ids.
fn words(segment: &str) -> usize {
    let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphabetic());
    segment.split(['-', '_']).filter(is_word).count()
}

/// Returns whether a segment is the version of an interface: `v1`, `v1.2`, `v12`.
fn is_version(segment: &str) -> bool {
    segment.len() <= 8
        && segment.strip_prefix(['v', 'V']).is_some_and(|number| {
            number
                .split('.')
                .all(|part| (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit()))
        })
}

/// Returns whether a word is a UUID (RFC 9562, section 4).
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// Returns whether a word is `YYYY-MM-DD`, alone or followed by a time.
fn is_date(text: &str) -> bool {
    let Some((date, time)) = text.split_at_checked(10) else {
        return false;
    };
    let shaped = date.bytes().enumerate().all(|(index, byte)| match index {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    });
    let in_time = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'T' | b'Z' | b':' | b'.' | b'+' | b'-' | b'_');
    shaped && (time.is_empty() || time.starts_with(['T', '_', '+']) && time.bytes().all(in_time))
}

/// Returns whether a word is `name@host.tld`, the `@` percent-encoded or not.
fn is_email(text: &str) -> bool {
    text.split_once('@')
        .or_else(|| text.split_once("%40"))
        .is_some_and(|(name, host)| {
            !name.is_empty()
                && host.rsplit_once('.').is_some_and(|(domain, top)| {
                    !domain.is_empty() && top.len() >= 2 && top.bytes().all(|byte| byte.is_ascii_alphabetic())
                })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        for (path, expected) in [
            ("/", "/"),
            ("*", "*"),
            ("/users", "/users"),
            ("/users/", "/users/"),
            ("/users/42", "/users/{id}"),
            ("/users/42/orders/7", "/users/{id}/orders/{id}"),
            ("/users/-1", "/users/{id}"),
            ("/geo/52.52,13.405", "/geo/{id}"),
            ("/items/1,2,3", "/items/{id}"),
            ("/hosts/10.0.0.1", "/hosts/{id}"),
            ("/u/550e8400-e29b-41d4-a716-446655440000", "/u/{uuid}"),
            ("/u/550E8400-E29B-41D4-A716-446655440000/x", "/u/{uuid}/x"),
            ("/f/550e8400-e29b-41d4-a716-446655440000.json", "/f/{uuid}.json"),
            ("/f/img_550e8400-e29b-41d4-a716-446655440000", "/f/img_{uuid}"),
            ("/c/9fceb02d", "/c/{hash}"),
            ("/c/507f1f77bcf86cd799439011", "/c/{hash}"),
            ("/c/deadbeefdeadbeef", "/c/{hash}"),
            ("/decade/facade", "/decade/facade"),
            ("/assets/app.3f2a9c1b.js", "/assets/app.{hash}.js"),
            ("/d/2026-11-21", "/d/{date}"),
            ("/d/2026-11-21T10:00:00Z", "/d/{date}"),
            ("/d/2026/11/21", "/d/{id}/{id}/{id}"),
            ("/m/ann@example.com", "/m/{email}"),
            ("/m/ann%40example.com", "/m/{email}"),
            ("/@angular/core", "/@angular/core"),
            ("/react@18.2.0", "/react@{id}.{id}.{id}"),
            ("/watch/dQw4w9WgXcQ", "/watch/{token}"),
            ("/k/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/k/{token}"),
            ("/cus_9s6XKzkNRiz8i3", "/cus_{token}"),
            ("/t/eyJhbGciOiJIUzI1NiJ9.e30.abc", "/t/{token}"),
            ("/t/V1StGXR8_Z5jdHi6B-myT", "/t/{token}"),
            ("/blog/how-to-brew-tea-at-home", "/blog/{slug}"),
            ("/terms-and-conditions", "/terms-and-conditions"),
            ("/s/caf%C3%A9", "/s/{text}"),
            ("/s/café", "/s/{text}"),
            ("/order-1234", "/order-{id}"),
            ("/page_2.html", "/page_{id}.html"),
            ("/user123", "/user{id}"),
            ("/api/v1/things", "/api/v1/things"),
            ("/v1.2/x", "/v1.2/x"),
            ("/oauth2/s3/base64/i18n/k8s", "/oauth2/s3/base64/i18n/k8s"),
            ("/getUserNotificationPreferences", "/getUserNotificationPreferences"),
            ("/a;jsessionid=1A2B/b", "/a/b"),
            ("//a", "//a"),
        ] {
            let mut names = SpanNames::default();
            let name = names.name(Text::new_static("GET"), path, false);
            assert_eq!(name, format!("GET {expected}"), "{path}");
            assert_eq!(names.overflowed(), 0);
        }
    }

    #[test]
    fn the_method_alone_names_what_is_too_much() {
        let get = Text::new_static("GET");
        let word = |n: usize| String::from_iter([n / 676, n / 26 % 26, n % 26].map(|n| (b'a' + n as u8) as char));
        let mut names = SpanNames::default();
        for n in 0..MAX_TEMPLATES + 50 {
            let path = format!("/{}", word(n));
            let expected = if n < MAX_TEMPLATES {
                format!("GET {path}")
            } else {
                "GET".into()
            };
            assert_eq!(names.name(get.clone(), &path, false), expected);
        }
        assert_eq!(names.overflowed(), 50);
        assert_eq!(names.templates.len(), MAX_TEMPLATES);
        assert_eq!(
            names.name(Text::new_static("PUT"), "/aab", false),
            "PUT /aab",
            "known ones keep their names"
        );
        assert_eq!(names.name(get.clone(), "", false), "GET", "no path, no target");
        assert_eq!(names.overflowed(), 50);
        assert_eq!(
            names.name(get.clone(), &"/a".repeat(MAX_TEMPLATE_BYTES / 2 + 1), false),
            "GET"
        );
        assert_eq!(names.overflowed(), 51);
    }

    #[test]
    fn paths_that_do_not_exist_take_half_of_the_room() {
        let get = Text::new_static("GET");
        let mut names = SpanNames::default();
        for n in 0..500_u32 {
            let word: String = n
                .to_string()
                .bytes()
                .map(|digit| (digit - b'0' + b'a') as char)
                .collect();
            names.name(get.clone(), &format!("/{word}"), true);
        }
        assert_eq!(names.templates.len(), MAX_TEMPLATES_NOT_FOUND);
        assert_eq!(names.overflowed(), 400);
        assert_eq!(names.name(get.clone(), "/real", false), "GET /real");
        assert_eq!(names.name(get.clone(), "/real", true), "GET /real");
    }
}
