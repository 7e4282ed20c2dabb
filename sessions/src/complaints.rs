//! What is said about sessions that cannot be read: each is counted, and one line for each cause and second is logged.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use gatehouse_chassis::metrics::Metrics;
use prometheus::IntCounterVec;

/// At most one line about one cause in so long.
const EVERY: Duration = Duration::from_secs(1);

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Complaints {
    malformed: IntCounterVec,
    /// By source and cause: when one was logged last, and how many were not since. Causes are fixed words, and few.
    silenced: Mutex<HashMap<Cause, (Instant, u64)>>,
}

/// Where it was, and why it could not be read.
type Cause = (&'static str, &'static str);

impl Complaints {
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let help = "Sessions in Redis and entries of the session stream that could not be read.";
        let malformed = metrics.counters("session_entries_malformed_total", help, &["source", "cause"]);
        Self { malformed, silenced: Mutex::default() }
    }

    /// `source` is `key` or `stream`; `at` is the key's or the entry's id, and `problem` says more than `cause`.
    pub(crate) fn note(&self, source: &'static str, cause: &'static str, at: &dyn std::fmt::Display, problem: &dyn std::fmt::Display) {
        self.malformed.with_label_values(&[source, cause]).inc();
        let (now, mut silenced) = (Instant::now(), self.silenced.lock().unwrap_or_else(PoisonError::into_inner));
        let skipped = match silenced.get_mut(&(source, cause)) {
            Some((last, skipped)) if now.saturating_duration_since(*last) < EVERY => {
                *skipped += 1;
                return;
            }
            Some((_, skipped)) => *skipped + 1,
            None => 1,
        };
        silenced.insert((source, cause), (now, 0));
        drop(silenced);
        tracing::warn!(session.source = source, session.at = %at, cause, skipped, "a session cannot be read: {problem}");
    }
}
