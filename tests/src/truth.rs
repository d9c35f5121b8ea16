//! Ground truth: the log of services and clients (`services/README.md` has the format).

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::otlp::Kind;

/// The end of one exchange, as the process at that end logged it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Name of the service or client that logged it.
    pub service: String,
    /// Whether it served or called.
    pub kind: Kind,
    /// Id in `x-request-id`.
    pub id: String,
    /// Outcome of the exchange.
    pub outcome: Outcome,
    /// Time at which the caller began, before it sent anything, in nanoseconds of wall-clock time. Only clients log it.
    pub began_ns: Option<u64>,
}

/// Outcome of an exchange at the end that logged it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Ended with this status.
    Status(u16),
    /// Ended without an answer.
    NoAnswer,
    /// Could not connect: no request was sent, so no id was on the wire.
    NotConnected,
    /// Not logged.
    Unknown,
}

/// Reads all events of a log file; none if it does not exist.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the log {}", path.display()))?;
    // The last line may be incomplete.
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    parse(whole).with_context(|| format!("in the log {}", path.display()))
}

/// Parses all events of a log's text.
pub fn parse(text: &str) -> Result<Vec<Event>> {
    let mut events = Vec::new();
    for line in text.lines() {
        parse_line(line, &mut events).with_context(|| format!("{line:?} is no line of a log"))?;
    }
    Ok(events)
}

/// Groups events by id: at most one at the serving end, and several calls only where a proxy tried again.
pub fn by_id(events: &[Event]) -> BTreeMap<(&str, Kind), Vec<&Event>> {
    let mut map = BTreeMap::<_, Vec<_>>::new();
    for event in events {
        map.entry((event.id.as_str(), event.kind)).or_default().push(event);
    }
    map
}

/// Describes calls without a server's entry, and requests without a caller's: none where all ends log and nothing
/// failed.
pub fn unpaired(events: &[Event]) -> Vec<String> {
    let map = by_id(events);
    let ends = |id, kind| map.get(&(id, kind)).map_or(0, Vec::len);
    let ids: std::collections::BTreeSet<_> = map.keys().map(|(id, _)| *id).collect();
    let counts = ids
        .into_iter()
        .map(|id| (id, ends(id, Kind::Client), ends(id, Kind::Server)));
    counts
        .filter(|counts| (counts.1, counts.2) != (1, 1))
        .map(|(id, calls, served)| format!("{id}: {calls} calls, {served} served"))
        .collect()
}

/// Repeats `read` until both ends of each exchange are logged: servers log after they have answered, some of them
/// seconds later. Fails if an end is not logged in time, because the truth is then unknown.
pub fn settled(read: impl Fn() -> Result<Vec<Event>>) -> Result<Vec<Event>> {
    const LIMIT: Duration = Duration::from_secs(15);
    let until = Instant::now() + LIMIT;
    loop {
        let events = read()?;
        let unpaired = unpaired(&events);
        if unpaired.is_empty() {
            return Ok(events);
        }
        if Instant::now() > until {
            const SHOWN: usize = 10;
            let first = &unpaired[..unpaired.len().min(SHOWN)];
            bail!("{} exchanges are not logged by both ends: {first:#?}", unpaired.len());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn parse_line(line: &str, events: &mut Vec<Event>) -> Option<()> {
    let mut words = line.split_ascii_whitespace();
    let (letter, service, id, status) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let mut push = |kind, id: String, outcome, began_ns| {
        let service = service.to_owned();
        events.push(Event {
            service,
            kind,
            id,
            outcome,
            began_ns,
        });
    };
    match letter {
        "C" => {
            let began_ns = words.next().map(str::parse).transpose().ok()?;
            push(Kind::Client, id.to_owned(), outcome(status)?, began_ns);
        }
        "S" => push(Kind::Server, id.to_owned(), outcome(status)?, None),
        "P" => {
            push(Kind::Server, id.to_owned(), outcome(status)?, None);
            // nginx writes the statuses of its attempts as `502, 200`.
            for status in words {
                push(
                    Kind::Client,
                    format!("{id}.1"),
                    outcome(status.trim_end_matches(','))?,
                    None,
                );
            }
        }
        _ => return None,
    }
    Some(())
}

fn outcome(status: &str) -> Option<Outcome> {
    match status {
        "-" => Some(Outcome::NoAnswer),
        "connect" => Some(Outcome::NotConnected),
        "?" => Some(Outcome::Unknown),
        digits => digits.parse().ok().map(Outcome::Status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_logs_the_request_and_its_tries() {
        let mut events = Vec::new();
        parse_line("P front a-1 200 502, 200", &mut events).unwrap();
        parse_line("C shop a-1.1.1 connect", &mut events).unwrap();
        let event = |service: &str, kind, id: &str, outcome| Event {
            service: service.to_owned(),
            kind,
            id: id.to_owned(),
            outcome,
            began_ns: None,
        };
        assert_eq!(
            events,
            [
                event("front", Kind::Server, "a-1", Outcome::Status(200)),
                event("front", Kind::Client, "a-1.1", Outcome::Status(502)),
                event("front", Kind::Client, "a-1.1", Outcome::Status(200)),
                event("shop", Kind::Client, "a-1.1.1", Outcome::NotConnected),
            ]
        );
    }

    #[test]
    fn a_client_says_when_it_began() {
        let events = parse("C load a-1 200 1700000000000000000\nC load a-2 -\n").unwrap();
        let began: Vec<_> = events.iter().map(|event| event.began_ns).collect();
        assert_eq!(began, [Some(1_700_000_000_000_000_000), None]);
    }

    #[test]
    fn a_torn_line_is_an_error() {
        for line in [
            "S shop a-1",
            "X shop a-1 200",
            "S shop a-1 20x",
            "C shop a-1 200 soon",
            "",
        ] {
            assert_eq!(parse_line(line, &mut Vec::new()), None, "{line:?}");
        }
    }
}
