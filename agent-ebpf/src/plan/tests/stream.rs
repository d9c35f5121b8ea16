//! Generated conversations with known boundaries.

use std::{format, string::String, vec, vec::Vec};

use crate::abi::{Hint, Mode, UNTIL_CLOSE, WayState};

/// Bodies that look like the framing of a message.
const HOSTILE: [&str; 8] = [
    "PUT / HTTP/1.1\r\nContent-Length: 100000000000\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n",
    "HEAD / HTTP/1.1\r\n\r\n",
    "\r\nfffffff\r\n",
    "0\r\n\r\n",
    "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n",
    "x",
];

/// Upper bound of a call's bytes: larger calls are not copied whole.
const CALL_BYTES: u64 = 60_000;

/// Random numbers by xorshift64* (<https://en.wikipedia.org/wiki/Xorshift>).
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len() as u64) as usize]
    }
}

/// Bytes of one direction, and their parts.
#[derive(Default)]
pub struct Side {
    pub bytes: Vec<u8>,
    /// Stream offsets of the heads of messages.
    pub boundaries: Vec<u64>,
    parts: Vec<Part>,
}

/// Bytes up to `end`, behind those of the part before.
struct Part {
    end: u64,
    kind: Kind,
    /// Number of the exchange.
    number: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Head,
    /// An informational head: the final head of the same exchange follows.
    Informational,
    Length,
    ChunkLine,
    ChunkData,
    UntilClose,
    /// Bytes of another protocol.
    Opaque,
}

/// A call that moves the bytes of a side up to `end`.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    pub side: usize,
    pub end: u64,
    /// Whether the bytes lie in readable memory of a process.
    pub visible: bool,
}

pub struct Conversation {
    pub sides: [Side; 2],
}

impl std::fmt::Debug for Conversation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for Side { bytes, boundaries, .. } in &self.sides {
            let shown = &bytes[..bytes.len().min(8192)];
            writeln!(f, "{boundaries:?}\n{}", shown.escape_ascii())?;
        }
        Ok(())
    }
}

impl Side {
    fn push(&mut self, bytes: &[u8], kind: Kind, number: u64) {
        self.bytes.extend_from_slice(bytes);
        let end = self.bytes.len() as u64;
        if !bytes.is_empty() {
            self.parts.push(Part { end, kind, number });
        }
    }

    fn head(&mut self, head: &str, number: u64) {
        self.boundaries.push(self.bytes.len() as u64);
        self.push(head.as_bytes(), Kind::Head, number);
    }

    /// Appends a body with the given framing; returns the framing that its head must declare.
    fn body(&mut self, rng: &mut Rng, framing: Framing, number: u64) {
        match framing {
            Framing::None => {}
            Framing::Length(body) => self.push(&body, Kind::Length, number),
            Framing::Chunked(chunks) => {
                for (index, chunk) in chunks.iter().enumerate() {
                    let before = if index == 0 { "" } else { "\r\n" };
                    let extension = if rng.one_in(40) { ";x=y" } else { "" };
                    let line = format!("{before}{:x}{extension}\r\n", chunk.len());
                    self.push(line.as_bytes(), Kind::ChunkLine, number);
                    self.push(chunk, Kind::ChunkData, number);
                }
                let before = if chunks.is_empty() { "" } else { "\r\n" };
                let trailers = if rng.one_in(20) { "X: y\r\n" } else { "" };
                self.push(
                    format!("{before}0\r\n{trailers}\r\n").as_bytes(),
                    Kind::ChunkLine,
                    number,
                );
            }
            Framing::Close(body) => self.push(&body, Kind::UntilClose, number),
            Framing::Opaque(body) => self.push(&body, Kind::Opaque, number),
        }
    }

    /// Returns the part with the byte at an offset; `None` at the end.
    fn part(&self, offset: u64) -> Option<(u64, &Part)> {
        let index = self.parts.partition_point(|part| part.end <= offset);
        let start = index.checked_sub(1).map_or(0, |before| self.parts[before].end);
        Some((start, self.parts.get(index)?))
    }

    /// Returns the number of exchanges whose head has passed.
    fn heads_before(&self, offset: u64) -> u64 {
        let heads = |part: &&Part| matches!(part.kind, Kind::Head) && part.end <= offset;
        self.parts.iter().filter(heads).count() as u64
    }
}

enum Framing {
    None,
    Length(Vec<u8>),
    Chunked(Vec<Vec<u8>>),
    Close(Vec<u8>),
    Opaque(Vec<u8>),
}

fn body(rng: &mut Rng) -> Vec<u8> {
    let most = if rng.one_in(60) {
        30_000
    } else {
        [1, 20, 100, 400, 3000][rng.below(5) as usize]
    };
    let length = 1 + rng.below(most) as usize;
    let text = rng.pick(&HOSTILE).as_bytes();
    text.iter().copied().cycle().take(length).collect()
}

fn framing(rng: &mut Rng) -> Framing {
    match rng.below(3) {
        0 => Framing::Length(body(rng)),
        1 => Framing::Chunked((0..rng.below(5)).map(|_| body(rng)).collect()),
        _ => Framing::None,
    }
}

