//! Output to a pipe that nobody reads.

use std::{
    io::pipe,
    process::{Command, Stdio},
};

const TAPE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/tapes/keep-alive.tape");

#[test]
fn a_replay_ends_quietly_when_nobody_reads_it() {
    let (reader, writer) = pipe().unwrap();
    drop(reader);
    let mut replay = Command::new(env!("CARGO_BIN_EXE_spoor"));
    replay.args(["replay", "--output", "console", TAPE]);
    let output = replay.stdout(writer).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // 128 + SIGPIPE
    assert_eq!((output.status.code(), &*said), (Some(141), ""));
}
