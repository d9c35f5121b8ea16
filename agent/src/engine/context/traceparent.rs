//! W3C Trace Context: parsers of the headers `traceparent` and `tracestate` (<https://www.w3.org/TR/trace-context-2/>).

use std::{collections::HashSet, sync::Arc};

use thiserror::Error;

use super::{SpanId, TraceId};

/// Trace flag: the caller may have recorded its span.
pub const FLAG_SAMPLED: u8 = 0x01;

/// Flags that version 00 defines: sampled, and that the trace id is random.
const KNOWN_FLAGS: u8 = 0x03;

/// Length of a version 00 `traceparent`, and the least length of any other version's, in bytes.
const TRACEPARENT_BYTES: usize = 55;

/// Upper bound on a `tracestate` in bytes; longer ones are dropped (section 3.3.1.5: at least 512 characters are passed on).
const MAX_TRACESTATE_BYTES: usize = 512;

/// Upper bound on the members of a `tracestate` (section 3.3.1.1).
const MAX_TRACESTATE_MEMBERS: usize = 32;

/// Caller of a request, as `traceparent` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace_id: TraceId,
    /// The caller's span.
    pub parent_id: SpanId,
    /// Trace flags; of a version later than 00 only those that this version knows.
    pub flags: u8,
}

impl TraceContext {
    /// Returns whether the caller may have recorded its span.
    pub fn is_sampled(self) -> bool {
        self.flags & FLAG_SAMPLED != 0
    }
}

/// Reason to ignore a `traceparent`, and its `tracestate` with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum TraceparentError {
    /// The request has several: none of them can be believed.
    #[error("more than one traceparent header")]
    Several,
    /// The value is not `version-traceid-parentid-flags` in lower-case hexadecimal digits.
    #[error("traceparent is malformed")]
    Malformed,
    /// Version ff, which is forbidden.
    #[error("traceparent has the forbidden version ff")]
    ForbiddenVersion,
    /// A trace id of zeros.
    #[error("traceparent has a trace id of zeros")]
    ZeroTraceId,
    /// A parent id of zeros.
    #[error("traceparent has a parent id of zeros")]
    ZeroParentId,
}

/// Reason to drop a `tracestate`; the `traceparent` still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum TracestateError {
    /// A member that is not `key=value`, or a key twice.
    #[error("tracestate is malformed")]
    Malformed,
    /// More than 512 bytes.
    #[error("tracestate is longer than {MAX_TRACESTATE_BYTES} bytes")]
    TooLong,
    /// More than 32 members.
    #[error("tracestate has more than {MAX_TRACESTATE_MEMBERS} members")]
    TooManyMembers,
}

/// Reads the `traceparent` headers of a request; `None` if there is none.
///
/// # Errors
/// If there are several, or the one is not valid.
pub fn trace_context<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Result<Option<TraceContext>, TraceparentError> {
    match values.next() {
        None => Ok(None),
        Some(value) if values.next().is_none() => parse(value).map(Some),
        Some(_) => Err(TraceparentError::Several),
    }
}

/// Parses the value of a `traceparent` header.
pub fn parse(value: &[u8]) -> Result<TraceContext, TraceparentError> {
    use TraceparentError::{ForbiddenVersion, Malformed, ZeroParentId, ZeroTraceId};

    let value = value.trim_ascii();
    let (fields, rest) = value.split_at_checked(TRACEPARENT_BYTES).ok_or(Malformed)?;
    let mut fields = fields.split(|&byte| byte == b'-');
    let mut field = || fields.next().ok_or(Malformed);
    let [version] = hex(field()?).ok_or(Malformed)?;
    let trace_id = hex(field()?).ok_or(Malformed)?;
    let parent_id = hex(field()?).ok_or(Malformed)?;
    let [flags] = hex(field()?).ok_or(Malformed)?;
    let known_flags = match (version, rest.first()) {
        (0xff, _) => return Err(ForbiddenVersion),
        (0, None) => flags,
        // A later version may say more behind another dash.
        (1.., None | Some(b'-')) => flags & KNOWN_FLAGS,
        _ => return Err(Malformed),
    };
    Ok(TraceContext {
        trace_id: TraceId::new(trace_id).ok_or(ZeroTraceId)?,
        parent_id: SpanId::new(parent_id).ok_or(ZeroParentId)?,
        flags: known_flags,
    })
}

