//! Processes that begin, end, and are selected or not.

use super::*;
use agent_ebpf::abi::{Exec, Fork, Listen};

fn exec(world: &mut World, tgid: u32, provisional: u32) {
    world.now_ns += 1000;
    let exec = Exec {
        header: Header {
            time_ns: world.now_ns,
            ..header(Kind::Exec, tgid, tgid)
        },
        strings_len: 0,
        pad: 0,
        cmdline_len: 0,
        provisional,
        comm: [0; 16],
    };
    world.core.raw_record(bytes_of(&exec));
}

fn fork(world: &mut World, parent: u32, child: u32) {
    world.now_ns += 1000;
    let fork = Fork {
        header: Header {
            time_ns: world.now_ns,
            ..header(Kind::Fork, parent, parent)
        },
        child,
        pad: 0,
    };
    world.core.raw_record(bytes_of(&fork));
}

fn knows(world: &mut World, tgid: u32) -> bool {
    let process = world.core.executions.process(crate::record::Tgid(tgid));
    world.core.processes.contains(process)
}

/// A request that is read and answered.
pub(super) fn exchange(world: &mut World, end: &mut End, tid: u32) {
    world.feed(end.reads(tid, &get("/a")));
    world.feed(end.writes(tid, OK));
}

#[test]
fn a_provisional_process_waits_until_it_is_selected() {
    for selected in [true, false] {
        let mut world = World::new();
        exec(&mut world, 10, 1);
        let mut front = world.server(10);
        let mut open = world.server(10);
        exchange(&mut world, &mut front, 10);
        world.feed(open.reads(10, &get("/b")));
        world.process(10, "front", Runtime::Unknown);
        assert_eq!(world.tree(), [""; 0]);
        assert!(world.core.take_wanted().is_empty(), "it is asked about already");
        world.core.selected(crate::record::Tgid(10), selected);
        let expected: &[&str] = if selected {
            &["front server GET /a <- root"]
        } else {
            &[]
        };
        assert_eq!(world.tree(), expected);
        let under_way = if selected { (2, 1) } else { (0, 0) };
        assert_eq!(world.core.under_way(), under_way);
        assert_eq!(world.counter("not_selected"), u64::from(!selected) * 2);
        let given_up = world
            .core
            .take_hints()
            .iter()
            .filter(|(_, hints)| *hints == crate::engine::flow::IGNORE)
            .count();
        assert_eq!(
            given_up,
            usize::from(!selected) * 2,
            "the programs report no more of them"
        );
        // Of what is not selected, some was told before they knew.
        exchange(&mut world, &mut front, 10);
        world.feed(front.state(StateChange::Closed, 3, 0));
        let expected: &[&str] = if selected {
            &["front server GET /a <- root"]
        } else {
            &[]
        };
        assert_eq!(world.tree(), expected);
        assert_eq!(world.counter("unknown_connection"), 0);
        assert_eq!(world.core.under_way().0, usize::from(selected));
    }
}

#[test]
fn a_request_waits_until_it_is_known_whether_its_caller_is_selected() {
    for selected in [true, false] {
        let mut world = World::new();
        exec(&mut world, 10, 1);
        world.process(20, "back", Runtime::Unknown);
        let (mut call, mut back) = world.pair((10, 10), 20);
        world.feed(call.writes(10, &get("/a")));
        exchange(&mut world, &mut back, 20);
        world.feed(call.reads(10, OK));
        assert_eq!(world.tree(), [""; 0], "its parent may be no span");
        world.process(10, "front", Runtime::Unknown);
        world.core.selected(crate::record::Tgid(10), selected);
        let expected: &[&str] = if selected {
            &[
                "back server GET /a <- front client GET /a (same-host)",
                "front client GET /a <- root",
            ]
        } else {
            &["back server GET /a <- root"]
        };
        assert_eq!(world.tree(), expected);
    }
}

#[test]
fn children_of_a_provisional_process_wait_too() {
    for selected in [true, false] {
        let mut world = World::new();
        exec(&mut world, 10, 1);
        fork(&mut world, 10, 11);
        // It was a target already.
        exec(&mut world, 11, 0);
        let mut front = world.server(11);
        exchange(&mut world, &mut front, 11);
        world.process(11, "front", Runtime::Unknown);
        assert_eq!(world.tree(), [""; 0]);
        world.core.selected(crate::record::Tgid(11), selected);
        let expected: &[&str] = if selected {
            &["front server GET /a <- root"]
        } else {
            &[]
        };
        assert_eq!(world.tree(), expected);
    }
}

