//! Bounds on bytes: of the queue, and of requests.

use super::*;

#[tokio::test(start_paused = true)]
async fn bytes_bound_the_queue_and_the_request() {
    local(async {
        let mut rig = Rig::new(LIMITS, |transport| transport.hangs = true);
        rig.push(1, 5 << 20);
        for _ in 0..100 {
            rig.push(1, 1 << 20);
        }
        let bytes = rig.metrics.export.queue_bytes.get();
        assert!((63 << 20..=64 << 20).contains(&bytes), "{bytes} bytes");
        assert_eq!(counts(&rig.metrics).1, [0, 37, 1, 0]);
        rig.worker.abort();

        let mut rig = Rig::new(LIMITS, |_| ());
        for _ in 0..10 {
            rig.push(1, 1 << 20);
        }
        let (log, metrics, _) = rig.shutdown().await;
        let sizes: Vec<usize> = log.iter().map(|(_, ids)| ids.len()).collect();
        assert_eq!(sizes, [3, 3, 3, 1]);
        assert_eq!(counts(&metrics), (10, [0; 4], 0, 0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_halved_once_and_then_lost() {
    local(async {
        let mut rig = Rig::new(LIMITS, |transport| {
            transport.script = [too_large(), taken(), too_large(), too_large()].into();
        });
        rig.push(9, 100);
        sleep_ms(2000).await;
        rig.push(1, 0);
        let (log, metrics, _) = rig.shutdown().await;
        let ids: Vec<Vec<u64>> = log.iter().map(|(_, ids)| ids.clone()).collect();
        let all: Vec<u64> = (1..=9).collect();
        assert_eq!(ids, [all.clone(), all[..4].to_vec(), all[4..].to_vec(), vec![10]]);
        // Both halves at once: nothing is to be waited for.
        assert_eq!(log[0].0, log[2].0);
        // A single span has no halves.
        assert_eq!(metrics.export.failed.request_too_large.get(), 5 + 1);
        assert_eq!(counts(&metrics), (4, [0; 4], 0, 0, 0));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_half_that_fails_is_sent_again_as_a_half() {
    local(async {
        let mut rig = Rig::new(LIMITS, |transport| {
            transport.script = [too_large(), again(None), again(None)].into();
        });
        rig.push(8, 0);
        sleep_ms(20_000).await;
        let (log, metrics, _) = rig.shutdown().await;
        let sizes: Vec<usize> = log.iter().map(|(_, ids)| ids.len()).collect();
        assert_eq!(sizes, [8, 4, 4, 4, 4]);
        assert_eq!(counts(&metrics), (8, [0; 4], 0, 0, 2));

        // At the end, each is counted.
        let mut rig = Rig::new(LIMITS, |transport| {
            transport.script = [too_large()].into_iter().chain((0..99).map(|_| again(None))).collect();
        });
        rig.push(8, 0);
        sleep_ms(3000).await;
        let (_, metrics, _) = rig.shutdown().await;
        assert_eq!(counts(&metrics).1, [0, 0, 0, 8]);
    })
    .await;
}

/// A proxy that takes 1 MiB, in front of spans of 4 KiB: what is lost is what it takes to learn that.
#[tokio::test(start_paused = true)]
async fn requests_become_as_small_as_the_collector_wants_them_and_larger_again() {
    local(async {
        let mut rig = Rig::new(LIMITS, |transport| transport.most_bytes = 1 << 20);
        for _ in 0..40 {
            rig.push(1000, 4096);
            sleep_ms(1000).await;
        }
        let (log, metrics, _) = rig.shutdown().await;
        let lost = metrics.export.failed.request_too_large.get();
        assert!(lost > 0 && lost <= 1100, "{lost} lost");
        assert_eq!(counts(&metrics), (40_000 - lost, [0; 4], 0, 0, 0));
        let sizes: Vec<usize> = log.iter().map(|(_, ids)| ids.len()).collect();
        assert!(sizes[10..].iter().all(|&size| size <= 260), "{sizes:?}");
    })
    .await;
    let mut limit = RequestLimit::default();
    limit.refused(4 << 20);
    limit.refused(2 << 20);
    assert_eq!(limit.bytes, 1 << 20);
    for taken in 0..2 * RequestLimit::TAKEN {
        assert!(limit.bytes < MAX_REQUEST_BYTES, "{taken}");
        limit.taken();
    }
    assert_eq!(limit.bytes, MAX_REQUEST_BYTES);
    for _ in 0..20 {
        limit.refused(1000);
    }
    assert_eq!(limit.bytes, RequestLimit::LEAST);
}

/// Spans of processes that live for one request: their resources are bounded with them.
#[tokio::test(start_paused = true)]
async fn the_resources_of_brief_processes_count() {
    local(async {
        let limits = Limits {
            max_bytes: 1 << 20,
            ..LIMITS
        };
        let mut rig = Rig::new(limits, |transport| transport.hangs = true);
        for number in 0..1000 {
            rig.resource = Arc::new(Resource {
                service_name: format!("job-{number}"),
                attributes: vec![Attribute::str("process.command_line", "x".repeat(4000))],
            });
            rig.push(1, 0);
        }
        let spans = rig.metrics.export.queue_spans.get();
        assert!((200..=262).contains(&spans), "{spans} spans of 4 KB in 1 MiB");
        assert_eq!(counts(&rig.metrics).1, [0, 1000 - spans, 0, 0]);
        rig.worker.abort();
    })
    .await;
}
