//! Whatever order the records of several threads come in, the spans are the same; and nothing that comes panics.

use super::*;
use proptest::prelude::*;

/// The records of three rounds of: somebody asks front (thread 11), front asks back (thread 21), both answer.
/// In two lists, one for each thread; each keeps its order.
fn conversation(world: &mut World) -> [Vec<Record>; 2] {
    let mut front = world.server(10);
    let (mut call, mut back) = world.pair((10, 11), 20);
    let mut threads = [vec![], vec![]];
    for round in 0..3 {
        threads[0].push(front.reads(11, &get(&format!("/a{round}"))));
        threads[0].push(call.writes(11, &get(&format!("/b{round}"))));
        threads[1].push(back.reads(21, &get(&format!("/b{round}"))));
        threads[1].push(back.writes(21, OK));
        threads[0].push(call.reads(11, OK));
        threads[0].push(front.writes(11, OK));
    }
    threads
}

/// Feeds both lists in the order of `picks`, as far as that can happen: a system call returns after the one before it
/// on its thread, but its return may be told after what the other end did with the bytes.
fn interleave(world: &mut World, picks: &[bool], drains: bool) -> Vec<Span> {
    let [front, back] = conversation(world);
    let (mut front, mut back) = (front.into_iter(), back.into_iter());
    let mut spans = vec![];
    for &pick in picks {
        let (asked, answered) = (12 - front.len(), 6 - back.len());
        // The back reads what the front sends when it has read its own request.
        let back_can = back.len() > 0 && (answered % 2 == 1 || asked > answered / 2 * 4);
        // The front reads a response to what the back has read.
        let front_can = front.len() > 0 && (asked % 4 != 2 || answered > asked / 4 * 2);
        let record = if pick && front_can || !back_can {
            front.next()
        } else {
            back.next()
        };
        world.feed(record.unwrap());
        if drains {
            spans.extend(world.spans());
        }
    }
    spans.extend(world.spans());
    spans
}

fn two_services() -> World {
    let mut world = World::new();
    world.process(10, "front", Runtime::Unknown);
    world.process(20, "back", Runtime::Unknown);
    world
}

proptest! {
    #[test]
    fn any_order_of_threads_gives_the_same_tree(picks in prop::collection::vec(any::<bool>(), 18), drains: bool) {
        let mut world = two_services();
        let spans = interleave(&mut world, &picks, drains);
        let mut expected = vec![];
        for round in 0..3 {
            expected.push(format!("back server GET /b{round} <- front client GET /b{round} (same-host)"));
            expected.push(format!("front client GET /b{round} <- front server GET /a{round} (thread)"));
            expected.push(format!("front server GET /a{round} <- root"));
        }
        expected.sort();
        prop_assert_eq!(tree(&spans), expected);
        prop_assert_eq!(world.core.under_way().1, 0);
    }

    #[test]
    fn the_same_records_give_the_same_spans(picks in prop::collection::vec(any::<bool>(), 18)) {
        let run = || interleave(&mut two_services(), &picks, true);
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn nothing_panics(records in prop::collection::vec(garbage(), 1..60)) {
        let mut core = Core::new(&settings(), 1);
        for tgid in 0..3 {
            core.process(facts(tgid, "x", if tgid == 2 { Runtime::Nginx } else { Runtime::Unknown }));
        }
        for (index, record) in records.iter().enumerate() {
            core.raw_record(record);
            if index % 7 == 0 {
                core.tick(index as u64 * SECOND);
                core.drain();
            }
        }
        core.flush();
        core.tick(u64::MAX);
        prop_assert_eq!(core.drain(), vec![]);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = crate::record::Record::decode(&bytes);
        Core::new(&settings(), 1).raw_record(&bytes);
    }
}

/// Records of few connections and processes, which contradict each other.
fn garbage() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![0..4u64, 0..200u64, any::<u64>()];
    let text = prop_oneof![
        Just(get("/a")),
        Just(OK.to_owned()),
        Just(get_with("/a", TRACEPARENT)),
        Just("x".to_owned()),
        Just(String::new()),
    ];
    let fields = (
        0..10u8,
        0..4u64,
        0..3u32,
        0..3u32,
        0..4u8,
        prop::collection::vec(number, 5),
        text,
    );
    fields.prop_map(|(kind, conn, tgid, tid, small, numbers, text)| {
        let mut header = header(Kind::Segment, tgid, tid);
        (header.kind, header.direction, header.flags) = (kind, small & 1, small as u16 >> 1);
        header.time_ns = numbers[4];
        let record = match kind {
            1 => Body::Open(Open {
                conn,
                sock: numbers[0],
                peer: numbers[1],
                read: numbers[2],
                written: numbers[3],
                sent_base: small as u32,
                received_base: tid,
                role: small,
                from_birth: small & 1,
                counted: (numbers[0] & 1) as u8,
                family: [1, 2, 10, 0][small as usize & 3],
                ..Open::default()
            }),
            2 => Body::Connect(Connect {
                conn,
                start_ns: numbers[0],
                result: numbers[1] as i32,
                family: small,
                ..Connect::default()
            }),
            4 => Body::State(State {
                conn,
                error: numbers[0] as i32,
                state: small,
                old: numbers[1] as u8,
                shutdown: numbers[2] as u8,
                flags: numbers[3] as u8,
                ..State::default()
            }),
            7 => Body::Exit(Exit::default()),
            _ => Body::Segment(
                Segment {
                    conn,
                    offset: numbers[0],
                    end: if small < 3 {
                        numbers[0].wrapping_add(text.len() as u64)
                    } else {
                        numbers[1]
                    },
                    captured: text.len() as u32,
                    call_bytes: if small < 3 {
                        text.len() as u32
                    } else {
                        numbers[2] as u32
                    },
                    until: numbers[3],
                    ..Segment::default()
                },
                text.into_bytes(),
            ),
        };
        Record(header, record).at(header.time_ns)
    })
}
