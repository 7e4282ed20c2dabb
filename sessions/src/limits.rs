//! How often commands may come: token buckets per session, user, message type, address and in all, each in this process or over all edges.
//!
//! A decision never waits. Buckets that are shared are kept here as well, and reconciled with the other edges behind the decisions' back ([`reconcile`]).
//! A command that any limit refuses takes no token from the others.

mod link;
mod quota;
mod reconcile;
mod subject;
mod table;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use gatehouse_chassis::{Process, metrics::Metrics, redis::Redis};
use prometheus::{IntCounter, IntGauge};

use crate::{
    Config,
    config::limit::{self, Limit, Scope, WhenAway},
};
use link::Link;
use quota::{Quota, nanos};
use reconcile::Reconciler;
pub(crate) use subject::Subject;
use table::{Place, Table};

/// How often keys whose buckets are full are looked for, what part of them each time, and how many at once, while decisions wait.
const FORGET_EVERY: Duration = Duration::from_secs(1);
const FORGET_PART: usize = 8;
const FORGET_AT_ONCE: usize = 1000;
/// When to ask again while a limit is closed.
const CLOSED: Duration = Duration::from_secs(1);
/// Clocks of machines are adjusted by so much between two rounds at the most.
const SHARED_SLACK: Duration = Duration::from_millis(1);

/// The limits of this process; clones share their buckets.
#[derive(Clone, Debug)]
pub struct Limits {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    limits: Box<[Bound]>,
    link: Link,
    clock: Clock,
}

/// One limit with its buckets.
#[derive(Debug)]
struct Bound {
    limit: Limit,
    quota: Quota,
    table: Mutex<Table>,
    admitted: IntCounter,
    refused: IntCounter,
    overflowed: IntCounter,
    keys: IntGauge,
}

#[derive(Debug)]
enum Clock {
    Since(Instant),
    #[cfg(test)]
    Set(std::sync::atomic::AtomicU64),
}

/// A token that can be taken: when the bucket will be full afterwards, and what others are told.
#[derive(Debug)]
struct Taking {
    full_at: u64,
    tell: Option<u32>,
}

impl Limits {
    /// The configured ones. Shared limits are reconciled from now on, until the process ends.
    #[must_use]
    pub fn start(process: &Process, redis: &Redis, config: &Config) -> Self {
        let this = Self::new(&config.limits, process.metrics(), Clock::Since(Instant::now()));
        if this.inner.shared().next().is_some() {
            Reconciler::new(Arc::clone(&this.inner), redis.clone(), process.metrics()).start(process);
        }
        if !this.inner.limits.is_empty() {
            let (inner, shutdown) = (Arc::clone(&this.inner), process.shutdown().clone());
            process.spawn("limits-forget", async move {
                while tokio::time::timeout(FORGET_EVERY, shutdown.draining()).await.is_err() {
                    inner.forget();
                }
            });
        }
        this
    }

    /// None at all, for who only verifies.
    pub(crate) fn none() -> Self {
        Self { inner: Arc::new(Inner { limits: Box::default(), link: Link::new(0), clock: Clock::Since(Instant::now()) }) }
    }

    fn new(limits: &limit::Limits, metrics: &Metrics, clock: Clock) -> Self {
        let decisions = metrics.counters("limit_decisions_total", "Commands that a limit admitted or refused.", &["limit", "outcome"]);
        let overflows = metrics.counters(
            "limit_overflow_total",
            "Commands that a limit counted in the bucket which keys beyond max_keys share.",
            &["limit"],
        );
        let keys = metrics.gauges("limit_keys", "Keys that a limit holds buckets for.", &["limit"]);
        let bound = |limit: &Limit| Bound {
            quota: Quota::of(limit),
            table: Mutex::new(Table::new(limits.max_keys)),
            admitted: decisions.with_label_values(&[&limit.name, "admitted"]),
            refused: decisions.with_label_values(&[&limit.name, "refused"]),
            overflowed: overflows.with_label_values(&[&limit.name]),
            keys: keys.with_label_values(&[&limit.name]),
            limit: limit.clone(),
        };
        let inner = Inner { limits: limits.each.iter().map(bound).collect(), link: Link::new(clock.now()), clock };
        Self { inner: Arc::new(inner) }
    }

    /// Takes a token from every limit that counts this command; or from none, and how long until there is one in each.
    pub(crate) fn take(&self, subject: &Subject<'_>) -> Result<(), Duration> {
        let inner = &self.inner;
        // Whole milliseconds, as clients are told them.
        inner.decide(&inner.limits, subject, inner.now(), false).map_err(|wait| Duration::from_millis(wait.div_ceil(1_000_000)))
    }
}

impl Inner {
    fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Buckets are locked in the order of the limits until all of them have decided. Nothing is taken when an earlier limit has refused, or a later one does.
    fn decide(&self, limits: &[Bound], subject: &Subject<'_>, now: u64, refused: bool) -> Result<(), u64> {
        let Some((bound, others)) = limits.split_first() else { return Ok(()) };
        let Some(key) = subject.key(&bound.limit) else { return self.decide(others, subject, now, refused) };
        let mut table = bound.table();
        let place = table.find(&key, now);
        if place == Place::Rest {
            bound.overflowed.inc();
        }
        match self.judge(bound, table.full_at(place), now) {
            Ok(taking) => {
                self.decide(others, subject, now, refused)?;
                if !refused {
                    bound.admitted.inc();
                    table.admit(place, taking.full_at, taking.tell);
                }
                Ok(())
            }
            Err(wait) => {
                bound.refused.inc();
                let longer = self.decide(others, subject, now, true).err();
                Err(wait.max(longer.unwrap_or(0)))
            }
        }
    }

    /// Pure, but for what is known of the others.
    fn judge(&self, bound: &Bound, full_at: u64, now: u64) -> Result<Taking, u64> {
        let take = |weight, tell| bound.quota.take(full_at, now, weight).map(|full_at| Taking { full_at, tell });
        let away = match bound.limit.scope {
            Scope::Local => return take(1, None),
            Scope::Shared(away) => away,
        };
        let slack = |wait: u64| wait.saturating_add(nanos(SHARED_SLACK));
        if !self.link.is_away(now) {
            return take(1, Some(1)).map_err(slack);
        }
        match away {
            // As if every other edge did the same at the same moment.
            WhenAway::Share => take(self.link.edges(), Some(0)).map_err(slack),
            WhenAway::Open => Ok(Taking { full_at: bound.quota.take_anyway(full_at, now), tell: Some(0) }),
            WhenAway::Closed => Err(nanos(CLOSED)),
        }
    }

    fn shared(&self) -> impl Iterator<Item = (usize, &Limit, WhenAway)> {
        self.limits.iter().enumerate().filter_map(|(i, bound)| match bound.limit.scope {
            Scope::Shared(away) => Some((i, &bound.limit, away)),
            Scope::Local => None,
        })
    }

    fn forget(&self) {
        for bound in &self.limits {
            let mut left = bound.table().len() / FORGET_PART + FORGET_AT_ONCE;
            while left > 0 {
                bound.table().forget(self.now(), FORGET_AT_ONCE);
                left = left.saturating_sub(FORGET_AT_ONCE);
            }
            let mut table = bound.table();
            table.shrink();
            bound.keys.set(i64::try_from(table.len()).unwrap_or(i64::MAX));
        }
    }
}

impl Bound {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock {
    fn now(&self) -> u64 {
        match self {
            Self::Since(start) => nanos(start.elapsed()),
            #[cfg(test)]
            Self::Set(now) => now.load(std::sync::atomic::Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests;
