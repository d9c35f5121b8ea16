//! Core on impossible streams of events: nothing panics, the settings bound the memory, the same stream gives the same
//! spans, and nothing is held once all connections have ended.
#![no_main]

use arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use spoor::{
    config::CoreSettings,
    engine::{Core, trace::Span},
    record::Tgid,
};
use spoor_fuzz::events::{Step, stream};

/// Upper bound of waiting requests on one connection (`MAX_PENDING` of the parser).
const MOST_PENDING: usize = 1024;

fuzz_target!(|data: &[u8]| {
    let (settings, steps) = stream(&mut Unstructured::new(data));
    let (spans, counters) = play(&settings, &steps);
    let (again, counters_again) = play(&settings, &steps);
    assert_eq!(spans, again, "two plays of one stream");
    assert_eq!(counters, counters_again);
    for span in &spans {
        assert!(span.start_unix_ns <= span.end_unix_ns, "{span:?}");
        assert!(span.parent.is_none_or(|(parent, _)| parent != span.span_id), "{span:?}");
    }
    let mut ids: Vec<_> = spans.iter().map(|span| span.span_id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), spans.len(), "an id was given twice");
});

fn play(settings: &CoreSettings, steps: &[Step]) -> (Vec<Span>, Vec<(&'static str, u64)>) {
    let most_connections = settings.max_connections as usize;
    let most_held = (settings.hold_bytes / 1536) as usize;
    let mut core = Core::new(settings, 7);
    let mut spans = Vec::new();
    for step in steps {
        match step {
            Step::Record(record) => core.raw_record(record),
            Step::Tick(now_ns) => {
                core.tick(*now_ns);
                spans.extend(core.drain());
                let _ = (core.take_wanted(), core.take_hints());
            }
            Step::Drain => spans.extend(core.drain()),
            Step::Process(facts) => core.process(facts.clone()),
            Step::Selected(tgid, selected) => core.selected(Tgid(*tgid), *selected),
            Step::Clock(monotonic_ns, unix_ns) => core.clock(*monotonic_ns, *unix_ns),
        }
        let (connections, exchanges) = core.under_way();
        assert!(connections <= most_connections, "{connections} connections");
        assert!(
            exchanges <= most_held + most_connections * MOST_PENDING + steps.len(),
            "{exchanges} exchanges"
        );
    }
    // Ends the exchanges that a reset left open; then all spans leave.
    core.tick(u64::MAX - 1);
    spans.extend(core.flush());
    assert_eq!(core.drain(), [], "what is over has left");
    assert_eq!(
        core.under_way(),
        (0, 0),
        "all connections have ended, and something is kept"
    );
    (spans, core.counters())
}
