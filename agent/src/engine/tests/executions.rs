//! Handles of executions and processes: kept while something refers to them, and forgotten in time.

use super::*;

/// Enough to have them swept before it is time.
const CROWD: u32 = 40_000;

/// Threads that do one thing each, on a connection of which nothing is known.
fn crowd(world: &mut World, tgid: u32) {
    let mut unknown = End {
        conn: 1_000_001,
        tgid,
        read: 0,
        written: 0,
    };
    for tid in 0..CROWD {
        world.feed(unknown.reads(100_000 + tid, "x"));
        let (executions, _) = world.core.executions.len();
        assert!(executions <= CROWD as usize / 2, "{executions}");
    }
}

#[test]
fn a_sweep_changes_no_decision() {
    let mut world = two_services(Runtime::Unknown);
    let mut front = world.server(10);
    let mut call = world.client(10, 11);
    let swept = |world: &mut World| crowd(world, 30);
    // The head is with the parser, the request and the writer of its response with causality.
    let (head, rest) = (get("/a"), OK);
    world.feed(front.reads(11, &head[..20]));
    swept(&mut world);
    world.feed(front.reads(11, &head[20..]));
    swept(&mut world);
    world.feed(call.writes(11, &get("/b")));
    world.feed(call.reads(11, &rest[..20]));
    swept(&mut world);
    world.feed(call.reads(11, &rest[20..]));
    world.feed(front.writes(11, &rest[..rest.len() - 1]));
    swept(&mut world);
    world.feed(front.writes(11, &rest[rest.len() - 1..]));
    assert_eq!(
        world.tree(),
        [
            "front client GET /b <- front server GET /a (thread)",
            "front server GET /a <- root"
        ]
    );
}

/// The thread that wrote the beginning of a response is remembered, so that the other one is seen to be another.
#[test]
fn a_sweep_forgets_no_writer() {
    let mut world = two_services(Runtime::Unknown);
    let mut front = world.server(10);
    let mut call = world.kept(10, 11);
    world.feed(front.reads(11, &get("/a")));
    world.feed(call.writes(11, &get("/b")));
    world.feed(call.reads(11, OK));
    world.feed(front.writes(12, &OK[..20]));
    crowd(&mut world, 30);
    world.feed(front.writes(11, &OK[20..]));
    assert_eq!(
        world.tree(),
        ["front client GET /b <- root", "front server GET /a <- root"]
    );
}

#[test]
fn executions_go_with_what_is_known_of_their_process() {
    let mut world = World::new();
    for tgid in 10..20 {
        world.process(tgid, "front", Runtime::Unknown);
        let mut front = world.server(tgid);
        world.feed(front.reads(tgid + 100, &get("/a")));
        world.feed(front.writes(tgid + 200, OK));
        world.spans();
        world.exit(tgid);
        world.feed(front.state(StateChange::Closed, 3, 0));
    }
    // The threads of nobody, of each process, and the ones that read and wrote.
    assert_eq!(world.core.executions.len(), (31, 11));
    world.pass(11 * SECOND);
    // Nothing is under way, but the processes are remembered for a while.
    assert_eq!(world.core.executions.len(), (1, 11));
    world.pass(60 * SECOND);
    assert_eq!(world.core.executions.len(), (1, 1));
    assert!(world.core.processes.is_empty());
}

/// A process id that is used again while a connection of the ended process is not known to be closed.
#[test]
fn a_process_id_used_again_after_its_process_was_forgotten() {
    let mut world = World::new();
    world.process(10, "first", Runtime::Unknown);
    let mut front = world.server(10);
    world.feed(front.reads(10, &get("/a")));
    world.exit(10);
    world.pass(60 * SECOND);
    let before = world.core.executions.process(crate::record::Tgid(10));
    assert!(!world.core.processes.contains(before));
    let mut again = world.server(10);
    world.feed(again.reads(10, &get("/b")));
    assert_eq!(world.core.executions.process(crate::record::Tgid(10)), before);
    world.feed(again.writes(10, OK));
    assert_eq!(world.core.take_wanted(), [crate::record::Tgid(10)]);
    world.process(10, "second", Runtime::Unknown);
    assert_eq!(world.tree(), ["second server GET /b <- root"]);
}
