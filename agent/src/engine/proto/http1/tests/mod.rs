//! Conversations with every kind of framing, and what the parser must say of them.

mod bodies;
mod exchanges;
mod heads;
mod lax;
mod losses;
mod properties;
mod silence;
mod smuggling;

use super::{Config, Http1};
use crate::engine::proto::{
    Call, Data, Event, Half, Piece, Reply,
    testing::{Moved, Q, R, stamp},
};

/// A parser, how far each half is, and what came out.
struct Talk {
    http: Http1,
    config: Config,
    offsets: [u64; 2],
    now: u64,
    out: Vec<Event>,
}

impl Talk {
    fn new(from_birth: bool) -> Self {
        Self::of(Http1::new(from_birth))
    }

    fn at_server() -> Self {
        Self::of(Http1::new(true).at_server())
    }

    fn of(http: Http1) -> Self {
        Self {
            http,
            config: Config::default(),
            offsets: [0; 2],
            now: 0,
            out: Vec::new(),
        }
    }

    /// One system call that moves `bytes`.
    fn call(&mut self, half: Half, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.piece(half, true, Data::Bytes(bytes.as_ref()))
    }

    fn gap(&mut self, half: Half, n: u64) -> &mut Self {
        self.piece(half, false, Data::Gap(n))
    }

    fn piece(&mut self, half: Half, segment_start: bool, data: Data<'_>) -> &mut Self {
        self.now += 1;
        let offset = &mut self.offsets[half as usize];
        let piece = Piece {
            offset: *offset,
            segment_start,
            data,
            stamp: stamp(self.now),
        };
        self.http.feed(&self.config, half, piece, &mut self.out);
        *offset += match data {
            Data::Bytes(bytes) => bytes.len() as u64,
            Data::Gap(n) => n,
        };
        self
    }

    fn end(&mut self, half: Half) -> &mut Self {
        self.now += 1;
        self.http.end(&self.config, half, stamp(self.now), &mut self.out);
        self
    }

    /// The events in short, one a line.
    fn story(&self) -> Vec<String> {
        self.out.iter().map(brief).collect()
    }
}

/// An event without its stamps.
fn brief(event: &Event) -> String {
    let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
    match event {
        Event::Begins {
            exchange,
            call: Call::Http1(head),
            offset,
            ..
        } => {
            format!("{exchange} {} {} @{offset}", text(head.method()), text(head.target()))
        }
        Event::Sent {
            exchange, body_bytes, ..
        } => format!("{exchange} sent {body_bytes}"),
        Event::Answered {
            exchange,
            reply: Reply::Http1(head),
            offset,
            ..
        } => format!("{exchange} {} @{offset}", head.status),
        Event::Ended {
            exchange, body_bytes, ..
        } => match body_bytes {
            Some(body_bytes) => format!("{exchange} got {body_bytes}"),
            None => format!("{exchange} got an end"),
        },
        Event::Lost { exchange, cause } => format!("{exchange} lost {cause:?}"),
        Event::Opaque { cause, .. } => format!("opaque {cause:?}"),
        Event::Begins { .. } | Event::Answered { .. } => "of another protocol".to_owned(),
    }
}

/// A connection from its birth: each word one system call. The story that comes out.
fn told(calls: &[(Half, &str)]) -> Vec<String> {
    let mut talk = Talk::new(true);
    for (half, bytes) in calls {
        talk.call(*half, bytes);
    }
    talk.end(Q).end(R).story()
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
