//! Random conversations: exchanges of all kinds with hostile bodies, cut anywhere, written and read by calls of all kinds.
//! What is said in each follows from a seed, and so does what the spans must be.

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

/// Connections that are talked on in turn.
const AT_ONCE: usize = 4;
/// Most exchanges on one connection.
const EXCHANGES: u64 = 12;
/// Most requests that are sent before their responses.
const PIPELINED: usize = 4;
/// Most bytes of a body: with all that is pipelined, they go into a socket's buffer.
const BODY_BYTES: u64 = 20_000;

/// Holds conversations until so much time has passed; each ends with ordinary exchanges. Gives how many they were.
pub fn converse(world: &mut World, seed: u64, time: Duration) -> Result<usize> {
    let end = Instant::now() + time;
    let mut open = VecDeque::new();
    let (mut begun, mut ended) = (0, 0);
    loop {
        while open.len() < AT_ONCE && Instant::now() < end {
            // Each has its own numbers: what one says does not depend on how long another one took.
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

/// Bytes of one direction that are sent before any of the other direction are.
struct Step {
    way: Way,
    bytes: Vec<u8>,
}

/// What is said on a connection.
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

/// Appends a head and a body; nothing of it is there without one.
fn message(random: &mut Random, line: String, body: Option<&[u8]>, into: &mut Vec<u8>) {
    // An empty body in chunks has no size in a request's span.
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

/// A body of things that look like heads, of ends of chunks, and of padding.
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

/// Passes bytes in random writes, and reads each in random reads, or some of them together.
fn pass(world: &mut World, connection: &Connection, step: Step, random: &mut Random) -> Result<()> {
    let Step { way, bytes } = step;
    let mut rest = bytes.as_slice();
    let mut unread = 0;
    // Most cuts are where a message is cut in the field: before and behind heads, lines and chunks, and anywhere.
    let small = random.one_in(4);
    while !rest.is_empty() {
        let at_most = if small { 40 } else { random.pick(&[100, 2_000, 70_000]) };
        let mut length = rest.len().min(1 + random.below(at_most) as usize);
        if random.one_in(2) {
            length = cut(rest, random).unwrap_or(length);
        }
        // Many calls take long: not more of them for one message.
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

/// A place right behind a line, not far away.
fn cut(bytes: &[u8], random: &mut Random) -> Option<usize> {
    let ends = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let places: Vec<usize> = ends.map(|(at, _)| at + 1).take(12).collect();
    places.get(random.below(places.len().max(1) as u64) as usize).copied()
}

/// Reads so many bytes: the first few of them apart at times, for that is how some servers read.
fn read(world: &mut World, connection: &Connection, way: Way, bytes: usize, random: &mut Random) -> Result<()> {
    let (receiver, name) = match way {
        Way::Request => &connection.server,
        Way::Response => &connection.client,
    };
    let how = random.pick(&["read", "recvfrom", "readv", "recvmsg"]);
    let mut left = bytes;
    if random.one_in(4) {
        let first = left.min(random.pick(&[1, 2, 9, 300]));
        // What was sent apart may come apart: small writes wait for an acknowledgement (Nagle).
        world.peers[*receiver].move_bytes(&format!("receive-all {name} {how} {first} {first} 0"), first)?;
        left -= first;
    }
    let piece = random.pick(&[1 << 20, 1 << 20, 8_192, 1_000]);
    world.peers[*receiver].move_bytes(&format!("receive-all {name} {how} {piece} {left} 0"), left)
}

/// Numbers that follow from a seed: splitmix64 <https://prng.di.unimi.it/splitmix64.c>.
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

    /// A number below a bound.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// True once in so many times.
    fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}