/// Returns header lines without framing.
fn padding(rng: &mut Rng) -> String {
    let length = match rng.below(12) {
        0 => 1000 + rng.below(100),
        1 => 4000 + rng.below(200),
        2 => 9000,
        _ => rng.below(60),
    };
    format!("X: {}\r\n", "y".repeat(length as usize))
}

/// Returns header lines with the framing, in one of the forms that some peer accepts.
fn framing_line(rng: &mut Rng, framing: &Framing, says_none: bool) -> String {
    match framing {
        Framing::Length(body) => {
            let n = body.len();
            match rng.below(18) {
                0 => format!("Content-Length : {n}\r\n"),
                1 => format!("content-length:\t{n}\r\n"),
                2 => format!("Content-Length: {n}, {n}\r\n"),
                3 => format!("Content-Length: {n}\r\nContent-Length: {n}\r\n"),
                4 => format!("Content-Length:\r\n {n}\r\n"),
                5 => format!("X: y\nContent-Length: {n}\r\n"),
                6 => format!("X: y\rContent-Length: {n}\r\n"),
                7 => format!(" Content-Length: {n}\r\n"),
                8 => format!("Content-Length\x1a {n}\r\n"),
                // Peers may read it by the first line, by the last one, or by the length in spite of the coding.
                9 => format!("Content-Length: {n}\r\nContent-Length: 1000000\r\n"),
                10 => format!("Content-Length: 1000000\r\nContent-Length: {n}\r\n"),
                11 => format!("Transfer-Encoding: chunked\r\nContent-Length: {n}\r\n"),
                _ => format!("cOntent-Length: {n}\r\n"),
            }
        }
        Framing::Chunked(_) => match rng.below(12) {
            0 => "Transfer-Encoding : chunked\r\n".into(),
            1 => "Transfer-Encoding: gzip, chunked\r\n".into(),
            2 => "Transfer-Encoding:\r\n chunked\r\n".into(),
            3 => "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n".into(),
            4 => "Content-Length: 3000\r\nTransfer-Encoding: chunked\r\n".into(),
            5 => "Transfer-Encoding:\x0bchunked\r\n".into(),
            _ => "Transfer-Encoding: chunked\r\n".into(),
        },
        Framing::None if says_none => match rng.below(4) {
            0 => "Content-Length: 0\r\n".into(),
            _ => String::new(),
        },
        _ => String::new(),
    }
}

impl Conversation {
    pub fn new(rng: &mut Rng) -> Self {
        let [mut requests, mut responses] = <[Side; 2]>::default();
        let exchanges = 1 + rng.below(6);
        for number in 0..exchanges {
            let last = number + 1 == exchanges;
            let method = match rng.below(24) {
                0 if last => "CONNECT",
                _ => rng.pick(&[
                    "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "PROPFIND", "head", "HEADX",
                ]),
            };
            if number == 0 && rng.one_in(10) {
                requests.push(b"PROXY TCP4 10.0.0.1 10.0.0.2 11111 80\r\n", Kind::ChunkLine, 0);
            }
            if rng.one_in(15) {
                requests.push(b"\r\n", Kind::ChunkLine, number);
            }
            let version = if rng.one_in(10) { "1.0" } else { "1.1" };
            let asked = framing(rng);
            let line = framing_line(rng, &asked, true);
            let (before, behind) = (padding(rng), if rng.one_in(3) { padding(rng) } else { String::new() });
            requests.head(
                &format!("{method} /{number} HTTP/{version}\r\n{before}{line}{behind}\r\n"),
                number,
            );
            requests.body(rng, asked, number);

            while rng.one_in(6) {
                let line = rng.pick(&["", "Content-Length: 9\r\n"]);
                responses.boundaries.push(responses.bytes.len() as u64);
                let head = format!("HTTP/1.1 1{:02} X\r\n{line}\r\n", rng.pick(&[&0, &2, &3, &99]));
                responses.push(head.as_bytes(), Kind::Informational, number);
            }
            Self::respond(&mut responses, rng, number, method, last);
        }
        Self {
            sides: [requests, responses],
        }
    }

    fn respond(responses: &mut Side, rng: &mut Rng, number: u64, method: &str, last: bool) {
        let status = rng.pick(&[&200, &200, &200, &204, &304, &404]);
        let version = if rng.one_in(10) { "1.0" } else { "1.1" };
        let space = if rng.one_in(20) { "  " } else { " " };
        let mut answer = framing(rng);
        let mut line = framing_line(rng, &answer, true);
        let has_none = method == "HEAD" || matches!(status, 204 | 304);
        if has_none {
            // The head declares a body although none follows.
            answer = Framing::None;
        } else if last && method == "CONNECT" && *status == 200 {
            answer = Framing::Opaque(body(rng));
        } else if last && rng.one_in(2) {
            answer = Framing::Close(body(rng));
            line = String::new();
        } else if line.is_empty() {
            line = "Content-Length: 0\r\n".into();
        }
        let before = padding(rng);
        responses.head(
            &format!("HTTP/{version}{space}{status} OK\r\n{before}{line}\r\n"),
            number,
        );
        responses.body(rng, answer, number);
    }

