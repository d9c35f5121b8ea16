//! Log of spans that are lost on their way out: one line when losses of a kind begin, with the reason and what to do, and one
//! when they are over. The numbers are in the metrics.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use crate::episode::{Episode, Past};

/// Reason why spans are lost, or late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Requests fail and are sent again: no loss yet.
    Late,
    /// The queue was full.
    Queue,
    /// A span was larger than a request may be.
    SpanTooLarge,
    /// More spans at once than the console keeps.
    Console,
    /// The collector refused the request.
    Refused,
    /// The collector refused the request for its size, halved too.
    RequestTooLarge,
    /// The collector's answer was longer than is read.
    MalformedAnswer,
    /// The collector refused some of a request's spans.
    PartialSuccess,
    /// The file or terminal could not be written.
    NotWritten,
}

impl Loss {
    const ALL: [Self; 9] = [
        Self::Late,
        Self::Queue,
        Self::SpanTooLarge,
        Self::Console,
        Self::Refused,
        Self::RequestTooLarge,
        Self::MalformedAnswer,
        Self::PartialSuccess,
        Self::NotWritten,
    ];
}

/// The log of losses, and what is known of the collector.
#[derive(Debug)]
pub struct Losses {
    /// Name of the destination in log lines.
    destination: String,
    state: Mutex<State>,
    /// An episode is open. Read at each hand-over of spans.
    is_open: AtomicBool,
    begun: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of [`Loss::ALL`].
    episodes: [Episode; Loss::ALL.len()],
    /// Reason of the last request's failure; `None` if it was taken, or there was none.
    trouble: Option<String>,
    /// Duration of the last request that was taken.
    took: Option<Duration>,
}

impl Losses {
    /// Creates a log without losses.
    pub fn new(destination: String) -> Self {
        Self {
            destination,
            state: Mutex::default(),
            is_open: AtomicBool::new(false),
            begun: Notify::new(),
        }
    }

    /// Returns the name of the destination for log lines.
    pub fn destination(&self) -> &str {
        &self.destination
    }

    /// Notes that a request was taken.
    pub fn taken(&self, took: Duration) {
        let mut state = self.lock();
        state.trouble = None;
        state.took = Some(took);
    }

    /// Notes that a request failed.
    pub fn failed(&self, reason: &str) {
        self.lock().trouble = Some(reason.to_owned());
    }

    /// Notes lost spans (or failed requests). `line` is logged if an episode begins with it.
    pub fn lost(&self, loss: Loss, count: u64, line: impl FnOnce() -> String) {
        self.lost_at(loss, count, now(), line);
    }

    fn lost_at(&self, loss: Loss, count: u64, now: Instant, line: impl FnOnce() -> String) -> Option<String> {
        let begins = {
            let mut state = self.lock();
            state.of(loss).is_some_and(|episode| episode.lost(count, now))
        };
        begins.then(|| {
            self.is_open.store(true, Ordering::Relaxed);
            self.begun.notify_one();
            let line = line();
            tracing::warn!("{line}");
            line
        })
    }

    /// Notes that the queue dropped its oldest spans.
    pub fn queue_full(&self, dropped: u64, spans: usize, bytes: usize) {
        self.lost(Loss::Queue, dropped, || {
            let why = self.why_full();
            format!(
                "spans are dropped, the oldest first: the queue is full ({spans} spans, {} KiB), because {why}; mend that, or \
                 raise OTEL_BSP_MAX_QUEUE_SIZE or --queue-bytes, or send less (--ignore, OTEL_TRACES_SAMPLER)",
                bytes / 1024
            )
        });
    }

    fn why_full(&self) -> String {
        let destination = &self.destination;
        let state = self.lock();
        match (&state.trouble, state.took) {
            (Some(reason), _) => format!("{destination} does not take them: {reason}"),
            (None, Some(took)) => {
                format!(
                    "{destination} takes them too slowly (its last answer took {} ms)",
                    took.as_millis()
                )
            }
            (None, None) => format!("{destination} has not answered yet"),
        }
    }

    /// Logs the episodes that are over. Nearly free while none is open.
    pub fn poll(&self) {
        if self.is_open.load(Ordering::Relaxed) {
            self.close(|episode| episode.over(now()), false);
        }
    }

    /// Logs the episodes that are open, at the end.
    pub fn finish(&self) {
        self.close(Episode::end, true);
    }

    /// Logs each episode when it is over, for ever. Sleeps while none is open.
    pub async fn watch(&self) {
        loop {
            let over_at = {
                let state = self.lock();
                state.episodes.iter().filter_map(Episode::over_at).min()
            };
            match over_at {
                Some(over_at) => {
                    // One that begins meanwhile is over later.
                    tokio::time::sleep_until(over_at.into()).await;
                    self.poll();
                }
                None => self.begun.notified().await,
            }
        }
    }

