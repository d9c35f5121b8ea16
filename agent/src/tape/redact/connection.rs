//! One connection's bytes: which of them are heads, which bodies.
//!
//! Whatever is not known to be a head, or the framing of chunks, is filled with one letter, so that nothing that is
//! misunderstood here stays readable.

use std::collections::VecDeque;

use agent_ebpf::{
    abi::{Direction, Open, Role, SEGMENT_MORE, Segment},
    classify::{Looks, first_bytes, looks_like_request, looks_like_response},
};

use super::{
    head::{Head, MAX_HEAD_BYTES, Named},
    standin::Key,
};
use crate::engine::proto::http1::{Follow, Method, follow_request, follow_response, telemetry};

/// What bodies are filled with.
const FILL: u8 = b'x';
/// Requests that wait for their responses: more are not followed.
const MAX_PENDING: usize = 1024;

/// A connection, as it must be followed to know heads from bodies.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    from_birth: bool,
    /// No request and its response were found since its beginning, or the last loss.
    searching: bool,
    /// By [`Direction`]: where the next byte is expected.
    next: [u64; 2],
    /// By [`Direction`].
    halves: [Half; 2],
    /// Of requests whose responses have not come, oldest first.
    pending: VecDeque<Method>,
}

/// Where one half stands.
#[derive(Debug)]
enum Half {
    /// In a head, or before it.
    Head(Box<Head>),
    /// Behind a head.
    Behind(Follow),
    /// Nothing is known before a system call begins with what may be a head.
    Lost,
}

