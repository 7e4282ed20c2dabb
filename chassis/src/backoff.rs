//! How long to wait before trying again.

use std::time::Duration;

/// Decorrelated jitter: each delay is drawn between the last one and three times that, up to a ceiling, so that many waiters do not come back at once
/// (M. Brooker, "Exponential Backoff And Jitter", 2015, who draws from the base on: then ten delays in a row hardly grow).
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    ceiling: Duration,
    last: Duration,
}

impl Backoff {
    /// The first delay is drawn from `base` to three times `base`.
    #[must_use]
    pub const fn new(base: Duration, ceiling: Duration) -> Self {
        Self { base, ceiling, last: base }
    }

    /// The next delay. `draw` is in `0.0..1.0`; [`Backoff::next_delay`] draws it.
    pub fn next_with(&mut self, draw: f64) -> Duration {
        self.last = (self.last + (self.last * 2).mul_f64(draw)).min(self.ceiling);
        self.last
    }

    /// The next delay, at random.
    pub fn next_delay(&mut self) -> Duration {
        self.next_with(random_unit())
    }

    /// The last delay; before the first, the base.
    #[must_use]
    pub const fn last(&self) -> Duration {
        self.last
    }

    /// Goes on where another one stood.
    pub fn resume(&mut self, last: Duration) {
        self.last = last.clamp(self.base, self.ceiling);
    }

    /// Back to the first delay, after success.
    pub const fn reset(&mut self) {
        self.last = self.base;
    }
}

/// A number in `0.0..1.0`. Not for secrets.
#[must_use]
pub fn random_unit() -> f64 {
    // A version 4 UUID is the random source that the tree has already; 32 of its bits are plenty for a delay.
    let bits = uuid::Uuid::new_v4().as_fields().0;
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// A delay for `gateway-retry-after-ms`: between `base` and three times `base`.
#[must_use]
pub fn spread(base: Duration) -> Duration {
    base + (base * 2).mul_f64(random_unit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_ceiling_and_start_over_after_a_reset() {
        let (base, ceiling) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(base, ceiling);
        let delays: Vec<_> = (0..5).map(|_| backoff.next_with(0.999)).collect();
        assert!(delays.is_sorted() && delays[4] == ceiling, "{delays:?}");
        assert_eq!(backoff.next_with(0.0), ceiling, "not back to the base by chance");
        backoff.reset();
        assert!(backoff.next_with(0.999) < base * 3);
    }

    #[test]
    fn spread_stays_within_its_bounds() {
        for _ in 0..1000 {
            let delay = spread(Duration::from_millis(100));
            assert!((100..300).contains(&delay.as_millis()), "{delay:?}");
        }
    }
}
