//! How far the trail is behind the stream. Asked of the stream itself, so that it also holds while the database is away.

use std::time::Duration;

use gatehouse_chassis::{Shutdown, redis::Redis};

use crate::metrics::AuditorMetrics;

const EVERY: Duration = Duration::from_secs(1);

/// Keeps the gauges current until the drain.
pub async fn watch(shutdown: Shutdown, redis: Redis, stream: String, metrics: AuditorMetrics) {
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = shutdown.draining() => return,
        }
        // While Redis is away nothing is known; the last figures stand.
        if let Ok(info) = redis.stream_info(&stream).await {
            metrics.backlog.set(i64::try_from(info.length).unwrap_or(i64::MAX));
            let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
            // What is written is deleted: the first entry is the oldest that waits.
            let waiting = info.first.map_or(0, |first| now.saturating_sub(first.ms));
            metrics.lag.set(Duration::from_millis(waiting).as_secs_f64());
        }
    }
}
