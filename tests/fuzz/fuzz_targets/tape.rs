//! Tapes of any bytes, replayed to Core as `spoor replay` does, and redacted as `spoor redact` does.
#![no_main]

use libfuzzer_sys::fuzz_target;
use spoor::{
    cmd::replay::Player,
    record::Record,
    tape::{Frame, TapeReader, TapeWriter},
};

fuzz_target!(|data: &[u8]| {
    let _ = Record::decode(data);
    let Ok(mut tape) = TapeReader::new(data) else { return };
    let mut copy = TapeWriter::new(Vec::new()).expect("memory can be written");
    let mut redacted = TapeWriter::redacted(Vec::new()).expect("memory can be written");
    let mut player = Player::default();
    loop {
        let frame = match tape.next_frame() {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                let copy = copy.finish().expect("memory can be written");
                let frames_read = frames(data);
                assert_eq!(frames(&copy), frames_read, "what is written is what was read");
                redacted.flush().expect("memory can be written");
                let redacted = redacted.finish().expect("memory can be written");
                let kinds = |frames: &[Frame<'static>]| frames.iter().map(std::mem::discriminant).collect::<Vec<_>>();
                assert_eq!(
                    kinds(&frames(&redacted)),
                    kinds(&frames_read),
                    "redaction leaves each frame"
                );
                break;
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                assert!(matches!(tape.next_frame(), Ok(None)), "nothing is read behind an error");
                break;
            }
        };
        copy.write(&frame).expect("what was read can be written");
        redacted.write(&frame).expect("what was read can be written");
        // A tape of any bytes may have settings that cannot be read, or none.
        let _ = player.feed(frame);
    }
    if let Some(core) = player.core() {
        core.flush();
        assert_eq!(core.drain(), [], "nothing is left that could leave");
    }
});

fn frames(tape: &[u8]) -> Vec<Frame<'static>> {
    let mut reader = TapeReader::new(tape).expect("it was read before");
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame().expect("it was read before") {
        frames.push(match frame {
            Frame::Config(json) => Frame::Config(json.into_owned().into()),
            Frame::Process(facts) => Frame::Process(std::borrow::Cow::Owned(facts.into_owned())),
            // The reader reuses the record's memory.
            Frame::Record(record) => Frame::Config(format!("{record:?}").into()),
            Frame::Seed(seed) => Frame::Seed(seed),
            Frame::Clock { monotonic_ns, unix_ns } => Frame::Clock { monotonic_ns, unix_ns },
            Frame::Tick { now_ns } => Frame::Tick { now_ns },
            Frame::Selected { tgid, selected } => Frame::Selected { tgid, selected },
        });
    }
    frames
}
