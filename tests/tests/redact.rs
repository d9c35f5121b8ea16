//! Redacted tapes: they hold nothing that services said, and give the same spans.

use std::{path::Path, process::Command};

use anyhow::{Result, ensure};
use spoor_tests::{
    agent::{Recorded, Tape, binary},
    net,
    otlp::Span,
    services::{Server, Service, route},
};

const REQUESTS: usize = 20;
/// Texts in a path, in a query and in headers. None has six bytes in common with a known word of HTTP or the name of a
/// secret.
const SECRETS: [&str; 4] = [
    "QZJXKWVQ-hunter2",
    "wq7Zk9XjVbQ",
    "Basic-cXdlcnR5dWlvcA",
    "visit-Zx81kQwJ",
];

#[test]
#[ignore = "needs root, the agent and Perl"]
fn what_was_said_is_not_on_a_redacted_tape() -> Result<()> {
    let leaf = Service::start(Server::Perl, "leaf", &[])?;
    let url = leaf.url(&format!("/leaf/{}?key={}", SECRETS[0], SECRETS[1]));
    let front = Service::start(Server::Perl, "front", &[route("/call", 200, 0, &[url])])?;
    let selection = [leaf.selection()?, front.selection()?].concat();
    // Two agents record the same traffic.
    let plain = Tape::record(&selection)?;
    let redacted = Tape::record(&[vec!["--redact".to_owned()], selection].concat())?;
    for number in 0..REQUESTS {
        let id = format!("id-{number}");
        let headers = [
            ("x-request-id", id.as_str()),
            ("authorization", SECRETS[2]),
            ("cookie", SECRETS[3]),
        ];
        let status = net::get(front.address, "/call", &headers)?;
        ensure!(status == 200, "the front answered {status}");
    }
    let ((plain, _), (redacted, _)) = (plain.finish()?, redacted.finish()?);

    let folder = tempfile::tempdir()?;
    let [a, b, c] = ["plain.tape", "redacted.tape", "later.tape"].map(|name| folder.path().join(name));
    plain.copy_to(&a)?;
    redacted.copy_to(&b)?;
    let status = Command::new(binary()?)
        .arg("redact")
        .arg(&a)
        .arg("-o")
        .arg(&c)
        .status()?;
    ensure!(status.success(), "spoor redact ended with {status}");

    let first = spans_of(&plain)?;
    ensure!(first.len() == 3 * REQUESTS, "{} spans", first.len());
    ensure!(
        SECRETS.iter().any(|secret| finds(&a, secret).unwrap_or(false)),
        "the plain tape has no secrets"
    );
    for tape in [&b, &c] {
        for secret in SECRETS {
            // Shorter parts may occur by chance.
            for part in secret.as_bytes().windows(6) {
                let part = String::from_utf8_lossy(part);
                ensure!(!finds(tape, &part)?, "{part:?} of {secret:?} is on {}", tape.display());
            }
        }
    }
    // The same recording has the same ids and times; the other one has the same exchanges.
    let later = replay(&c)?;
    ensure!(
        shape(&first, true) == shape(&later, true),
        "{first:#?}\nare not\n{later:#?}"
    );
    let beside = spans_of(&redacted)?;
    ensure!(
        shape(&first, false) == shape(&beside, false),
        "{first:#?}\nare not\n{beside:#?}"
    );
    Ok(())
}

fn finds(tape: &Path, text: &str) -> Result<bool> {
    let bytes = std::fs::read(tape)?;
    Ok(bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

fn spans_of(tape: &Recorded) -> Result<Vec<Span>> {
    Ok(tape.replay()?.1)
}

fn replay(tape: &Path) -> Result<Vec<Span>> {
    let spans = tape.with_extension("json");
    let output = format!("otlp-json={}", spans.display());
    let status = Command::new(binary()?)
        .arg("replay")
        .arg(tape)
        .args(["--output", &output])
        .status()?;
    ensure!(status.success(), "spoor replay ended with {status}");
    spoor_tests::otlp::read(&spans)
}

/// Returns the spans without values, sorted: service, kind, status, length of the name, and the parent's service and
/// kind. `exact`: with ids and times.
fn shape(spans: &[Span], exact: bool) -> Vec<String> {
    let parent = |span: &Span| spans.iter().find(|other| other.span_id == span.parent_id);
    let mut shapes: Vec<String> = spans
        .iter()
        .map(|span| {
            let of = parent(span).map(|parent| format!("{} {:?}", parent.service, parent.kind));
            let Span {
                service, kind, name, ..
            } = span;
            let what = format!("{service} {kind:?} {:?} {} {of:?}", span.status(), name.len());
            let ids = format!("{} {} {} {}", span.span_id, span.parent_id, span.start_ns, span.end_ns);
            if exact { format!("{what} {ids}") } else { what }
        })
        .collect();
    shapes.sort();
    shapes
}
