//! Conversations with every type of value, and what the parser must say of them.

mod conversations;
mod losses;
mod properties;
mod structured;

use super::{Answer, Redis};
use crate::engine::{
    execution::Stamp,
    proto::{Call, Data, Event, Half, Piece, Reply},
};

const Q: Half = Half::Request;
const R: Half = Half::Response;

/// A system call that moves bytes.
type Moved = (Half, &'static str);

const GET: Moved = (Q, "*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n");
const VALUE: Moved = (R, "$5\r\nvalue\r\n");

/// A parser, how far each half is, and what came out.
struct Talk {
    redis: Redis,
    offsets: [u64; 2],
    now_ns: u64,
    out: Vec<Event>,
}

impl Talk {
    fn new(from_birth: bool) -> Self {
        Self::of(Redis::new(from_birth, false))
    }

    fn at_server() -> Self {
        Self::of(Redis::new(true, true))
    }

    fn of(redis: Redis) -> Self {
        Self {
            redis,
            offsets: [0; 2],
            now_ns: 0,
            out: Vec::new(),
        }
    }

    /// One system call that moves `bytes`.
    fn call(&mut self, half: Half, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.piece(half, true, Data::Bytes(bytes.as_ref()))
    }

    fn calls(&mut self, calls: &[Moved]) -> &mut Self {
        for (half, bytes) in calls {
            self.call(*half, bytes);
        }
        self
    }

    fn gap(&mut self, half: Half, n: u64) -> &mut Self {
        self.piece(half, false, Data::Gap(n))
    }

    /// Nothing passes for so long.
    fn wait(&mut self, seconds: u64) -> &mut Self {
        self.now_ns += seconds * 1_000_000_000;
        self
    }

    fn piece(&mut self, half: Half, segment_start: bool, data: Data<'_>) -> &mut Self {
        self.now_ns += 1;
        let offset = &mut self.offsets[half as usize];
        let piece = Piece {
            offset: *offset,
            segment_start,
            data,
            stamp: stamp(self.now_ns),
        };
        *offset += piece.len();
        self.redis.feed(half, piece, &mut self.out);
        self
    }

    fn end(&mut self, half: Half) -> &mut Self {
        self.now_ns += 1;
        self.redis.end(half, stamp(self.now_ns), &mut self.out);
        self
    }

    /// The events in short, one a line.
    fn story(&self) -> Vec<String> {
        self.out.iter().map(brief).collect()
    }
}

fn stamp(time_ns: u64) -> Stamp {
    Stamp {
        time_ns,
        ..Stamp::default()
    }
}

/// An event without its stamps. That a request is sent is told with its begin.
fn brief(event: &Event) -> String {
    match event {
        Event::Begins {
            exchange,
            call: Call::Redis(command),
            offset,
            ..
        } => {
            let name = command.name.as_deref().unwrap_or("?");
            let keys = command.keys.map_or("?".to_owned(), |keys| keys.to_string());
            format!("{exchange} {name} {keys} @{offset}")
        }
        Event::Sent { exchange, .. } => format!("{exchange} sent"),
        Event::Answered {
            exchange,
            reply: Reply::Redis(answer),
            offset,
            ..
        } => match answer {
            Answer::Reply => format!("{exchange} reply @{offset}"),
            Answer::Error(prefix) => format!("{exchange} {} @{offset}", prefix.as_deref().unwrap_or("error")),
        },
        Event::Ended { exchange, .. } => format!("{exchange} done"),
        Event::Lost { exchange, cause } => format!("{exchange} lost {cause:?}"),
        Event::Opaque { carries, .. } => format!("opaque {carries}"),
        Event::Begins { .. } | Event::Answered { .. } => "of HTTP".to_owned(),
    }
}

/// The stories of some calls, from birth.
fn told(calls: &[Moved]) -> Vec<String> {
    Talk::new(true).calls(calls).end(Q).end(R).story()
}
