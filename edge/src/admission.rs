//! How much the edge takes on at once. What is too much is refused at the door, in microseconds, before anything was verified or reserved: the client may send the
//! very same request again.
//!
//! Two bounds, because two things can be slow, and one must not make the other refuse:
//!
//! - **The gateway itself.** A request has a *place* while the gateway works on it: from its arrival until a backend has it, and again from the backend's answer on. While
//!   it waits for the backend it has none, so that a slow backend fills nothing that others need. How many places there are is adapted to one signal, the time that work
//!   which could run waits for a processor (see [`governor`]): it rises when the gateway's own machine is short, and neither a slow backend nor a slow
//!   Redis moves it. What was let in once is carried to its end: coming back from a backend takes a place whether or not one is free, and newcomers pay for it.
//! - **Each backend.** It may have so many requests at once and no more (`backend_in_flight`), for those who wait hold memory. At the door it is looked whether it has room;
//!   a *seat* is taken when the request is sent, and held until the answer is there (of an HTTP answer, until the end of its body): see [`room`].
//!
//! Within either bound the last tenth is for critical routes, and low ones get one half: low is refused first, critical last. Health, readiness, keys and
//! event streams are never refused here.
//!
//! The signal is taken from requests themselves, at most one in a millisecond: it steps to the end of its worker's queue and looks how long that took. An idle edge is
//! not woken for it. Every place is a guard: dropped at any await, it is free.

mod governor;
mod place;
mod room;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use gatehouse_chassis::{backoff::random_unit, metrics::Metrics};
use prometheus::{Gauge, IntCounterVec, IntGauge};
use tokio::time::Instant;

use crate::config::{Overload, Priority};
use governor::{Governor, Sample};
pub(crate) use place::Place;
use place::Within;
pub(crate) use room::{Room, Seat};

/// Between two samples.
const BETWEEN: Duration = Duration::from_millis(1);
/// Around this a refused client is asked to wait, from one half of it to one and a half, so that they do not come back at once.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Lets requests in; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    begun: Instant,
    /// What the gateway works on now, and how much that may be.
    inside: Within,
    per_backend: AtomicUsize,
    governor: Mutex<Governor>,
    /// When the last sample was taken, in nanoseconds since `begun`.
    sampled: AtomicU64,
    metrics: AdmissionMetrics,
}

#[derive(Debug)]
struct AdmissionMetrics {
    limit: IntGauge,
    delay: Gauge,
    refused: IntCounterVec,
}

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    /// By which bound.
    pub(crate) by: Bound,
    /// When to come back.
    pub(crate) retry_after: Duration,
}

/// Which bound was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    /// The gateway has too much to do.
    Gateway,
    /// The backend has.
    Backend,
}

impl Admission {
    pub(crate) fn new(overload: &Overload, metrics: &Metrics) -> Self {
        let in_flight = metrics.gauge("admission_in_flight", "Requests that the gateway works on; not those that wait for a backend.");
        let metrics = AdmissionMetrics {
            limit: metrics.gauge("admission_limit", "How many requests the gateway works on at once at most, as adapted to its load."),
            delay: metrics.float_gauge("admission_delay_seconds", "The shortest wait for a processor that was seen in the last window."),
            refused: metrics.counters(
                "admission_refused_total",
                "Requests refused for want of room, by the priority of their route and by whose bound: the gateway's or a backend's.",
                &["priority", "bound"],
            ),
        };
        for priority in Priority::ALL {
            for bound in ["gateway", "backend"] {
                metrics.refused.with_label_values(&[priority.name(), bound]);
            }
        }
        let governor = Governor::new(overload);
        let limit = governor.limit();
        metrics.limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
        Self(Arc::new(Shared {
            begun: Instant::now(),
            inside: Within::new(limit, Some(in_flight)),
            per_backend: AtomicUsize::new(overload.per_backend),
            governor: Mutex::new(governor),
            sampled: AtomicU64::new(0),
            metrics,
        }))
    }

    /// Other bounds from now on. Those of backends are made anew, by [`Admission::backend`].
    pub(crate) fn adjust(&self, overload: &Overload) {
        let mut governor = self.0.governor.lock().unwrap_or_else(PoisonError::into_inner);
        governor.adjust(overload);
        self.take_over(governor.limit());
        self.0.per_backend.store(overload.per_backend, Ordering::Relaxed);
    }

    /// The bound of one backend.
    pub(crate) fn room(&self) -> Room {
        Room::new(self.0.per_backend.load(Ordering::Relaxed))
    }

    /// Sets a backend's bound to what is configured now.
    pub(crate) fn renew(&self, room: &Room) {
        room.limit_to(self.0.per_backend.load(Ordering::Relaxed));
    }

    /// A place, or why there is none: because the gateway has too much to do, or the backend where it would go.
    pub(crate) async fn enter(&self, priority: Priority, room: Option<&Room>) -> Result<Place, Refused> {
        if self.is_sample_due() {
            let begun = Instant::now();
            tokio::task::yield_now().await;
            self.heard(begun.elapsed());
        }
        let inside = self.0.inside.enter(priority).ok_or_else(|| self.refused(priority, Bound::Gateway))?;
        if room.is_some_and(|room| !room.has_seat(priority)) {
            return Err(self.refused(priority, Bound::Backend));
        }
        Ok(Place::new(inside))
    }

    /// A seat at a backend, within that time, for a request that was let in and is to be sent now.
    pub(crate) async fn seat(&self, priority: Priority, room: &Room, patience: Duration) -> Result<Seat, Refused> {
        tokio::time::timeout(patience, room.seat(priority)).await.map_err(|_| self.refused(priority, Bound::Backend))
    }

    fn refused(&self, priority: Priority, by: Bound) -> Refused {
        let word = if by == Bound::Gateway { "gateway" } else { "backend" };
        self.0.metrics.refused.with_label_values(&[priority.name(), word]).inc();
        Refused { by, retry_after: RETRY_AFTER.mul_f64(0.5 + random_unit()) }
    }

    /// One at a time, and not too often.
    fn is_sample_due(&self) -> bool {
        let now = u64::try_from(self.0.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let last = self.0.sampled.load(Ordering::Relaxed);
        let due = last == 0 || now.saturating_sub(last) >= u64::try_from(BETWEEN.as_nanos()).unwrap_or(u64::MAX);
        due && self.0.sampled.compare_exchange(last, now.max(1), Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn heard(&self, delay: Duration) {
        let sample = Sample { at: self.0.begun.elapsed(), delay, inside: self.0.inside.count() };
        let mut governor = self.0.governor.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(best) = governor.hear(sample) {
            self.0.metrics.delay.set(best.as_secs_f64());
            self.take_over(governor.limit());
        }
    }

    fn take_over(&self, limit: usize) {
        self.0.inside.limit_to(limit);
        self.0.metrics.limit.set(i64::try_from(limit).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests;
