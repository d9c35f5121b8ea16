use std::{borrow::Cow, sync::Arc};

use proptest::prelude::*;

use super::*;
use crate::{
    engine::trace::{Attribute, Resource, Value},
    process::ProcessFacts,
    runtimes::Runtime,
};

/// A frame that owns what it holds, to compare with.
type Owned = Frame<'static>;

fn recorded(frames: &[Frame<'_>]) -> Vec<u8> {
    let mut tape = TapeWriter::new(Vec::new()).unwrap();
    for frame in frames {
        tape.write(frame).unwrap();
    }
    tape.finish().unwrap()
}

fn owned(frame: Frame<'_>) -> Owned {
    match frame {
        Frame::Config(json) => Frame::Config(Cow::Owned(json.into_owned())),
        Frame::Seed(seed) => Frame::Seed(seed),
        Frame::Clock { monotonic_ns, unix_ns } => Frame::Clock { monotonic_ns, unix_ns },
        Frame::Record(record) => Frame::Record(record.to_vec().leak()),
        Frame::Tick { now_ns } => Frame::Tick { now_ns },
        Frame::Process(facts) => Frame::Process(Cow::Owned(facts.into_owned())),
        Frame::Selected { tgid, selected } => Frame::Selected { tgid, selected },
    }
}

/// All frames up to the tape's end, or up to what is wrong with it.
fn replayed(tape: &[u8]) -> (Vec<Owned>, Result<(), TapeError>) {
    let mut frames = Vec::new();
    let mut reader = match TapeReader::new(tape) {
        Ok(reader) => reader,
        Err(error) => return (frames, Err(error)),
    };
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => frames.push(owned(frame)),
            Ok(None) => return (frames, Ok(())),
            Err(error) => return (frames, Err(error)),
        }
    }
}

fn facts(tgid: u32, name: String, port: i64) -> ProcessFacts {
    ProcessFacts {
        tgid,
        runtime: Runtime::Nginx,
        resource: Arc::new(Resource {
            service_name: name.clone(),
            attributes: vec![
                Attribute::str("service.name", name.clone()),
                Attribute::int("port", port),
                Attribute {
                    key: Cow::Borrowed("process.command_args"),
                    value: Value::Strs(vec![name, "-g".to_owned()]),
                },
                Attribute {
                    key: Cow::Borrowed("yes"),
                    value: Value::Bool(true),
                },
            ],
        }),
    }
}

