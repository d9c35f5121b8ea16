//! Decoding, from the binary interface's own structs.

use agent_ebpf::abi::{self, Header, Kind, Plain, bytes_of};

use super::*;

/// A header of the kind, by process 10, thread 11, at 12 ns.
fn header(kind: Kind) -> Header {
    Header {
        kind: kind as u8,
        time_ns: 12,
        tgid: 10,
        tid: 11,
        ..Header::default()
    }
}

fn stamp() -> Stamp {
    Stamp {
        time_ns: 12,
        execution: Execution {
            tgid: Tgid(10),
            tid: Tid(11),
            identity: None,
        },
    }
}

fn with(record: &impl Plain, rest: &[u8]) -> Vec<u8> {
    [bytes_of(record), rest].concat()
}

fn segment(flags: u16) -> abi::Segment {
    abi::Segment {
        header: Header {
            flags,
            direction: Direction::Write as u8,
            ..header(Kind::Segment)
        },
        conn: 1,
        offset: 5,
        end: 8,
        until: 9,
        captured: 2,
        call_bytes: 3,
        layer: Layer::Tls as u8,
        ..abi::Segment::default()
    }
}

#[test]
fn a_segment_has_its_bytes_and_its_flags_words() {
    let flags = abi::SEGMENT_MORE | abi::SEGMENT_NOT_HTTP | abi::WAITED | abi::TURNED | abi::LOST | abi::WATCHED;
    let expected = Segment {
        stamp: stamp(),
        since: Since {
            waited: true,
            turned: true,
            lost: true,
        },
        conn: ConnectionId(1),
        layer: Layer::Tls,
        direction: Direction::Write,
        offset: 5,
        end: 8,
        call_bytes: 3,
        until: NonZeroU64::new(9),
        bytes: b"ab",
        further: Slices::default(),
        rest: Rest::Follows,
        watched: true,
        polled: false,
        unknown_opening: true,
    };
    let bytes = with(&segment(flags), b"abc");
    assert_eq!(Record::decode(&bytes), Some(Record::Segment(expected)));
    assert!(expected.begins_call());
    let plain = Segment {
        since: Since::default(),
        rest: Rest::Gap,
        watched: false,
        polled: false,
        unknown_opening: false,
        ..expected
    };
    assert_eq!(Record::decode(&with(&segment(0), b"ab")), Some(Record::Segment(plain)));
    assert_eq!(Record::decode(&with(&segment(0), b"a")), None, "cut off");
    let end = EndOfStream {
        stamp: stamp(),
        conn: ConnectionId(1),
        layer: Layer::Tls,
        end: 8,
    };
    let bytes = with(&segment(abi::SEGMENT_EOF), b"");
    assert_eq!(Record::decode(&bytes), Some(Record::EndOfStream(end)));
}

/// A segment of the bytes 0 to 40: those from 1 to 4, 10 to 12, and 30 to 31.
fn sliced() -> Vec<u8> {
    let slice = |offset: u64, bytes: &[u8]| {
        let slice = abi::Slice {
            offset,
            bytes: bytes.len() as u32,
            pad: 0,
        };
        with(&slice, bytes)
    };
    let segment = abi::Segment {
        offset: 1,
        end: 40,
        captured: 3,
        call_bytes: 40,
        slices: 2,
        ..segment(0)
    };
    let mut record = with(&segment, b"abc");
    for next in [slice(10, b"de"), slice(30, b"f")] {
        record.resize(record.len().next_multiple_of(8), 0);
        record.extend(next);
    }
    record
}

#[test]
fn a_segment_has_its_slices_in_the_order_of_the_stream() {
    let slices = |record: &[u8]| match Record::decode(record)? {
        Record::Segment(segment) => {
            let further = segment.further.map(|slice| (slice.offset, slice.bytes.to_vec()));
            let mut slices = vec![(segment.offset, segment.bytes.to_vec())];
            slices.extend(further);
            let last = slices.last().map(|(offset, bytes)| offset + bytes.len() as u64);
            assert_eq!(Some(segment.captured_to()), last);
            for (offset, bytes) in &slices {
                let slice = segment.slice_at(*offset).unwrap();
                assert_eq!((slice.offset, slice.bytes), (*offset, &bytes[..]));
            }
            assert_eq!(segment.slice_at(0), None);
            Some(slices)
        }
        other => panic!("{other:?}"),
    };
    let record = sliced();
    let expected = [(1, b"abc".to_vec()), (10, b"de".to_vec()), (30, b"f".to_vec())].to_vec();
    assert_eq!(slices(&record), Some(expected));
    for length in 0..record.len() {
        assert_eq!(slices(&record[..length]), None, "cut off at {length}");
    }
    let Some(Record::Segment(mut segment)) = Record::decode(&record) else {
        panic!("no segment");
    };
    segment.further.shift(5);
    segment.further.shift(1u64.wrapping_neg());
    let offsets: Vec<u64> = segment.further.map(|slice| slice.offset).collect();
    assert_eq!(offsets, [14, 34]);
    // The second slice begins before the first ends, or the last ends behind the call.
    for (place, offset) in [(80, 3), (104, 40)] {
        let mut wrong = record.clone();
        assert!(wrong[place..place + 8] == 10u64.to_ne_bytes() || wrong[place..place + 8] == 30u64.to_ne_bytes());
        wrong[place..place + 8].copy_from_slice(&u64::to_ne_bytes(offset));
        assert_eq!(slices(&wrong), None, "{offset}");
    }
}

