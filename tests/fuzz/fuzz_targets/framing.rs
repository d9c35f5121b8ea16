//! What the programs in the kernel read from a head, held against what Core's parser says of the same bytes: what they
//! pass over must be body to Core, too.
#![no_main]

use agent_ebpf::framing::{Framing, SCAN_BYTES, has_body, scan_bytes};
use libfuzzer_sys::fuzz_target;
use spoor::{
    event::Stamp,
    proto::{
        Data, Half,
        http1::{Config, Event, Http1},
    },
};

fuzz_target!(|data: &[u8]| {
    let Some((&first, head)) = data.split_first() else {
        return;
    };
    let head = &head[..head.len().min(SCAN_BYTES)];
    let response = first & 1 == 1;
    // What lies behind the head in the scratch area is another call's.
    let behind = if first & 2 == 0 { 0 } else { b'\n' };
    let Framing {
        head_bytes,
        transfer_encoding,
        content_length,
    } = scan_bytes(head, behind);
    if head_bytes == 0 {
        return;
    }
    assert!(head_bytes as usize <= head.len());
    let config = Config::default();
    let mut http = Http1::new(true);
    let mut out = Vec::new();
    let half = if response { Half::Response } else { Half::Request };
    if response {
        let get = Data::Bytes(b"GET / HTTP/1.1\r\n\r\n");
        http.feed(&config, Half::Request, 0, true, get, Stamp::default(), &mut out);
    }
    // The programs look at the first head of a call only, and skip empty lines before none.
    let scanned = match head {
        _ if response => head.starts_with(b"HTTP/1."),
        [first, second, ..] => has_body(*first, *second),
        _ => false,
    };
    if !scanned {
        return;
    }
    // They pass over heads of responses that have no body.
    let status = head.get(9..12).unwrap_or_default();
    if response && (status.starts_with(b"1") || matches!(status, b"204" | b"304")) {
        return;
    }
    http.feed(
        &config,
        half,
        0,
        true,
        Data::Bytes(&head[..head_bytes as usize]),
        Stamp::default(),
        &mut out,
    );
    let heads = out
        .iter()
        .filter(|event| match event {
            Event::RequestHead { .. } => !response,
            Event::ResponseHead { .. } => response,
            _ => false,
        })
        .count();
    let lost = out
        .iter()
        .any(|event| matches!(event, Event::Lost { .. } | Event::Opaque { .. }));
    if lost {
        return;
    }
    assert_eq!(
        heads,
        1,
        "the programs end the head elsewhere: {:?}",
        head.escape_ascii().to_string()
    );
    if transfer_encoding == 0 && content_length != Framing::NO_LENGTH && content_length > 0 {
        let end = u64::from(head_bytes) + content_length;
        assert!(
            http.body_until(half) >= end,
            "the programs pass over what is no body: {out:?}"
        );
    }
});
