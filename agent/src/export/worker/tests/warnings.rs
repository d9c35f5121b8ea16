//! Warnings: one line when losses of a kind begin, one when they are over.

use super::*;

/// The warnings that this thread logs.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<u8>>>);

impl Warnings {
    /// Until the guard is dropped.
    fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        let warnings = Self::default();
        let writer = warnings.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .with_max_level(tracing::Level::WARN)
            .finish();
        (warnings, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

impl std::io::Write for Warnings {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn dropping_is_told_when_it_begins_and_when_it_is_over() {
    local(async {
        let (warnings, _guard) = Warnings::capture();
        let limits = Limits {
            max_spans: 1000,
            max_batch_spans: 100,
            ..LIMITS
        };
        // 100 spans a second, and three times as many come.
        let mut rig = Rig::new(limits, |transport| transport.takes = Duration::from_secs(1));
        for _ in 0..10 {
            rig.push(300, 0);
            sleep_ms(1000).await;
        }
        let dropped = rig.metrics.export.dropped.queue_spans.get();
        assert!((900..=1300).contains(&dropped), "{dropped}");
        assert_eq!(warnings.lines().len(), 1, "{:?}", warnings.lines());
        sleep_ms(60_000).await;
        let lines = warnings.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].contains("spans are dropped, the oldest first: the queue is full (1000 spans, ")
                && lines[0].contains(
                    "because a test takes them too slowly (its last answer took 1000 ms); mend that, or raise"
                ),
            "{lines:?}"
        );
        assert!(
            lines[1].contains(&format!("dropping is over: {dropped} spans were lost within "))
                && lines[1].ends_with("because the queue was full"),
            "{lines:?}"
        );
        let (_, metrics, _) = rig.shutdown().await;
        assert_eq!(counts(&metrics), (3000 - dropped, [dropped, 0, 0, 0], 0, 0, 0));
        assert_eq!(warnings.lines().len(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_day_without_collector_is_two_lines_and_what_is_refused_is_told_once() {
    local(async {
        let (warnings, _guard) = Warnings::capture();
        let limits = Limits {
            max_spans: 10,
            ..LIMITS
        };
        let mut rig = Rig::new(limits, |transport| {
            transport.back = Some(Instant::now() + Duration::from_secs(86_400));
            transport.script = (0..99)
                .map(|_| Outcome::Refused {
                    reason: "HTTP status 401".to_owned(),
                })
                .collect();
        });
        for _ in 0..1440 {
            rig.push(10, 0);
            sleep_ms(60_000).await;
        }
        let lines = warnings.lines();
        let begins = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        assert_eq!(
            begins("spans cannot be sent to a test: scripted; 10 are kept"),
            1,
            "{lines:?}"
        );
        // Ten spans a minute are lost all day. The first minutes count as episodes of their own.
        assert!((1..=3).contains(&begins("spans are dropped")), "{lines:?}");
        rig.push(10, 0);
        for _ in 0..20 {
            sleep_ms(1000).await;
            rig.push(10, 0);
        }
        let lines = warnings.lines();
        let refused = "a test refuses spans, 10 are lost: HTTP status 401; are endpoint, protocol and";
        assert_eq!(
            lines.iter().filter(|line| line.contains(refused)).count(),
            1,
            "{lines:?}"
        );
        rig.shutdown().await;
        assert!(
            warnings
                .lines()
                .last()
                .unwrap()
                .ends_with("because a test refused them")
        );
    })
    .await;
}
