//! Classes of bytes: structure, or data.

use proptest::prelude::*;

use super::{Q, R, stamp};
use crate::engine::proto::{
    Data, Half, Piece,
    redis::structure::{Conversation, Run, Structure},
    structure::{Mark, Marks},
};

/// The bytes with all data replaced by `x`, fed in pieces of these lengths.
fn shown(half: Half, bytes: &[u8], lengths: &[usize]) -> String {
    let mut structure = Structure::new(half);
    let mut runs = Vec::new();
    let mut at = 0;
    let mut lengths = lengths.iter().cycle();
    while at < bytes.len() {
        let length = lengths
            .next()
            .map_or(bytes.len(), |&length| length.max(1))
            .min(bytes.len() - at);
        let piece = Piece {
            offset: at as u64,
            segment_start: true,
            data: Data::Bytes(&bytes[at..at + length]),
            stamp: stamp(0),
        };
        structure.take(piece, &mut runs);
        at += length;
        let told: u64 = runs.iter().map(|run| run.bytes).sum();
        assert!(told <= at as u64 && told + 64 >= at as u64);
    }
    structure.finish(&mut runs);
    let mut at = 0;
    let mut shown = String::new();
    for Run { is_data, bytes: length } in runs {
        let run = &bytes[at..at + length as usize];
        at += run.len();
        if is_data {
            shown.extend(run.iter().map(|_| 'x'));
        } else {
            shown.push_str(std::str::from_utf8(run).unwrap());
        }
    }
    assert_eq!(at, bytes.len());
    shown
}

const TABLE: &[(Half, &str, &str)] = &[
    (
        Q,
        "*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n",
        "*2\r\n$3\r\nGET\r\n$3\r\nxxx\r\n",
    ),
    (
        Q,
        "*2\r\n$6\r\nsecret\r\n$3\r\nget\r\n",
        "*2\r\n$6\r\nxxxxxx\r\n$3\r\nxxx\r\n",
    ),
    (
        Q,
        "*4\r\n$4\r\nEVAL\r\n$1\r\n9\r\n$1\r\n1\r\n$1\r\n2\r\n*1\r\n$4\r\nPING\r\n",
        "*4\r\n$4\r\nEVAL\r\n$1\r\nx\r\n$1\r\n1\r\n$1\r\nx\r\n*1\r\n$4\r\nPING\r\n",
    ),
    (
        Q,
        "*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n",
        "*3\r\n$6\r\nCLIENT\r\n$5\r\nREPLY\r\n$3\r\nOFF\r\n",
    ),
    (
        Q,
        "*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$3\r\nOFF\r\n",
        "*3\r\n$6\r\nCLIENT\r\n$7\r\nxxxxxxx\r\n$3\r\nxxx\r\n",
    ),
    (Q, "GET secret\r\n", "xxxxxxxxxxxx"),
    (Q, "*1\r\n$x\r\n*1\r\n$4\r\nPING\r\n", "*1\r\n$xxxxxxxxxxxxxxxxx"),
    (R, "+OK\r\n+secret\r\n", "+OK\r\n+xxxxxx\r\n"),
    (
        R,
        ":12\r\n#t\r\n,1.5\r\n(9\r\n_\r\n",
        ":xx\r\n#x\r\n,xxx\r\n(x\r\n_\r\n",
    ),
    (R, "-ERR a key\r\n-secret\r\n", "-ERRxxxxxx\r\n-xxxxxx\r\n"),
    (R, "!8\r\nERR no b\r\n", "!8\r\nERRxxxxx\r\n"),
    (
        R,
        "*2\r\n$2\r\nOK\r\n-ERR x\r\n$-1\r\n",
        "*2\r\n$2\r\nxx\r\n-xxxxx\r\n$-1\r\n",
    ),
    (
        R,
        "=7\r\ntxt:abc\r\n%1\r\n+k\r\n$0\r\n\r\n",
        "=7\r\nxxxxxxx\r\n%1\r\n+x\r\n$0\r\n\r\n",
    ),
    (R, "|1\r\n+a\r\n+b\r\n+OK\r\n", "|1\r\n+x\r\n+x\r\n+OK\r\n"),
];

