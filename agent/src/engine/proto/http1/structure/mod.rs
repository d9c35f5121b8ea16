//! The structure of HTTP/1 messages, for redacted tapes ([`proto::structure`](crate::engine::proto::structure)).
//!
//! [`Structure`] finds heads and bodies, as [`Http1`](super::Http1) does: the same parser reads whole heads, and the
//! same state machine reads chunks.
//!
//! `head` marks the bytes of a head, with `target` for the request target, `value` for the values of headers, `names`
//! for the names that stay, and `proxy` for the header of a proxy that may come first. In a body, the lines of chunks
//! are structure; all other bytes are filled, except the beginning by which Core recognises telemetry.
//!
//! After a loss, both halves are searched for the beginning of a head, as Core searches them.

mod head;
mod names;
mod proxy;
mod target;
mod value;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use agent_ebpf::classify::{Looks, first_bytes, looks_like_request, looks_like_response};

use super::{
    chunked::Chunked,
    framing::{Follow, Method, follow_request, follow_response},
    head::MAX_HEAD_BYTES,
    telemetry,
};
use crate::engine::proto::{
    Half,
    structure::{Marks, Named},
};
use head::Head;
pub(in crate::engine::proto) use target::path_segment;

/// Upper bound on requests that wait for their responses. With more, the connection is followed anew.
const MAX_PENDING: usize = 1024;

/// Follows both halves of one connection.
#[derive(Debug)]
pub struct Structure {
    /// No request and its response were found since the connection's begin, or since the last loss.
    searching: bool,
    request: State,
    response: State,
    /// The requests whose responses have not come, oldest first.
    pending: VecDeque<Method>,
}

/// The place of one half's next byte.
///
/// ```text
///         a call begins like a head              the empty line
///   Lost ───────────────────────────▶ Head ──────────────────────▶ Behind
///    ▲                                 │ ▲                          │  │
///    └── gap, malformed, in doubt ─────┘ └──── the body's end ──────┘  │
///    ▲                                                                 │
///    └──────────────── gap beyond the body, malformed chunk ───────────┘
/// ```
#[derive(Debug)]
enum State {
    /// In a head, or before it.
    Head(Box<Head>),
    /// Behind a head.
    Behind(Follow),
    /// Nothing is known before a system call begins with bytes that may be a head.
    Lost,
}

impl Structure {
    /// Follows a connection from its first byte (`from_birth`), or from the middle.
    pub fn new(from_birth: bool) -> Self {
        let first = |half| {
            if from_birth {
                State::Head(Box::new(Head::first(half)))
            } else {
                State::Lost
            }
        };
        Self {
            searching: !from_birth,
            request: first(Half::Request),
            response: first(Half::Response),
            pending: VecDeque::new(),
        }
    }

