//! Whole conversations.

use agent_ebpf::abi::{IGNORED, Mode};

use super::{GET, Moved, Q, R, Talk, VALUE, told};
use crate::engine::proto::{Data, redis::connection::MAX_PENDING};

#[test]
fn a_command_and_its_reply() {
    let mut talk = Talk::new(true);
    talk.calls(&[GET, VALUE, GET, (R, "$-1\r\n")]);
    assert_eq!(
        talk.story(),
        [
            "0 GET 1 @0",
            "0 sent",
            "0 reply @0",
            "0 done",
            "1 GET 1 @22",
            "1 sent",
            "1 reply @11",
            "1 done"
        ]
    );
    assert!(talk.redis.is_synchronised() && talk.redis.pending() == 0);
}

/// The first command of a connection: its name and its keys.
#[test]
fn commands() {
    let long = "x".repeat(64);
    let too_long = "x".repeat(65);
    let strings = |words: &[&str]| {
        let strings: String = words
            .iter()
            .map(|word| format!("${}\r\n{word}\r\n", word.len()))
            .collect();
        format!("*{}\r\n{strings}", words.len())
    };
    let table: &[(String, &str)] = &[
        (strings(&["get", "k"]), "GET 1"),
        (strings(&["MSET", "a", "1", "b", "2"]), "MSET 2"),
        (strings(&["PING"]), "PING 0"),
        (strings(&["EVAL", "return 1", "2", "a", "b", "c"]), "EVAL 2"),
        (strings(&["EVAL", "return 1", "-1"]), "EVAL ?"),
        (strings(&["ft.search", "index", "query"]), "FT.SEARCH ?"),
        (strings(&["CLIENT", "REPLY", "ON"]), "CLIENT 0"),
        (strings(&["CLIENT", "ID"]), "CLIENT 0"),
        (strings(&["HSET", "k", "f", ""]), "HSET 1"),
        (strings(&["MY.COMMAND", "k"]), "other ?"),
        (strings(&[&long]), "other ?"),
        (strings(&[&too_long, "k"]), "? ?"),
        (strings(&["GE\0T", "k"]), "other ?"),
        (strings(&["\u{e9}t\u{e9}"]), "other ?"),
        (strings(&["", "k"]), "other ?"),
        ("*0\r\n*-1\r\n*1\r\n$4\r\nPING\r\n".to_owned(), "PING 0"),
        ("PING\r\n".to_owned(), "PING ?"),
        ("\r\nset k v\n".to_owned(), "SET ?"),
        ("  \t set k v\n".to_owned(), "SET ?"),
        (" \r\nget k\n".to_owned(), "GET ?"),
        ("\"get\" k\r\n".to_owned(), "other ?"),
    ];
    for (bytes, expected) in table {
        let mut talk = Talk::new(true);
        talk.call(Q, bytes);
        let story = talk.story().first().cloned().unwrap_or_default();
        let words = story.strip_prefix("0 ").and_then(|words| words.split(" @").next());
        assert_eq!(words, Some(*expected), "{}", bytes.escape_debug());
        assert_eq!(talk.redis.pending(), 1);
    }
}

/// Replies to a command, behind which another one comes.
#[test]
fn replies() {
    let values = [
        "+OK\r\n",
        ":-12\r\n",
        "$5\r\nva\rue\r\n",
        "$0\r\n\r\n",
        "$-1\r\n",
        "*0\r\n",
        "*-1\r\n",
        "*3\r\n$1\r\na\r\n*2\r\n:1\r\n-ERR inside\r\n$-1\r\n",
        "_\r\n",
        "#t\r\n",
        ",1.5e3\r\n",
        ",inf\r\n",
        "(3492890328409238509324850943850943825024385\r\n",
        "=15\r\ntxt:Some string\r\n",
        "%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n",
        "~2\r\n+a\r\n~0\r\n",
        "|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n",
        "*2\r\n|1\r\n+k\r\n*1\r\n:1\r\n:1\r\n:2\r\n",
        "|0\r\n|1\r\n:1\r\n:2\r\n*1\r\n:1\r\n",
    ];
    for value in values {
        for around in ["", ">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n"] {
            let mut talk = Talk::new(true);
            talk.calls(&[GET, GET])
                .call(R, [around, value, around].concat())
                .call(R, "$1\r\nv\r\n");
            let at = around.len();
            let next = 2 * at + value.len();
            assert_eq!(
                talk.story()[4..],
                [
                    format!("0 reply @{at}"),
                    "0 done".to_owned(),
                    format!("1 reply @{next}"),
                    "1 done".to_owned()
                ],
                "{value:?}"
            );
        }
    }
}

