//! The programs' framing, compared with Core's parser: where the programs are sure of a head's end, its body or a
//! chunk, Core's parser reads the same.
#![no_main]

use agent_ebpf::frame::{
    chunk::{LINE_BYTES, Line},
    head::{self, Body, SCAN_BYTES},
};
use libfuzzer_sys::fuzz_target;
use spoor::engine::{
    execution::Stamp,
    proto::{
        Data, Event, Half, Piece,
        http1::{Config, Http1},
    },
};

fuzz_target!(|data: &[u8]| {
    let Some((&first, head)) = data.split_first() else {
        return;
    };
    if first & 4 != 0 {
        return chunk(first & 1 == 1, head);
    }
    let head = &head[..head.len().min(SCAN_BYTES)];
    let response = first & 1 == 1;
    // In the kernel, another call's bytes lie behind the head.
    let behind = if first & 2 == 0 { 0 } else { b'\n' };
    let (head_bytes, body) = head::read(head, behind);
    assert!(head_bytes <= head.len());
    if head_bytes == 0 || body == Body::Unknown {
        return;
    }
    // The programs demand more of the first line; here the test does.
    let plain = match response {
        true => head.starts_with(b"HTTP/1.1 200 "),
        false => is_request_line(head),
    };
    if !plain {
        return;
    }
    let config = Config::default();
    let mut http = Http1::new(true);
    let mut out = Vec::new();
    let half = if response { Half::Response } else { Half::Request };
    if response {
        let get = b"GET / HTTP/1.1\r\n\r\n";
        http.feed(&config, Half::Request, piece(0, get), &mut out);
    }
    http.feed(&config, half, piece(0, &head[..head_bytes]), &mut out);
    let heads = out
        .iter()
        .filter(|event| match event {
            Event::Begins { .. } => !response,
            Event::Answered { .. } => response,
            _ => false,
        })
        .count();
    if out
        .iter()
        .any(|event| matches!(event, Event::Lost { .. } | Event::Opaque { .. }))
    {
        return;
    }
    let shown = head.escape_ascii();
    assert_eq!(heads, 1, "the programs end the head elsewhere: {shown}");
    let end = match body {
        Body::Length(length @ 1..) => head_bytes as u64 + length,
        _ => return,
    };
    assert_eq!(
        http.body_until(half),
        end,
        "the programs pass over other bytes: {shown}"
    );
});

/// Returns a system call that moved these bytes.
fn piece(offset: u64, bytes: &[u8]) -> Piece<'_> {
    Piece {
        offset,
        segment_start: true,
        data: Data::Bytes(bytes),
        stamp: Stamp::default(),
    }
}

/// Compares a chunk's line, the first one of a body or a later one.
fn chunk(is_first: bool, bytes: &[u8]) {
    let known = bytes.len().min(LINE_BYTES as usize);
    let line = Line::read(is_first, known as u64, |index| bytes[index as usize]);
    if line.bytes == 0 {
        return;
    }
    let mut before = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    if !is_first {
        before.extend_from_slice(b"1\r\nx");
    }
    let mut http = Http1::new(true);
    let mut out = Vec::new();
    let mut feed = |offset: usize, bytes| {
        http.feed(&Config::default(), Half::Request, piece(offset as u64, bytes), &mut out);
        http.body_until(Half::Request)
    };
    feed(0, &before);
    let until = feed(before.len(), &bytes[..line.bytes as usize]);
    let shown = bytes.escape_ascii();
    if line.size == 0 {
        let ends = |event: &Event| matches!(event, Event::Sent { .. });
        assert!(out.iter().any(ends), "the programs end the body elsewhere: {shown}");
    } else {
        let end = before.len() as u64 + line.bytes + line.size;
        assert_eq!(until, end, "the programs pass over other bytes: {shown}");
    }
}

/// Returns whether the first line is `POST`, a target of printable characters, and `HTTP/1.1`.
fn is_request_line(head: &[u8]) -> bool {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let target = line
        .strip_prefix(b"POST ")
        .and_then(|rest| rest.strip_suffix(b" HTTP/1.1"));
    target.is_some_and(|target| !target.is_empty() && target.iter().all(u8::is_ascii_graphic))
}