    /// Takes the next bytes of a half, and appends a mark for each.
    pub fn bytes<'n>(&mut self, named: &'n Named, half: Half, begins_call: bool, bytes: &[u8], marks: &mut Marks<'n>) {
        if begins_call && self.begins_head(half, bytes) {
            *self.state(half) = State::before_head(half);
        }
        let mut rest = bytes;
        let mut body_begins = false;
        while let [first, ..] = rest {
            let taken = match self.state(half) {
                State::Lost | State::Behind(Follow::UntilClose | Follow::Opaque) => {
                    marks.fill(rest.len());
                    rest.len()
                }
                State::Behind(Follow::Head) => {
                    *self.state(half) = State::before_head(half);
                    0
                }
                State::Behind(Follow::Length(left)) => {
                    let data = body(rest, *left, std::mem::take(&mut body_begins), marks);
                    *left -= data as u64;
                    if *left == 0 {
                        *self.state(half) = State::Behind(Follow::Head);
                    }
                    data
                }
                State::Behind(Follow::Chunked(chunked)) if chunked.left_of_chunk() > 0 => {
                    let data = body(rest, chunked.left_of_chunk(), std::mem::take(&mut body_begins), marks);
                    chunked.pass_data(data as u64);
                    data
                }
                State::Behind(Follow::Chunked(chunked)) => {
                    let after = frame(chunked, *first, marks);
                    self.go_on(half, after);
                    1
                }
                State::Head(head) => {
                    if head.next(*first, named, marks) {
                        self.end_head(half);
                        body_begins = half == Half::Request;
                    } else if head.raw().len() > MAX_HEAD_BYTES {
                        self.lose();
                    }
                    1
                }
            };
            rest = rest.get(taken..).unwrap_or_default();
        }
    }

    /// Takes a gap of `n` bytes in a half.
    pub fn gap(&mut self, half: Half, n: u64) {
        match self.state(half) {
            State::Behind(Follow::Length(left)) if n <= *left => {
                *left -= n;
                if *left == 0 {
                    *self.state(half) = State::Behind(Follow::Head);
                }
            }
            State::Behind(Follow::Chunked(chunked)) if n <= chunked.left_of_chunk() => chunked.pass_data(n),
            State::Behind(Follow::UntilClose | Follow::Opaque) => {}
            _ => self.lose(),
        }
    }

    fn state(&mut self, half: Half) -> &mut State {
        match half {
            Half::Request => &mut self.request,
            Half::Response => &mut self.response,
        }
    }

    /// Returns whether a system call that begins with these bytes begins a head, and the half's state knows of none.
    fn begins_head(&mut self, half: Half, bytes: &[u8]) -> bool {
        let (first, n) = first_bytes(bytes);
        let looks = match half {
            Half::Request => looks_like_request(first, n),
            Half::Response => looks_like_response(first, n),
        };
        let searching = self.searching;
        match self.state(half) {
            State::Lost => looks != Looks::No,
            // The bytes that seemed to be a head were the rest of something else.
            State::Head(_) => searching && looks == Looks::Yes,
            State::Behind(_) => false,
        }
    }

    /// Goes on behind a head or the line of a chunk; `None`: the half cannot be followed.
    fn go_on(&mut self, half: Half, after: Option<Follow>) {
        match after {
            Some(Follow::Opaque) => {
                self.request = State::Behind(Follow::Opaque);
                self.response = State::Behind(Follow::Opaque);
            }
            Some(follow) => *self.state(half) = State::Behind(follow),
            None => self.lose(),
        }
    }

    /// Reads a head that has ended, to know its body.
    fn end_head(&mut self, half: Half) {
        let State::Head(head) = std::mem::replace(self.state(half), State::Lost) else {
            return;
        };
        let after = match half {
            Half::Request => self.request_ends(head.raw()),
            Half::Response => self.response_ends(head.raw()),
        };
        self.go_on(half, after);
    }

    fn request_ends(&mut self, raw: &[u8]) -> Option<Follow> {
        let (follow, method) = follow_request(raw)?;
        if self.pending.len() >= MAX_PENDING {
            return None;
        }
        self.pending.push_back(method);
        Some(follow)
    }

    fn response_ends(&mut self, raw: &[u8]) -> Option<Follow> {
        let asked_by = self.pending.front().copied().unwrap_or(Method::Other);
        let (follow, is_final) = follow_response(raw, asked_by)?;
        if is_final {
            self.pending.pop_front();
            self.searching = false;
        }
        Some(follow)
    }

    /// Forgets both halves and the requests that wait, as Core does after a loss.
    fn lose(&mut self) {
        *self = Self::new(false);
    }
}

impl State {
    fn before_head(half: Half) -> Self {
        Self::Head(Box::new(Head::new(half)))
    }
}

/// Marks the first bytes of `rest` that are among the next `left` bytes of a body, and returns how many they are. The begin of a
/// request's body (`begins`) that shows OTLP stays: such requests give no spans.
fn body(rest: &[u8], left: u64, begins: bool, marks: &mut Marks<'_>) -> usize {
    let data = rest.get(..left.min(rest.len() as u64) as usize).unwrap_or_default();
    let kept = if begins { telemetry::marker(data) } else { 0 };
    marks.keep(kept);
    marks.fill(data.len().saturating_sub(kept));
    data.len()
}

/// Marks a byte of the framing of chunks, and returns the state behind it; `None`: the coding does not allow it, or
/// peers differ on the body's end.
fn frame(chunked: &mut Chunked, byte: u8, marks: &mut Marks<'_>) -> Option<Follow> {
    if chunked.is_framing(byte) {
        marks.keep(1);
    } else {
        marks.fill(1);
    }
    chunked.frame(&[byte]).ok()?;
    match (chunked.is_done(), chunked.has_bare_lf()) {
        (true, true) => None,
        (true, false) => Some(Follow::Head),
        (false, _) => Some(Follow::Chunked(*chunked)),
    }
}
