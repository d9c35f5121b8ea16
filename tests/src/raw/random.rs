//! Random conversations: exchanges of all kinds with hostile bodies, cut anywhere, written and read by calls of all
//! kinds. A seed determines each conversation and its expected spans.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{
    blind::{BODIES, goes_on, long},
    expected::End,
    world::{Connection, Way, World},
};

/// Number of connections that are used in turn.
const AT_ONCE: usize = 4;
/// Upper bound of the exchanges on one connection.
const EXCHANGES: u64 = 12;
/// Upper bound of the requests that are sent before their responses.
const PIPELINED: usize = 4;
/// Upper bound of a body's bytes: all pipelined messages together fit into a socket's buffer.
const BODY_BYTES: u64 = 20_000;

/// Holds conversations for that time, each with ordinary exchanges at its end. Returns their number.
pub fn converse(world: &mut World, seed: u64, time: Duration) -> Result<usize> {
    let end = Instant::now() + time;
    let mut open = VecDeque::new();
    let (mut begun, mut ended) = (0, 0);
    loop {
        while open.len() < AT_ONCE && Instant::now() < end {
            // Numbers of its own for each conversation, so that the time of another one does not matter.
            let mut random = Random::new(seed ^ Random::new(begun).next());
            let connection = world.connect()?;
            let steps = plan(world, begun, &mut random);
            open.push_back((begun, connection, steps, random));
            begun += 1;
        }
        let Some((number, connection, mut steps, mut random)) = open.pop_front() else {
            return Ok(ended);
        };
        let Some(step) = steps.pop_front() else {
            goes_on(world, &connection, &format!("/random/{number}"))?;
            world.close(&connection)?;
            ended += 1;
            continue;
        };
        pass(world, &connection, step, &mut random).with_context(|| format!("conversation {number}"))?;
        open.push_back((number, connection, steps, random));
    }
}

/// Bytes of one direction that are sent before the other direction continues.
struct Step {
    way: Way,
    bytes: Vec<u8>,
}

/// Returns the steps of a conversation, and expects its spans.
fn plan(world: &mut World, number: u64, random: &mut Random) -> VecDeque<Step> {
    let mut steps = VecDeque::new();
    let count = 1 + random.below(EXCHANGES);
    let mut index = 0;
    while index < count {
        let together = (1 + random.below(PIPELINED as u64)).min(count - index);
        let together = if random.one_in(2) { 1 } else { together };
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..together {
            let target = format!("/random/{number}/{index}");
            exchange(world, &target, random, &mut requests, &mut answers);
            index += 1;
        }
        steps.push_back(Step {
            way: Way::Request,
            bytes: requests,
        });
        steps.push_back(Step {
            way: Way::Response,
            bytes: answers,
        });
    }
    steps
}

/// Appends a request and its response, and expects their spans.
fn exchange(world: &mut World, target: &str, random: &mut Random, requests: &mut Vec<u8>, answers: &mut Vec<u8>) {
    let method = random.pick(&[
        "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "head",
    ]);
    let line = format!("{method} {target} HTTP/1.1\r\nHost: raw.test\r\n");
    let always = matches!(method, "POST" | "PUT" | "PATCH");
    let sent = (always || random.one_in(3)).then(|| body(random));
    let request_bytes = sent.as_ref().map(|body| body.len() as u64);
    message(random, line, sent.as_deref(), requests);

    while random.one_in(6) {
        let length = if random.one_in(2) {
            "Content-Length: 1000000000\r\n"
        } else {
            ""
        };
        answers.extend(format!("HTTP/1.1 103 Early Hints\r\n{length}\r\n").bytes());
    }
    let status = random.pick(&[200, 200, 200, 201, 204, 304]);
    let line = format!("HTTP/1.1 {status} Reason\r\n");
    let mut response_bytes = 0;
    if method == "HEAD" || matches!(status, 204 | 304) {
        let length = random.pick(&["", "Content-Length: 1000000\r\n", "Content-Length: 1099511627776\r\n"]);
        let head = format!("{line}{length}\r\n");
        answers.extend(if random.one_in(5) { long(&head) } else { head }.bytes());
    } else {
        let answer = body(random);
        response_bytes = answer.len() as u64;
        message(random, line, Some(&answer), answers);
    }
    let shown = match method {
        "PROPFIND" | "head" => "_OTHER",
        method => method,
    };
    world.expect(
        target,
        End::ok(shown, status).bodies(request_bytes, Some(response_bytes)),
    );
}