#[test]
fn what_is_told_late_of_a_process_that_is_not_selected_is_forgotten() {
    let mut world = World::new();
    exec(&mut world, 10, 1);
    world.core.selected(crate::record::Tgid(10), false);
    // The programs knew it later, and all this was on its way: a new connection, a fork, and the next program.
    let mut late = world.server(10);
    exchange(&mut world, &mut late, 10);
    assert!(world.core.take_wanted().is_empty());
    world.process(10, "shell", Runtime::Unknown);
    fork(&mut world, 10, 11);
    exec(&mut world, 10, 0);
    for (tgid, name) in [(10, "shop"), (11, "stock")] {
        let mut end = world.server(tgid);
        exchange(&mut world, &mut end, tgid);
        world.process(tgid, name, Runtime::Unknown);
    }
    assert_eq!(world.tree(), [""; 0]);
    assert_eq!(world.counter("unknown_connection"), 0);
    world.core.selected(crate::record::Tgid(11), false);
    world.core.selected(crate::record::Tgid(10), true);
    assert_eq!(world.tree(), ["shop server GET /a <- root"]);
    world.pass(30 * SECOND);
    assert!(!knows(&mut world, 11), "it is not kept for ever");
}

#[test]
fn what_listens_where_a_rule_says_is_selected_and_so_is_what_it_forks() {
    let mut world = World::new();
    exec(&mut world, 10, 1);
    world.core.selected(crate::record::Tgid(10), false);
    let listen = Listen {
        header: Header {
            time_ns: world.now_ns + 1,
            ..header(Kind::Listen, 10, 10)
        },
        port: 80,
        pad: 0,
    };
    world.core.raw_record(bytes_of(&listen));
    fork(&mut world, 10, 11);
    let mut end = world.server(11);
    exchange(&mut world, &mut end, 11);
    world.process(11, "worker", Runtime::Unknown);
    assert_eq!(world.tree(), ["worker server GET /a <- root"]);
}

#[test]
fn a_process_of_which_nothing_is_told() {
    let mut world = World::new();
    let mut front = world.server(10);
    exchange(&mut world, &mut front, 10);
    assert_eq!(world.core.take_wanted(), [crate::record::Tgid(10)]);
    assert_eq!((world.tree(), world.core.waits_for_facts()), (vec![], true));
    world.pass(11 * SECOND);
    assert_eq!((world.tree(), world.core.waits_for_facts()), (vec![], false));
    assert_eq!(world.counter("unknown_process"), 1);
}

#[test]
fn a_new_program_and_a_process_id_used_again() {
    let mut world = two_services(Runtime::Unknown);
    let mut front = world.server(10);
    exchange(&mut world, &mut front, 10);
    exec(&mut world, 10, 0);
    let mut again = world.server(10);
    exchange(&mut world, &mut again, 10);
    assert_eq!(
        world.tree(),
        ["front server GET /a <- root"],
        "the first is the first program's"
    );
    world.process(10, "second", Runtime::Unknown);
    assert_eq!(world.tree(), ["second server GET /a <- root"]);
    world.exit(10);
    fork(&mut world, 1, 10);
    let mut third = world.server(10);
    exchange(&mut world, &mut third, 10);
    assert_eq!(world.tree(), [""; 0]);
    world.process(10, "third", Runtime::Unknown);
    // What is kept of those that ended goes; the new one stays.
    world.pass(60 * SECOND);
    exchange(&mut world, &mut third, 10);
    assert_eq!(world.tree(), ["third server GET /a <- root"; 2]);
    assert!(world.core.take_wanted().is_empty());
}

#[test]
fn facts_that_come_after_the_end_are_forgotten_all_the_same() {
    let mut world = two_services(Runtime::Unknown);
    let mut front = world.server(10);
    exchange(&mut world, &mut front, 10);
    world.exit(10);
    world.process(10, "front", Runtime::Unknown);
    assert_eq!(world.tree(), ["front server GET /a <- root"]);
    world.feed(front.state(StateChange::Closed, 3, 0));
    world.pass(60 * SECOND);
    assert!(!knows(&mut world, 10));
    world.pass(1000 * SECOND);
    assert!(
        world.core.processes.is_empty(),
        "nor is one that does nothing kept for ever"
    );
    assert_eq!(world.core.next_deadline_ns(), None);
}

#[test]
fn a_killed_process_gives_no_status() {
    let mut world = two_services(Runtime::Unknown);
    let mut front = world.server(10);
    world.feed(front.reads(10, &get("/a")));
    world.exit(10);
    world.feed(front.state(StateChange::Closed, 3, 0));
    let spans = world.spans();
    assert_eq!(tree(&spans), ["front server GET /a !process_exit <- root"]);
    assert_eq!(attribute(&spans[0], "http.response.status_code"), None);
}
