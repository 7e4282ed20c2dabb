//! Counts with a bound, and the guards that keep them true.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus::IntGauge;

use crate::config::Priority;

/// So many at once; clones share the count.
#[derive(Clone, Debug)]
pub(super) struct Within(Arc<Count>);

#[derive(Debug)]
struct Count {
    now: AtomicUsize,
    limit: AtomicUsize,
    /// Shows the count.
    gauge: Option<IntGauge>,
}

impl Within {
    pub(super) fn new(limit: usize, gauge: Option<IntGauge>) -> Self {
        Self(Arc::new(Count { now: AtomicUsize::new(0), limit: AtomicUsize::new(limit), gauge }))
    }

    pub(super) fn limit_to(&self, limit: usize) {
        self.0.limit.store(limit, Ordering::Relaxed);
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.now.load(Ordering::Relaxed)
    }

    /// One more, if that priority's share is not used up.
    pub(super) fn enter(&self, priority: Priority) -> Option<Counted> {
        let share = share(self.0.limit.load(Ordering::Relaxed), priority);
        let more = |now: usize| (now < share).then(|| now + 1);
        self.0.now.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        self.0.gauge.iter().for_each(IntGauge::inc);
        Some(Counted(self.clone()))
    }

    fn leave(&self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
        self.0.gauge.iter().for_each(IntGauge::dec);
    }

    fn come_back(&self) {
        self.0.now.fetch_add(1, Ordering::Relaxed);
        self.0.gauge.iter().for_each(IntGauge::inc);
    }
}

/// What of a limit a priority may fill.
pub(super) fn share(limit: usize, priority: Priority) -> usize {
    match priority {
        Priority::Low => limit.div_ceil(2),
        Priority::Normal => (limit * 9).div_ceil(10).min(limit.saturating_sub(1)).max(1),
        Priority::Critical => limit,
    }
}

/// One that is counted, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Within);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Of one request, among what the gateway works on.
#[derive(Debug)]
pub(crate) struct Place(Counted);

impl Place {
    pub(super) const fn new(inside: Counted) -> Self {
        Self(inside)
    }

    /// Does what the gateway merely waits for, and what therefore takes no place of its own work.
    pub(crate) async fn outside<T>(&mut self, work: impl Future<Output = T>) -> T {
        let _outside = Outside::new(&self.0.0);
        work.await
    }
}

/// Somebody who is let in again without being asked.
struct Outside<'a>(&'a Within);

impl<'a> Outside<'a> {
    fn new(within: &'a Within) -> Self {
        within.leave();
        Self(within)
    }
}

impl Drop for Outside<'_> {
    fn drop(&mut self) {
        self.0.come_back();
    }
}