#[test]
fn an_identity_ends_a_record_that_says_so() {
    let mut fork = abi::Fork {
        header: header(Kind::Fork),
        child: 13,
        pad: 0,
    };
    let expected = Fork {
        stamp: stamp(),
        child: Tgid(13),
    };
    assert_eq!(Record::decode(bytes_of(&fork)), Some(Record::Fork(expected)));
    fork.header.flags = abi::IDENTITY;
    let mut identity = abi::Identity {
        word: 6,
        parent: 7,
        generation: 2,
        source: 0,
    };
    let execution = Execution {
        identity: Some(Identity {
            word: NonZeroU64::new(6).unwrap(),
            generation: 2,
            parent: NonZeroU64::new(7),
            source: 0,
        }),
        ..stamp().execution
    };
    let stamp = Stamp { execution, ..stamp() };
    let record = with(&fork, bytes_of(&identity));
    assert_eq!(Record::decode(&record), Some(Record::Fork(Fork { stamp, ..expected })));
    let mut begun = header(Kind::Begun);
    assert_eq!(Record::decode(bytes_of(&begun)), None, "it has no name");
    begun.flags = abi::IDENTITY;
    assert_eq!(
        Record::decode(&with(&begun, bytes_of(&identity))),
        Some(Record::Begun(stamp))
    );
    // The identity must not be read from the fields of the record.
    assert_eq!(Record::decode(bytes_of(&fork)), None);
    identity.word = 0;
    assert_eq!(Record::decode(&with(&fork, bytes_of(&identity))), None, "it is no name");
}

#[test]
fn a_context_has_its_place_and_its_ids() {
    let context = abi::Context {
        header: header(Kind::Context),
        conn: 1,
        offset: 5,
        trace_id: [2; 16],
        span_id: [3; 8],
        trace_flags: 1,
        layer: Layer::Wire as u8,
        carrier: Carrier::TcpOption as u8,
        pad: [0; 5],
    };
    let expected = Context {
        stamp: stamp(),
        conn: ConnectionId(1),
        layer: Layer::Wire,
        offset: 5,
        carrier: Carrier::TcpOption,
        trace_id: [2; 16],
        span_id: [3; 8],
        trace_flags: 1,
    };
    assert_eq!(Record::decode(bytes_of(&context)), Some(Record::Context(expected)));
    for wrong in [
        abi::Context { carrier: 2, ..context },
        abi::Context { layer: 2, ..context },
    ] {
        assert_eq!(Record::decode(bytes_of(&wrong)), None);
    }
}

#[test]
fn addresses_and_bases_by_family() {
    let open = |family: u8, counted: u8| {
        let mut local = [0; 16];
        local[..4].copy_from_slice(&[127, 0, 0, 1]);
        let open = abi::Open {
            header: header(Kind::Open),
            conn: 1,
            peer: 3,
            sent_base: 4,
            received_base: 5,
            local,
            local_port: 80,
            family,
            counted,
            role: 7,
            from_birth: 1,
            ..abi::Open::default()
        };
        match Record::decode(bytes_of(&open)) {
            Some(Record::Open(open)) => (open.base, open.local, open.role, open.from_birth),
            other => panic!("{other:?}"),
        }
    };
    let loopback = Address::Ip([127, 0, 0, 1].into(), 80);
    let sequences = Base::Sequences { sent: 4, received: 5 };
    assert_eq!(
        open(abi::FAMILY_INET, 0),
        (sequences, loopback, Role::Unknown, true),
        "a role that is none is unknown"
    );
    assert_eq!(open(abi::FAMILY_INET, 1).0, Base::Counted);
    let unix = Base::Unix(NonZeroU64::new(3));
    assert_eq!(open(abi::FAMILY_UNIX, 1), (unix, Address::Unix, Role::Unknown, true));
}

#[test]
fn a_number_that_is_not_known_is_no_record() {
    let state = |change: u8| abi::State {
        header: header(Kind::State),
        state: change,
        old: 2,
        shutdown: 3,
        flags: abi::STATE_RELEASED | abi::STATE_LOST_READ,
        ..abi::State::default()
    };
    assert_eq!(Record::decode(bytes_of(&state(77))), None);
    let closed = state(abi::StateChange::Closed as u8);
    let expected = State {
        stamp: stamp(),
        conn: ConnectionId(0),
        change: Change::Closed,
        errno: 0,
        before: TcpState::SynSent,
        shut_both: true,
        held: Held::Released,
        lost_read: true,
        lost_written: false,
    };
    assert_eq!(Record::decode(bytes_of(&closed)), Some(Record::State(expected)));
    let mut other = closed;
    other.header.kind = 99;
    assert_eq!(Record::decode(bytes_of(&other)), None);
    let gone = gone(ConnectionId(4), 5);
    assert!(matches!(
        Record::decode(&gone),
        Some(Record::State(State {
            change: Change::Gone,
            conn: ConnectionId(4),
            ..
        }))
    ));
}

#[test]
fn words_of_an_exec_are_taken_apart() {
    let exec = |strings_len, cmdline_len| abi::Exec {
        header: header(Kind::Exec),
        strings_len,
        cmdline_len,
        provisional: 1,
        pad: 0,
        comm: [0; 16],
    };
    let parts = |strings_len, cmdline_len| {
        let bytes = with(&exec(strings_len, cmdline_len), b"sh\0A=b\0");
        let Some(Record::Exec(exec)) = Record::decode(&bytes) else {
            return None;
        };
        Some((exec.command_line.to_vec(), exec.environment.to_vec()))
    };
    assert_eq!(parts(7, 3), Some((b"sh\0".to_vec(), b"A=b\0".to_vec())));
    assert_eq!(parts(3, 9), Some((b"sh\0".to_vec(), vec![])), "more than there is");
    assert_eq!(parts(8, 3), None, "cut off");
}

proptest::proptest! {
    #[test]
    fn any_bytes_can_be_decoded(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = Record::decode(&bytes);
    }
}
