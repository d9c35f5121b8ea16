//! Both halves of a Redis connection: any bytes, in any pieces, with gaps. Nothing panics, the story is one that can be, and
//! where calls are told in smaller pieces it is the same. Each byte is data or structure, in pieces as in one.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use spoor::engine::{
    execution::Stamp,
    proto::{
        Data, Event, Half, Piece,
        redis::{
            Conversation, Redis,
            structure::{Run, Structure},
        },
        structure::{Mark, Marks},
    },
};
use spoor_fuzz::{byte, number, story::check_same, text};

/// More steps find nothing new: pieces that wait are bounded by their number.
const MOST_STEPS: usize = 200;

enum Step<'a> {
    /// A call that moved these bytes, or a part of one; told again in two pieces, cut at so many sixteenths.
    Bytes(Half, bool, &'a [u8], u8),
    Gap(Half, u64),
    End(Half),
}

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let flags = byte(&mut input);
    let from_birth = flags & 1 == 0;
    let at_server = flags & 2 != 0;
    // Of calls that come so seldom, each may begin a search anew.
    let pause_ns = if flags & 4 == 0 { 1_000_000 } else { 1_500_000_000 };
    let mut steps = Vec::new();
    while !input.is_empty() && steps.len() < MOST_STEPS {
        let kind = byte(&mut input);
        let half = if kind & 1 == 0 { Half::Request } else { Half::Response };
        steps.push(match kind >> 1 & 7 {
            6 => Step::Gap(half, number(&mut input)),
            7 => Step::End(half),
            _ => Step::Bytes(half, kind & 2 == 0, text(&mut input), kind >> 4),
        });
    }
    shown(from_birth, &steps);
    let start = || Redis::new(from_birth, at_server);
    let whole = play(start(), pause_ns, &steps, false);
    check(&whole, from_birth);
    let pieces = play(start(), pause_ns, &steps, true);
    check_same(&whole, &pieces);
    for half in [Half::Request, Half::Response] {
        assert_eq!(classes(half, &steps, false), classes(half, &steps, true));
    }
});

/// A step as one piece or two. A search looks at the first two bytes of a call.
fn pieces(bytes: &[u8], sixteenths: u8, in_pieces: bool) -> [&[u8]; 2] {
    let at = bytes.len() * usize::from(sixteenths) / 16;
    let (first, rest) = bytes.split_at(if in_pieces && at >= 2 { at } else { bytes.len() });
    [first, rest]
}

/// Events of the parser, without their stamps.
fn play(mut redis: Redis, pause_ns: u64, steps: &[Step<'_>], in_pieces: bool) -> Vec<Event> {
    let mut offsets = [0u64; 2];
    let mut out = Vec::new();
    let mut now_ns = 0;
    for step in steps {
        now_ns += pause_ns;
        let stamp = Stamp {
            time_ns: now_ns,
            ..Stamp::default()
        };
        let mut feed = |half: Half, start, data| {
            let offset = &mut offsets[half as usize];
            let piece = Piece {
                offset: *offset,
                segment_start: start,
                data,
                stamp,
            };
            redis.feed(half, piece, &mut out);
            *offset = offset.saturating_add(piece.len());
        };
        match step {
            Step::Bytes(half, start, bytes, cut) => {
                let [first, rest] = pieces(bytes, *cut, in_pieces);
                feed(*half, *start, Data::Bytes(first));
                feed(*half, false, Data::Bytes(rest));
            }
            Step::Gap(half, length) => feed(*half, false, Data::Gap(*length)),
            Step::End(half) => redis.end(*half, stamp, &mut out),
        }
        assert!(redis.pending() <= 4096);
        for half in [Half::Request, Half::Response] {
            let (ahead, until) = (redis.ahead(half).until, redis.body_until(half));
            assert!(ahead == 0 || ahead == until, "more is passed over than is a string");
            let offset = offsets[half as usize];
            assert!(
                until == 0 || until > offset || offset == u64::MAX,
                "a string that is over"
            );
        }
    }
    out.into_iter().map(Event::unstamped).collect()
}

/// Numbers are given in order, ends follow heads, and nothing is told of what was lost.
fn check(events: &[Event], from_birth: bool) {
    let (mut next, mut oldest) = (0, 0);
    let mut answering = false;
    let mut opaque = false;
    let mut synchronised = from_birth;
    for event in events {
        assert!(!opaque, "{event:?} on an opaque connection");
        match event {
            Event::Begins { exchange, .. } => {
                assert_eq!(*exchange, next, "{events:?}");
                if !synchronised {
                    (oldest, synchronised) = (next, true);
                }
                next += 1;
            }
            Event::Sent { exchange, .. } => assert_eq!(*exchange + 1, next, "{events:?}"),
            Event::Answered { exchange, .. } => {
                assert!(
                    synchronised && !answering && *exchange == oldest && oldest < next,
                    "{events:?}"
                );
                answering = true;
            }
            Event::Ended { exchange, .. } => {
                assert!(answering && *exchange == oldest, "{events:?}");
                answering = false;
                oldest += 1;
            }
            Event::Lost { exchange, .. } => {
                assert!((oldest..=next).contains(exchange), "{events:?}");
                (answering, synchronised) = (false, false);
            }
            Event::Opaque { .. } => opaque = true,
        }
    }
}

/// Marks the conversation as a redacted tape does: each byte once, and none that is older than the agent stays.
fn shown(from_birth: bool, steps: &[Step<'_>]) {
    let mut conversation = Conversation::new(from_birth);
    for step in steps {
        match step {
            Step::Bytes(half, _, bytes, _) => {
                let mut marks = Marks::default();
                conversation.bytes(*half, bytes, &mut marks);
                let marked = marks.iter().map(|mark| match mark {
                    Mark::Keep(n) => {
                        assert!(from_birth, "kept");
                        n
                    }
                    Mark::Fill(n) => n,
                    other => panic!("{other:?}"),
                });
                assert_eq!(marked.sum::<usize>(), bytes.len(), "bytes without a mark");
            }
            Step::Gap(half, length) => conversation.gap(*half, *length),
            Step::End(_) => {}
        }
    }
}

/// Bytes of a half that are data.
fn classes(half: Half, steps: &[Step<'_>], in_pieces: bool) -> Vec<Run> {
    let mut structure = Structure::new(half);
    let mut runs = Vec::new();
    let mut offset = 0u64;
    let mut take = |data| {
        let piece = Piece {
            offset,
            segment_start: false,
            data,
            stamp: Stamp::default(),
        };
        offset = offset.saturating_add(piece.len());
        structure.take(piece, &mut runs);
    };
    for step in steps {
        match step {
            Step::Bytes(of, _, bytes, cut) if *of == half => {
                for bytes in pieces(bytes, *cut, in_pieces) {
                    take(Data::Bytes(bytes));
                }
            }
            Step::Gap(of, length) if *of == half => take(Data::Gap(*length)),
            Step::Bytes(..) | Step::Gap(..) | Step::End(_) => {}
        }
    }
    structure.finish(&mut runs);
    let told = runs.iter().fold(0u64, |sum, run| sum.saturating_add(run.bytes));
    assert_eq!(told, offset, "bytes without a class");
    runs
}