    /// Returns calls that move all bytes, in the order of their exits.
    pub fn calls(&self, rng: &mut Rng) -> Vec<Moved> {
        let style = rng.below(5);
        let ahead = rng.below(3);
        let mut at = [0u64; 2];
        let mut calls: Vec<Moved> = vec![];
        let length = |side: usize| self.sides[side].bytes.len() as u64;
        while at[0] < length(0) || at[1] < length(1) {
            let [requests, responses] = &self.sides;
            // A response follows its request, and at most `ahead` requests are sent before it.
            let asked = requests.heads_before(at[0]);
            let answered = responses.part(at[1]).map_or(u64::MAX, |(_, part)| part.number);
            let may_answer = at[1] < length(1) && answered < asked;
            let may_ask = at[0] < length(0)
                && (answered == u64::MAX
                    || requests
                        .part(at[0])
                        .is_none_or(|(_, part)| part.number <= answered + ahead));
            let side = match (may_ask, may_answer) {
                (true, true) => rng.below(2) as usize,
                (true, false) => 0,
                _ => 1,
            };
            let rest = length(side) - at[side];
            let end = match style {
                0 if rng.one_in(2) => at[side] + 1 + rng.below(rest.min(40)),
                0 => at[side] + 1 + rng.below(rest.min(400)),
                1 => self.sides[side]
                    .part(at[side])
                    .map_or(at[side] + rest, |(_, part)| part.end),
                _ if rng.one_in(2) => self.message_end(side, at[side]),
                _ => at[side] + 1 + rng.below(rest.min(5000)),
            };
            // Not beyond the bytes that may be sent now.
            let end = end
                .min(self.limit(side, at, ahead))
                .min(at[side] + CALL_BYTES)
                .max(at[side] + 1);
            let within_body = self.sides[side]
                .part(at[side])
                .is_some_and(|(_, part)| part.kind == Kind::Length && end <= part.end);
            let visible = !(within_body && rng.one_in(4));
            at[side] = end;
            calls.push(Moved { side, end, visible });
        }
        // Two threads: the exit of a read comes before that of the write that it answers.
        for index in 1..calls.len() {
            if calls[index].side != calls[index - 1].side && rng.one_in(20) {
                calls.swap(index, index - 1);
            }
        }
        calls
    }

    /// Returns the end of a message, or a later end.
    fn message_end(&self, side: usize, at: u64) -> u64 {
        let boundaries = &self.sides[side].boundaries;
        let index = boundaries.partition_point(|&boundary| boundary <= at);
        boundaries
            .get(index)
            .copied()
            .unwrap_or(self.sides[side].bytes.len() as u64)
    }

    /// Returns how far a side may be sent, given the bytes of the other side.
    fn limit(&self, side: usize, at: [u64; 2], ahead: u64) -> u64 {
        let [requests, responses] = &self.sides;
        let most = if side == 0 {
            responses.part(at[1]).map_or(u64::MAX, |(_, part)| part.number + ahead)
        } else {
            requests.heads_before(at[0]).saturating_sub(1)
        };
        let parts = self.sides[side].parts.iter();
        let within = parts.take_while(|part| part.number <= most);
        within.last().map_or(u64::MAX, |part| part.end)
    }

    /// Returns the hints of a Core that has read both sides up to these offsets.
    pub fn hints(&self, offsets: [u64; 2], epoch: u32) -> [Hint; 2] {
        let asked = self.sides[0].heads_before(offsets[0]);
        [0, 1].map(|side| {
            let at = offsets[side];
            let state = WayState::new(Mode::Unknown, side == 1).with_epoch(epoch);
            let (until, mode, number) = self.position(side, at);
            // Hints do not carry the methods of waiting requests, so responses to them are not framed.
            let waiting = side == 1 && mode != Mode::Unknown && mode != Mode::Close && asked != number;
            let mode = if waiting { Mode::Unknown } else { mode };
            Hint {
                until,
                state: state.with_mode(mode).with_number(number as u16),
            }
        })
    }

    /// Returns the next known place of a side behind an offset, its mode, and the number of its exchange.
    fn position(&self, side: usize, at: u64) -> (u64, Mode, u64) {
        let Some((start, part)) = self.sides[side].part(at) else {
            let next = self.sides[side].parts.last().map_or(0, |part| part.number + 1);
            return (at, Mode::Head, next);
        };
        let number = part.number;
        match part.kind {
            Kind::Head | Kind::Informational if at == start => (at, Mode::Head, number),
            Kind::Length => (part.end, Mode::Head, number + 1),
            Kind::ChunkData => (part.end, Mode::Chunk, number + 1),
            Kind::UntilClose => (UNTIL_CLOSE, Mode::Close, number + 1),
            _ => (at, Mode::Unknown, number),
        }
    }
}
