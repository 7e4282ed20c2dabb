//! Waiting for a condition: polled often, with a deadline. Nothing here sleeps in the hope that something has happened meanwhile.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

/// How long anything may take on a busy machine before it counts as not happening.
pub const PATIENCE: Duration = Duration::from_secs(30);

const STEP: Duration = Duration::from_millis(15);

/// Asks until there is an answer; fails the test after `within`.
pub async fn within<T>(within: Duration, what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    until(Instant::now() + within, probe).await.unwrap_or_else(|| panic!("{what}: not within {within:?}"))
}

/// Asks until there is an answer or [`PATIENCE`] is over, for callers who have more to say about it.
pub async fn eventually_or_not<T>(probe: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    until(Instant::now() + PATIENCE, probe).await
}

async fn until<T>(deadline: Instant, mut probe: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    loop {
        if let Some(found) = probe().await {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        sleep(STEP).await;
    }
}

/// The same within [`PATIENCE`].
pub async fn eventually<T>(what: &str, probe: impl AsyncFnMut() -> Option<T>) -> T {
    within(PATIENCE, what, probe).await
}

/// Fails the test when the future does not end within [`PATIENCE`].
pub async fn bounded<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}
