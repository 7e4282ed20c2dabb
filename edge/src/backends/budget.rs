//! How many requests may be sent a second time, so that retries never become the load that a backend breaks under: a share of its requests, and a few each
//! second for backends that get few. What is not used is kept for a while, not for ever.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::config::RetryBudget;

/// How many seconds of the few, and how many requests of the share, are kept.
const KEPT_SECONDS: f64 = 10.0;
const KEPT_REQUESTS: f64 = 500.0;

/// The budget of one backend. A request costs it one relaxed addition; all else waits for a retry.
#[derive(Debug)]
pub(super) struct Budget {
    requests: AtomicU64,
    balance: Mutex<Balance>,
}

impl Budget {
    pub(super) fn new(setting: &RetryBudget) -> Self {
        Self { requests: AtomicU64::new(0), balance: Mutex::new(Balance::new(setting, Instant::now())) }
    }

    /// A request goes out for the first time.
    pub(super) fn deposit(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether one may be sent again.
    pub(super) fn withdraw(&self) -> bool {
        let requests = self.requests.swap(0, Ordering::Relaxed);
        self.balance.lock().unwrap_or_else(PoisonError::into_inner).withdraw(requests, Instant::now())
    }
}

#[derive(Debug)]
struct Balance {
    share: f64,
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Balance {
    fn new(setting: &RetryBudget, now: Instant) -> Self {
        let (share, per_second) = (f64::from(setting.percent) / 100.0, f64::from(setting.min_per_second));
        Self { share, per_second, tokens: per_second, at: now }
    }

    #[expect(clippy::cast_precision_loss, reason = "a count since the last retry, of which only a few hundred matter")]
    fn withdraw(&mut self, requests: u64, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let most = self.share * KEPT_REQUESTS + self.per_second * KEPT_SECONDS;
        self.tokens = (self.tokens + requests as f64 * self.share + passed * self.per_second).min(most);
        self.at = self.at.max(now);
        let enough = self.tokens >= 1.0;
        if enough {
            self.tokens -= 1.0;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn balance(percent: u32, min_per_second: u32, now: Instant) -> Balance {
        Balance::new(&RetryBudget { percent, min_per_second }, now)
    }

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let now = Instant::now();
        let mut balance = balance(20, 0, now);
        let allowed = (0..1000).filter(|_| balance.withdraw(1, now)).count();
        assert!((199..=200).contains(&allowed), "{allowed}");
    }

    #[test]
    fn a_few_each_second_are_always_allowed() {
        let mut now = Instant::now();
        let mut balance = balance(0, 3, now);
        for _ in 0..5 {
            assert_eq!((0..10).filter(|_| balance.withdraw(1, now)).count(), 3);
            now += Duration::from_secs(1);
        }
    }

    #[test]
    fn what_is_saved_has_an_end_and_nothing_is_nothing() {
        let now = Instant::now();
        let mut saved = balance(20, 3, now);
        let later = now + Duration::from_hours(1);
        assert!(saved.withdraw(1_000_000, later));
        assert_eq!((0..1000).filter(|_| saved.withdraw(0, later)).count(), 129);
        assert!(!balance(0, 0, now).withdraw(1_000_000, later));
    }
}
