//! Bounds of every store, whatever comes.

use super::*;
use agent_ebpf::abi::{STATE_OPEN, STATE_RELEASED};

/// Room for 64 exchanges.
fn small() -> CoreSettings {
    CoreSettings {
        hold_bytes: 64 * super::super::BYTES_PER_EXCHANGE,
        ..settings()
    }
}

/// Calls of processes of which nothing is known, faster than they are learned of.
#[test]
fn exchanges_of_unknown_processes_are_held_within_the_bound() {
    const CALLS: u64 = 1000;
    let mut world = World::with(&small());
    for tgid in 0..CALLS as u32 {
        let mut end = world.client(100 + tgid, 100 + tgid);
        world.feed(end.writes(100 + tgid, &get("/a")));
        world.feed(end.reads(100 + tgid, OK));
        assert_eq!(world.tree(), Vec::<String>::new());
        assert!(world.core.under_way().1 <= 64);
    }
    assert_eq!(world.counter("unknown_too_many"), CALLS - 64);
    // The latest are there still.
    for tgid in 0..CALLS as u32 {
        world.process(100 + tgid, "late", Runtime::Unknown);
    }
    assert_eq!(world.tree().len(), 64);
}

/// A request that lasts, in whose trace calls come and go before its own trace is known.
#[test]
fn a_long_request_keeps_only_the_calls_that_wait() {
    let mut world = World::with(&small());
    world.process(10, "proxy", Runtime::Nginx);
    let mut front = world.server(10);
    world.feed(front.reads(10, &get("/a")));
    for _ in 0..2000 {
        let mut call = world.client(10, 10);
        world.feed(call.writes(10, &get("/a")));
        world.feed(call.reads(10, OK));
        world.feed(call.state(StateChange::LocalFin, 3, 0));
        world.feed(call.state(StateChange::Closed, 3, 0));
        world.spans();
        assert!(world.core.causality.heirs() <= 256, "{}", world.core.causality.heirs());
    }
    world.feed(front.writes(10, OK));
    assert!(world.tree().contains(&"proxy server GET /a <- root".to_owned()));
}

/// Connections that are reset while others are opened: each look-up costs the same however many there are.
#[test]
fn a_storm_of_resets_costs_no_more_for_each() {
    const RESETS: u64 = 24_000;
    let mut world = World::with(&CoreSettings {
        max_connections: 65_536,
        ..settings()
    });
    world.process(10, "front", Runtime::Unknown);
    let started = std::time::Instant::now();
    let mut late = Vec::new();
    for number in 0..RESETS {
        let conn = 2 * number;
        let socket = Open {
            sock: 0x1000 + number,
            inode: number,
            ..open(conn, 10, 10, Role::Client)
        };
        let mut end = world.open(socket);
        world.feed(end.writes(10, &get("/a")));
        world.feed(end.state(StateChange::Closed, 0, libc::ECONNRESET));
        // All in one moment.
        world.now_ns -= 3000;
        late.push((socket, end.written));
    }
    // Half of them had more to tell.
    for (socket, written) in late.into_iter().skip(RESETS as usize / 2) {
        let again = Open {
            conn: socket.conn + 1,
            role: Role::Unknown as u8,
            from_birth: 0,
            written: written + 1,
            ..socket
        };
        let mut end = world.open(again);
        world.feed(end.reads(10, OK));
        world.now_ns -= 2000;
    }
    world.pass(SECOND);
    assert_eq!(world.tree().len(), RESETS as usize);
    assert_eq!(world.core.under_way(), (0, 0));
    assert_eq!(world.counter("closed_early"), RESETS - 16_384);
    // A second or two. With a look at each reset for each of them it would take minutes.
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

/// Clients give up faster than anybody reads what they sent.
#[test]
fn calls_that_were_given_up_are_forgotten_in_time_and_above_a_number() {
    const CALLS: u64 = 6000;
    let mut world = two_services(Runtime::Unknown);
    for _ in 0..CALLS {
        let mut client = world.client(10, 11);
        world.feed(client.writes(11, &get("/b")));
        world.feed(client.state_of(STATE_RELEASED, 1, StateChange::LocalFin, 3));
        world.feed(client.state_of(STATE_RELEASED, 5, StateChange::Closed, 3));
        world.spans();
    }
    // Each is counted where its connection and where its call is remembered.
    assert_eq!(world.counter("given_up_too_many"), 2 * (CALLS - 4096));
    world.pass(11 * SECOND);
    assert_eq!(world.core.causality.given_up(), 0);
}

/// A socket that is half closed, and whose end is told over and over.
#[test]
fn an_end_that_is_told_twice_is_one() {
    let mut world = two_services(Runtime::Unknown);
    let mut client = world.client(10, 11);
    world.feed(client.writes(11, &get("/b")));
    for _ in 0..3 {
        world.feed(client.state_of(STATE_OPEN, 5, StateChange::Closed, 3));
    }
    world.pass(SECOND);
    assert_eq!(world.tree(), ["front client GET /b !connection_closed <- root"]);
    assert_eq!(world.core.under_way(), (0, 0));
}

/// Ends that were lost leave connections behind, which make room for later ones.
#[test]
fn the_connection_that_is_idle_longest_makes_room() {
    let mut world = World::with(&CoreSettings {
        max_connections: 3,
        ..settings()
    });
    world.process(10, "front", Runtime::Unknown);
    let mut kept = world.kept(10, 10);
    for number in 0..20 {
        let mut call = world.client(10, 10);
        world.feed(call.writes(10, &get("/a")));
        if number % 2 == 0 {
            world.feed(call.reads(10, OK));
        }
        world.feed(kept.writes(10, &get("/kept")));
        world.feed(kept.reads(10, OK));
    }
    assert_eq!(world.core.under_way().0, 3);
    let calls = [
        ["front client GET /a <- root"; 10].as_slice(),
        &["front client GET /kept <- root"; 20],
    ];
    assert_eq!(world.tree(), calls.concat());
    assert_eq!(world.counter("connections_displaced"), 18);
    assert_eq!(world.counter("missed"), 9, "one is under way");
    assert_eq!(world.counter("unknown_connection"), 0);
}

/// One search finds many connections, but each is looked at again before it makes room.
#[test]
fn a_connection_that_is_used_again_makes_no_room() {
    let mut world = World::with(&CoreSettings {
        max_connections: 256,
        ..settings()
    });
    world.process(10, "front", Runtime::Unknown);
    let mut calls: Vec<End> = (0..256).map(|_| world.client(10, 10)).collect();
    calls.push(world.client(10, 10));
    // The next ones to make room.
    for call in &mut calls[1..4] {
        world.feed(call.writes(10, &get("/a")));
        world.feed(call.reads(10, OK));
    }
    calls.extend((0..200).map(|_| world.client(10, 10)));
    for call in &mut calls[1..4] {
        world.feed(call.writes(10, &get("/a")));
        world.feed(call.reads(10, OK));
    }
    assert_eq!(world.tree(), ["front client GET /a <- root"; 6]);
    assert_eq!(world.counter("connections_displaced"), 201);
    assert_eq!(world.core.under_way().0, 256);
}