impl Connection {
    /// A connection of which nothing is known but this.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            from_birth: false,
            searching: true,
            next: [0; 2],
            halves: [Half::Lost, Half::Lost],
            pending: VecDeque::new(),
        }
    }

    /// Takes what is known of it.
    pub fn describe(&mut self, open: &Open, key: &Key) {
        self.role = match open.role {
            role if role == Role::Client as u8 => Role::Client,
            role if role == Role::Server as u8 => Role::Server,
            _ => self.role,
        };
        self.next = [open.read, open.written];
        self.from_birth = open.from_birth == 1 && self.next == [0; 2];
        self.begin(key);
    }

    /// Which end it is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Its first bytes are heads, if all of it was seen.
    fn begin(&mut self, key: &Key) {
        if self.from_birth && self.role != Role::Unknown {
            self.halves = [Direction::Read, Direction::Write]
                .map(|way| Half::Head(Box::new(Head::first(key, self.is_request(way)))));
            self.searching = false;
        }
    }

    /// Replaces a segment's bytes.
    pub fn segment(&mut self, segment: &Segment, bytes: &mut [u8], key: &Key, named: &Named) {
        let way = if segment.header.direction == Direction::Read as u8 {
            Direction::Read
        } else {
            Direction::Write
        };
        let begins_call = segment.end.saturating_sub(segment.offset) == u64::from(segment.call_bytes);
        let next = self.next[way as usize];
        // Bytes that came already: Core passes over them.
        let repeated = next.saturating_sub(segment.offset).min(bytes.len() as u64) as usize;
        let (known, bytes) = bytes.split_at_mut(repeated);
        known.fill(FILL);
        let begins_call = begins_call && known.is_empty();
        if self.role == Role::Unknown {
            self.find_role(way, begins_call, bytes, key);
        }
        if segment.offset > next {
            self.gap(way, segment.offset - next);
        }
        if begins_call {
            let looks = self.looks_like_head(way, bytes);
            let begins = match self.halves[way as usize] {
                Half::Lost => looks != Looks::No,
                // What seemed to be a head was the rest of something else.
                Half::Head(_) => self.searching && looks == Looks::Yes,
                Half::Behind(_) => false,
            };
            if begins {
                self.halves[way as usize] = self.head(way, key);
            }
        }
        let reached = segment.offset.max(next).saturating_add(bytes.len() as u64);
        self.bytes(way, bytes, key, named);
        self.next[way as usize] = reached;
        if segment.header.flags & SEGMENT_MORE == 0 && segment.end > reached {
            self.gap(way, segment.end - reached);
            self.next[way as usize] = segment.end;
        }
    }

    fn find_role(&mut self, way: Direction, begins_call: bool, bytes: &[u8], key: &Key) {
        if !begins_call {
            return;
        }
        let (first, n) = first_bytes(bytes);
        let sends = way == Direction::Write;
        if looks_like_request(first, n) == Looks::Yes {
            self.role = if sends { Role::Client } else { Role::Server };
        } else if looks_like_response(first, n) == Looks::Yes {
            self.role = if sends { Role::Server } else { Role::Client };
        } else {
            return;
        }
        self.begin(key);
    }

    fn is_request(&self, way: Direction) -> bool {
        (way == Direction::Write) == (self.role == Role::Client)
    }

    fn head(&self, way: Direction, key: &Key) -> Half {
        Half::Head(Box::new(Head::new(key, self.is_request(way))))
    }

    fn looks_like_head(&self, way: Direction, bytes: &[u8]) -> Looks {
        let (first, n) = first_bytes(bytes);
        if self.role == Role::Unknown {
            Looks::No
        } else if self.is_request(way) {
            looks_like_request(first, n)
        } else {
            looks_like_response(first, n)
        }
    }

    /// So many bytes are missing.
    fn gap(&mut self, way: Direction, bytes: u64) {
        match &mut self.halves[way as usize] {
            Half::Behind(Follow::Length(left)) if bytes < *left => *left -= bytes,
            Half::Behind(Follow::Length(left)) if bytes == *left => {
                self.halves[way as usize] = Half::Behind(Follow::Head);
            }
            Half::Behind(Follow::Chunked(chunked)) if bytes <= chunked.left_of_chunk() => chunked.pass_data(bytes),
            Half::Behind(Follow::UntilClose | Follow::Opaque) => {}
            _ => self.lose(),
        }
    }

    /// As Core does: it looks for a new beginning on both halves.
    fn lose(&mut self) {
        self.halves = [Half::Lost, Half::Lost];
        self.pending.clear();
        self.searching = true;
    }

    fn bytes(&mut self, way: Direction, bytes: &mut [u8], key: &Key, named: &Named) {
        let mut rest = bytes;
        // A body begins with the next byte of it.
        let mut begins = false;
        while !rest.is_empty() {
            let taken = match &mut self.halves[way as usize] {
                Half::Lost | Half::Behind(Follow::UntilClose | Follow::Opaque) => {
                    rest.fill(FILL);
                    return;
                }
                Half::Behind(Follow::Head) => {
                    self.halves[way as usize] = self.head(way, key);
                    continue;
                }
                Half::Behind(Follow::Length(left)) => {
                    let taken = (*left).min(rest.len() as u64) as usize;
                    fill(&mut rest[..taken], std::mem::take(&mut begins));
                    *left -= taken as u64;
                    if *left == 0 {
                        self.halves[way as usize] = Half::Behind(Follow::Head);
                    }
                    taken
                }
                Half::Behind(Follow::Chunked(chunked)) => {
                    let data = chunked.left_of_chunk().min(rest.len() as u64) as usize;
                    if data > 0 {
                        fill(&mut rest[..data], std::mem::take(&mut begins));
                        chunked.pass_data(data as u64);
                        data
                    } else {
                        let byte = rest[0];
                        if !chunked.is_framing(byte) {
                            rest[0] = FILL;
                        }
                        match chunked.frame(&[byte]) {
                            Ok(_) if chunked.is_done() && chunked.has_bare_lf() => self.lose(),
                            Ok(_) if chunked.is_done() => self.halves[way as usize] = Half::Behind(Follow::Head),
                            Ok(_) => {}
                            Err(_) => self.lose(),
                        }
                        1
                    }
                }
                Half::Head(head) => {
                    let (standin, ends) = head.next(rest[0], key, named);
                    rest[0] = standin;
                    if ends {
                        let raw = head.raw().to_vec();
                        self.head_ends(way, &raw);
                        begins = self.is_request(way);
                    } else if head.raw().len() > MAX_HEAD_BYTES {
                        self.lose();
                    }
                    1
                }
            };
            rest = &mut rest[taken..];
        }
    }

    fn head_ends(&mut self, way: Direction, raw: &[u8]) {
        let follow = if self.is_request(way) {
            let Some((follow, method)) = follow_request(raw).filter(|_| self.pending.len() < MAX_PENDING) else {
                return self.lose();
            };
            self.pending.push_back(method);
            follow
        } else {
            let asked_by = self.pending.front().copied().unwrap_or(Method::Other);
            let Some((follow, is_final)) = follow_response(raw, asked_by) else {
                return self.lose();
            };
            if is_final {
                self.pending.pop_front();
                self.searching = false;
            }
            follow
        };
        if follow == Follow::Opaque {
            self.halves = [Half::Behind(Follow::Opaque), Half::Behind(Follow::Opaque)];
        } else {
            self.halves[way as usize] = Half::Behind(follow);
        }
    }
}

/// Replaces bytes of a body. Where one of a request begins, what shows it to be OTLP's stays: such requests give no spans.
fn fill(bytes: &mut [u8], begins: bool) {
    let kept = if begins { telemetry::marker(bytes) } else { 0 };
    bytes[kept..].fill(FILL);
}
