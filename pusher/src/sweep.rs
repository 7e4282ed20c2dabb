//! Looks after streams on which nothing happens. One task for all of them: a timer for each would cost more than the streams.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gatehouse_chassis::{Shutdown, watchdog::Pulse};

use crate::{config::Push, hub::Hub};

/// Sweeps until the process drains; a beat a sweep.
pub async fn run(hub: Arc<Hub>, shutdown: Shutdown, pulse: Pulse) {
    let period = period(hub.settings());
    while tokio::time::timeout(period, shutdown.draining()).await.is_err() {
        pulse.beat();
        hub.sweep(Instant::now());
    }
}

/// How late a bookmark or a cut may be.
fn period(settings: &Push) -> Duration {
    (settings.bookmark_interval.min(settings.bounds.age) / 8).clamp(Duration::from_millis(10), Duration::from_secs(1))
}
