//! Calls of another protocol than that of the requests they are made for.

use super::*;

const GET_KEY: &str = "*2\r\n$3\r\nGET\r\n$6\r\nsecret\r\n";
const VALUE: &str = "$7\r\nprivate\r\n";

fn shop() -> World {
    let mut world = World::new();
    world.process(10, "shop", Runtime::Python);
    world.process(20, "cache", Runtime::Unknown);
    world
}

#[test]
fn a_request_calls_redis() {
    let mut world = shop();
    let mut shop = world.server(10);
    world.feed(shop.reads(11, &get("/a")));
    let (mut call, mut cache) = world.pair((10, 11), 20);
    world.feed(call.writes(11, GET_KEY));
    world.feed(cache.reads(20, GET_KEY));
    world.feed(cache.writes(20, VALUE));
    world.feed(call.reads(11, VALUE));
    // The next one, on the same connection: the thread alone says for which request.
    world.feed(call.writes(11, "*3\r\n$4\r\nINCR\r\n$1\r\na\r\n$1\r\nb\r\n"));
    world.feed(cache.reads(20, "*3\r\n$4\r\nINCR\r\n$1\r\na\r\n$1\r\nb\r\n"));
    world.feed(cache.writes(20, "-ERR wrong number of arguments\r\n"));
    world.feed(call.reads(11, "-ERR wrong number of arguments\r\n"));
    world.feed(shop.writes(11, OK));
    let spans = world.spans();
    assert_eq!(
        tree(&spans),
        [
            "cache server GET <- shop client GET (same-host)",
            "cache server INCR !ERR <- shop client INCR !ERR (same-host)",
            "shop client GET <- shop server GET /a (opener)",
            "shop client INCR !ERR <- shop server GET /a (thread)",
            "shop server GET /a <- root",
        ]
    );
    assert_eq!(
        spans
            .iter()
            .filter(|span| attribute(span, "db.system.name").is_some())
            .count(),
        4
    );
    let told = format!("{spans:?}");
    assert!(!told.contains("secret") && !told.contains("private"));
    assert_eq!(world.core.under_way(), (3, 0));
}

#[test]
fn a_pipeline_is_a_call_for_each_command() {
    let mut world = shop();
    let mut shop = world.server(10);
    world.feed(shop.reads(11, &get("/a")));
    let mut call = world.client(10, 11);
    world.feed(call.writes(11, &GET_KEY.repeat(3)));
    world.feed(call.reads(11, &VALUE.repeat(3)));
    world.feed(shop.writes(11, OK));
    let tree = world.tree();
    assert_eq!(tree.len(), 4);
    assert!(
        tree[..3]
            .iter()
            .all(|line| line.starts_with("shop client GET <- shop server GET /a"))
    );
}

#[test]
fn a_command_without_a_reply_ends_with_its_connection() {
    let mut world = shop();
    let mut call = world.client(10, 11);
    world.feed(call.writes(11, GET_KEY));
    world.feed(call.state(StateChange::Closed, 0, 104));
    world.pass(20 * SECOND);
    assert_eq!(world.tree(), ["shop client GET !connection_reset <- root"]);
}

#[test]
fn a_subscriber_is_given_up() {
    let mut world = shop();
    let mut call = world.client(10, 11);
    world.feed(call.writes(11, "*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n"));
    world.feed(call.reads(11, "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"));
    for _ in 0..3 {
        world.feed(call.reads(11, "*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n"));
    }
    assert_eq!((world.counter("opaque"), world.counter("missed")), (1, 0));
    let counters = world.core.counters();
    assert_eq!(world.tree(), ["shop client SUBSCRIBE <- root"], "{counters:?}");
}

#[test]
fn an_older_connection_is_not_read() {
    let mut world = shop();
    world.connections += 2;
    let mut call = world.open(Open {
        from_birth: 0,
        ..open(world.connections, 10, 11, Role::Unknown)
    });
    for _ in 0..2 {
        world.feed(call.writes(11, GET_KEY));
        world.feed(call.reads(11, VALUE));
        world.pass(SECOND);
    }
    world.pass(20 * SECOND);
    assert!(world.tree().is_empty());
}
