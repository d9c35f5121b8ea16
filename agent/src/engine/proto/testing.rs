//! Conversations for the tests of the parsers: whole, cut, out of order, and with gaps.

use std::collections::BTreeMap;

use proptest::{prelude::*, sample::Index};

use super::{Data, Event, Half, Piece};
use crate::engine::execution::Stamp;

pub const Q: Half = Half::Request;
pub const R: Half = Half::Response;

/// A system call that moves bytes.
pub type Moved = (Half, &'static str);

/// Bytes of system calls, in order.
pub type Pieces = Vec<(Half, &'static [u8])>;

/// A stretch of a call's bytes, of which all or none are there.
pub struct Stretch {
    pub half: Half,
    pub begins_call: bool,
    pub data: Data<'static>,
}

/// A call, and the beginning and the length of what is missing of it.
pub type Gap = (Index, Index, Index);

/// A piece of any bytes, or a gap, at any offset.
#[derive(Clone, Debug)]
pub struct AnyPiece {
    pub half: Half,
    segment_start: bool,
    offset: u64,
    data: Result<Vec<u8>, u64>,
}

pub fn stamp(time_ns: u64) -> Stamp {
    Stamp {
        time_ns,
        ..Stamp::default()
    }
}

/// Generates one conversation of these lists.
pub fn one_of(lists: &'static [&'static [&'static [Moved]]]) -> impl Strategy<Value = &'static [Moved]> {
    let all: Vec<_> = lists.iter().flat_map(|list| list.iter().copied()).collect();
    proptest::sample::select(all)
}

/// Generates where calls have gaps.
pub fn gaps() -> impl Strategy<Value = Vec<Gap>> {
    prop::collection::vec((any::<Index>(), any::<Index>(), any::<Index>()), 0..5)
}

/// Generates pieces of any bytes, with these texts among them.
pub fn any_pieces(texts: &'static [&'static str]) -> impl Strategy<Value = Vec<AnyPiece>> {
    let data = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Ok),
        proptest::sample::select(texts).prop_map(|text| Ok(text.as_bytes().to_vec())),
        any::<u64>().prop_map(Err),
    ];
    let piece = (any::<bool>(), any::<bool>(), any::<u64>(), data);
    let piece = piece.prop_map(|(is_request, segment_start, offset, data)| AnyPiece {
        half: if is_request { Q } else { R },
        segment_start,
        offset,
        data,
    });
    prop::collection::vec(piece, 0..40)
}

impl AnyPiece {
    pub fn piece(&self) -> Piece<'_> {
        Piece {
            offset: self.offset,
            segment_start: self.segment_start,
            data: match &self.data {
                Ok(bytes) => Data::Bytes(bytes),
                Err(gap) => Data::Gap(*gap),
            },
            stamp: stamp(self.offset),
        }
    }
}

/// Returns each call whole.
pub fn whole(calls: &'static [Moved]) -> Pieces {
    calls.iter().map(|(half, text)| (*half, text.as_bytes())).collect()
}

/// Returns the calls once for each place at which one of them can be cut in two.
pub fn cut_in_two(calls: &'static [Moved]) -> impl Iterator<Item = Pieces> {
    let cuts = |(index, (_, text)): (usize, &Moved)| (1..text.len()).map(move |cut| (index, cut));
    calls.iter().enumerate().flat_map(cuts).map(move |(index, cut)| {
        let mut pieces = whole(calls);
        let (half, bytes) = pieces[index];
        let (one, other) = bytes.split_at(cut);
        pieces.splice(index..=index, [(half, one), (half, other)]);
        pieces
    })
}

/// Returns the calls byte by byte.
pub fn by_byte(calls: &'static [Moved]) -> Pieces {
    let bytes = |(half, text): &'static Moved| text.as_bytes().chunks(1).map(|byte| (*half, byte));
    calls.iter().flat_map(bytes).collect()
}

/// Returns the calls with each of them cut at these places.
pub fn cut_at(calls: &'static [Moved], cuts: &[Index]) -> Pieces {
    let mut pieces = Vec::new();
    for (half, text) in calls {
        let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(text.len())).collect();
        at.extend([0, text.len()]);
        at.sort_unstable();
        let parts = at.windows(2).map(|range| &text.as_bytes()[range[0]..range[1]]);
        pieces.extend(parts.map(|part| (*half, part)));
    }
    pieces
}

/// Returns the calls of each half in their order, with those of the other half between them as `turns` say.
pub fn interleaved(calls: &'static [Moved], turns: &[bool]) -> Pieces {
    let pieces = whole(calls);
    let [mut requests, mut responses] = [Q, R].map(|half| pieces.iter().copied().filter(move |piece| piece.0 == half));
    let mut order: Pieces = Vec::new();
    for &turn in turns {
        order.extend(if turn { requests.next() } else { responses.next() });
    }
    order.extend(requests.chain(responses));
    order
}

/// Returns the stretches of each call.
pub fn with_gaps(calls: &'static [Moved], gaps: Vec<Gap>) -> Vec<Vec<Stretch>> {
    let mut missing: Vec<Vec<bool>> = calls.iter().map(|(_, text)| vec![false; text.len()]).collect();
    for (call, from, length) in gaps {
        let call = call.get_mut(&mut missing);
        let from = from.index(call.len());
        let length = 1 + length.index(call.len() - from);
        call[from..from + length].fill(true);
    }
    let stretches = |((half, text), missing): (&Moved, &Vec<bool>)| {
        let (half, mut rest) = (*half, text.as_bytes());
        let runs = missing.chunk_by(|one, other| one == other);
        runs.map(|run| {
            let begins_call = rest.len() == text.len();
            let bytes;
            (bytes, rest) = rest.split_at(run.len());
            let data = if run[0] {
                Data::Gap(run.len() as u64)
            } else {
                Data::Bytes(bytes)
            };
            Stretch {
                half,
                begins_call,
                data,
            }
        })
        .collect()
    };
    calls.iter().zip(&missing).map(stretches).collect()
}

/// Returns what is told of each exchange, sorted, by its number, without those that are lost in the end. `brief` shows an
/// event, the number first; `is_end` tells the line of a whole response.
pub fn exchanges(
    events: &[Event],
    brief: impl Fn(&Event) -> String,
    is_end: impl Fn(&str) -> bool,
) -> BTreeMap<u64, Vec<String>> {
    let mut exchanges: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for event in events {
        let number = match event {
            Event::Begins { exchange, .. }
            | Event::Sent { exchange, .. }
            | Event::Answered { exchange, .. }
            | Event::Ended { exchange, .. } => *exchange,
            Event::Lost { exchange, .. } => {
                // As a caller does: what has no whole response is forgotten.
                exchanges.retain(|number, lines| number < exchange || lines.iter().any(|line| is_end(line)));
                continue;
            }
            Event::Opaque { .. } => continue,
        };
        let line = brief(event).split_once(' ').unwrap().1.to_owned();
        exchanges.entry(number).or_default().push(line);
    }
    for lines in exchanges.values_mut() {
        lines.sort();
    }
    exchanges
}