#[test]
fn errors() {
    let table = [
        ("-WRONGTYPE Operation against a key\r\n", "WRONGTYPE"),
        ("-ERR\r\n", "ERR"),
        ("-MOVED 3999 127.0.0.1:6381\r\n", "MOVED"),
        ("!21\r\nSYNTAX invalid syntax\r\n", "SYNTAX"),
        ("!3\r\nERR\r\n", "ERR"),
        ("-user 12 was not found\r\n", "error"),
        ("-\r\n", "error"),
        ("!-1\r\n", "error"),
        ("|1\r\n+a\r\n+b\r\n-ERR x\r\n", "ERR"),
    ];
    for (reply, expected) in table {
        let story = told(&[GET, (R, reply)]);
        assert_eq!(
            story[2..],
            [format!("0 {expected} @0"), "0 done".to_owned()],
            "{reply:?}"
        );
    }
}

#[test]
fn a_reply_is_told_when_it_begins() {
    let mut talk = Talk::new(true);
    talk.calls(&[GET, (R, "*2\r")]);
    assert_eq!(talk.story().len(), 2);
    talk.call(R, "\n$1\r\n");
    assert_eq!(talk.story()[2..], ["0 reply @0"]);
    talk.call(R, "a\r\n:1\r\n");
    assert_eq!(talk.story()[3..], ["0 done"]);
}

#[test]
fn a_transaction_is_an_exchange_for_each_command() {
    let multi: &[Moved] = &[
        (
            Q,
            "*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nINCR\r\n$1\r\na\r\n*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n*1\r\n$4\r\nEXEC\r\n",
        ),
        (R, "+OK\r\n+QUEUED\r\n+QUEUED\r\n"),
        (R, "*2\r\n:1\r\n-ERR no\r\n"),
    ];
    let story = told(multi);
    let names: Vec<_> = story.iter().filter_map(|line| line.split(" @").next()).collect();
    assert_eq!(
        names[..8].iter().step_by(2).copied().collect::<Vec<_>>(),
        ["0 MULTI 0", "1 INCR 1", "2 SUBSCRIBE 0", "3 EXEC 0"]
    );
    assert_eq!(story.iter().filter(|line| line.ends_with("done")).count(), 4);
}

/// Connections on which the server goes on with something else.
#[test]
fn turns() {
    const SUBSCRIBE: Moved = (Q, "*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n");
    const PING: Moved = (Q, "*1\r\n$4\r\nPING\r\n");
    let table: &[(&[Moved], &[&str])] = &[
        (
            &[
                SUBSCRIBE,
                (R, "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n*3\r\n$7\r\nmessage\r\n"),
            ],
            &["0 sent", "0 reply @0", "0 done", "opaque Redis publish/subscribe"],
        ),
        (
            &[SUBSCRIBE, GET, (R, ">3\r\n$9\r\nsubscribe\r\n")],
            &["1 sent", "0 lost Upgrade", "opaque Redis publish/subscribe"],
        ),
        (
            &[SUBSCRIBE, (R, "-NOPERM x\r\n"), GET, VALUE],
            &["1 sent", "1 reply @11", "1 done"],
        ),
        (
            &[(Q, "*1\r\n$7\r\nMONITOR\r\n"), (R, "+OK\r\n")],
            &["0 done", "opaque Redis MONITOR"],
        ),
        (
            &[
                (Q, "*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n"),
                (R, "+FULLRESYNC x 0\r\n$5\r\nREDIS"),
            ],
            &["0 done", "opaque Redis replication"],
        ),
        (
            &[GET, (Q, "*3\r\n$6\r\nclient\r\n$5\r\nreply\r\n$3\r\noff\r\n")],
            &["0 sent", "0 lost Upgrade", "opaque Redis without replies"],
        ),
        (&[PING, (R, "+PONG\r\n")], &["0 reply @0", "0 done"]),
        (
            &[PING, (R, "*2\r\n$4\r\npong\r\n$0\r\n\r\n")],
            &["0 done", "opaque Redis publish/subscribe"],
        ),
    ];
    for (calls, last) in table {
        let story = told(calls);
        assert_eq!(story[story.len() - last.len()..], **last, "{calls:?}");
    }
}