fn all_kinds() -> Vec<Owned> {
    vec![
        Frame::Config(Cow::Borrowed(r#"{"hold_ns":1}"#)),
        Frame::Seed(u128::MAX),
        Frame::Clock {
            monotonic_ns: 5,
            unix_ns: 1_700_000_000_000_000_000,
        },
        Frame::Process(Cow::Owned(facts(42, "shop é\0".to_owned(), -1))),
        Frame::Record(b"\x03\x01record"),
        Frame::Record(b""),
        Frame::Tick { now_ns: 7 },
        Frame::Selected {
            tgid: 42,
            selected: true,
        },
    ]
}

fn any_frame() -> impl Strategy<Value = Owned> {
    prop_oneof![
        ".*".prop_map(|json| Frame::Config(Cow::Owned(json))),
        any::<u128>().prop_map(Frame::Seed),
        any::<(u64, u64)>().prop_map(|(monotonic_ns, unix_ns)| Frame::Clock { monotonic_ns, unix_ns }),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|record| Frame::Record(record.leak())),
        any::<u64>().prop_map(|now_ns| Frame::Tick { now_ns }),
        any::<(u32, String, i64)>().prop_map(|(tgid, name, port)| Frame::Process(Cow::Owned(facts(tgid, name, port)))),
        (any::<u32>(), any::<bool>()).prop_map(|(tgid, selected)| Frame::Selected { tgid, selected }),
    ]
}

proptest! {
    #[test]
    fn reading_gives_what_was_written(frames in prop::collection::vec(any_frame(), 0..20)) {
        let (read, end) = replayed(&recorded(&frames));
        prop_assert!(end.is_ok(), "{:?}", end);
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn flipped_bits_and_garbage_never_panic(
        frames in prop::collection::vec(any_frame(), 0..8),
        flips in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4),
        garbage in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut tape = recorded(&frames);
        for (index, bits) in flips {
            let at = index.index(tape.len());
            tape[at] ^= bits;
        }
        let _ = replayed(&tape);
        let mut tape = recorded(&[])[..HEADER_BYTES].to_vec();
        tape.extend(garbage);
        let _ = replayed(&tape);
    }
}

#[test]
fn every_truncation_is_told_with_its_place_and_the_frames_before_it() {
    let frames = all_kinds();
    let tape = recorded(&frames);
    // Where each frame ends, from a tape of one frame more each time.
    let end_frame = FRAME_HEAD_BYTES + 8;
    let ends: Vec<usize> = (0..=frames.len())
        .map(|n| recorded(&frames[..n]).len() - end_frame)
        .collect();
    for cut in 0..tape.len() {
        let (read, end) = replayed(&tape[..cut]);
        if cut < MAGIC.len() {
            assert!(matches!(end, Err(TapeError::NotATape)), "cut at {cut}: {end:?}");
            continue;
        }
        let whole = ends.iter().filter(|&&end| end <= cut).count().saturating_sub(1);
        assert_eq!(read, frames[..whole], "cut at {cut}");
        match end {
            Err(TapeError::CutOff { at_byte, whole_frames }) => {
                assert_eq!((at_byte, whole_frames), (cut as u64, whole as u64));
            }
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
}

#[test]
fn tapes_of_other_versions_and_machines_name_them() {
    let tape = recorded(&all_kinds());
    let changed = |at: usize, bytes: &[u8]| {
        let mut tape = tape.clone();
        tape[at..at + bytes.len()].copy_from_slice(bytes);
        replayed(&tape).1.unwrap_err()
    };
    let error = changed(10, &9u32.to_le_bytes());
    assert!(matches!(&error, TapeError::Format { found: 9, made_by } if made_by == env!("CARGO_PKG_VERSION")));
    assert!(error.to_string().contains("tape format 9"), "{error}");
    assert!(matches!(
        changed(14, &77u32.to_le_bytes()),
        TapeError::Abi { found: 77, .. }
    ));
    assert!(matches!(
        changed(18, &BYTE_ORDER.swap_bytes().to_ne_bytes()),
        TapeError::ByteOrder
    ));
    assert!(matches!(changed(0, b"\x7fELF"), TapeError::NotATape));
}

#[test]
fn damage_is_told_and_nothing_is_read_behind_it() {
    let tape = recorded(&[Frame::Seed(1), Frame::Tick { now_ns: 2 }]);
    let second = (HEADER_BYTES + FRAME_HEAD_BYTES + 16) as u64;
    let damaged = |at: u64, byte: u8| {
        let mut tape = tape.clone();
        tape[at as usize] = byte;
        let mut reader = TapeReader::new(tape.as_slice()).unwrap();
        assert_eq!(reader.next_frame().unwrap(), Some(Frame::Seed(1)));
        let error = reader.next_frame().unwrap_err();
        assert_eq!(reader.next_frame().unwrap(), None);
        error
    };
    assert!(matches!(
        damaged(second, 99),
        TapeError::UnknownFrame { kind: 99, at_byte, whole_frames: 1 } if at_byte == second
    ));
    assert!(matches!(
        damaged(second + 3, 0x11),
        TapeError::TooLong {
            length: 0x11_0008,
            whole_frames: 1,
            ..
        }
    ));
    assert!(matches!(
        damaged(second, Kind::Clock as u8),
        TapeError::Malformed { frame: "clock", at_byte, .. } if at_byte == second
    ));
}

/// Tapes from when a seed was the state alone give the ids that they gave.
#[test]
fn a_seed_of_64_bits_has_the_usual_step() {
    let mut tape = recorded(&[Frame::Seed(7)]);
    let seed = HEADER_BYTES + FRAME_HEAD_BYTES;
    tape.drain(seed + 8..seed + 16);
    tape[HEADER_BYTES + 1] = 8;
    let (frames, end) = replayed(&tape);
    assert_eq!(frames, [Frame::Seed(0x9e37_79b9_7f4a_7c15 << 64 | 7)]);
    end.unwrap();
}

#[test]
fn what_follows_the_end_and_a_wrong_count_are_told() {
    let mut tape = recorded(&[Frame::Seed(1)]);
    let last = tape.len() - 8;
    tape[last] = 2;
    assert!(matches!(
        replayed(&tape).1,
        Err(TapeError::Malformed { frame: "end", .. })
    ));
    tape[last] = 1;
    tape.push(0);
    assert!(matches!(replayed(&tape).1, Err(TapeError::BehindEnd { .. })));
}

#[test]
fn a_frame_that_is_too_long_is_refused_and_leaves_the_tape_whole() {
    let long = vec![0; FRAME_BYTES + 1];
    let mut tape = TapeWriter::new(Vec::new()).unwrap();
    assert!(matches!(
        tape.write(&Frame::Record(&long)),
        Err(TapeError::Oversize { .. })
    ));
    tape.write(&Frame::Record(&long[1..])).unwrap();
    let (frames, end) = replayed(&tape.finish().unwrap());
    assert_eq!(frames, [Frame::Record(&long[1..])]);
    end.unwrap();
}
