//! Tests of the plan with streams whose boundaries are known.

mod host;
mod stream;
mod table;

use std::{println, vec::Vec};

use host::Connection;
use stream::{Conversation, Rng};

/// Number of streams in each test run; `SPOOR_PLAN_STREAMS` sets another one.
const STREAMS: u64 = 30_000;

/// Plays random conversations with hostile bodies in random pieces, with true hints that are late, lost or given for
/// one direction only, with skipped programs, and with exits of calls in another order than their bytes. Never hides a
/// boundary.
#[test]
fn no_boundary_is_hidden() {
    let streams = std::env::var("SPOOR_PLAN_STREAMS").map_or(STREAMS, |text| text.parse().expect("a number"));
    let mut totals = Totals::default();
    for seed in 1..=streams {
        run(seed, &mut totals);
    }
    println!("{streams} streams: {totals:?}");
    // A plan that knows no boundary at all must not pass.
    assert!(totals.boundaries > 2 * streams, "{totals:?}");
    assert!(totals.skipped_bytes > totals.bytes / 20, "{totals:?}");
    assert!(totals.adopted > streams / 10, "{totals:?}");
}

#[derive(Debug, Default)]
struct Totals {
    boundaries: u64,
    bytes: u64,
    skipped_bytes: u64,
    adopted: u64,
}

fn run(seed: u64, totals: &mut Totals) {
    let rng = &mut Rng::new(seed);
    let talk = Conversation::new(rng);
    let mut connection = Connection::new(rng.one_in(2), !rng.one_in(5));
    let mut hints = Vec::new();
    let mut epoch = 0;
    for call in talk.calls(rng) {
        if rng.one_in(60) {
            connection.skip(call.side, call.end);
            continue;
        }
        connection.call(&talk, call);
        // Core has read this far, and sends hints now or later from this knowledge.
        if rng.one_in(3) {
            epoch += 1;
            let due = rng.below(12);
            hints.push((due, talk.hints(connection.offsets(), epoch)));
        }
        hints.retain_mut(|(due, told)| {
            if *due > 0 {
                *due -= 1;
                return true;
            }
            // Another connection takes the slot, or a reader finds a half-written hint.
            match rng.below(6) {
                0 => {}
                1 => connection.hint_one(rng.below(2) as usize, told),
                _ => connection.hint(told),
            }
            false
        });
    }
    for side in 0..2 {
        for &boundary in &talk.sides[side].boundaries {
            let hidden = connection.is_hidden(side, boundary);
            assert!(
                !hidden,
                "seed {seed}: the boundary at {boundary} of side {side} is hidden\n{connection:?}\n{talk:?}"
            );
            totals.boundaries += 1;
        }
    }
    totals.bytes += connection.bytes;
    totals.skipped_bytes += connection.bytes - connection.captured_bytes();
    totals.adopted += connection.adopted;
}
