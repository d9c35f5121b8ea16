//! Gaps and malformed bytes, and the way back.

use super::{GET, Moved, Q, R, Talk, VALUE, told};
use crate::engine::proto::{Data, Half};

#[test]
fn gaps_in_framing_lose_what_is_pending() {
    let table: &[(&[Moved], Half, u64, &str)] = &[
        (&[], Q, 1, "0 lost Gap"),
        (&[], R, 1, "0 lost Gap"),
        (&[GET], R, 1, "0 lost Gap"),
        (&[GET], Q, 1, "0 lost Gap"),
        (&[GET, VALUE], Q, 1, "1 lost Gap"),
        (&[GET, (Q, "*2\r\n$3")], Q, 1, "0 lost Gap"),
        (&[GET, (R, "$5\r\nva")], R, 3, "0 reply @0"),
        (&[GET, (R, "$5\r\nva")], R, 4, "0 lost Gap"),
        (&[GET, GET, (R, "$5\r\nva"), VALUE], R, 4, "0 lost Malformed"),
    ];
    for (calls, half, n, last) in table {
        let mut talk = Talk::new(true);
        talk.calls(calls).gap(*half, *n);
        assert_eq!(talk.story().last().unwrap(), last, "{calls:?} {half:?} {n}");
    }
    // The string is whole, though nobody saw all of it.
    let mut talk = Talk::new(true);
    talk.calls(&[GET, (R, "$5\r\nva")]).gap(R, 3).call(R, "\r\n");
    assert_eq!(talk.story().last().unwrap(), "0 done");
    // A name that nobody saw is none.
    let mut talk = Talk::new(true);
    talk.call(Q, "*2\r\n$3\r\n").gap(Q, 3).call(Q, "\r\n$1\r\nk\r\n");
    assert_eq!(talk.story()[0], "0 ? ? @0");
}

#[test]
fn malformed_bytes_lose_what_is_pending() {
    let requests = [
        "*1\r\n:1\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$x\r\n",
        "*1\r\n$01\r\nx\r\n",
        "*1\r\n$1\rx",
        "*1\r\n$1\r\nxx",
        "*1\r\n$536870913\r\n",
        "*2147483648\r\n",
        "*-2\r\n",
        "*\r\n",
        "*12345678901\r\n",
        "\x01\x02\r\n",
    ];
    for bytes in requests {
        assert_eq!(
            told(&[GET, VALUE, (Q, bytes)]).last().unwrap(),
            "1 lost Malformed",
            "{bytes:?}"
        );
        assert_eq!(told(&[(Q, bytes)]), ["opaque another protocol"], "{bytes:?}");
    }
    let deep = "*1\r\n".repeat(33);
    let replies = [
        "x\r\n",
        "+a\nb\r\n",
        "+a\rb",
        "*?\r\n",
        "$?\r\n",
        "$5\r\nvaluexx",
        &deep,
        "@\r\n",
        "$--1\r\n",
        "%3000000000\r\n",
    ];
    for bytes in replies {
        let mut talk = Talk::new(true);
        talk.calls(&[GET]).call(R, bytes);
        assert_eq!(talk.story().last().unwrap(), "0 lost Malformed", "{bytes:?}");
        assert!(!talk.redis.is_synchronised());
    }
    let mut talk = Talk::new(true);
    talk.calls(&[GET, VALUE]).call(Q, "x".repeat(64 * 1024 + 1));
    assert_eq!(talk.story().last().unwrap(), "1 lost Malformed");
}

#[test]
fn a_command_behind_a_silence_is_a_boundary() {
    let found = ["0 GET 1 @0", "0 sent", "0 reply @0", "0 done"];
    // Nobody knows what came before the first byte that was seen.
    let mut talk = Talk::new(false);
    talk.calls(&[GET, VALUE, GET, VALUE]);
    assert_eq!(talk.story(), [""; 0]);
    talk.wait(1).calls(&[GET, VALUE]);
    assert_eq!(
        talk.story(),
        found.map(|line| line.replace("GET 1 @0", "GET 1 @44").replace("reply @0", "reply @22"))
    );
    // Neither half has been silent for long enough.
    for half in [Q, R] {
        let mut talk = Talk::new(false);
        talk.calls(&[GET, VALUE]).wait(1).call(half, "x").calls(&[GET, VALUE]);
        assert_eq!(talk.story(), [""; 0], "{half:?}");
    }
    // It does not begin a system call, or is no command.
    let mut talk = Talk::new(false);
    talk.calls(&[GET, VALUE])
        .wait(1)
        .piece(Q, false, Data::Bytes(GET.1.as_bytes()));
    talk.wait(1)
        .calls(&[(Q, "*"), VALUE])
        .wait(1)
        .gap(Q, 5)
        .wait(1)
        .calls(&[(Q, "PING\r\n"), (R, "+PONG\r\n")]);
    assert_eq!(talk.story(), [""; 0]);
}

#[test]
fn a_loss_is_over_behind_a_silence() {
    let mut talk = Talk::new(true);
    talk.calls(&[GET, GET]).gap(R, 11).calls(&[VALUE, GET, VALUE]);
    assert_eq!(talk.story()[4..], ["0 lost Gap"]);
    let passed = 2 * VALUE.1.len() + GET.1.len();
    assert_eq!(talk.redis.take_unsynchronised(), passed as u64);
    talk.wait(1).calls(&[GET, VALUE]);
    assert_eq!(talk.story()[5..], ["2 GET 1 @66", "2 sent", "2 reply @33", "2 done"]);
}