#[test]
fn data_is_told_from_structure() {
    for (half, bytes, expected) in TABLE {
        assert_eq!(shown(*half, bytes.as_bytes(), &[]), *expected, "{bytes:?}");
    }
}

#[test]
fn gaps_are_data_and_so_is_all_behind_one_in_framing() {
    let mut structure = Structure::new(Q);
    let mut runs = Vec::new();
    let mut take = |structure: &mut Structure, data| {
        let piece = Piece {
            offset: 0,
            segment_start: true,
            data,
            stamp: stamp(0),
        };
        structure.take(piece, &mut runs);
        std::mem::take(&mut runs)
    };
    let run = |is_data, bytes| Run { is_data, bytes };
    assert_eq!(take(&mut structure, Data::Gap(7)), [run(true, 7)]);
    assert_eq!(take(&mut structure, Data::Bytes(b"*1\r\n")), [run(true, 4)]);
}

proptest! {
    #[test]
    fn any_pieces_tell_the_same(case in 0..TABLE.len(), lengths in prop::collection::vec(1..9_usize, 1..6)) {
        let (half, bytes, expected) = TABLE[case];
        prop_assert_eq!(shown(half, bytes.as_bytes(), &lengths), expected);
    }

    #[test]
    fn any_bytes_are_classified_once(
        half in prop::sample::select(vec![Q, R]),
        bytes in "[*$+:!|>%0-9a\r\n-]{0,60}",
        lengths in prop::collection::vec(1..9_usize, 1..6),
    ) {
        let whole = shown(half, bytes.as_bytes(), &[]);
        prop_assert_eq!(whole, shown(half, bytes.as_bytes(), &lengths));
    }
}

#[test]
fn a_tape_keeps_names_and_lengths_and_nothing_else() {
    let shown = |from_birth: bool, pieces: &[(Half, &str)]| -> Vec<String> {
        let mut conversation = Conversation::new(from_birth);
        let show = |&(half, text): &(Half, &str)| {
            let mut marks = Marks::default();
            conversation.bytes(half, text.as_bytes(), &mut marks);
            let mut rest = text.as_bytes();
            let mut shown = String::new();
            for mark in marks.iter() {
                let (n, is_kept) = match mark {
                    Mark::Keep(n) => (n, true),
                    Mark::Fill(n) => (n, false),
                    other => panic!("{other:?}"),
                };
                let (bytes, behind) = rest.split_at(n);
                rest = behind;
                let kept = bytes.escape_ascii().to_string();
                shown += &if is_kept { kept } else { "x".repeat(n) };
            }
            assert!(rest.is_empty(), "each byte has its mark");
            shown
        };
        pieces.iter().map(show).collect()
    };
    let talk = [
        (Q, "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nva"),
        (Q, "lue\r\n*2\r\n$3\r\nG"),
        (Q, "ET\r\n$1\r\nk\r\n"),
        (R, "+OK\r\n$5\r\nvalue\r\n-WRONGTYPE a secret\r\n"),
    ];
    let expected = [
        r"*3\r\n$3\r\nSET\r\n$3\r\nxxx\r\n$5\r\nxx",
        // A name that two segments share is not kept.
        r"xxx\r\n*2\r\n$3\r\nx",
        r"xx\r\n$1\r\nx\r\n",
        r"+OK\r\n$5\r\nxxxxx\r\n-WRONGTYPExxxxxxxxx\r\n",
    ];
    assert_eq!(shown(true, &talk), expected);
    let filled = talk.map(|(_, text)| "x".repeat(text.len()));
    assert_eq!(shown(false, &talk), filled);
}