/// Joins the `tracestate` headers of a request into one value, without empty members; `None` if nothing is left.
///
/// # Errors
/// If the value is not valid, or too long to be passed on.
pub fn tracestate<'a>(values: impl Iterator<Item = &'a [u8]>) -> Result<Option<Arc<str>>, TracestateError> {
    let mut joined = String::new();
    let mut keys = HashSet::new();
    let members = values
        .flat_map(|value| value.split(|&byte| byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty());
    for member in members {
        let member = str::from_utf8(member).map_err(|_| TracestateError::Malformed)?;
        let (key, value) = member.split_once('=').ok_or(TracestateError::Malformed)?;
        if !is_key(key) || !is_value(value) || !keys.insert(key) {
            return Err(TracestateError::Malformed);
        }
        if keys.len() > MAX_TRACESTATE_MEMBERS {
            return Err(TracestateError::TooManyMembers);
        }
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(member);
        if joined.len() > MAX_TRACESTATE_BYTES {
            return Err(TracestateError::TooLong);
        }
    }
    Ok((!joined.is_empty()).then(|| joined.into()))
}

/// Decodes exactly `N` bytes from lower-case hexadecimal digits; `None`: these are other digits, or not so many.
pub fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    for (byte, &[high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = nibble(high)? << 4 | nibble(low)?;
    }
    Some(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// Returns whether a text is a `key` (section 3.3.1.3.1), with the tenant's `@` among the characters as in level 2.
fn is_key(key: &str) -> bool {
    key.len() <= 256
        && key.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && key
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@'))
}

/// Returns whether a text is a `value` (section 3.3.1.3.2): printable, neither `,` nor `=`.
fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len()) && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: [u8; 16] = [
        0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36,
    ];
    const PARENT: [u8; 8] = [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7];
    const IDS: &str = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";

    fn context(flags: u8) -> TraceContext {
        TraceContext {
            trace_id: TraceId::new(TRACE).unwrap(),
            parent_id: SpanId::new(PARENT).unwrap(),
            flags,
        }
    }

    #[test]
    fn traceparents() {
        use TraceparentError::*;
        for (input, expected) in [
            (format!("00-{IDS}-01"), Ok(context(1))),
            (format!(" 00-{IDS}-00\t"), Ok(context(0))),
            (format!("00-{IDS}-ff"), Ok(context(0xff))),
            (format!("01-{IDS}-ff"), Ok(context(3))),
            (format!("cc-{IDS}-01-what-ever"), Ok(context(1))),
            (format!("cc-{IDS}-01-"), Ok(context(1))),
            (format!("cc-{IDS}-01.what"), Err(Malformed)),
            (format!("00-{IDS}-01-more"), Err(Malformed)),
            (format!("00-{IDS}-01-"), Err(Malformed)),
            (format!("ff-{IDS}-01"), Err(ForbiddenVersion)),
            (format!("0-{IDS}-01"), Err(Malformed)),
            (format!("00-{IDS}-1"), Err(Malformed)),
            (format!("00-{IDS}-0X"), Err(Malformed)),
            (format!("00-{IDS}"), Err(Malformed)),
            (format!("00_{IDS}-01"), Err(Malformed)),
            (format!("00-{}-01", IDS.to_uppercase()), Err(Malformed)),
            (format!("00-{}-01", IDS.replace("00f0", "00F0")), Err(Malformed)),
            (format!("00-{}-01", IDS.replace("4bf9", "4bg9")), Err(Malformed)),
            (format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32)), Err(ZeroTraceId)),
            (
                "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01".into(),
                Err(ZeroParentId),
            ),
            (String::new(), Err(Malformed)),
        ] {
            assert_eq!(parse(input.as_bytes()), expected, "{input}");
        }
    }

    #[test]
    fn several_traceparents_are_none() {
        let value = format!("00-{IDS}-01");
        let of = |count: usize| trace_context(std::iter::repeat_n(value.as_bytes(), count));
        assert_eq!(of(0), Ok(None));
        assert_eq!(of(1), Ok(Some(context(1))));
        assert_eq!(of(2), Err(TraceparentError::Several));
        assert!(context(1).is_sampled() && !context(2).is_sampled());
    }

    #[test]
    fn tracestates() {
        use TracestateError::*;
        let members = |count: usize| (0..count).map(|n| format!("k{n}=v")).collect::<Vec<_>>().join(",");
        let of_bytes = |bytes: usize| format!("a={},b={}", "x".repeat(256), "x".repeat(bytes - 261));
        for (input, expected) in [
            (vec![], Ok(None)),
            (vec![String::new(), " , ".into()], Ok(None)),
            (
                vec!["a=1 , b=2".into(), "t@v=3".into()],
                Ok(Some("a=1,b=2,t@v=3".to_owned())),
            ),
            (vec!["0a-_*/=! ~".into()], Ok(Some("0a-_*/=! ~".into()))),
            (vec!["a=1".into(), "a=2".into()], Err(Malformed)),
            (vec!["a".into()], Err(Malformed)),
            (vec!["a=".into()], Err(Malformed)),
            (vec!["A=1".into()], Err(Malformed)),
            (vec!["a=b=c".into()], Err(Malformed)),
            (vec!["a=ü".into()], Err(Malformed)),
            (vec![members(32)], Ok(Some(members(32)))),
            (vec![members(33)], Err(TooManyMembers)),
            (vec![of_bytes(512)], Ok(Some(of_bytes(512)))),
            (vec![of_bytes(513)], Err(TooLong)),
        ] {
            let got = tracestate(input.iter().map(String::as_bytes)).map(|state| state.map(|state| state.to_string()));
            assert_eq!(got, expected, "{input:?}");
        }
    }
}
