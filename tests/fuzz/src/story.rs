//! Comparison of what a parser tells of one conversation, cut in two ways.

use spoor::engine::proto::{Event, Half};

/// Checks that two plays of one conversation tell the same of each half, as far as both tell anything, up to the first
/// event that gives something up. The pieces decide how the events of the halves interleave.
pub fn check_same(one: &[Event], other: &[Event]) {
    let (one, other) = (up_to_loss(one), up_to_loss(other));
    for half in [Half::Request, Half::Response] {
        let (one, other) = (of_half(one, half), of_half(other, half));
        let told = one.len().min(other.len());
        assert_eq!(one[..told], other[..told], "in pieces it is another story");
    }
}

fn of_half(events: &[Event], half: Half) -> Vec<&Event> {
    let of = |event: &&Event| match event {
        Event::Begins { .. } | Event::Sent { .. } => half == Half::Request,
        Event::Answered { .. } | Event::Ended { .. } => half == Half::Response,
        Event::Lost { .. } | Event::Opaque { .. } => false,
    };
    events.iter().filter(of).collect()
}

/// Returns the events before the first one that gives something up.
fn up_to_loss(events: &[Event]) -> &[Event] {
    let lost = |event: &Event| matches!(event, Event::Lost { .. } | Event::Opaque { .. });
    &events[..events.iter().position(lost).unwrap_or(events.len())]
}