#[test]
fn a_push_behind_a_reply_that_came_early_needs_no_command() {
    let mut talk = Talk::new(true);
    // In two calls, so that its rest is held by itself.
    talk.calls(&[(R, "$5\r\nvalue\r\n>2\r\n$3\r\nab"), (R, "c\r\n+x\r\n"), GET]);
    assert_eq!(talk.story().last().map(String::as_str), Some("0 done"));
    assert_eq!(talk.redis.body_until(R), 0, "the push is over");
    talk.calls(&[VALUE, GET]);
    assert_eq!(talk.story().last().map(String::as_str), Some("1 done"));
}

#[test]
fn replies_may_come_before_their_commands_at_the_client() {
    let story = ["0 GET 1 @0", "0 sent", "0 reply @0", "0 done"];
    assert_eq!(told(&[VALUE, GET]), story);
    let mut talk = Talk::new(true);
    talk.calls(&[(R, "$5\r\nval"), (R, "ue\r\n$1\r"), (R, "\n1\r\n"), GET, GET]);
    assert_eq!(talk.story()[2..4], ["0 reply @0", "0 done"]);
    assert_eq!(talk.story()[6..], ["1 reply @11", "1 done"]);
    // But not long before.
    let mut talk = Talk::new(true);
    talk.calls(&[VALUE]).wait(2).calls(&[GET, VALUE]);
    assert_eq!(talk.story()[0], "0 lost Unsolicited");
    assert_eq!(talk.story()[1..], ["0 GET 1 @0", "0 sent", "0 reply @11", "0 done"]);
    assert_eq!(Talk::at_server().calls(&[VALUE]).story(), ["0 lost Unsolicited"]);
    assert_eq!(told(&[GET, VALUE, VALUE]).last().unwrap(), "1 lost Unsolicited");
}

#[test]
fn strings_that_nobody_needs_are_skipped() {
    let mut talk = Talk::new(true);
    let ahead = |talk: &Talk, half| {
        let ahead = talk.redis.ahead(half);
        assert_eq!(ahead.mode, Mode::Unknown);
        (ahead.until, talk.redis.body_until(half))
    };
    talk.call(Q, "*3\r\n$3\r\nSE");
    assert_eq!(ahead(&talk, Q), (0, 11));
    talk.call(Q, "T\r\n$1\r\nk\r\n$1000000\r\nva");
    assert_eq!(ahead(&talk, Q), (1_000_030, 1_000_030));
    talk.gap(Q, 999_998).call(Q, "\r\n");
    assert_eq!((ahead(&talk, Q), talk.redis.pending()), ((0, 0), 1));
    talk.call(R, "!70\r\nER");
    assert_eq!(ahead(&talk, R), (0, 75));
    talk.call(R, "R ");
    assert_eq!(ahead(&talk, R), (75, 75));
    talk.gap(R, 66).call(R, "\r\n");
    assert_eq!(talk.story().last().unwrap(), "0 done");
    let mut talk = Talk::new(true);
    talk.calls(&[(Q, "*1\r\n$7\r\nMONITOR\r\n"), (R, "+OK\r\n")]);
    assert_eq!(
        (talk.redis.ahead(Q).until, talk.redis.body_until(R)),
        (IGNORED, u64::MAX)
    );
}

#[test]
fn pipelines_are_bounded() {
    let mut talk = Talk::new(true);
    talk.piece(Q, true, Data::Bytes(GET.1.repeat(MAX_PENDING as usize).as_bytes()));
    assert_eq!(talk.redis.pending(), MAX_PENDING);
    talk.calls(&[GET]);
    assert_eq!(
        (talk.redis.pending(), talk.story().pop().unwrap()),
        (0, "0 lost TooManyPending".to_owned())
    );
}
