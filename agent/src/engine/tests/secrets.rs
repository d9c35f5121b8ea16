//! A secret in a request's URL, from the wire through every writer there is.

use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use super::*;
use crate::{
    console::{Style, render},
    export::{
        config::Encoding,
        encode::{Batch, Encoder},
    },
    tape::{Frame, TapeReader, TapeWriter},
    traces::Assembler,
};

const SECRET: &str = "S3CRET";

fn with_headers() -> CoreSettings {
    CoreSettings {
        request_headers: vec!["referer".parse().unwrap()],
        response_headers: vec!["location".parse().unwrap()],
        ..settings()
    }
}

/// The records of two exchanges whose URLs are full of secrets, both ends of each, origin and absolute form.
fn records() -> Vec<Vec<u8>> {
    let mut now_ns = SECOND;
    let mut records = Vec::new();
    let mut feed = |record: Record| {
        now_ns += 1000;
        records.push(record.at(now_ns));
    };
    for (pair, target) in [
        (1, "/cb;jsessionid=S3CRET?code=S3CRET&%73ig=S3CRET&a=1#token=S3CRET"),
        (2, "http://u:S3CRET@h?token=S3CRET"),
    ] {
        let mut ends = [(2 * pair, 10, Role::Client), (2 * pair + 1, 20, Role::Server)].map(|(conn, tgid, role)| {
            let open = open(conn, tgid, tgid, role);
            feed(Record(open.header, Body::Open(open)));
            let (read, written) = (0, 0);
            End {
                conn,
                tgid,
                read,
                written,
            }
        });
        let request = format!("GET {target} HTTP/1.1\r\nHost: u:S3CRET@h\r\nReferer: https://h/?Token=S3CRET\r\n\r\n");
        let response =
            "HTTP/1.1 302 Found\r\nLocation: https://u:S3CRET@h/#access_token=S3CRET\r\nContent-Length: 0\r\n\r\n";
        let [client, server] = &mut ends;
        feed(client.writes(10, &request));
        feed(server.reads(20, &request));
        feed(server.writes(20, response));
        feed(client.reads(10, response));
    }
    records
}

fn spans(settings: &CoreSettings, records: &[Vec<u8>]) -> Vec<Span> {
    let mut core = Core::new(settings, 7);
    for (tgid, name) in [(10, "front"), (20, "back")] {
        core.process(facts(tgid, name, Runtime::Unknown));
    }
    for record in records {
        core.raw_record(record);
    }
    core.flush()
}

/// All that leaves: as a collector gets it, as JSON, and on the console.
fn written(spans: &[Span]) -> (Bytes, String, String) {
    let [request, json] = [Encoding::Protobuf, Encoding::Json].map(|encoding| {
        let mut batch = Batch::default();
        for span in Encoder::new(encoding).encode(spans) {
            batch.add(span);
        }
        let mut request = batch.to_request(&mut BytesMut::new());
        request.copy_to_bytes(request.remaining())
    });
    let json = String::from_utf8(json.into()).unwrap();
    let mut assembler = Assembler::default();
    for span in spans {
        assembler.add(span.clone(), Instant::now()).unwrap();
    }
    let style = Style {
        colour: false,
        columns: 200,
    };
    let shown = assembler.take_all().iter().map(|trace| render(trace, style)).collect();
    (request, json, shown)
}

#[test]
fn a_secret_passes_through_no_writer() {
    let spans = spans(&with_headers(), &records());
    assert_eq!(spans.len(), 4);
    let (request, json, shown) = written(&spans);
    let otlp = String::from_utf8_lossy(&request);
    for (writer, text) in [("otlp", &*otlp), ("json", &json), ("console", &shown)] {
        assert!(!text.contains(SECRET), "{writer}: {text}");
    }
    // It is not there because it was replaced.
    assert!(json.contains("/cb;jsessionid=REDACTED"), "{json}");
    assert!(
        json.contains("code=REDACTED&%73ig=REDACTED&a=1#token=REDACTED"),
        "{json}"
    );
    assert!(json.contains("http://REDACTED:REDACTED@h?token=REDACTED"), "{json}");
    assert!(
        json.contains("https://REDACTED:REDACTED@h/#access_token=REDACTED"),
        "{json}"
    );
    assert!(shown.contains("GET /cb"), "{shown}");
}

#[test]
fn a_redacted_tape_has_no_secret_and_a_tape_keeps_its_names() {
    let mut settings = with_headers();
    settings.secrets.add(["a".parse().unwrap()]);
    let config = serde_json::to_string(&settings).unwrap();
    for redacted in [false, true] {
        let mut tape = if redacted {
            TapeWriter::redacted(Vec::new())
        } else {
            TapeWriter::new(Vec::new())
        }
        .unwrap();
        tape.write(&Frame::Config(config.as_str().into())).unwrap();
        for record in &records() {
            tape.write(&Frame::Record(record)).unwrap();
        }
        let tape = tape.finish().unwrap();
        let mut reader = TapeReader::new(tape.as_slice()).unwrap();
        let (mut read_settings, mut read_records) = (None, Vec::new());
        while let Some(frame) = reader.next_frame().unwrap() {
            match frame {
                Frame::Config(json) => read_settings = serde_json::from_str::<CoreSettings>(&json).ok(),
                Frame::Record(record) => read_records.push(record.to_vec()),
                _ => {}
            }
        }
        let read_settings = read_settings.unwrap();
        assert_eq!(read_settings.secrets, settings.secrets);
        let said = read_records.concat();
        assert_eq!(String::from_utf8_lossy(&said).contains(SECRET), !redacted);
        let (_, json, _) = written(&spans(&read_settings, &read_records));
        assert!(!json.contains(SECRET), "{json}");
        assert_eq!(json.contains("&a=REDACTED\""), !redacted, "{json}");
    }
}