    /// Logs the episodes for which `over` returns something. `ends`: nothing more comes, so trouble that is open stays.
    fn close(&self, over: impl Fn(&mut Episode) -> Option<Past>, ends: bool) -> Vec<String> {
        let mut in_trouble = false;
        let past: Vec<(Loss, Past)> = {
            let mut state = self.lock();
            in_trouble |= ends && state.trouble.is_some();
            let past = Loss::ALL.into_iter().zip(&mut state.episodes);
            let past = past
                .filter_map(|(loss, episode)| Some((loss, over(episode)?)))
                .collect();
            let is_open = state.episodes.iter().any(|episode| episode.over_at().is_some());
            self.is_open.store(is_open, Ordering::Relaxed);
            past
        };
        past.into_iter()
            .map(|(loss, past)| {
                let line = if in_trouble && loss == Loss::Late {
                    let Past { count, lasted } = past;
                    let (destination, seconds) = (&self.destination, lasted.as_secs_f64());
                    format!("requests to {destination} failed up to the end: {count} did within {seconds:.1} s")
                } else {
                    self.line_of(loss, past)
                };
                if loss == Loss::Late {
                    tracing::info!("{line}");
                } else {
                    tracing::warn!("{line}");
                }
                line
            })
            .collect()
    }

    fn line_of(&self, loss: Loss, Past { count, lasted }: Past) -> String {
        let destination = &self.destination;
        let seconds = lasted.as_secs_f64();
        let why = match loss {
            Loss::Late => {
                return format!("no request to {destination} fails any more: {count} did within {seconds:.1} s");
            }
            Loss::Queue => "because the queue was full".to_owned(),
            Loss::SpanTooLarge => "because each alone was larger than a request may be".to_owned(),
            Loss::Console => "because more came at once than the console keeps".to_owned(),
            Loss::Refused => format!("because {destination} refused them"),
            Loss::RequestTooLarge => format!("because requests were too large for {destination}"),
            Loss::MalformedAnswer => format!("because the answers of {destination} were too long to read"),
            Loss::PartialSuccess => format!("because {destination} rejected them from requests that it took"),
            Loss::NotWritten => format!("because {destination} could not be written"),
        };
        format!("dropping is over: {count} spans were lost within {seconds:.1} s, {why}")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each statement leaves it right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn of(&mut self, loss: Loss) -> Option<&mut Episode> {
        let mut episodes = Loss::ALL.into_iter().zip(&mut self.episodes);
        episodes.find_map(|(known, episode)| (known == loss).then_some(episode))
    }
}

/// Reads Tokio's clock, which tests stop.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::episode::QUIET;

    #[test]
    fn each_kind_of_loss_is_told_when_it_begins_and_when_it_is_over() {
        let losses = Losses::new("http://c:4318/v1/traces".to_owned());
        let begun = Instant::now();
        for loss in Loss::ALL {
            let line = losses.lost_at(loss, 2, begun, || format!("{loss:?} begins"));
            assert_eq!(line, Some(format!("{loss:?} begins")));
            assert_eq!(
                losses.lost_at(loss, 3, begun + Duration::from_millis(1500), || panic!()),
                None
            );
        }
        assert_eq!(losses.close(|episode| episode.over(begun + QUIET), false), [""; 0]);
        let over = losses.close(
            |episode| episode.over(begun + Duration::from_millis(1500) + QUIET),
            false,
        );
        assert_eq!(over.len(), Loss::ALL.len());
        assert_eq!(
            over[..2],
            [
                "no request to http://c:4318/v1/traces fails any more: 5 did within 1.5 s",
                "dropping is over: 5 spans were lost within 1.5 s, because the queue was full",
            ]
        );
        assert_eq!(losses.close(Episode::end, true), [""; 0], "told once");
    }

    #[test]
    fn what_was_not_mended_by_the_end_is_told_as_such() {
        for (taken, told) in [
            (false, "requests to http://c/ failed up to the end: 2 did within 0.0 s"),
            (true, "no request to http://c/ fails any more: 2 did within 0.0 s"),
        ] {
            let losses = Losses::new("http://c/".to_owned());
            losses.lost_at(Loss::Late, 2, Instant::now(), || "begins".to_owned());
            losses.failed("Connection refused");
            if taken {
                losses.taken(Duration::from_millis(1));
            }
            assert_eq!(losses.close(Episode::end, true), [told]);
        }
    }

    #[test]
    fn why_the_queue_is_full() {
        let losses = Losses::new("http://c/".to_owned());
        assert_eq!(losses.why_full(), "http://c/ has not answered yet");
        losses.failed("Connection refused");
        assert_eq!(losses.why_full(), "http://c/ does not take them: Connection refused");
        losses.taken(Duration::from_millis(950));
        assert_eq!(
            losses.why_full(),
            "http://c/ takes them too slowly (its last answer took 950 ms)"
        );
    }
}