/// Appends a head and a body, if there is one.
fn message(random: &mut Random, line: String, body: Option<&[u8]>, into: &mut Vec<u8>) {
    // An empty chunked body has no size in a request's span.
    let chunked = body.is_some_and(|body| !body.is_empty()) && random.one_in(3);
    let framing = match body {
        None => String::new(),
        Some(_) if chunked => "Transfer-Encoding: chunked\r\n".to_owned(),
        Some(body) => format!("Content-Length: {}\r\n", body.len()),
    };
    let head = format!("{line}{framing}\r\n");
    into.extend(if random.one_in(5) { long(&head) } else { head }.bytes());
    let Some(mut rest) = body else { return };
    if !chunked {
        into.extend(rest);
        return;
    }
    while !rest.is_empty() {
        let at_most = random.pick(&[1, 60, 1_000, 10_000]);
        let (chunk, after) = rest.split_at(rest.len().min(1 + random.below(at_most) as usize));
        let extension = if random.one_in(5) { ";name=\"value\"" } else { "" };
        into.extend(format!("{:x}{extension}\r\n", chunk.len()).bytes());
        into.extend(chunk);
        into.extend(b"\r\n");
        rest = after;
    }
    let trailer = if random.one_in(4) { "Trailer: 1\r\n" } else { "" };
    into.extend(format!("0\r\n{trailer}\r\n").bytes());
}

/// Returns a body of texts that look like heads or ends of chunks, and of padding.
fn body(random: &mut Random) -> Vec<u8> {
    let at_most = random.pick(&[0, 1, 60, 2_000, BODY_BYTES]);
    let bytes = random.below(at_most + 1) as usize;
    let mut body = Vec::new();
    while body.len() < bytes {
        match random.below(4) {
            0 => body.extend(b"0\r\n\r\n"),
            1 => body.resize(body.len() + random.below(1_500) as usize, b'x'),
            _ => body.extend(random.pick(&BODIES).bytes()),
        }
    }
    body.truncate(bytes);
    body
}

/// Passes bytes in random writes, and reads each by random reads, or some of them together.
fn pass(world: &mut World, connection: &Connection, step: Step, random: &mut Random) -> Result<()> {
    let Step { way, bytes } = step;
    let mut rest = bytes.as_slice();
    let mut unread = 0;
    // Most cuts are where messages are cut in the field: around heads, lines and chunks. Some are anywhere.
    let small = random.one_in(4);
    while !rest.is_empty() {
        let at_most = if small { 40 } else { random.pick(&[100, 2_000, 70_000]) };
        let mut length = rest.len().min(1 + random.below(at_most) as usize);
        if random.one_in(2) {
            length = cut(rest, random).unwrap_or(length);
        }
        // Many calls take long, so a message has a limited number.
        if small && rest.len() > 2_000 {
            length = length.max(1_000).min(rest.len());
        }
        let (piece, after) = rest.split_at(length);
        let how = random.pick(&["write", "sendto", "writev", "sendmsg", "sendmmsg"]);
        let middle = random.below(piece.len() as u64 + 1) as usize;
        let buffers = match how {
            "writev" | "sendmsg" => vec![&piece[..middle], &piece[middle..]],
            _ => vec![piece],
        };
        world.send(connection, way, how, &buffers)?;
        unread += length;
        rest = after;
        if random.one_in(4) && !rest.is_empty() {
            continue;
        }
        read(world, connection, way, unread, random)?;
        unread = 0;
    }
    Ok(())
}

/// Returns a place right behind a line, not far away.
fn cut(bytes: &[u8], random: &mut Random) -> Option<usize> {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let places: Vec<usize> = ends.map(|(at, _)| at + 1).take(12).collect();
    places.get(random.below(places.len().max(1) as u64) as usize).copied()
}

/// Reads that many bytes, sometimes the first few of them alone, as some servers do.
fn read(world: &mut World, connection: &Connection, way: Way, bytes: usize, random: &mut Random) -> Result<()> {
    let (receiver, name) = match way {
        Way::Request => &connection.server,
        Way::Response => &connection.client,
    };
    let how = random.pick(&["read", "recvfrom", "readv", "recvmsg"]);
    let mut left = bytes;
    if random.one_in(4) {
        let first = left.min(random.pick(&[1, 2, 9, 300]));
        // Small writes may arrive separately, because they wait for an acknowledgement (Nagle).
        world.peers[*receiver].move_bytes(&format!("receive-all {name} {how} {first} {first} 0"), first)?;
        left -= first;
    }
    let piece = random.pick(&[1 << 20, 1 << 20, 8_192, 1_000]);
    world.peers[*receiver].move_bytes(&format!("receive-all {name} {how} {piece} {left} 0"), left)
}

/// Random numbers from a seed: splitmix64 <https://prng.di.unimi.it/splitmix64.c>.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Returns a number below a bound.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Returns true once in that many times.
    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}
