//! Both halves of an HTTP/1 connection: any bytes, in any pieces, with gaps. Nothing panics, the events are consistent,
//! and smaller pieces give the same events, except for the time at which a fault is noticed: a long line is parsed when
//! it ends. Bytes that are no HTTP/1 go to the detection of other protocols.
#![no_main]

use std::borrow::Cow;

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use spoor::engine::{
    execution::Stamp,
    proto::{
        Call, Data, Event, Half, Piece,
        http1::{Config, Http1},
        opaque,
    },
};
use spoor_fuzz::{byte, number, short, story::check_same, text};

/// Upper bound of steps: longer inputs find nothing new, and the number of pieces bounds the waiting ones.
const MOST_STEPS: usize = 200;
/// Upper bound of steps that repeat a text: they reach the parser's bounds, and take long.
const MOST_REPEATED: usize = 2;
/// Upper bound of a repeated text, in bytes: more than the parser keeps.
const REPEATED_BYTES: usize = 80 << 10;
/// A boundary is trusted behind it, also if the client pipelines.
const SILENCE_NS: u64 = 10_000_000_000;

enum Step<'a> {
    /// A call that moved these bytes, or a part of one. Played again in two pieces, cut at this many sixteenths.
    Bytes(Half, bool, Cow<'a, [u8]>, u8),
    Gap(Half, u64),
    End(Half),
    /// Nothing passes for ten seconds.
    Silence,
}

fuzz_target!(|data: &[u8]| {
    let mut input = Unstructured::new(data);
    let flags = byte(&mut input);
    let from_birth = flags & 1 == 0;
    let at_server = flags & 2 != 0;
    let mut steps = Vec::new();
    let mut repeated = 0;
    while !input.is_empty() && steps.len() < MOST_STEPS {
        let kind = byte(&mut input);
        let half = if kind & 1 == 0 { Half::Request } else { Half::Response };
        steps.push(match kind >> 1 & 7 {
            6 if kind >> 4 == 15 && repeated < MOST_REPEATED => {
                repeated += 1;
                Step::Bytes(half, true, again_and_again(&mut input), 8)
            }
            6 => Step::Gap(half, number(&mut input)),
            7 if kind >> 4 == 15 => Step::Silence,
            7 => Step::End(half),
            _ => Step::Bytes(half, kind & 2 == 0, text(&mut input).into(), kind >> 4),
        });
    }
    for step in &steps {
        if let Step::Bytes(_, true, bytes, _) = step {
            assert!(!opaque::protocol(bytes).is_empty());
        }
    }
    let whole = play(from_birth, at_server, &steps, false);
    check(&whole, from_birth);
    let pieces = play(from_birth, at_server, &steps, true);
    check_same(&whole, &pieces);
});

fn again_and_again<'a>(input: &mut Unstructured<'a>) -> Cow<'a, [u8]> {
    let times = usize::from(short(input));
    let text = text(input);
    text.repeat(times.min(REPEATED_BYTES / text.len().max(1))).into()
}

/// Returns the place of a cut. A long head is parsed line by line, so a fault in the second piece must be visible there
/// if it decides at which call the search for requests continues.
fn place(bytes: &[u8], sixteenths: u8, from_birth: bool) -> usize {
    let at = bytes.len() * usize::from(sixteenths) / 16;
    if from_birth || bytes[at..].contains(&b'\n') {
        at
    } else {
        bytes.len()
    }
}

/// Returns the parser's events, without the stamps.
fn play(from_birth: bool, at_server: bool, steps: &[Step<'_>], in_pieces: bool) -> Vec<Event> {
    let name = |name: &str| name.parse().expect("a header name");
    let config = Config::new(&[name("x-a")], &[name("x-b")], false);
    let mut http = Http1::new(from_birth);
    if at_server {
        http = http.at_server();
    }
    let mut offsets = [0u64; 2];
    let mut out = Vec::new();
    let mut now_ns = 0;
    for step in steps {
        now_ns += 300_000_000;
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
            http.feed(&config, half, piece, &mut out);
            *offset = offset.saturating_add(match data {
                Data::Bytes(bytes) => bytes.len() as u64,
                Data::Gap(length) => length,
            });
        };
        match step {
            Step::Bytes(half, start, bytes, cut) if in_pieces => {
                let (first, rest) = bytes.split_at(place(bytes, *cut, from_birth));
                feed(*half, *start, Data::Bytes(first));
                feed(*half, *start && first.is_empty(), Data::Bytes(rest));
            }
            Step::Bytes(half, start, bytes, _) => feed(*half, *start, Data::Bytes(bytes)),
            Step::Gap(half, length) => feed(*half, false, Data::Gap(*length)),
            Step::End(half) => http.end(&config, *half, stamp, &mut out),
            Step::Silence => now_ns += SILENCE_NS,
        }
        assert!(http.pending() <= 1024);
        for half in [Half::Request, Half::Response] {
            let until = http.body_until(half);
            assert!(
                until == 0 || until > offsets[half as usize] || until >= u64::MAX - 1,
                "a body that is over"
            );
        }
    }
    let told: u64 = offsets.iter().fold(0, |sum, offset| sum.saturating_add(*offset));
    assert!(
        http.counters().unsynchronised_bytes <= told,
        "more is passed over than there was"
    );
    out.into_iter().map(Event::unstamped).collect()
}

/// Returns whether a call stands for bytes that a server refused, and that cannot be read.
fn is_unreadable(call: &Call) -> bool {
    matches!(call, Call::Http1(head) if head.method().is_empty())
}

/// Checks that numbers rise, ends follow heads, and no event is about a lost exchange.
fn check(events: &[Event], from_birth: bool) {
    let mut next = 0;
    let mut sending = None;
    let mut oldest = 0;
    // First exchange that is lost.
    let mut lost_from = u64::MAX;
    let mut answering = false;
    let mut opaque = false;
    let mut synchronised = from_birth;
    for event in events {
        assert!(!opaque, "{event:?} on an opaque connection");
        match event {
            Event::Begins { exchange, call, .. } => {
                assert_eq!(*exchange, next, "{events:?}");
                if !synchronised {
                    assert!(!answering, "{events:?}");
                    (oldest, lost_from, synchronised) = (next, u64::MAX, true);
                    // It was answered before it was whole, so its end is lost.
                    sending = None;
                }
                assert_eq!(sending, None, "{events:?}");
                // Where unreadable bytes end is not known: nothing tells that they are sent.
                sending = (!is_unreadable(call)).then_some(next);
                next += 1;
            }
            Event::Sent { exchange, .. } => assert_eq!(Some(*exchange), sending.take(), "{events:?}"),
            Event::Answered { exchange, .. } => {
                assert!(
                    !answering && *exchange == oldest && oldest < next.min(lost_from),
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
                // Earlier exchanges continue: only the end of the last one is in doubt.
                assert!((oldest..=next).contains(exchange), "{events:?}");
                sending = sending.filter(|sending| sending < exchange);
                answering &= oldest < *exchange;
                (lost_from, synchronised) = (*exchange, false);
            }
            Event::Opaque { .. } => opaque = true,
        }
    }
}
