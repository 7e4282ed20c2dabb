//! How busy an endpoint is: requests in flight times what a request costs, where the cost is the peak EWMA of its latency. A slow answer raises it at once, quick ones
//! lower it over a while, and so does silence (as in Finagle and Linkerd).

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// How long it takes for the past to count for a third.
const DECAY: Duration = Duration::from_secs(10);
/// What a request costs at an endpoint that has never answered: others are better while one is on its way.
const UNKNOWN: f64 = 1.0;

/// The load of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Load {
    in_flight: AtomicU32,
    cost: Mutex<Cost>,
}

impl Load {
    /// A request goes there, until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// It answered after so long.
    pub(super) fn observe(&self, latency: Duration, now: Instant) {
        self.cost.lock().unwrap_or_else(PoisonError::into_inner).observe(latency.as_secs_f64(), now);
    }

    /// What to compare with others.
    pub(super) fn now(&self, now: Instant) -> f64 {
        let in_flight = f64::from(self.in_flight.load(Ordering::Relaxed));
        let cost = self.cost.lock().unwrap_or_else(PoisonError::into_inner).now(now);
        match cost {
            Some(cost) => cost * (in_flight + 1.0),
            None => UNKNOWN * in_flight,
        }
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }
}

/// One request on its way, or an answer's body.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Load>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// In seconds, as of some time.
#[derive(Debug, Default)]
struct Cost(Option<(f64, Instant)>);

impl Cost {
    fn observe(&mut self, latency: f64, now: Instant) {
        let value = match self.0 {
            Some((cost, _)) if latency >= cost => latency,
            Some((cost, at)) => latency + (cost - latency) * decay(at, now),
            None => latency,
        };
        self.0 = Some((value, now));
    }

    fn now(&self, now: Instant) -> Option<f64> {
        self.0.map(|(cost, at)| cost * decay(at, now))
    }
}

fn decay(at: Instant, now: Instant) -> f64 {
    (-now.saturating_duration_since(at).as_secs_f64() / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let (start, mut cost) = (Instant::now(), Cost::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        cost.observe(0.001, at(0));
        cost.observe(1.0, at(0));
        let read = |cost: &Cost, seconds| cost.now(at(seconds)).unwrap();
        assert!((read(&cost, 0) - 1.0).abs() < 1e-9);
        assert!((read(&cost, 10) - 1.0 / std::f64::consts::E).abs() < 1e-9, "by silence");
        cost.observe(0.001, at(1));
        assert!((0.9..0.91).contains(&read(&cost, 1)), "one quick answer changes little");
        cost.observe(0.001, at(100));
        assert!(read(&cost, 100) < 0.0011, "much time does");
    }

    #[test]
    fn load_is_cost_times_what_is_on_its_way_and_each_guard_gives_its_part_back() {
        let (now, load) = (Instant::now(), Arc::new(Load::default()));
        assert!(load.now(now) < f64::EPSILON, "nothing is known and nothing on its way");
        let first = load.begin();
        assert!(load.now(now) >= UNKNOWN, "now another one is better");
        load.observe(Duration::from_millis(10), now);
        let second = load.begin();
        assert!((load.now(now) - 0.03).abs() < 1e-9);
        drop((first, second));
        assert_eq!(load.in_flight(), 0);
        assert!((load.now(now) - 0.01).abs() < 1e-9);
    }
}
