//! Looks after streams on which nothing happens. One task for all of them: a timer for each would cost more than the streams.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use gatehouse_chassis::watchdog::Pulse;

use crate::{config::Push, hub::Hub};

/// Sweeps for as long as the process lives; a beat a sweep.
pub async fn run(hub: Arc<Hub>, pulse: Pulse) {
    let period = period(hub.settings());
    loop {
        tokio::time::sleep(period).await;
        pulse.beat();
        hub.sweep(Instant::now());
    }
}

/// How late a bookmark or a cut may be.
fn period(settings: &Push) -> Duration {
    (settings.bookmark_interval.min(settings.bounds.age) / 8).clamp(Duration::from_millis(10), Duration::from_secs(1))
}
